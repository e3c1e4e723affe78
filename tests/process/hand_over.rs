//! A hand-over in which one of the two processes hangs or dies, at each step by name (`handover/steps.rs`; a release build has none).
#![allow(clippy::disallowed_methods, reason = "how long a failed hand-over takes is one of the promises")]

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::upgrade::{Meeting, send, sends};
use crate::client::Wire;
use crate::process::{Process, Serving};
use crate::upstream::Act;

const PHONE: &str = "+15550100001";

/// Steps of the new process up to the one in which it says that it judges.
const BEFORE_IT_JUDGES: [&str; 5] = ["NewGreeted", "NewReady", "NewTold", "NewCanServe", "NewCommitted"];

/// Runs them at the same time, and returns what they do in order.
pub(crate) async fn join_all<T: Send + 'static>(
    all: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let all: Vec<JoinHandle<T>> = all.into_iter().map(tokio::spawn).collect();
    let mut done = Vec::new();
    for one in all {
        done.push(one.await.unwrap());
    }
    done
}

/// As many connections as that.
async fn connect(serving: &Serving, many: usize) -> Vec<Wire> {
    let mut wires = Vec::new();
    for _ in 0..many {
        wires.push(serving.connect().await);
    }
    wires
}

/// Two processes, of which the new one is stopped in a step; and clients that have asked for codes since, on connections to the old one.
struct Halfway {
    meeting: Meeting,
    old: Serving,
    new: Process,
    asking: Vec<JoinHandle<u16>>,
}

impl Halfway {
    /// Four codes have gone out. Three more are asked for once the new process is stopped.
    async fn at(step: &str) -> Self {
        let meeting = Meeting::new("").await;
        let old = meeting.old().await;
        assert_eq!(sends(&old, PHONE, 4).await, [201; 4]);
        let new = meeting.start(&["--upgrade"], &[("HAND_OVER_STOPS_AT", step)]);
        new.logs("waiting for the gateway that runs").await;
        let wires = connect(&old, 3).await;
        old.process.signal("QUIT");
        new.is_stopped().await;
        let ask = |mut wire: Wire| tokio::spawn(async move { send(&mut wire, PHONE).await });
        let asking = wires.into_iter().map(ask).collect();
        Self { meeting, old, new, asking }
    }

    /// Waits until each of the clients has been told, or waits in the old process: nothing of theirs is on its way.
    async fn all_have_come(&self) {
        let all_have_come = async {
            loop {
                let text = String::from_utf8(self.old.admin("/metrics").await.body).unwrap();
                let waiting = text.lines().find_map(|line| line.strip_prefix("sendly_gateway_in_flight ")).unwrap();
                let told = self.asking.iter().filter(|one| one.is_finished()).count();
                if waiting.parse::<usize>().unwrap() + told >= self.asking.len() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all_have_come).await.expect("somebody has not come");
    }

    /// What they were told, in order.
    async fn told(asking: Vec<JoinHandle<u16>>) -> Vec<u16> {
        let mut told = Vec::new();
        for one in asking {
            told.push(one.await.unwrap());
        }
        told.sort_unstable();
        told
    }

    /// The old process goes on, and everybody has an answer: one code was left.
    async fn the_old_one_goes_on(self, step: &str) {
        let Self { meeting, old, asking, .. } = self;
        old.process.logs("nobody has taken over: this process goes on").await;
        assert_eq!(Self::told(asking).await, [201, 429, 429], "{step}");
        assert_eq!(sends(&old, PHONE, 1).await, [429], "{step}");
        assert_eq!(meeting.upstream.codes(PHONE), 5, "{step}");
        // And it can still hand over.
        let new = meeting.succeed(&old, &[]).await;
        assert_eq!(sends(&new, PHONE, 1).await, [429], "{step}");
        assert_eq!(old.process.code().await, 0, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_dies_at_any_step_before_it_judges_leaves_the_old_one_to_go_on_at_once() {
    join_all(BEFORE_IT_JUDGES.map(|step| async move {
        let halfway = Halfway::at(step).await;
        halfway.new.signal("KILL");
        assert_eq!(halfway.new.code().await, -1);
        let began = Instant::now();
        halfway.the_old_one_goes_on(step).await;
        assert!(began.elapsed() < Duration::from_secs(8), "{step}: {:?}", began.elapsed());
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_dies_once_it_has_said_that_it_judges_has_taken_over() {
    let Halfway { meeting, old, new, asking } = Halfway::at("NewJudges").await;
    new.signal("KILL");
    assert_eq!(new.code().await, -1);
    old.process.logs("another process has taken over").await;
    // They are told that nobody answers.
    for status in Halfway::told(asking).await {
        assert!(status >= 500, "{status}");
    }
    assert_eq!(old.process.code().await, 0);
    assert_eq!(meeting.upstream.codes(PHONE), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_hangs_is_ended_within_seconds_and_the_old_one_goes_on() {
    // What hangs before it is ready holds nothing up, and is given longer.
    join_all(["NewReady", "NewTold", "NewCanServe", "NewCommitted"].map(|step| async move {
        let halfway = Halfway::at(step).await;
        let began = Instant::now();
        // It is still stopped: only SIGKILL ends it.
        assert_eq!(halfway.new.code().await, -1, "{step}");
        assert!(began.elapsed() < Duration::from_secs(18), "{step}: {:?}", began.elapsed());
        halfway.the_old_one_goes_on(step).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_told_to_stop_while_it_hands_over_breaks_that_off_and_stops() {
    join_all([("NewGreeted", "TERM"), ("NewReady", "TERM"), ("NewTold", "INT"), ("NewCanServe", "TERM")].map(
        |(step, signal)| async move {
            let halfway = Halfway::at(step).await;
            halfway.all_have_come().await;
            let Halfway { meeting, old, new, asking } = halfway;
            let began = Instant::now();
            old.process.signal("QUIT");
            old.process.logs("QUIT: a hand-over is under way already").await;
            old.process.signal(signal);
            assert_eq!(old.process.code().await, 0, "{step}");
            assert!(began.elapsed() < Duration::from_secs(8), "{step}: {:?}", began.elapsed());
            assert_eq!(new.code().await, -1, "{step}");
            if signal == "TERM" {
                assert_eq!(Halfway::told(asking).await, [201, 429, 429], "{step}: what is in flight is drained");
            }
            assert!(meeting.upstream.codes(PHONE) <= 5, "{step}");
        },
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_that_dies_at_any_step_leaves_one_that_judges_or_none() {
    let steps = ["OldGreeted", "OldPaused", "OldTold", "OldHeard", "OldCommitted", "OldLeft"].map(|step| async move {
        let meeting = Meeting::new("").await;
        let old = Serving::of(meeting.start(&[], &[("HAND_OVER_STOPS_AT", step)])).await;
        assert_eq!(sends(&old, PHONE, 4).await, [201; 4]);
        let new = meeting.start(&["--upgrade"], &[]);
        new.logs("waiting for the gateway that runs").await;
        old.process.signal("QUIT");
        old.process.is_stopped().await;
        old.process.signal("KILL");
        assert_eq!(old.process.code().await, -1);
        if ["OldGreeted", "OldPaused"].contains(&step) {
            // It was not told all that is counted, and must not judge.
            assert_ne!(new.code().await, 0, "{step}");
        } else {
            let new = Serving::of(new).await;
            assert_eq!(sends(&new, PHONE, 2).await, [201, 429], "{step}");
            assert_eq!(meeting.upstream.codes(PHONE), 5, "{step}");
        }
    });
    join_all(steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_that_hangs_once_it_has_left_is_not_waited_for_and_judges_nothing_later() {
    let meeting = Meeting::new("").await;
    let old = Serving::of(meeting.start(&[], &[("HAND_OVER_STOPS_AT", "OldCommitted")])).await;
    assert_eq!(sends(&old, PHONE, 4).await, [201; 4]);
    let mut wire = old.connect().await;
    assert_eq!(send(&mut wire, "+15550100002").await, 201);
    let new = meeting.start(&["--upgrade"], &[]);
    new.logs("waiting for the gateway that runs").await;
    old.process.signal("QUIT");
    old.process.is_stopped().await;
    let asking = tokio::spawn(async move { send(&mut wire, PHONE).await });
    new.logs("serving").await;
    old.process.signal("CONT");
    // The fifth, by the new one, whichever of both it came to.
    assert_eq!(asking.await.unwrap(), 201);
    let new = Serving::of(new).await;
    assert_eq!(sends(&new, PHONE, 1).await, [429]);
    assert_eq!(old.process.code().await, 0);
    assert_eq!(meeting.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_upgrades_in_a_row_no_request_on_a_connection_of_the_first_process_fails() {
    let meeting = Meeting::new("").await;
    let first = meeting.old().await;
    let mut wires = connect(&first, 2).await;
    for wire in &mut wires {
        assert_eq!(send(wire, PHONE).await, 201);
    }
    let second = meeting.succeed(&first, &[]).await;
    let third = meeting.succeed(&second, &[]).await;
    assert_eq!(sends(&third, PHONE, 2).await, [201; 2]);
    second.process.logs("another process has taken over").await;
    let mut told = Vec::new();
    for wire in &mut wires {
        told.push(send(wire, PHONE).await);
    }
    assert_eq!(told, [201, 429], "each by way of the second process");
    assert_eq!((first.process.code().await, second.process.code().await), (0, 0));
    assert_eq!(sends(&third, PHONE, 1).await, [429]);
    assert_eq!(meeting.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_successor_hangs_before_it_comes_stops_at_once_when_it_is_told_to() {
    let meeting = Meeting::new("").await;
    let old = meeting.old().await;
    // Whoever reads this waits for somebody who writes.
    std::fs::remove_file(&meeting.config).unwrap();
    assert!(Command::new("mkfifo").arg(&meeting.config).status().unwrap().success());
    while !old.process.err().contains("QUIT: a hand-over is under way already") {
        // Two that come at once are one.
        old.process.signal("QUIT");
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    old.process.signal("TERM");
    old.process.logs(r#""message":"stopped""#).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // What hangs goes on, and what it starts then is killed at once: nobody holds the standard error of the old one any more.
    drop(std::fs::OpenOptions::new().write(true).open(&meeting.config).unwrap());
    assert_eq!(old.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_told_to_stop_once_it_has_left_goes_on_until_it_knows_who_judges_and_then_drains() {
    let Halfway { meeting, old, new, asking } = Halfway::at("NewCommitted").await;
    old.process.signal("TERM");
    // It hangs, and is ended: nobody else can judge those who wait.
    assert_eq!(new.code().await, -1);
    assert_eq!(Halfway::told(asking).await, [201, 429, 429]);
    assert_eq!(old.process.code().await, 0);
    assert_eq!(meeting.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_is_told_to_stop_before_it_judges_never_does() {
    join_all(["OldGreeted", "OldPaused", "OldTold", "OldHeard"].map(|step| async move {
        let meeting = Meeting::new("").await;
        let old = Serving::of(meeting.start(&[], &[("HAND_OVER_STOPS_AT", step)])).await;
        assert_eq!(sends(&old, PHONE, 4).await, [201; 4]);
        let new = meeting.start(&["--upgrade"], &[]);
        new.logs("waiting for the gateway that runs").await;
        old.process.signal("QUIT");
        old.process.is_stopped().await;
        new.signal("TERM");
        assert_eq!(new.code().await, 0, "{step}");
        old.process.signal("CONT");
        old.process.logs("nobody has taken over: this process goes on").await;
        assert_eq!(sends(&old, PHONE, 2).await, [201, 429], "{step}");
        assert_eq!(meeting.upstream.codes(PHONE), 5, "{step}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_charged_after_a_hand_over_that_failed_is_on_disk_before_the_code_goes_out() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let state = [("STATE_DIR", dir.as_str())];
    let old = Serving::of(meeting.start(&[], &state)).await;
    let mut wire = old.connect().await;
    assert_eq!(send(&mut wire, PHONE).await, 201);
    // One in flight over the hand-over, and given back while the folder is nobody's.
    meeting.upstream.script(|_| Act::AnswerWhenLet(400, b"{}".as_slice().into()));
    let body = format!(r#"{{"to":"{PHONE}"}}"#);
    wire.request("POST", "/api/v1/verify", &[], body.as_bytes()).await;
    meeting.upstream.has_seen(2).await;
    meeting.upstream.behave();
    let new = meeting.start(&["--upgrade"], &[&state[..], &[("HAND_OVER_STOPS_AT", "NewTold")]].concat());
    new.logs("waiting for the gateway that runs").await;
    old.process.signal("QUIT");
    new.is_stopped().await;
    meeting.upstream.let_go(1);
    assert_eq!(wire.answer().await.expect("an answer").status, 400);
    let mut asking = connect(&old, 3).await;
    for wire in &mut asking {
        wire.request("POST", "/api/v1/verify", &[], body.as_bytes()).await;
    }
    new.signal("KILL");
    // As soon as one has its code this process ends, too.
    assert_eq!(asking[0].answer().await.expect("an answer").status, 201);
    old.process.signal("KILL");
    assert_eq!((old.process.code().await, new.code().await), (-1, -1));
    let next = Serving::of(meeting.start(&[], &state)).await;
    let went_out = meeting.upstream.codes(PHONE) - 1;
    let left = sends(&next, PHONE, 5).await.into_iter().filter(|status| *status == 201).count();
    assert!(went_out + left <= 5, "{went_out} and {left}");
    assert!(left >= 1, "what was given back counts no more");
    std::fs::remove_dir_all(dir).unwrap();
}
