//! One click buys one SMS: what is a retry and gets the answer that is there or on its way, and what is a new click.

use std::time::Duration;

use bytes::Bytes;

use crate::client::{Answer, Wire};
use crate::start::{Gateway, gateway, gateway_with, send_body};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const SEND: &str = "/api/v1/verify";
const RESEND: &str = "/api/v1/verify/ver_1/resend";
const A_KEY: (&str, &str) = ("idempotency-key", "sendly-rust-retry-7d1c6f1c-9f0a-4c43-8a58-2f9d8c1b7a10");
const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_micros(1);

/// A gateway before a Sendly that knows `ver_1`, and answers sends and resends only when it is let.
async fn held() -> Gateway {
    let gateway = gateway().await;
    gateway.upstream.knows("ver_1", PHONE);
    hold(&gateway);
    gateway
}

fn hold(gateway: &Gateway) {
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match like_sendly(seen) {
        Act::Answer(status, _, body) if seen.is_send() || seen.is_resend() => Act::AnswerWhenLet(status, body),
        other => other,
    });
}

fn body(target: &str) -> String {
    if target == SEND { send_body(PHONE) } else { String::new() }
}

/// A request on a connection of its own, whose answer is not awaited yet.
async fn begin(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Wire {
    let mut wire = gateway.connect().await;
    wire.request("POST", target, headers, body(target).as_bytes()).await;
    wire
}

async fn ask(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Answer {
    gateway.ask("POST", target, headers, &body(target)).await
}

/// Codes that Sendly was asked for.
fn bought(gateway: &Gateway) -> usize {
    gateway.upstream.count(|seen| seen.is_send() || seen.is_resend())
}

/// Waits until so many codes have been asked for.
async fn asked_for(gateway: &Gateway, codes: usize) {
    let asked = async {
        for seen in 1.. {
            if bought(gateway) >= codes {
                break;
            }
            gateway.upstream.has_seen(seen).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("Sendly is not asked");
}

async fn retries(gateway: &Gateway, operation: &str) -> u64 {
    gateway.metric(&format!("sendly_gateway_requests_total{{operation=\"{operation}\",outcome=\"retry\"}}")).await
}

async fn judged(gateway: &Gateway) -> u64 {
    gateway.metric(r#"sendly_gateway_decisions_total{decision="allow",limit="phone-10m"}"#).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_the_key_of_one_in_flight_joins_its_exchange() {
    for (target, operation) in [(SEND, "send"), (RESEND, "resend")] {
        let gateway = held().await;
        let mut first = begin(&gateway, target, &[A_KEY]).await;
        asked_for(&gateway, 1).await;
        let mut second = begin(&gateway, target, &[A_KEY]).await;
        // Two requests, and the one exchange.
        gateway.shows("sendly_gateway_in_flight", 3).await;
        gateway.upstream.let_go(1);
        let (first, second) = (first.answer().await.unwrap(), second.answer().await.unwrap());
        assert!(first.status.is_success(), "{first:?}");
        assert_eq!((first.status, &first.body), (second.status, &second.body));
        assert_eq!((bought(&gateway), judged(&gateway).await), (1, 1), "{target}: one is bought, and charged");
        gateway.is_idle().await;
        assert_eq!(retries(&gateway, operation).await, 1);
        assert_eq!(gateway.codes_left(PHONE).await, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_the_key_of_the_last_code_joins_it_and_is_not_refused() {
    let gateway = gateway().await;
    for _ in 0..4 {
        gateway.send_ok(PHONE).await;
    }
    hold(&gateway);
    let mut first = begin(&gateway, SEND, &[A_KEY]).await;
    asked_for(&gateway, 5).await;
    let mut second = begin(&gateway, SEND, &[A_KEY]).await;
    gateway.shows("sendly_gateway_in_flight", 3).await;
    let mut click = begin(&gateway, SEND, &[]).await;
    assert_eq!(click.answer().await.unwrap().status, 429, "it is the last one");
    gateway.upstream.let_go(1);
    for wire in [&mut first, &mut second] {
        assert_eq!(wire.answer().await.unwrap().status, 201);
    }
    assert_eq!(bought(&gateway), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_adopts_the_exchange_of_a_client_that_left_during_its_look_up() {
    for leaves in WAYS {
        for headers in [&[][..], &[A_KEY]] {
            let gateway = gateway().await;
            gateway.upstream.knows("ver_1", PHONE);
            let like_sendly = gateway.upstream.like_sendly();
            gateway.upstream.script(move |seen| match like_sendly(seen) {
                Act::Answer(status, _, body) if seen.is_lookup() => Act::AnswerWhenLet(status, body),
                other => other,
            });
            let wire = begin(&gateway, RESEND, headers).await;
            gateway.upstream.has_seen(1).await;
            match leaves {
                Leaves::Fin => drop(wire),
                Leaves::Rst => wire.reset(),
            }
            gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
            let mut retry = begin(&gateway, RESEND, headers).await;
            gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
            gateway.upstream.let_go(1);
            assert_eq!(retry.answer().await.unwrap().status, 200, "{leaves:?} {headers:?}");
            gateway.is_idle().await;
            assert_eq!((bought(&gateway), judged(&gateway).await), (1, 1), "{leaves:?} {headers:?}");
            assert_eq!(retries(&gateway, "resend").await, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_requests_with_one_key_are_one_exchange() {
    for (target, operation) in [(SEND, "send"), (RESEND, "resend")] {
        let gateway = held().await;
        let mut wires = Vec::new();
        for _ in 0..16 {
            wires.push(begin(&gateway, target, &[A_KEY]).await);
        }
        gateway.shows("sendly_gateway_in_flight", 17).await;
        gateway.upstream.let_go(16);
        let mut answers = Vec::new();
        for wire in &mut wires {
            answers.push(wire.answer().await.unwrap());
        }
        assert!(answers.iter().all(|answer| answer.status.is_success() && answer.body == answers[0].body));
        assert_eq!((bought(&gateway), judged(&gateway).await), (1, 1));
        gateway.is_idle().await;
        assert_eq!(retries(&gateway, operation).await, 15);
        assert_eq!(gateway.codes_left(PHONE).await, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_answer_is_given_again_under_its_key_and_for_ten_minutes() {
    for act in [Act::verification(201, "ver_once", PHONE)] {
        let gateway = gateway().await;
        gateway.upstream.script(move |_| act.clone());
        for target in [SEND, "/api/v1/verify/ver_once/resend"] {
            let before = bought(&gateway);
            let first = ask(&gateway, target, &[A_KEY]).await;
            gateway.wait(10 * MINUTE - TICK);
            let again = ask(&gateway, target, &[A_KEY]).await;
            assert_eq!((first.status, &first.body), (again.status, &again.body));
            assert_eq!(bought(&gateway), before + 1, "{target}");
            gateway.wait(TICK);
            ask(&gateway, target, &[A_KEY]).await;
            assert_eq!(bought(&gateway), before + 2, "{target}");
            gateway.wait(60 * MINUTE);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_may_be_another_next_time_is_not_given_again() {
    for (status, code) in [
        (402, "insufficient_credits"),
        (500, "delivery_failed"),
        (429, "max_attempts_exceeded"),
        (429, "rate_limit_exceeded"),
    ] {
        for target in [SEND, RESEND] {
            let gateway = gateway().await;
            gateway.upstream.knows("ver_1", PHONE);
            let like_sendly = gateway.upstream.like_sendly();
            gateway
                .upstream
                .script(move |seen| if seen.is_lookup() { like_sendly(seen) } else { Act::error(status, code) });
            assert_eq!(ask(&gateway, target, &[A_KEY]).await.status, status);
            gateway.wait(MINUTE);
            gateway.upstream.behave();
            let again = ask(&gateway, target, &[A_KEY]).await;
            assert!(again.status.is_success(), "{target} {status} {code}: {again:?}");
            assert_eq!(bought(&gateway), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_never_remembered_under_a_key() {
    let gateway = gateway().await;
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    for _ in 0..2 {
        let refused = ask(&gateway, SEND, &[A_KEY]).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["retryAfter"]), (429, &600.into()));
    }
    gateway.wait(10 * MINUTE);
    assert_eq!(ask(&gateway, SEND, &[A_KEY]).await.status, 201, "an SDK waits, and asks again with the same key");
    assert_eq!(ask(&gateway, SEND, &[A_KEY]).await.status, 201);
    assert_eq!(bought(&gateway), 6, "and that one is remembered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cooldown_is_never_remembered_under_a_key() {
    let gateway = gateway().await;
    gateway.upstream.knows("ver_1", PHONE);
    assert_eq!(ask(&gateway, RESEND, &[]).await.status, 200);
    assert_eq!(ask(&gateway, RESEND, &[A_KEY]).await.error(), "resend_cooldown");
    gateway.wait(MINUTE);
    assert_eq!(ask(&gateway, RESEND, &[A_KEY]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_was_never_sent_is_not_remembered_under_a_key() {
    let gateway = gateway().await;
    gateway.upstream.script(|seen| if seen.is_lookup() { Act::error(404, "not_found") } else { Act::BreakOff });
    assert_eq!(ask(&gateway, RESEND, &[A_KEY]).await.status, 404);
    gateway.upstream.behave();
    gateway.upstream.knows("ver_1", PHONE);
    assert_eq!(ask(&gateway, RESEND, &[A_KEY]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_anything_else_beside_it_is_no_retry() {
    let gateway = gateway().await;
    let (one, more) = (send_body(PHONE), format!("{{\"to\":\"{PHONE}\",\"app_name\":\"x\"}}"));
    let (account, organization) = (("authorization", "Bearer sk_test_v1_other"), ("x-organization-id", "org_other"));
    for (headers, body) in [
        (vec![A_KEY], one.as_str()),
        (vec![A_KEY], more.as_str()),
        (vec![A_KEY, account], one.as_str()),
        (vec![A_KEY, organization], one.as_str()),
        (vec![("idempotency-key", "another")], one.as_str()),
    ] {
        let before = bought(&gateway);
        assert_eq!(gateway.ask("POST", SEND, &headers, body).await.status, 201);
        assert_eq!(bought(&gateway), before + 1, "{headers:?} {body}");
        assert_eq!(gateway.ask("POST", SEND, &headers, body).await.status, 201);
        assert_eq!(bought(&gateway), before + 1, "{headers:?} {body}: but this is one");
    }
    for id in ["ver_1", "ver_2"] {
        gateway.upstream.knows(id, OTHER);
        assert_eq!(ask(&gateway, &format!("/api/v1/verify/{id}/resend"), &[A_KEY]).await.json()["id"], id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_tells_requests_apart_stands_in_them_once() {
    let gateway = gateway().await;
    for name in ["authorization", "content-type", "idempotency-key", "x-organization-id"] {
        let answer = ask(&gateway, SEND, &[(name, "application/json"), (name, "b")]).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, "invalid_request"), "{name}");
    }
    assert_eq!(bought(&gateway), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_key_names_nothing() {
    let long = "k".repeat(256);
    for key in ["", long.as_str(), "schlüssel"] {
        let gateway = gateway().await;
        for _ in 0..2 {
            assert_eq!(ask(&gateway, SEND, &[("idempotency-key", key)]).await.status, 201);
        }
        assert_eq!(bought(&gateway), 2, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_requests_are_two() {
    for target in [SEND, RESEND] {
        let gateway = held().await;
        let (mut first, mut second) = (begin(&gateway, target, &[]).await, begin(&gateway, target, &[]).await);
        if target == SEND {
            asked_for(&gateway, 2).await;
        }
        gateway.upstream.let_go(2);
        let mut statuses = [first.answer().await.unwrap().status, second.answer().await.unwrap().status];
        statuses.sort_unstable();
        let expected = if target == SEND { [201, 201] } else { [200, 429] };
        assert_eq!(statuses.map(|status| status.as_u16()), expected, "each is judged");
        gateway.is_idle().await;
        assert_eq!(retries(&gateway, "send").await + retries(&gateway, "resend").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_click_after_an_answer_is_a_new_one() {
    let gateway = gateway().await;
    let ids = [gateway.send_ok(PHONE).await, gateway.send_ok(PHONE).await];
    assert_ne!(ids[0], ids[1]);
    assert_eq!(gateway.metric("sendly_gateway_kept_answers").await, 0);
}

#[derive(Clone, Copy, Debug)]
enum Leaves {
    Fin,
    Rst,
}

const WAYS: [Leaves; 2] = [Leaves::Fin, Leaves::Rst];

/// A client that asks for a code and leaves when Sendly has been asked. Returns when the gateway knows that it has.
async fn ask_and_leave(gateway: &Gateway, target: &str, headers: &[(&str, &str)], leaves: Leaves) {
    let before = bought(gateway);
    let wire = begin(gateway, target, headers).await;
    asked_for(gateway, before + 1).await;
    match leaves {
        Leaves::Fin => drop(wire),
        Leaves::Rst => wire.reset(),
    }
    gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_adopts_the_exchange_of_a_client_that_left_in_flight() {
    for leaves in WAYS {
        for target in [SEND, RESEND] {
            for headers in [&[][..], &[A_KEY]] {
                let gateway = held().await;
                ask_and_leave(&gateway, target, headers, leaves).await;
                let mut retry = begin(&gateway, target, headers).await;
                gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
                gateway.upstream.let_go(1);
                let answer = retry.answer().await.unwrap();
                assert!(answer.status.is_success(), "{leaves:?} {target}: {answer:?}");
                assert_eq!((bought(&gateway), judged(&gateway).await), (1, 1), "{leaves:?} {target}");
                gateway.is_idle().await;
                assert_eq!(gateway.codes_left(PHONE).await, 4);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_is_adopted_once_and_then_there_is_a_new_click() {
    for leaves in WAYS {
        let gateway = held().await;
        ask_and_leave(&gateway, SEND, &[], leaves).await;
        let mut retry = begin(&gateway, SEND, &[]).await;
        gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
        let mut click = begin(&gateway, SEND, &[]).await;
        asked_for(&gateway, 2).await;
        gateway.upstream.let_go(2);
        let ids =
            [retry.answer().await.unwrap(), click.answer().await.unwrap()].map(|answer| answer.json()["id"].clone());
        assert_ne!(ids[0], ids[1], "one that lives has its own");
        gateway.upstream.behave();
        gateway.send_ok(PHONE).await;
        assert_eq!(bought(&gateway), 3, "what was delivered is not given again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_exchange_whose_new_client_leaves_too_is_there_for_the_next() {
    let gateway = held().await;
    ask_and_leave(&gateway, SEND, &[], Leaves::Fin).await;
    for leaves in WAYS {
        let retry = begin(&gateway, SEND, &[]).await;
        gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
        match leaves {
            Leaves::Fin => drop(retry),
            Leaves::Rst => retry.reset(),
        }
        gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
    }
    gateway.upstream.let_go(1);
    gateway.is_idle().await;
    assert_eq!(ask(&gateway, SEND, &[]).await.status, 201);
    assert_eq!(bought(&gateway), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_could_not_be_delivered_waits_a_minute_for_its_retry_and_no_longer() {
    for leaves in WAYS {
        for target in [SEND, RESEND] {
            let gateway = held().await;
            ask_and_leave(&gateway, target, &[], leaves).await;
            gateway.upstream.let_go(1);
            gateway.is_idle().await;
            assert_eq!(gateway.metric("sendly_gateway_kept_answers").await, 1);
            gateway.wait(MINUTE - TICK);
            gateway.upstream.behave();
            assert!(ask(&gateway, target, &[]).await.status.is_success());
            assert_eq!(bought(&gateway), 1, "{leaves:?} {target}: adopted at the last moment");
            assert_eq!(gateway.metric("sendly_gateway_kept_answers").await, 0);

            gateway.wait(MINUTE);
            hold(&gateway);
            ask_and_leave(&gateway, target, &[], leaves).await;
            gateway.upstream.let_go(1);
            gateway.is_idle().await;
            gateway.wait(MINUTE);
            gateway.upstream.behave();
            assert!(ask(&gateway, target, &[]).await.status.is_success());
            assert_eq!(bought(&gateway), 3, "{leaves:?} {target}: too late to be a retry");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_a_failure_that_could_not_be_delivered_is_adopted() {
    for leaves in WAYS {
        let gateway = gateway().await;
        gateway.upstream.script(|_| Act::AnswerWhenLet(503, Bytes::from_static(b"{\"error\":\"internal_error\"}")));
        ask_and_leave(&gateway, SEND, &[], leaves).await;
        gateway.upstream.let_go(1);
        gateway.is_idle().await;
        gateway.upstream.behave();
        assert_eq!(ask(&gateway, SEND, &[]).await.status, 503, "its code may be out");
        assert_eq!(ask(&gateway, SEND, &[]).await.status, 503, "and an SDK asks three times");
        gateway.wait(Duration::from_secs(30));
        assert_eq!(ask(&gateway, SEND, &[]).await.status, 201, "by then it is a new click");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_error_that_may_have_sent_a_code_buys_no_second_one_by_its_retries() {
    for status in [500, 502, 503, 504, 520] {
        for headers in [&[][..], &[A_KEY]] {
            let gateway = gateway().await;
            gateway.upstream.script(move |_| Act::error(status, "internal_error"));
            assert_eq!(ask(&gateway, SEND, headers).await.status, status);
            gateway.upstream.behave();
            for _ in 0..3 {
                gateway.wait(Duration::from_secs(4));
                assert_eq!(ask(&gateway, SEND, headers).await.status, status);
            }
            assert_eq!(bought(&gateway), 1, "{status}");
            gateway.wait(Duration::from_secs(18));
            assert_eq!(ask(&gateway, SEND, headers).await.status, 201, "by then it is a new click");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_could_not_be_delivered_is_judged_anew() {
    let gateway = gateway_with("limits = []").await;
    gateway.upstream.script(|seen| match seen {
        seen if seen.is_lookup() => Act::AnswerWhenLet(404, Bytes::from_static(b"{\"error\":\"not_found\"}")),
        _ => Act::error(500, "unscripted"),
    });
    let wire = begin(&gateway, RESEND, &[]).await;
    gateway.upstream.has_seen(1).await;
    wire.reset();
    gateway.upstream.let_go(1);
    gateway.is_idle().await;
    gateway.upstream.behave();
    gateway.upstream.knows("ver_1", PHONE);
    assert_eq!(ask(&gateway, RESEND, &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_nobody_knows_answers_its_retries_and_buys_nothing() {
    for headers in [&[][..], &[A_KEY]] {
        for target in [SEND, RESEND] {
            let gateway = gateway().await;
            gateway.upstream.knows("ver_1", PHONE);
            let like_sendly = gateway.upstream.like_sendly();
            gateway.upstream.script(move |seen| if seen.is_lookup() { like_sendly(seen) } else { Act::BreakOff });
            let first = ask(&gateway, target, headers).await;
            assert_eq!((first.status.as_u16(), first.error().as_str()), (502, "upstream_unreachable"));
            gateway.upstream.behave();
            for backoff in [2, 4, 8] {
                gateway.wait(Duration::from_secs(backoff));
                let retry = ask(&gateway, target, headers).await;
                assert_eq!((retry.status, &retry.body), (first.status, &first.body));
            }
            assert_eq!(bought(&gateway), 1, "{target}");
            gateway.wait(Duration::from_secs(16));
            let click = ask(&gateway, target, headers).await;
            let expected = if target == SEND { 201 } else { 429 };
            assert_eq!(click.status, expected, "a new click is judged: the resend is in its cooldown");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_did_not_come_in_time_is_not_bought_again_by_its_retries() {
    let timeouts =
        "upstream.answer_within = \"5s\"\nupstream.connect_timeout = \"1s\"\nupstream.exchange_timeout = \"1s\"\n";
    let gateway = gateway_with(timeouts).await;
    gateway.upstream.script(|_| Act::Hang);
    for _ in 0..4 {
        assert_eq!(ask(&gateway, SEND, &[]).await.error(), "upstream_timeout");
    }
    assert_eq!(bought(&gateway), 1);
    gateway.wait(Duration::from_secs(30));
    gateway.upstream.behave();
    gateway.send_ok(PHONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_nobody_knows_answers_also_retries_that_come_at_once() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::BreakOff);
    assert_eq!(ask(&gateway, SEND, &[]).await.status, 502);
    gateway.upstream.behave();
    let mut wires = Vec::new();
    for _ in 0..16 {
        wires.push(gateway.connect().await);
    }
    let request = async |wire: &mut Wire| wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
    for wire in &mut wires {
        request(wire).await;
    }
    for wire in &mut wires {
        assert_eq!(wire.answer().await.unwrap().status, 502);
    }
    assert_eq!(bought(&gateway), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_sendlys_that_was_cut_is_no_outcome_that_nobody_knows() {
    for status in [302, 400, 429] {
        let gateway = gateway().await;
        gateway.upstream.script(move |_| Act::CutBody(status));
        let cut = ask(&gateway, SEND, &[]).await;
        assert_eq!((cut.status.as_u16(), cut.error().as_str()), (502, "upstream_unreachable"));
        assert!(cut.json()["message"].as_str().unwrap().contains("Nothing was sent"), "{status}: {cut:?}");
        gateway.upstream.behave();
        assert_eq!(ask(&gateway, SEND, &[]).await.status, 201, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_answers_are_kept_for_no_time_every_request_is_a_click() {
    let gateway = gateway_with("[retries]\nundelivered = \"0s\"\nunknown = \"0s\"\nidempotency = \"0s\"\n").await;
    for _ in 0..2 {
        assert_eq!(ask(&gateway, SEND, &[A_KEY]).await.status, 201);
    }
    gateway.upstream.script(|_| Act::BreakOff);
    for _ in 0..2 {
        assert_eq!(ask(&gateway, SEND, &[A_KEY]).await.status, 502);
    }
    assert_eq!(bought(&gateway), 4);
    assert_eq!(gateway.metric("sendly_gateway_kept_answers").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_room_for_answers_nothing_is_sent_and_nothing_charged() {
    let gateway = gateway_with("[retries]\nmax_kept = 1\n").await;
    gateway.upstream.script(|_| Act::BreakOff);
    assert_eq!(ask(&gateway, SEND, &[A_KEY]).await.status, 502);
    for _ in 0..8 {
        let refused = gateway.send(OTHER).await;
        assert_eq!((refused.status.as_u16(), refused.error().as_str()), (503, "at_capacity"));
        assert!(refused.headers.contains_key("retry-after"));
    }
    assert_eq!(ask(&gateway, SEND, &[A_KEY]).await.status, 502, "a retry needs no room");
    assert_eq!(bought(&gateway), 1);
    assert_eq!(gateway.metric("sendly_gateway_kept_answers").await, 1);
    assert_eq!(gateway.metric("sendly_gateway_kept_answers_max").await, 1);
    gateway.clock.advance(std::time::Duration::from_secs(60));
    gateway.upstream.behave();
    assert_eq!(gateway.send(OTHER).await.status, 201, "and what was refused was not charged");
}

/// As an SDK of 3.38 to 4.2 makes them: one for each try.
fn made_up_keys() -> impl Iterator<Item = String> {
    (0..).map(|serial| format!("sendly-python-retry-6f1c2b8e-9f0a-4c43-8a58-{serial:012x}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_after_each_5xx_buys_nothing_where_the_outcome_is_not_known() {
    for act in [Act::error(500, "internal_error"), Act::error(503, "internal_error"), Act::BreakOff, Act::CutBody(201)]
    {
        for target in [SEND, RESEND] {
            let gateway = gateway().await;
            gateway.upstream.knows("ver_1", PHONE);
            let (like_sendly, failing) = (gateway.upstream.like_sendly(), act.clone());
            gateway.upstream.script(move |seen| if seen.is_lookup() { like_sendly(seen) } else { failing.clone() });
            let mut told = Vec::new();
            for key in made_up_keys().take(4) {
                told.push(ask(&gateway, target, &[("idempotency-key", &key)]).await.body);
                gateway.upstream.behave();
            }
            assert!(told.iter().all(|body| *body == told[0]), "{act:?} {target}");
            assert_eq!(bought(&gateway), 1, "{act:?} {target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_joins_the_exchange_whose_client_has_gone() {
    for leaves in WAYS {
        let gateway = held().await;
        let mut keys = made_up_keys();
        let (first, second) = (keys.next().unwrap(), keys.next().unwrap());
        ask_and_leave(&gateway, SEND, &[("idempotency-key", &first)], leaves).await;
        let mut retry = begin(&gateway, SEND, &[("idempotency-key", &second)]).await;
        gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
        gateway.upstream.let_go(1);
        assert_eq!(retry.answer().await.unwrap().status, 201, "{leaves:?}");
        assert_eq!(bought(&gateway), 1, "{leaves:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_clicks_with_a_made_up_key_each_are_two() {
    let gateway = held().await;
    let mut wires = Vec::new();
    for key in made_up_keys().take(2) {
        wires.push(begin(&gateway, SEND, &[("idempotency-key", &key)]).await);
    }
    asked_for(&gateway, 2).await;
    gateway.upstream.let_go(2);
    let mut ids = Vec::new();
    for wire in &mut wires {
        ids.push(wire.answer().await.unwrap().json()["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_app_chose_is_another_click_after_an_outcome_that_is_not_known() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::BreakOff);
    assert_eq!(ask(&gateway, SEND, &[("idempotency-key", "click-1")]).await.status, 502);
    gateway.upstream.behave();
    assert_eq!(ask(&gateway, SEND, &[("idempotency-key", "click-1")]).await.status, 502, "the same click");
    assert_eq!(
        ask(&gateway, SEND, &[("idempotency-key", "click-2")]).await.status,
        201,
        "the app says that it is another"
    );
    assert_eq!(bought(&gateway), 2);
}

/// A limit whose window ends while an SDK of before 4.3 still tries again by itself.
const SHORT_LIMIT: &str = "[[limits]]\nname = \"short\"\nper = \"phone\"\nmax = 1\nwindow = \"3s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_key_is_refused_again_while_its_sdk_tries_again_by_itself() {
    for (agent, expected) in
        [("sendly-go/4.2.0", 429), ("sendly-java/4.2.0", 429), ("sendly-python/4.2.0", 429), ("sendly-rs/7.0.0", 201)]
    {
        let gateway = gateway_with(SHORT_LIMIT).await;
        let keys: Vec<_> = made_up_keys().take(3).collect();
        let click = async |key: &str| ask(&gateway, SEND, &[("idempotency-key", key), ("user-agent", agent)]).await;
        assert_eq!(click(&keys[0]).await.status, 201);
        assert_eq!(click(&keys[1]).await.status, 429);
        for pause in [1, 2, 4] {
            gateway.wait(Duration::from_secs(pause));
            let again = click(&keys[1]).await;
            let expected = if pause == 1 { 429 } else { expected };
            assert_eq!(again.status, expected, "{agent}: after {pause} s");
        }
        assert_eq!(click(&keys[2]).await.status, 201, "{agent}: the next click");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendlys_own_429_is_passed_on_without_leading_an_sdk_to_sleep_and_buy() {
    let refusal = |wait: u64| {
        let body = serde_json::json!({ "error": "rate_limit_exceeded", "message": "Too many.", "retryAfter": wait });
        Act::Answer(
            429,
            vec![("content-type", "application/json".to_owned()), ("retry-after", wait.to_string())],
            body.to_string().into(),
        )
    };
    for (agent, wait, code, in_body, in_header) in [
        ("sendly-python/4.5.1", 3, "rate_limit_wait", true, true),
        ("sendly-python/4.5.1", 600, "rate_limit_exceeded", true, true),
        ("sendly-python/4.2.0", 600, "rate_limit_wait", true, true),
        ("sendly-ruby/4.2.0", 3, "rate_limit_exceeded", false, true),
        ("sendly-java/4.2.0", 600, "rate_limit_exceeded", true, false),
        ("sendly-go/4.2.0", 3, "rate_limit_exceeded", true, false),
        ("sendly-go/4.3.0", 3, "rate_limit_wait", true, true),
        ("@sendly/node/1.0.5", 3, "rate_limit_exceeded", true, true),
    ] {
        let gateway = gateway().await;
        gateway.upstream.script(move |_| refusal(wait));
        // The second one meets the gateway's own hold.
        for message in ["Too many.", "Sendly's own limit is reached, for this account and this phone number."] {
            let told = ask(&gateway, SEND, &[("user-agent", agent)]).await;
            let body = told.json();
            assert_eq!((told.status.as_u16(), told.error().as_str()), (429, code), "{agent} {wait}");
            assert_eq!(body["message"], message, "{agent} {wait}");
            assert_eq!(body.get("retryAfter").is_some(), in_body, "{agent} {wait} {message}");
            assert_eq!(told.headers.contains_key("retry-after"), in_header, "{agent} {wait} {message}");
        }
        assert_eq!(bought(&gateway), 1);
    }
}

/// Clients are told after a fifth of a second that Sendly is late.
const IMPATIENT: &str = "[upstream]\nanswer_within = \"200ms\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_when_its_patience_ends_and_its_retry_gets_the_code_of_the_exchange_that_went_on() {
    // Read by the gateway itself, and by pingora.
    for more in [None, Some(("connection", "close"))] {
        for target in [SEND, RESEND] {
            let gateway = gateway_with(IMPATIENT).await;
            gateway.upstream.knows("ver_1", PHONE);
            hold(&gateway);
            for key in made_up_keys().take(3) {
                let headers: Vec<_> = [("idempotency-key", key.as_str())].into_iter().chain(more).collect();
                let mut wire = begin(&gateway, target, &headers).await;
                let late = wire.answer().await.unwrap();
                assert_eq!((late.status.as_u16(), late.error().as_str()), (504, "upstream_timeout"), "{target}");
                assert!(wire.is_closed().await, "{target}: nothing else comes on this connection");
                gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
            }
            gateway.upstream.let_go(1);
            gateway.is_idle().await;
            let headers: Vec<_> = more.into_iter().collect();
            let answer = ask(&gateway, target, &headers).await;
            assert!(answer.status.is_success(), "{target}: {answer:?}");
            assert_eq!((bought(&gateway), judged(&gateway).await), (1, 1), "{target}");
            assert_eq!(gateway.codes_left(PHONE).await, 4);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_comes_while_the_exchange_goes_on_waits_for_its_code() {
    let gateway = gateway_with(IMPATIENT).await;
    hold(&gateway);
    assert_eq!(ask(&gateway, SEND, &[]).await.status, 504);
    let mut retry = begin(&gateway, SEND, &[]).await;
    gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
    gateway.upstream.let_go(1);
    assert_eq!(retry.answer().await.unwrap().status, 201);
    assert_eq!(bought(&gateway), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_goes_on_without_its_client_is_settled_by_its_outcome() {
    for (act, settlement, reason) in [
        (
            Act::AnswerWhenLet(402, Bytes::from_static(b"{\"error\":\"insufficient_credits\"}")),
            "given_back",
            "rejected",
        ),
        (Act::AnswerWhenLet(503, Bytes::from_static(b"{\"error\":\"internal_error\"}")), "kept", "server_error"),
    ] {
        let gateway = gateway_with(IMPATIENT).await;
        gateway.upstream.script(move |_| act.clone());
        assert_eq!(ask(&gateway, SEND, &[]).await.status, 504);
        gateway.upstream.let_go(1);
        gateway.is_idle().await;
        assert_eq!(gateway.settled(settlement, reason).await, 1);
        let again = ask(&gateway, SEND, &[]).await;
        assert!([402, 503].contains(&again.status.as_u16()), "its retry is told how it ended: {again:?}");
        assert_eq!(bought(&gateway), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_right_after_its_first_ones_close_joins_it_however_soon_it_comes() {
    let gateway = gateway_with("limits = []").await;
    gateway.upstream.knows("ver_1", PHONE);
    hold(&gateway);
    for round in 1..=60 {
        let (first, mut again) = (begin(&gateway, SEND, &[]).await, gateway.connect().await);
        asked_for(&gateway, round).await;
        drop(first);
        again.request("POST", SEND, &[], body(SEND).as_bytes()).await;
        // Should it be taken for a click of its own, that one is let go too.
        gateway.shows("sendly_gateway_in_flight", 3).await;
        gateway.upstream.let_go(1);
        assert_eq!(again.answer().await.unwrap().status, 201);
        gateway.is_idle().await;
        assert_eq!(bought(&gateway), round, "a second code was bought");
    }
}
