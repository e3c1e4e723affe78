//! One click buys one SMS, also where a retry reaches the process that has taken over while its exchange goes on in the one before.

use super::upgrade::{Meeting, sends};
use crate::client::{Answer, Wire};
use crate::process::Serving;
use crate::upstream::{Act, Seen};

const PHONE: &str = "+15550100001";
const SEND: &str = "/api/v1/verify";
const BODY: &[u8] = br#"{"to":"+15550100001"}"#;

/// A key of the app's own, a key that an SDK made up, and the next that it makes up.
const OWN: &[(&str, &str)] = &[("idempotency-key", "order-17")];
const MADE_UP: &[(&str, &str)] = &[("idempotency-key", "sendly-go-retry-7d1c6f1c-9f0a-4c43-8a58-2f9d8c1b7a10")];
const NEXT: &[(&str, &str)] = &[("idempotency-key", "sendly-go-retry-7d1c6f1c-9f0a-4c43-8a58-2f9d8c1b7a11")];

/// An exchange in flight in the old process, which ends in this way when it is let.
async fn in_flight(config: &str, headers: &[(&str, &str)], end: Act) -> (Meeting, Serving, Wire) {
    let meeting = Meeting::new(config).await;
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100002", 1).await, [201], "that proves the key");
    meeting.upstream.script(move |_| Act::WhenLet(Box::new(end.clone())));
    let wire = begin(&old, headers).await;
    meeting.upstream.has_seen(2).await;
    (meeting, old, wire)
}

async fn begin(serving: &Serving, headers: &[(&str, &str)]) -> Wire {
    let mut wire = serving.connect().await;
    wire.request("POST", SEND, headers, BODY).await;
    wire
}

async fn answer(mut wire: Wire) -> Answer {
    wire.answer().await.expect("the connection ends without an answer")
}

fn sent() -> Act {
    Act::verification(201, "ver_9", PHONE)
}

fn codes(meeting: &Meeting) -> usize {
    meeting.upstream.count(|seen: &Seen| seen.to().as_deref() == Some(PHONE))
}

fn is_ver_9(answer: &Answer) -> bool {
    answer.status == 201 && answer.json()["id"] == "ver_9"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_client_went_before_the_upgrade_gets_the_code_and_one_is_charged() {
    for (first, again) in [(&[] as &[_], &[] as &[_]), (OWN, OWN), (MADE_UP, NEXT)] {
        let (meeting, old, wire) = in_flight("", first, sent()).await;
        wire.reset();
        old.until_it_exposes("unclaimed_exchanges 1").await;
        let new = meeting.succeed(&old, &[]).await;
        new.until_it_exposes("unclaimed_exchanges 1").await;
        let retry = begin(&new, again).await;
        new.until_it_exposes("unclaimed_exchanges 0").await;
        meeting.upstream.let_go(1);
        assert!(is_ver_9(&answer(retry).await), "{again:?}");
        assert_eq!(codes(&meeting), 1, "{again:?}");
        assert_eq!(old.process.code().await, 0);
        meeting.upstream.behave();
        assert_eq!(sends(&new, PHONE, 5).await, [201, 201, 201, 201, 429], "one is charged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_client_goes_after_the_upgrade_gets_the_code() {
    for (first, again) in [(&[] as &[_], &[] as &[_]), (OWN, OWN), (MADE_UP, NEXT)] {
        let (meeting, old, wire) = in_flight("", first, sent()).await;
        let new = meeting.succeed(&old, &[]).await;
        wire.reset();
        new.until_it_exposes("unclaimed_exchanges 1").await;
        let retry = begin(&new, again).await;
        new.until_it_exposes("unclaimed_exchanges 0").await;
        meeting.upstream.let_go(1);
        assert!(is_ver_9(&answer(retry).await), "{again:?}");
        assert_eq!(codes(&meeting), 1, "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_key_a_request_joins_what_the_old_process_waits_for_and_both_get_the_code() {
    for key in [OWN, MADE_UP] {
        let (meeting, old, wire) = in_flight("", key, sent()).await;
        let new = meeting.succeed(&old, &[]).await;
        let second = begin(&new, key).await;
        new.until_it_exposes("in_flight 1").await;
        meeting.upstream.let_go(1);
        assert!(is_ver_9(&answer(wire).await) && is_ver_9(&answer(second).await));
        let later = answer(begin(&new, key).await).await;
        assert!(is_ver_9(&later), "kept under its key");
        assert_eq!(codes(&meeting), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_clicks_are_two_though_they_are_in_two_processes() {
    let other: &[_] = &[("idempotency-key", "order-18")];
    for (first, second) in [(&[] as &[_], &[] as &[_]), (OWN, other), (MADE_UP, NEXT)] {
        let (meeting, old, wire) = in_flight("", first, sent()).await;
        let new = meeting.succeed(&old, &[]).await;
        let second = begin(&new, second).await;
        meeting.upstream.has_seen(3).await;
        meeting.upstream.let_go(2);
        assert!(is_ver_9(&answer(wire).await) && is_ver_9(&answer(second).await));
        assert_eq!(codes(&meeting), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_in_the_old_process_with_nobody_knowing_how_is_not_bought_again() {
    for end in [Act::error(500, "internal_error"), Act::BreakOff, Act::CutBody(201)] {
        let (meeting, old, wire) = in_flight("", MADE_UP, end.clone()).await;
        let new = meeting.succeed(&old, &[]).await;
        meeting.upstream.let_go(1);
        let told = answer(wire).await.status;
        assert!(told.is_server_error(), "{end:?}");
        assert_eq!(old.process.code().await, 0);
        for again in [MADE_UP, NEXT] {
            assert_eq!(answer(begin(&new, again).await).await.status, told, "{end:?}");
        }
        assert_eq!(codes(&meeting), 1, "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_process_was_killed_in_is_not_bought_again() {
    let (meeting, old, wire) = in_flight("", MADE_UP, sent()).await;
    let new = meeting.succeed(&old, &[]).await;
    let mut joined = begin(&new, MADE_UP).await;
    new.until_it_exposes("in_flight 1").await;
    old.process.signal("KILL");
    assert_eq!(old.process.code().await, -1);
    // It may have come to the old process yet, which takes connections for a moment more: then it is lost with that, and is sent again.
    let told = match joined.answer().await {
        Some(told) => told,
        None => answer(begin(&new, MADE_UP).await).await,
    };
    assert_eq!(told.status, 502);
    new.process.logs("the old process has ended").await;
    drop(wire);
    assert_eq!(answer(begin(&new, NEXT).await).await.status, 502);
    assert_eq!(codes(&meeting), 1);
    meeting.upstream.behave();
    let mut told = Vec::new();
    for key in ["order-1", "order-2", "order-3", "order-4", "order-5"] {
        told.push(answer(begin(&new, &[("idempotency-key", key)]).await).await.status.as_u16());
    }
    assert_eq!(told, [201, 201, 201, 201, 429], "one is charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_exchange_of_the_old_process_waits_no_longer_than_answer_within() {
    let config = "[upstream]\nanswer_within = \"4s\"\n";
    let (meeting, old, wire) = in_flight(config, MADE_UP, sent()).await;
    let new = meeting.succeed(&old, &[]).await;
    assert_eq!(answer(begin(&new, MADE_UP).await).await.status, 504);
    assert_eq!(answer(wire).await.status, 504);
    new.until_it_exposes("unclaimed_exchanges 1").await;
    let retry = begin(&new, NEXT).await;
    new.until_it_exposes("unclaimed_exchanges 0").await;
    meeting.upstream.let_go(1);
    assert!(is_ver_9(&answer(retry).await));
    assert_eq!(codes(&meeting), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_relayed_to_the_new_process_is_told_504_in_time_too_and_its_retry_gets_the_code() {
    let meeting = Meeting::new("[upstream]\nanswer_within = \"4s\"\n").await;
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100002", 1).await, [201], "that proves the key");
    let mut kept = old.connect().await;
    kept.request("GET", "/api/v1/messages", &[], b"").await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    let new = meeting.succeed(&old, &[]).await;
    meeting.upstream.script(move |_| Act::WhenLet(Box::new(sent())));
    // On a connection of the old process, served by the new one.
    kept.request("POST", SEND, MADE_UP, BODY).await;
    let late = answer(kept).await;
    assert_eq!((late.status.as_u16(), late.error().as_str()), (504, "upstream_timeout"));
    new.until_it_exposes("unclaimed_exchanges 1").await;
    let retry = begin(&new, NEXT).await;
    new.until_it_exposes("unclaimed_exchanges 0").await;
    meeting.upstream.let_go(1);
    assert!(is_ver_9(&answer(retry).await));
    assert_eq!(codes(&meeting), 1);
}
