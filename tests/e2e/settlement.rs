//! Only real codes are charged: what became of an exchange, and how many codes the phone has left then.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::client::Answer;
use crate::start::{Gateway, START, gateway, gateway_with, send_body, serve};
use crate::upstream::{Act, Closed, Seen, Upstream};
use sendly_gateway::clock::ManualClock;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const TICK: Duration = Duration::from_micros(1);

/// Two codes per phone, and nothing else in the way.
const TWO_CODES: &str = r#"
    [[limits]]
    name = "two"
    per = "phone"
    max = 2
    window = "1h"
"#;

const KEPT: usize = 1;
const GIVEN_BACK: usize = 2;

/// An outcome: what Sendly does, what the client is told, how many of the two codes are left, and why.
struct Row(&'static str, Act, u16, usize, &'static str);

fn text(status: u16, body: &'static str) -> Act {
    Act::Answer(status, vec![("content-type", "text/plain".to_owned())], body.into())
}

fn redirect(status: u16) -> Act {
    Act::Answer(status, vec![("location", "/elsewhere".to_owned())], "".into())
}

fn replayed(status: u16) -> Act {
    let Act::Answer(status, mut headers, body) = Act::verification(status, "ver_replayed", PHONE) else {
        unreachable!()
    };
    headers.push(("idempotency-replayed", "true".to_owned()));
    Act::Answer(status, headers, body)
}

fn outcomes() -> Vec<Row> {
    let mut rows = vec![
        Row("created", Act::verification(201, "ver_new", PHONE), 201, KEPT, "success"),
        Row("ok", Act::verification(200, "ver_new", PHONE), 200, KEPT, "success"),
        Row("accepted, about no verification", Act::json(202, &serde_json::json!({})), 202, KEPT, "success"),
        Row("no content", text(204, ""), 204, KEPT, "success"),
        Row("unreadable success", text(201, "<html>"), 201, KEPT, "success"),
        Row(
            "success in Latin-1",
            Act::Answer(201, vec![], b"{\"id\":\"\xff\"}".as_slice().into()),
            201,
            KEPT,
            "success",
        ),
        Row("replayed", replayed(201), 201, GIVEN_BACK, "replayed"),
        Row("delivery failed", Act::error(500, "delivery_failed"), 500, GIVEN_BACK, "delivery_failed"),
        Row("internal error", Act::error(500, "internal_error"), 500, KEPT, "server_error"),
        Row("unreadable 500", text(500, "delivery_failed"), 500, KEPT, "server_error"),
        Row("delivery failed, says a gateway", Act::error(502, "delivery_failed"), 502, KEPT, "server_error"),
        Row("broken off", Act::BreakOff, 502, KEPT, "broken"),
        Row("success cut", Act::CutBody(201), 502, KEPT, "cut"),
        Row("500 cut", Act::CutBody(500), 502, KEPT, "cut"),
        Row("400 cut", Act::CutBody(400), 502, GIVEN_BACK, "rejected"),
        Row("429 cut", Act::CutBody(429), 502, GIVEN_BACK, "rejected"),
    ];
    for status in [501, 502, 503, 504, 529, 599] {
        rows.push(Row("server error", Act::error(status, "internal_error"), status, KEPT, "server_error"));
    }
    for status in [301, 302, 303, 307, 308] {
        rows.push(Row("redirection", redirect(status), status, GIVEN_BACK, "rejected"));
    }
    for (status, code) in [
        (400, "invalid_state"),
        (400, "unsupported_destination"),
        (401, "invalid_api_key"),
        (402, "insufficient_credits"),
        (403, "verification_required"),
        (404, "not_found"),
        (408, "request_timeout"),
        (409, "conflict"),
        (410, "expired"),
        (422, "idempotency_key_mismatch"),
        (499, "whatever"),
    ] {
        rows.push(Row(code, Act::error(status, code), status, GIVEN_BACK, "rejected"));
    }
    for code in ["max_attempts_exceeded", "too_many_failed_key_attempts", "too_many_concurrent_verifications"] {
        rows.push(Row(code, Act::error(429, code), 429, GIVEN_BACK, "rejected"));
    }
    rows.push(Row("no wait", Act::error(429, "rate_limit_exceeded"), 429, GIVEN_BACK, "sendly_limit"));
    rows
}

fn settlement(left: usize) -> &'static str {
    if left == KEPT { "kept" } else { "given_back" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_is_charged_if_its_code_went_out_or_may_have() {
    for Row(name, act, status, left, reason) in outcomes() {
        let gateway = gateway_with(TWO_CODES).await;
        gateway.upstream.script(move |_| act.clone());
        let answer = gateway.send(PHONE).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(gateway.settled(settlement(left), reason).await, 1, "{name} {status} {reason}");
        assert_eq!(gateway.codes_left(PHONE).await, left, "{name} {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_is_charged_if_its_code_went_out_or_may_have() {
    for Row(name, act, status, left, reason) in outcomes() {
        let gateway = gateway_with(TWO_CODES).await;
        gateway.upstream.knows("ver_1", PHONE);
        let like_sendly = gateway.upstream.like_sendly();
        gateway.upstream.script(move |seen| if seen.is_lookup() { like_sendly(seen) } else { act.clone() });
        let answer = gateway.resend("ver_1").await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(gateway.settled(settlement(left), reason).await, 1, "{name} {status} {reason}");
        assert_eq!(gateway.codes_left(PHONE).await, left, "{name} {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sendly_answers_is_what_the_client_gets() {
    let gateway = gateway().await;
    let body = "{ \"error\":\"unsupported_destination\",\"message\":\"é\",  \"more\":[1] }";
    gateway.upstream.script(move |_| {
        let headers =
            [("content-type", "application/json; charset=utf-8"), ("x-ratelimit-limit", "60"), ("x-request-id", "a")]
                .map(|(name, value)| (name, value.to_owned()));
        Act::Answer(400, headers.into(), body.into())
    });
    let answer = gateway.send(PHONE).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (400, body.as_bytes()));
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!((answer.header("x-ratelimit-limit"), answer.header("x-request-id")), (Some("60"), Some("a")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_that_sendly_refuses_starts_no_cooldown_and_one_that_may_be_out_does() {
    let gateway = gateway().await;
    let id = gateway.send_ok(PHONE).await;
    gateway.upstream.script(|_| Act::error(400, "invalid_state"));
    assert_eq!(gateway.resend(&id).await.status, 400);
    gateway.upstream.script(|_| Act::error(503, "internal_error"));
    assert_eq!(gateway.resend(&id).await.status, 503);
    gateway.upstream.behave();
    // No retry of it any more.
    gateway.wait(Duration::from_secs(30));
    assert_eq!(gateway.resend(&id).await.error(), "resend_cooldown");
    assert_eq!(gateway.codes_left(PHONE).await, 3);
}

/// A gateway whose upstream cannot be reached yet.
async fn unreachable() -> (Closed, sendly_gateway::server::Running, ManualClock) {
    let closed = Upstream::closed();
    let clock = ManualClock::new(START);
    let running = serve(TWO_CODES, &closed.url(), clock.clone().into()).await;
    (closed, running, clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_never_reached_sendly_is_given_back_and_the_next_try_goes_out() {
    let (closed, running, clock) = unreachable().await;
    // It only counts from here on.
    let gateway = Gateway { running, upstream: Upstream::start().await, clock };
    for _ in 0..5 {
        let answer = gateway.send(PHONE).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (502, "upstream_unreachable"));
        assert!(answer.json()["message"].as_str().unwrap().contains("Nothing was sent"), "{answer:?}");
    }
    assert_eq!(gateway.settled("given_back", "not_sent").await, 5);
    let gateway = Gateway { upstream: closed.open(), ..gateway };
    assert_eq!(gateway.send(PHONE).await.status, 201, "the very same request: it was never sent");
    assert_eq!(gateway.codes_left(PHONE).await, KEPT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_whose_look_up_and_exchange_fail_to_connect_costs_nothing() {
    let (closed, running, clock) = unreachable().await;
    let gateway = Gateway { running, upstream: Upstream::start().await, clock };
    assert_eq!(gateway.resend("ver_1").await.error(), "upstream_unreachable");
    let gateway = Gateway { upstream: closed.open(), ..gateway };
    gateway.upstream.knows("ver_1", PHONE);
    assert_eq!(gateway.resend("ver_1").await.status, 200);
    assert_eq!(gateway.codes_left(PHONE).await, KEPT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_whose_answer_does_not_come_in_time_stays_charged() {
    let timeouts = "upstream.connect_timeout = \"1s\"\nupstream.exchange_timeout = \"1s\"\n";
    let gateway = gateway_with(&format!("{timeouts}{TWO_CODES}")).await;
    gateway.upstream.script(|_| Act::Hang);
    let answer = gateway.send(PHONE).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (504, "upstream_timeout"));
    assert_eq!(gateway.settled("kept", "timeout").await, 1);
    assert_eq!(gateway.codes_left(PHONE).await, KEPT);
}

/// A port that takes no more connections: they neither come about nor fail.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
    }
    (listener, waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_does_not_come_about_in_time_costs_nothing() {
    let (listener, _waiting) = full().await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    for exchange in ["2s", "200ms"] {
        let timeouts = format!("upstream.connect_timeout = \"200ms\"\nupstream.exchange_timeout = \"{exchange}\"\n");
        let clock = ManualClock::new(START);
        let running = serve(&format!("{timeouts}{TWO_CODES}"), &url, clock.clone().into()).await;
        let gateway = Gateway { running, upstream: Upstream::start().await, clock };
        assert_eq!(gateway.send(PHONE).await.error(), "upstream_unreachable", "of {exchange}");
        assert_eq!(gateway.settled("given_back", "not_sent").await, 1, "of {exchange}");
    }
}

/// Sendly's own refusal, to the byte.
const SENDLYS: &str = "{\"error\":\"rate_limit_exceeded\",\"message\":\"Too many OTPs sent to this phone number. Max 5 \
                       per 10 minutes.\",\"retryAfter\":600}";

fn sendlys_429(body: &'static str) -> Act {
    Act::Answer(429, vec![("content-type", "application/json".to_owned())], body.into())
}

/// Sendly refuses this once, and would take everything after that.
async fn refused_by_sendly(gateway: &Gateway, body: &'static str) -> Answer {
    gateway.upstream.script(move |_| sendlys_429(body));
    let answer = gateway.send(PHONE).await;
    gateway.upstream.behave();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendlys_own_limit_is_passed_on_and_holds_the_phone_for_exactly_as_long() {
    let gateway = gateway().await;
    let id = gateway.send_ok(PHONE).await;
    let answer = refused_by_sendly(&gateway, SENDLYS).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (429, SENDLYS.as_bytes()), "byte for byte");
    assert_eq!(answer.header("retry-after"), None, "nothing is added to it");
    assert_eq!(gateway.settled("given_back", "sendly_limit").await, 1);

    let asked = gateway.upstream.seen().len();
    for held in [gateway.send(PHONE).await, gateway.resend(&id).await] {
        assert_eq!((held.status.as_u16(), held.error().as_str()), (429, "rate_limit_exceeded"));
        assert_eq!((&held.json()["retryAfter"], held.header("retry-after")), (&600.into(), Some("600")));
        assert_eq!(held.header("ratelimit"), None, "the gateway cannot say how many are left at Sendly");
    }
    assert_eq!(gateway.upstream.seen().len(), asked, "Sendly is not asked again");
    assert_eq!(gateway.metric(r#"sendly_gateway_decisions_total{decision="deny",limit="hold"}"#).await, 2);
    gateway.send_ok(OTHER).await;

    gateway.wait(Duration::from_secs(600) - TICK);
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 1);
    gateway.wait(TICK);
    assert_eq!(gateway.resend(&id).await.status, 200);
    assert_eq!(gateway.codes_left(PHONE).await, 4, "the send of ten minutes ago is over, the resend counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendlys_own_limit_on_a_resend_holds_its_phone() {
    let gateway = gateway().await;
    let id = gateway.send_ok(PHONE).await;
    gateway.upstream.script(|_| sendlys_429(SENDLYS));
    assert_eq!(gateway.resend(&id).await.body, SENDLYS.as_bytes());
    gateway.upstream.behave();
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 600);
    gateway.wait(Duration::from_secs(600));
    assert_eq!(gateway.resend(&id).await.status, 200, "and it was no resend: no cooldown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_wait_that_makes_sense_holds_a_phone() {
    for (body, wait) in [
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":1}"#, Some(1)),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":0.2}"#, Some(1)),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":86401}"#, Some(86_400)),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":18446744073709551615}"#, Some(86_400)),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":1e300}"#, None),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":0}"#, None),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":-600}"#, None),
        (r#"{"error":"rate_limit_exceeded","message":"","retryAfter":"600"}"#, None),
        (r#"{"error":"rate_limit_exceeded","message":""}"#, None),
        (r#"{"error":"too_many_failed_key_attempts","message":"","retryAfter":300}"#, None),
        (r#"{"error":"max_attempts_exceeded","message":""}"#, None),
        ("rate_limit_exceeded", None),
        ("", None),
    ] {
        let gateway = gateway().await;
        let answer = refused_by_sendly(&gateway, body).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (429, body.as_bytes()));
        let next = gateway.send(PHONE).await;
        match wait {
            Some(wait) => assert_eq!(next.json()["retryAfter"], wait, "{body}"),
            None => assert_eq!(next.status, 201, "{body}"),
        }
        if let Some(wait) = wait {
            gateway.wait(Duration::from_secs(wait));
        }
        let sent = usize::from(wait.is_none());
        assert_eq!(gateway.codes_left(PHONE).await, 5 - sent, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_outlives_the_sweeps() {
    let gateway = gateway().await;
    refused_by_sendly(&gateway, SENDLYS).await;
    gateway.wait(Duration::from_secs(599));
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 1);
    gateway.wait(Duration::from_secs(1));
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.metric("sendly_gateway_tracked_keys").await, 0, "and is forgotten after them");
    gateway.send_ok(PHONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_shadows_holds_no_phone() {
    let gateway = gateway_with(&format!("{TWO_CODES}mode = \"shadow\"\n")).await;
    refused_by_sendly(&gateway, SENDLYS).await;
    for _ in 0..3 {
        gateway.send_ok(PHONE).await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Leaves {
    Fin,
    Rst,
}

/// A client that asks for this, and leaves when Sendly has been asked. Returns when the gateway knows that it has.
async fn ask_and_leave(gateway: &Gateway, target: &str, body: &str, leaves: Leaves) {
    let asked = gateway.upstream.seen().len();
    let mut wire = gateway.connect().await;
    wire.request("POST", target, &[], body.as_bytes()).await;
    gateway.upstream.has_seen(asked + 1).await;
    match leaves {
        Leaves::Fin => drop(wire),
        Leaves::Rst => wire.reset(),
    }
    gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_changes_nothing_about_the_outcome() {
    for leaves in [Leaves::Fin, Leaves::Rst] {
        for Row(name, act, status, left, reason) in outcomes() {
            // Those that answer can be told to wait until the client has gone.
            let Act::Answer(_, headers, body) = act else { continue };
            if !headers.iter().any(|(name, _)| *name == "content-type") || reason == "replayed" {
                continue;
            }
            let gateway = gateway_with(TWO_CODES).await;
            gateway.upstream.script(move |_| Act::AnswerWhenLet(status, body.clone()));
            ask_and_leave(&gateway, "/api/v1/verify", &send_body(PHONE), leaves).await;
            gateway.upstream.let_go(1);
            gateway.is_idle().await;
            assert_eq!(gateway.settled(settlement(left), reason).await, 1, "{leaves:?} {name} {status}");
            assert_eq!(gateway.codes_left(PHONE).await, left, "{leaves:?} {name} {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_changes_nothing_about_what_is_learned() {
    for leaves in [Leaves::Fin, Leaves::Rst] {
        let gateway = gateway().await;
        let Act::Answer(_, _, body) = Act::verification(201, "ver_left", PHONE) else { unreachable!() };
        gateway.upstream.script(move |_| Act::AnswerWhenLet(201, body.clone()));
        ask_and_leave(&gateway, "/api/v1/verify", &send_body(PHONE), leaves).await;
        gateway.upstream.let_go(1);
        gateway.is_idle().await;
        gateway.upstream.behave();
        gateway.upstream.knows("ver_left", PHONE);
        assert_eq!(gateway.resend("ver_left").await.status, 200);
        assert_eq!(gateway.upstream.count(|seen| seen.is_lookup()), 0, "{leaves:?}: whose it is was learned");
        assert_eq!(gateway.codes_left(PHONE).await, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_its_verification_is_looked_up_gets_its_code_charged_all_the_same() {
    let gateway = gateway().await;
    gateway.upstream.knows("ver_1", PHONE);
    let Act::Answer(_, _, body) = Act::verification(200, "ver_1", PHONE) else { unreachable!() };
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match seen {
        seen if seen.is_lookup() => Act::AnswerWhenLet(200, body.clone()),
        seen => like_sendly(seen),
    });
    let mut wire = gateway.connect().await;
    wire.request("POST", "/api/v1/verify/ver_1/resend", &[], b"").await;
    gateway.upstream.has_seen(1).await;
    wire.reset();
    gateway.upstream.let_go(1);
    gateway.upstream.has_seen(2).await;
    gateway.is_idle().await;
    assert_eq!(gateway.settled("kept", "success").await, 1);
    assert_eq!(gateway.codes_left(PHONE).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_stops_sending_gets_its_answer() {
    let gateway = gateway().await;
    let Act::Answer(_, _, body) = Act::verification(201, "ver_half", PHONE) else { unreachable!() };
    gateway.upstream.script(move |_| Act::AnswerWhenLet(201, body.clone()));
    let mut wire = gateway.connect().await;
    wire.request("POST", "/api/v1/verify", &[], send_body(PHONE).as_bytes()).await;
    gateway.upstream.has_seen(1).await;
    wire.finish().await;
    gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
    gateway.upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().json()["id"], "ver_half");
    assert!(wire.is_closed().await);
}

/// Reads one request with a body of this length, written by the gateway; `false` where the connection ends instead.
async fn read_post(stream: &mut TcpStream, body: usize) -> bool {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n")
            && read.len() >= end + 4 + body
        {
            assert_eq!(read.len(), end + 4 + body, "one request at a time");
            return true;
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(more) => read.extend_from_slice(&buffer[..more]),
        }
    }
}

const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_connection_that_sendly_closed_while_it_was_idle_loses_no_code() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway {
        running: serve("", &url, ManualClock::new(START).into()).await,
        upstream: Upstream::start().await,
        clock: ManualClock::new(START),
    };
    for _ in 0..5 {
        let upstream = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(read_post(&mut stream, send_body(PHONE).len()).await);
            stream.write_all(CREATED).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let (answer, mut stream) = tokio::join!(gateway.send(PHONE), upstream);
        assert_eq!(answer.status, 201);
        // The gateway closes its side, with the next sweep at the latest, when it has seen that.
        let sweeps = async {
            loop {
                gateway.running.gateway().sweep().await;
            }
        };
        tokio::select! {
            another = read_post(&mut stream, 0) => assert!(!another),
            () = sweeps => {}
        }
    }
    assert_eq!(gateway.send(PHONE).await.status, 429, "five went out, each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_was_written_to_a_dying_connection_is_charged_and_not_written_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway {
        running: serve(TWO_CODES, &url, ManualClock::new(START).into()).await,
        upstream: Upstream::start().await,
        clock: ManualClock::new(START),
    };
    let length = send_body(PHONE).len();
    let first = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(read_post(&mut stream, length).await);
        stream.write_all(CREATED).await.unwrap();
        stream
    };
    let (answer, mut stream) = tokio::join!(gateway.send(PHONE), first);
    assert_eq!(answer.status, 201);
    let second = async {
        assert!(read_post(&mut stream, length).await, "on the pooled connection");
        stream.set_zero_linger().unwrap();
        drop(stream);
    };
    let (answer, ()) = tokio::join!(gateway.send(PHONE), second);
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (502, "upstream_unreachable"));
    assert!(answer.json()["message"].as_str().unwrap().contains("may have been carried out"));
    let body = format!("{{\"to\":\"{PHONE}\",\"app_name\":\"another click\"}}");
    assert_eq!(gateway.ask("POST", "/api/v1/verify", &[], &body).await.status, 429, "both are charged");
    let again = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(again.is_err(), "it was not sent again on another connection");
    assert_eq!(gateway.settled("kept", "broken").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sendly_refuses_one_account_is_refused_to_that_account_alone_until_a_second_is_told_so() {
    let gateway = gateway().await;
    let send = async |key: &str| {
        let authorization = format!("Bearer {key}");
        gateway.ask("POST", "/api/v1/verify", &[("authorization", &authorization)], &send_body(PHONE)).await
    };
    let refused = |held: &Answer| {
        assert_eq!((held.status.as_u16(), held.error().as_str()), (429, "rate_limit_exceeded"));
        held.json()["retryAfter"].as_u64().unwrap()
    };
    gateway.upstream.script(|_| sendlys_429(SENDLYS));
    assert_eq!(send("sk_a").await.status, 429);
    gateway.upstream.behave();
    let asked = gateway.upstream.count(Seen::is_send);
    assert_eq!(refused(&send("sk_a").await), 600);
    assert_eq!(gateway.upstream.count(Seen::is_send), asked, "Sendly is not asked again for it");
    assert_eq!(send("sk_b").await.status, 201, "it was no other account's limit");

    gateway.wait(Duration::from_secs(60));
    gateway.upstream.script(|_| sendlys_429(SENDLYS));
    assert_eq!(send("sk_b").await.status, 429);
    gateway.upstream.behave();
    // Until the first of the two is over it is the phone, for everybody; then for the second alone.
    for (key, wait) in [("sk_a", 540), ("sk_b", 600), ("sk_c", 540)] {
        assert_eq!(refused(&send(key).await), wait, "{key}");
    }
    gateway.wait(Duration::from_secs(540));
    assert_eq!(send("sk_c").await.status, 201);
    assert_eq!(refused(&send("sk_b").await), 60);
    assert_eq!(gateway.metric("sendly_gateway_account_holds").await, 1);
}
