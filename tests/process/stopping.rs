//! How it stops: it takes nothing more, ends what it has begun, and no sooner or later than that.

use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::client::Wire;
use crate::process::{Process, Serving};
use crate::upstream::{Act, Upstream};

const SEND: &[u8] = br#"{"to":"+15550100123"}"#;

/// A gateway, and a client whose code Sendly has been asked for and answers when it is let.
async fn in_flight(upstream: &Upstream, config: &str) -> (Serving, Wire) {
    let Act::Answer(_, _, body) = Act::verification(201, "ver_1", "+15550100123") else { unreachable!() };
    upstream.script(move |_| Act::AnswerWhenLet(201, body.clone()));
    let serving = Process::gateway(config, &upstream.url(), &[]).await;
    let mut wire = serving.connect().await;
    wire.request("POST", "/api/v1/verify", &[], SEND).await;
    upstream.has_seen(1).await;
    (serving, wire)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_in_flight_it_ends_at_once() {
    let upstream = Upstream::start().await;
    let serving = Process::gateway("", &upstream.url(), &[]).await;
    assert_eq!(serving.admin("/readyz").await.status, 200);
    // A connection that is kept alive and one that never said anything are nothing.
    let _silent = serving.connect().await;
    let mut idle = serving.connect().await;
    idle.request("POST", "/api/v1/verify", &[], SEND).await;
    assert_eq!(idle.answer().await.unwrap().status, 201);
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    assert!(serving.process.err().contains("stopped"));
    assert!(idle.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_ended_and_the_client_gets_its_answer() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, "").await;
    serving.process.signal("TERM");
    serving.process.logs("draining").await;
    let ready = serving.admin("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.body.as_slice()), (503, b"not ready: draining\n".as_slice()));
    assert_eq!(serving.admin("/livez").await.status, 200, "it lives, it only takes no more");
    assert_eq!(serving.admin("/metrics").await.status, 200, "the last scrape sees it all");
    upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert_eq!(serving.process.code().await, 0);
    assert!(wire.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_taken_any_more_once_it_is_to_stop() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, "").await;
    serving.process.signal("TERM");
    serving.process.logs("draining").await;
    let refused = async { while TcpStream::connect(serving.address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("it still takes connections");
    upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert_eq!(serving.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_whose_client_has_gone_is_ended_too() {
    let upstream = Upstream::start().await;
    let (serving, wire) = in_flight(&upstream, "").await;
    wire.reset();
    serving.process.signal("TERM");
    serving.process.logs("draining").await;
    assert_eq!(serving.admin("/readyz").await.status, 503, "it is still there");
    upstream.let_go(1);
    assert_eq!(serving.process.code().await, 0);
    assert!(serving.process.err().contains("\"stopped\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_whatever_is_in_flight() {
    for second in ["TERM", "INT"] {
        let upstream = Upstream::start().await;
        let (serving, mut wire) = in_flight(&upstream, "").await;
        serving.process.signal("TERM");
        serving.process.logs("draining").await;
        serving.process.signal(second);
        assert_eq!(serving.process.code().await, 0);
        assert!(serving.process.err().contains("by a second signal"));
        assert!(wire.answer().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_it_whatever_is_in_flight() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, "").await;
    serving.process.signal("INT");
    assert_eq!(serving.process.code().await, 0);
    assert!(wire.answer().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_waited_for_longer_than_drain_timeout() {
    let upstream = Upstream::start().await;
    upstream.script(|_| Act::Hang);
    let config = "drain_timeout = \"1s\"\nupstream.connect_timeout = \"500ms\"\nupstream.exchange_timeout = \"500ms\"\n\
                  upstream.lookup_timeout = \"500ms\"\n";
    let serving = Process::gateway(config, &upstream.url(), &[]).await;
    let mut wire = serving.connect().await;
    // It passes through, and may take a minute.
    wire.request("GET", "/api/v1/messages", &[], b"").await;
    upstream.has_seen(1).await;
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    assert!(serving.process.err().contains("stopped with requests in flight"), "{}", serving.process.err());
    assert!(wire.answer().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_shared_ledger_was_not_told_is_no_reason_to_stay_and_is_said() {
    let upstream = Upstream::start().await;
    // Nobody listens there.
    let config = "hash_key = \"0123456789abcdef\"\n[ledger]\nbackend = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n";
    let serving = Process::gateway(config, &upstream.url(), &[]).await;
    let mut wire = serving.connect().await;
    wire.request("POST", "/api/v1/verify", &[], SEND).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let said = serving.process.err();
    assert!(said.contains("what it has yet to be told is lost") && said.contains("\"untold\":"), "{said}");
}

/// What a Service does with a pod that is told to stop: it goes on to send new connections until it has heard of it. Each carries one
/// request. Returns how many were answered, and how many were not.
async fn keep_sending(serving: &Serving, until: Duration) -> (usize, usize) {
    let (mut answered, mut refused) = (0, 0);
    let (mut over, mut pace) = (pin!(tokio::time::sleep(until)), tokio::time::interval(Duration::from_millis(5)));
    loop {
        tokio::select! {
            biased;
            () = &mut over => return (answered, refused),
            _ = pace.tick() => {}
        }
        let Ok(stream) = TcpStream::connect(serving.address).await else {
            refused += 1;
            continue;
        };
        let mut wire = Wire::over(stream);
        // One that the gateway serves itself, and one that passes through.
        let (method, target, body) = match answered % 2 {
            0 => ("POST", "/api/v1/verify", SEND),
            _ => ("GET", "/api/v1/messages", b"".as_slice()),
        };
        wire.request(method, target, &[], body).await;
        match wire.answer().await {
            Some(answer) if answer.status.is_success() => {
                assert_eq!(answer.header("connection"), Some("close"), "{method}: the client is to move away");
                assert!(wire.is_closed().await);
                answered += 1;
            }
            other => panic!("{method}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_refused_while_the_load_balancer_has_not_heard_of_the_stop() {
    let upstream = Upstream::start().await;
    let serving = Process::gateway("drain_delay = \"1h\"\nlimits = []\n", &upstream.url(), &[]).await;
    let mut kept = serving.connect().await;
    kept.request("POST", "/api/v1/verify", &[], SEND).await;
    assert_eq!(kept.answer().await.unwrap().header("connection"), Some("keep-alive"));
    serving.process.signal("TERM");
    serving.process.logs("not ready").await;
    let ready = serving.admin("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.body.as_slice()), (503, b"not ready: draining\n".as_slice()));
    let status = serving.admin("/v1/status").await.json();
    assert_eq!((&status["ready"], &status["why"]), (&false.into(), &"draining".into()));
    let (answered, refused) = keep_sending(&serving, Duration::from_millis(1500)).await;
    assert_eq!(refused, 0, "of {answered}");
    assert!(answered > 20, "{answered} in 1.5 s is no load");
    // A connection that was kept alive is served once more, and told to go.
    kept.request("POST", "/api/v1/verify", &[], SEND).await;
    assert_eq!(kept.answer().await.unwrap().header("connection"), Some("close"));
    assert!(kept.is_closed().await);
    assert!(!serving.process.err().contains("\"draining\""), "{}", serving.process.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_begins_when_the_delay_is_over() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, "drain_delay = \"500ms\"").await;
    serving.process.signal("TERM");
    serving.process.logs("not ready").await;
    serving.process.logs("\"draining\"").await;
    upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert_eq!(serving.process.code().await, 0);
    assert!(TcpStream::connect(serving.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_term_ends_the_delay_and_begins_the_drain() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, "drain_delay = \"1h\"").await;
    serving.process.signal("TERM");
    serving.process.logs("not ready").await;
    serving.process.signal("TERM");
    serving.process.logs("\"draining\"").await;
    upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().status, 201, "what is in flight has its time");
    assert_eq!(serving.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_during_the_delay_ends_it_at_once() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, "drain_delay = \"1h\"").await;
    serving.process.signal("TERM");
    serving.process.logs("not ready").await;
    serving.process.signal("INT");
    assert_eq!(serving.process.code().await, 0);
    assert!(serving.process.err().contains("by a second signal"));
    assert!(wire.answer().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_stopping_hands_nothing_over_and_serves_out_its_delay() {
    let upstream = Upstream::start().await;
    let socket = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("delay-{}.sock", std::process::id()));
    let config = format!("drain_delay = \"1h\"\nupgrade.socket = {socket:?}\n");
    let serving = Process::gateway(&config, &upstream.url(), &[]).await;
    serving.process.signal("TERM");
    serving.process.logs("not ready").await;
    serving.process.signal("QUIT");
    serving.process.logs("QUIT: this process is stopping, and hands nothing over").await;
    assert_eq!(serving.ask("POST", "/api/v1/verify", &[], std::str::from_utf8(SEND).unwrap()).await.status, 201);
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
}

/// A client is told 504 after this.
const IMPATIENT: &str = "upstream.answer_within = \"500ms\"\n";

/// Begins a send to the phone of all of them.
async fn begin(serving: &Serving, headers: &[(&str, &str)]) -> Wire {
    let mut wire = serving.connect().await;
    wire.request("POST", "/api/v1/verify", headers, SEND).await;
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_comes_during_the_delay_gets_the_code_of_the_exchange_that_outlasted_its_client() {
    let upstream = Upstream::start().await;
    let (serving, mut wire) = in_flight(&upstream, &format!("drain_delay = \"1h\"\n{IMPATIENT}")).await;
    serving.process.signal("TERM");
    serving.process.logs("not ready").await;
    assert_eq!(wire.answer().await.unwrap().status, 504);
    serving.until_it_exposes("unclaimed_exchanges 1").await;
    let mut retry = begin(&serving, &[]).await;
    serving.until_it_exposes("unclaimed_exchanges 0").await;
    upstream.let_go(1);
    assert_eq!(retry.answer().await.unwrap().status, 201);
    assert_eq!(upstream.count(|_| true), 1, "one SMS");
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_left_at_the_end_of_the_drain_stays_charged_after_a_restart() {
    let upstream = Upstream::start().await;
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("drained-{}", std::process::id()));
    let state = [("STATE_DIR", dir.to_str().unwrap())];
    let config = format!(
        "drain_timeout = \"1s\"\n{IMPATIENT}[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 2\nwindow = \"1h\"\n"
    );
    let Act::Answer(_, _, body) = Act::verification(201, "ver_1", "+15550100123") else { unreachable!() };
    upstream.script(move |_| Act::AnswerWhenLet(201, body.clone()));
    let serving = Process::gateway(&config, &upstream.url(), &state).await;
    let mut wire = begin(&serving, &[]).await;
    upstream.has_seen(1).await;
    serving.process.signal("TERM");
    assert_eq!(wire.answer().await.unwrap().status, 504);
    assert_eq!(serving.process.code().await, 0);
    assert!(serving.process.err().contains("their charges stay"), "{}", serving.process.err());
    upstream.behave();
    let again = Process::gateway(&config, &upstream.url(), &state).await;
    let mut told = Vec::new();
    for click in ["order-1", "order-2"] {
        let mut wire = begin(&again, &[("idempotency-key", click)]).await;
        told.push(wire.answer().await.unwrap().status.as_u16());
    }
    assert_eq!(told, [201, 429], "one of two is charged");
}
