//! An older program and this one: they take over from each other, read each other's state, and share a Redis.
//! `scripts/test-upgrade-from` builds the older one and runs these.

use super::upgrade::{Meeting, sends};
use crate::process::{PROGRAM, Process, Serving};
use crate::redis::Server;
use crate::upstream::Act;

/// A phone with a full window, one with room for one code, one whose answer waits for its retry.
const FULL: &str = "+15550100001";
const NEARLY: &str = "+15550100002";
const LOST: &str = "+15550100003";

fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not given: run scripts/test-upgrade-from"))
}

fn older() -> String {
    given("OLDER_PROGRAM")
}

/// A process of a program that takes over from another.
async fn succeed(meeting: &Meeting, old: &Serving, program: &str, variables: &[(&str, &str)]) -> Serving {
    let new = meeting.start_program(program, &["--upgrade"], variables);
    new.logs("waiting for the gateway that runs").await;
    old.process.signal("QUIT");
    Serving::of(new).await
}

/// Five codes to `FULL`, and four to `NEARLY`, of which it returns how to resend the last.
async fn fill(serving: &Serving) -> String {
    assert_eq!(sends(serving, FULL, 5).await, [201; 5]);
    assert_eq!(sends(serving, NEARLY, 3).await, [201; 3]);
    let answer = serving.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{NEARLY}"}}"#)).await;
    format!("/api/v1/verify/{}/resend", answer.json()["id"].as_str().unwrap())
}

/// What was counted counts, and what was learned is known.
async fn is_counted(serving: &Serving, resend: &str, what: &str) {
    let refused = serving.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{FULL}"}}"#)).await;
    assert_eq!(refused.status, 429, "{what}");
    let waits = refused.json()["retryAfter"].as_u64().unwrap();
    assert!((540..=600).contains(&waits), "{what}: {waits}");
    assert_eq!(serving.ask("POST", resend, &[], "").await.status, 200, "{what}: the fifth");
    assert_eq!(serving.ask("POST", resend, &[], "").await.status, 429, "{what}: no sixth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs an older program: scripts/test-upgrade-from"]
async fn a_process_of_either_release_takes_over_from_one_of_the_other() {
    for (from, to) in [(older().as_str(), PROGRAM), (PROGRAM, older().as_str())] {
        let what = format!("from {from}");
        let meeting = Meeting::new("").await;
        let old = Serving::of(meeting.start_program(from, &[], &[])).await;
        let resend = fill(&old).await;
        // The answer to a code whose client has gone waits for its retry.
        let sent = br#"{"id":"ver_lost","phone":"+15550100003","status":"pending"}"#.as_slice();
        meeting.upstream.script(move |_| Act::AnswerWhenLet(201, sent.into()));
        let seen = meeting.upstream.seen().len();
        let mut wire = old.connect().await;
        wire.request("POST", "/api/v1/verify", &[], format!(r#"{{"to":"{LOST}"}}"#).as_bytes()).await;
        meeting.upstream.has_seen(seen + 1).await;
        wire.reset();
        old.until_it_exposes("unclaimed_exchanges 1").await;
        meeting.upstream.let_go(1);
        old.until_it_exposes("kept_answers 1").await;
        meeting.upstream.behave();
        let new = succeed(&meeting, &old, to, &[]).await;
        let retry = new.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{LOST}"}}"#)).await;
        assert_eq!((retry.status.as_u16(), &retry.json()["id"]), (201, &"ver_lost".into()), "{what}");
        is_counted(&new, &resend, &what).await;
        assert_eq!(meeting.upstream.codes(FULL), 5, "{what}");
        assert_eq!(meeting.upstream.codes(LOST), 1, "{what}");
        assert_eq!(old.process.code().await, 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs an older program: scripts/test-upgrade-from"]
async fn a_state_folder_of_either_release_is_read_by_the_other() {
    for (from, to) in [(older().as_str(), PROGRAM), (PROGRAM, older().as_str())] {
        for stop in ["KILL", "TERM"] {
            let what = format!("from {from}, {stop}");
            let meeting = Meeting::new("").await;
            let dir = meeting.folder();
            let state = [("STATE_DIR", dir.as_str())];
            let old = Serving::of(meeting.start_program(from, &[], &state)).await;
            let resend = fill(&old).await;
            old.process.signal(stop);
            old.process.code().await;
            let new = Serving::of(meeting.start_program(to, &[], &state)).await;
            is_counted(&new, &resend, &what).await;
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs an older program: scripts/test-upgrade-from"]
async fn gateways_of_both_releases_share_one_redis_and_let_no_sixth_code_through() {
    let redis = Server::start(&[]);
    let config = format!(
        "hash_key = \"0123456789abcdef\"\n[ledger]\nbackend = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\ntimeout = \"2s\"\n",
        redis.port
    );
    let meeting = Meeting::new(&config).await;
    let gateways = [older().as_str(), PROGRAM].map(|program| meeting.start_program(program, &[], &[]));
    let [one, other] = gateways;
    let (one, other) = (Serving::of(one).await, Serving::of(other).await);
    let mut told = Vec::new();
    for nth in 0..8 {
        told.extend(sends(if nth % 2 == 0 { &one } else { &other }, FULL, 1).await);
    }
    assert_eq!(told, [201, 201, 201, 201, 201, 429, 429, 429]);
    // An id that one has learned is the other's, too, and so is its cooldown.
    for (asked, (first, then)) in [(NEARLY, (&one, &other)), (LOST, (&other, &one))] {
        let answer = first.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{asked}"}}"#)).await;
        let resend = format!("/api/v1/verify/{}/resend", answer.json()["id"].as_str().unwrap());
        assert_eq!(then.ask("POST", &resend, &[], "").await.status, 200, "{asked}");
        let again = first.ask("POST", &resend, &[], "").await;
        assert_eq!((again.status.as_u16(), again.error().as_str()), (429, "resend_cooldown"), "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs an older program: scripts/test-upgrade-from"]
async fn configurations_that_the_older_release_shipped_still_start() {
    let source = given("OLDER_SOURCE");
    let mut checked = 0;
    for folder in ["config", "deploy/docker", "deploy/systemd"] {
        for file in std::fs::read_dir(format!("{source}/{folder}")).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            // Secrets that stand in files elsewhere, and its own name for Redis.
            let check = Process::start(&["check", "--config", path.to_str().unwrap()], &[]);
            let code = check.code().await;
            assert_eq!(code, 0, "{}: {}", path.display(), check.err());
            checked += 1;
        }
    }
    assert!(checked >= 1, "{source}");
}
