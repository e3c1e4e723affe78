//! The wall clock is set: between two processes of which one takes over, between two starts from one folder, and over a reboot.

use std::path::Path;

use super::upgrade::{Meeting, sends};
use crate::process::Serving;
use crate::upstream::{Act, Seen};
use crate::wall_clock::WallClock;

/// A phone with a full window, one with room for one code.
const FULL: &str = "+15550100001";
const NEARLY: &str = "+15550100002";
/// One that has a code that was just resent, and one that Sendly itself refuses for a quarter of an hour.
const RESENT: &str = "+15550100006";
const HELD: &str = "+15550100007";

/// By how many seconds the wall clock was set: thirty days, eleven minutes, three seconds; either way.
const SET: [&str; 7] = ["-2592000", "-660", "-3", "0", "3", "660", "2592000"];

struct World {
    meeting: Meeting,
    dir: String,
    /// How to resend a code to `RESENT`.
    again: String,
}

impl World {
    /// A gateway with a folder for its state; `FULL` has five codes, `NEARLY` four and an id that may be resent, and two phones more are as
    /// they say.
    async fn new() -> (Self, Serving, String) {
        Self::of(Meeting::new("").await, &[]).await
    }

    async fn of(meeting: Meeting, variables: &[(&str, &str)]) -> (Self, Serving, String) {
        let dir = meeting.config.replace(".toml", ".state");
        let old = Serving::of(meeting.start(&[], &[&[("STATE_DIR", dir.as_str())], variables].concat())).await;
        assert_eq!(sends(&old, FULL, 5).await, [201; 5]);
        assert_eq!(sends(&old, NEARLY, 3).await, [201; 3]);
        let (resend, again) = (resend_of(&old, NEARLY).await, resend_of(&old, RESENT).await);
        assert_eq!(old.ask("POST", &again, &[], "").await.status, 200);
        let refusal = serde_json::json!({ "error": "rate_limit_exceeded", "retryAfter": 900 });
        meeting.upstream.script(move |_| Act::json(429, &refusal));
        assert_eq!(sends(&old, HELD, 1).await, [429]);
        meeting.upstream.behave();
        (Self { meeting, dir, again }, old, resend)
    }

    /// What outlives each change: the cooldown and the hold last, and the key needs no new proof.
    async fn nobody_is_early(&self, serving: &Serving, what: &str) {
        let refused = serving.ask("POST", &self.again, &[], "").await;
        assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "resend_cooldown"), "{what}");
        let waits = refused.json()["retryAfter"].as_u64().unwrap();
        assert!((1..=60).contains(&waits), "{what}: {waits}");
        let before = self.meeting.upstream.codes(HELD);
        let waits = wait(serving, HELD).await;
        assert!((840..=900).contains(&waits), "{what}: held for {waits}");
        assert_eq!(self.meeting.upstream.codes(HELD), before, "{what}: held");
        assert_eq!(self.meeting.upstream.count(is_proof), 0, "{what}: the key is known");
    }

    /// A process whose wall clock is so many seconds ahead.
    fn later(&self, more: &[&str], ahead: &str, boot: &str) -> crate::process::Process {
        self.meeting.start(more, &[("STATE_DIR", &self.dir), ("WALL_CLOCK_AHEAD", ahead), ("BOOT", boot)])
    }

    async fn over(self) {
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// A call by which the gateway would prove a key.
fn is_proof(seen: &Seen) -> bool {
    seen.target == "/api/v1/verify?limit=1"
}

/// Sends a code, and returns how to resend it.
async fn resend_of(serving: &Serving, phone: &str) -> String {
    let answer = serving.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{phone}"}}"#)).await;
    format!("/api/v1/verify/{}/resend", answer.json()["id"].as_str().unwrap())
}

/// How long a send to this phone is to wait, in seconds; 0: it is sent.
async fn wait(serving: &Serving, phone: &str) -> u64 {
    let answer = serving.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{phone}"}}"#)).await;
    if answer.status == 201 { 0 } else { answer.json()["retryAfter"].as_u64().unwrap() }
}

/// All is as it was: the full phone waits for its window and no longer, the other one gets its fifth code and no sixth, the id is known and
/// may be resent again when its minute is over.
async fn nothing_has_changed(serving: &Serving, resend: &str, what: &str) {
    let waits = wait(serving, FULL).await;
    assert!((560..=600).contains(&waits), "{what}: {waits}");
    assert_eq!(serving.ask("POST", resend, &[], "").await.status, 200, "{what}: the fifth");
    let again = serving.ask("POST", resend, &[], "").await;
    assert_eq!(
        (again.status.as_u16(), again.json()["error"].as_str().unwrap()),
        (429, "rate_limit_exceeded"),
        "{what}"
    );
    let waits = wait(serving, NEARLY).await;
    assert!((560..=600).contains(&waits), "{what}: {waits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_whose_wall_clock_was_set_counts_and_repeats_as_the_old_process_would() {
    for ahead in SET {
        let (world, old, resend) = World::new().await;
        // One code's answer is lost with its client, and waits for the retry.
        let lost = br#"{"id":"ver_7","phone":"+15550100004"}"#.as_slice();
        world.meeting.upstream.script(|_| Act::AnswerWhenLet(201, lost.into()));
        let seen = world.meeting.upstream.seen().len();
        let mut wire = old.connect().await;
        wire.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100004"}"#).await;
        world.meeting.upstream.has_seen(seen + 1).await;
        wire.reset();
        old.until_it_exposes("unclaimed_exchanges 1").await;
        world.meeting.upstream.let_go(1);
        old.until_it_exposes("kept_answers 1").await;
        // Another code is in flight over the hand-over, and is given back after it.
        world
            .meeting
            .upstream
            .script(|_| Act::AnswerWhenLet(402, br#"{"error":"insufficient_credits"}"#.as_slice().into()));
        let mut refused = old.connect().await;
        refused.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100005"}"#).await;
        world.meeting.upstream.has_seen(seen + 2).await;

        let new = world.later(&["--upgrade"], ahead, "0");
        new.logs("waiting for the gateway that runs").await;
        old.process.signal("QUIT");
        let new = Serving::of(new).await;
        world.meeting.upstream.let_go(1);
        assert_eq!(refused.answer().await.unwrap().status, 402);
        assert_eq!(old.process.code().await, 0);
        new.process.logs("the old process has ended").await;
        world.meeting.upstream.behave();
        let what = format!("taken over, {ahead} s");
        world.nobody_is_early(&new, &what).await;
        nothing_has_changed(&new, &resend, &what).await;
        assert_eq!(
            sends(&new, "+15550100005", 6).await,
            [201, 201, 201, 201, 201, 429],
            "{ahead} s: one was given back"
        );
        let before = world.meeting.upstream.codes("+15550100004");
        assert_eq!(sends(&new, "+15550100004", 2).await, [201; 2], "{ahead} s");
        assert_eq!(
            world.meeting.upstream.codes("+15550100004"),
            before + 1,
            "{ahead} s: a retry, and then another click"
        );
        // What it has written is as old for whoever starts next, with a clock that is right again.
        new.process.signal("KILL");
        new.process.code().await;
        let next = Serving::of(world.later(&[], "0", "0")).await;
        assert!((560..=600).contains(&wait(&next, FULL).await), "{ahead} s");
        assert!((560..=600).contains(&wait(&next, "+15550100005").await), "{ahead} s");
        world.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_a_folder_of_this_boot_counts_on_however_the_wall_clock_was_set() {
    for ahead in SET {
        let (world, old, resend) = World::new().await;
        old.process.signal("KILL");
        old.process.code().await;
        let next = Serving::of(world.later(&[], ahead, "0")).await;
        let what = format!("restarted, {ahead} s");
        world.nobody_is_early(&next, &what).await;
        nothing_has_changed(&next, &resend, &what).await;
        if ahead.len() > 2 {
            next.process.logs("the wall clock was set since the state was written").await;
        }
        world.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_reboot_the_wall_clock_is_believed_and_keeps_nobody_out_for_longer_than_a_window() {
    for ahead in SET {
        let (world, old, resend) = World::new().await;
        old.process.signal("KILL");
        old.process.code().await;
        let next = Serving::of(world.later(&[], ahead, "1")).await;
        let what = format!("rebooted, {ahead} s");
        if ["660", "2592000"].contains(&ahead) {
            // That much time has passed, as far as anybody can know.
            assert_eq!(wait(&next, FULL).await, 0, "{what}");
            assert_eq!(next.ask("POST", &world.again, &[], "").await.status, 200, "{what}");
            let held = wait(&next, HELD).await;
            assert!(if ahead == "660" { (180..=240).contains(&held) } else { held == 0 }, "{what}: held for {held}");
            assert_eq!(world.meeting.upstream.count(is_proof), 0, "{what}: the key is known");
        } else {
            if ahead == "3" {
                let held = wait(&next, HELD).await;
                assert!((837..=897).contains(&held), "{what}: held for {held}");
            } else {
                world.nobody_is_early(&next, &what).await;
            }
            nothing_has_changed(&next, &resend, &what).await;
        }
        if ahead.starts_with('-') {
            next.process.logs("the wall clock was put back").await;
            // That was written down: another start finds nothing of a time that is yet to come.
            next.process.signal("KILL");
            next.process.code().await;
            let again = Serving::of(world.later(&[], ahead, "2")).await;
            assert!((540..=600).contains(&wait(&again, FULL).await), "{what}");
            assert!(!again.process.err().contains("the wall clock was put back"), "{what}: {}", again.process.err());
        } else {
            next.process.logs("the state is of another boot of the machine").await;
        }
        world.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_set_while_a_process_lives_changes_nothing_there_nor_at_the_next_start() {
    let meeting = Meeting::new("").await;
    let clock = WallClock::new(Path::new(&meeting.config));
    let (world, old, resend) = World::of(meeting, &clock.variables()).await;
    for ahead in SET.into_iter().rev() {
        clock.set(ahead.parse().unwrap());
        let what = format!("set to {ahead} s");
        world.nobody_is_early(&old, &what).await;
        let waits = wait(&old, FULL).await;
        assert!((560..=600).contains(&waits), "{what}: {waits}");
    }
    old.process.signal("KILL");
    old.process.code().await;
    let state = [("STATE_DIR", world.dir.as_str())];
    let next = Serving::of(world.meeting.start(&[], &[&state[..], &clock.variables()].concat())).await;
    next.process.logs("the wall clock was set since the state was written").await;
    world.nobody_is_early(&next, "started again").await;
    nothing_has_changed(&next, &resend, "started again").await;
    world.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_was_set_while_a_process_lived_changes_nothing_after_a_reboot_either() {
    for (ahead, stop) in [("-2592000", "KILL"), ("-660", "TERM"), ("660", "KILL"), ("2592000", "TERM")] {
        let what = format!("set to {ahead} s, {stop}");
        let meeting = Meeting::new("").await;
        let clock = WallClock::new(Path::new(&meeting.config));
        let (world, old, resend) = World::of(meeting, &clock.variables()).await;
        clock.set(ahead.parse().unwrap());
        old.process.logs("the wall clock was set: counts keep their age").await;
        // What was charged before that and what is charged after it.
        assert_eq!(sends(&old, "+15550100008", 1).await, [201], "{what}");
        old.process.signal(stop);
        old.process.code().await;
        let rebooted = [("STATE_DIR", world.dir.as_str()), ("BOOT", "1")];
        let next = Serving::of(world.meeting.start(&[], &[&rebooted[..], &clock.variables()].concat())).await;
        next.process.logs("the state is of another boot of the machine").await;
        world.nobody_is_early(&next, &what).await;
        nothing_has_changed(&next, &resend, &what).await;
        assert_eq!(sends(&next, "+15550100008", 5).await, [201, 201, 201, 201, 429], "{what}");
        world.over().await;
    }
}
