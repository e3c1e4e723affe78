//! Caps: what comes beyond one is turned away at once, and what is inside goes on.

use std::time::Duration;

use bytes::Bytes;
use h2::client::Builder;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Answer, Wire};
use crate::deadlines::{http2, request};
use crate::start::{Gateway, gateway_with, send_body};
use crate::tls::Secure;
use crate::upstream::Act;

async fn turned_away(gateway: &Gateway, cap: &str) -> u64 {
    gateway.metric(&format!("sendly_gateway_turned_away_total{{cap=\"{cap}\"}}")).await
}

/// Whether the gateway has closed this connection without a word.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 64];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut bytes)).await;
    matches!(read.expect("it stays open"), Ok(0) | Err(_))
}

async fn passes(wire: &mut Wire) -> bool {
    wire.request("GET", "/api/v1/messages", &[], b"").await;
    wire.answer().await.is_some_and(|answer| answer.status == 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_beyond_the_cap_is_closed_and_those_that_stand_go_on() {
    let gateway = gateway_with("clients.max_connections = 2\nclients.max_per_address = 2").await;
    let (mut one, mut other) = (gateway.connect().await, gateway.connect().await);
    assert!(passes(&mut one).await && passes(&mut other).await);
    let mut third = TcpStream::connect(gateway.running.address).await.unwrap();
    assert!(is_closed(&mut third).await);
    assert_eq!((turned_away(&gateway, "connections").await, turned_away(&gateway, "address").await), (1, 0));
    assert_eq!(gateway.metric("sendly_gateway_connections_max").await, 2);
    assert!(passes(&mut one).await && passes(&mut other).await);
    drop(other);
    gateway.shows("sendly_gateway_connections", 1).await;
    assert!(passes(&mut gateway.connect().await).await, "there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_half_of_all_connections_unless_it_is_a_trusted_proxy() {
    let gateway = gateway_with("clients.max_connections = 4").await;
    let mut open = vec![gateway.connect().await, gateway.connect().await];
    for wire in &mut open {
        assert!(passes(wire).await);
    }
    assert!(is_closed(&mut TcpStream::connect(gateway.running.address).await.unwrap()).await);
    assert_eq!((turned_away(&gateway, "connections").await, turned_away(&gateway, "address").await), (0, 1));

    let behind_a_proxy = gateway_with("clients.max_connections = 4\nclients.trusted_proxies = [\"127.0.0.0/8\"]").await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(behind_a_proxy.connect().await);
        assert!(passes(open.last_mut().unwrap()).await);
    }
    assert!(is_closed(&mut TcpStream::connect(behind_a_proxy.running.address).await.unwrap()).await);
    assert_eq!(turned_away(&behind_a_proxy, "connections").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_moves_the_caps() {
    let gateway = gateway_with("clients.max_connections = 1").await;
    let mut first = gateway.connect().await;
    assert!(passes(&mut first).await);
    assert!(is_closed(&mut TcpStream::connect(gateway.running.address).await.unwrap()).await);
    gateway.reload("clients.max_connections = 2\nclients.max_per_address = 2").await;
    assert!(passes(&mut gateway.connect().await).await && passes(&mut first).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_have_connections_of_their_own_and_those_are_capped_too() {
    let gateway = gateway_with("clients.max_connections = 1").await;
    let mut only = gateway.connect().await;
    assert!(passes(&mut only).await);
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(gateway.running.admin_address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 16]).await.unwrap() > 0);
        open.push(stream);
    }
    assert!(is_closed(&mut TcpStream::connect(gateway.running.admin_address).await.unwrap()).await);
    drop(open);
    // The connections end on the gateway's side some time after they do here.
    let again = async {
        while {
            let mut wire = Wire::connect(gateway.running.admin_address).await;
            !wire.try_write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await || wire.answer().await.is_none()
        } {}
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("operators are kept out");
    assert!(turned_away(&gateway, "admin").await >= 1);
}

/// That this is what a request is told which is one too many.
#[track_caller]
fn is_overloaded(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (503, "overloaded"), "{answer:?}");
    assert_eq!((answer.header("retry-after"), &answer.json()["retryAfter"]), (Some("1"), &1.into()));
}

/// Asks for a code, and does not wait for the answer.
async fn ask_for_code(gateway: &Gateway, phone: &str) -> Wire {
    let mut wire = gateway.connect().await;
    wire.request("POST", "/api/v1/verify", &[], send_body(phone).as_bytes()).await;
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_finds_no_connection_to_sendly_is_503_and_charged_nothing_and_running_ones_end_as_ever() {
    let gateway = gateway_with("upstream.max_connections = 2").await;
    gateway.upstream.script(|_| Act::AnswerWhenLet(201, r#"{"id":"ver_1","status":"pending"}"#.into()));
    let mut running = [ask_for_code(&gateway, "+15550100001").await, ask_for_code(&gateway, "+15550100002").await];
    gateway.upstream.has_seen(2).await;
    is_overloaded(&gateway.send("+15550100003").await);
    assert_eq!(gateway.upstream.seen().len(), 2, "Sendly was not asked");
    assert_eq!(gateway.metric("sendly_gateway_upstream_connections").await, 2);
    assert_eq!(gateway.metric("sendly_gateway_upstream_connections_max").await, 2);
    assert_eq!(turned_away(&gateway, "upstream").await, 1);

    // One that waits when a connection comes free has it.
    let mut waiting = ask_for_code(&gateway, "+15550100004").await;
    gateway.upstream.let_go(2);
    for wire in &mut running {
        assert_eq!(wire.answer().await.unwrap().status, 201);
    }
    gateway.upstream.let_go(1);
    assert_eq!(waiting.answer().await.unwrap().status, 201);
    gateway.shows("sendly_gateway_upstream_connections", 0).await;
    assert_eq!(gateway.codes_left("+15550100003").await, 5, "the one that was turned away was not charged");
    assert_eq!(gateway.codes_left("+15550100004").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_leaves_half_of_the_connections_to_codes() {
    let gateway = gateway_with("upstream.max_connections = 2").await;
    gateway.upstream.script(|seen| match seen.is_send() {
        true => Act::verification(201, "ver_1", "+15550100001"),
        false => Act::Hang,
    });
    let mut slow = gateway.connect().await;
    slow.request("GET", "/api/v1/messages", &[], b"").await;
    gateway.upstream.has_seen(1).await;
    is_overloaded(&gateway.ask("GET", "/api/v1/messages", &[], "").await);
    is_overloaded(&gateway.ask("POST", "/api/v1/verify/ver_1/check", &[], r#"{"code":"123456"}"#).await);
    assert_eq!(gateway.send("+15550100001").await.status, 201);
    drop(slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_beyond_the_cap_is_503_and_charged_nothing() {
    // A request and its exchange are two.
    let gateway = gateway_with("clients.max_requests = 2").await;
    gateway.upstream.script(|_| Act::AnswerWhenLet(201, r#"{"id":"ver_1","status":"pending"}"#.into()));
    let mut running = ask_for_code(&gateway, "+15550100001").await;
    gateway.upstream.has_seen(1).await;
    is_overloaded(&gateway.send("+15550100002").await);
    is_overloaded(&gateway.ask("GET", "/api/v1/messages", &[], "").await);
    assert_eq!(turned_away(&gateway, "requests").await, 2);
    assert_eq!(gateway.metric("sendly_gateway_in_flight_max").await, 2);
    let overloaded = r#"sendly_gateway_requests_total{operation="send",outcome="overloaded"}"#;
    assert_eq!(gateway.metric(overloaded).await, 1);
    gateway.upstream.let_go(1);
    assert_eq!(running.answer().await.unwrap().status, 201);
    gateway.is_idle().await;
    assert_eq!(gateway.codes_left("+15550100002").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_were_reset_count_until_their_exchange_has_ended() {
    let secure = Secure::start("clients.max_streams = 2").await;
    secure.gateway.upstream.script(|_| Act::AnswerWhenLet(201, r#"{"id":"ver_1","status":"pending"}"#.into()));
    let mut http2 = http2(&secure, &Builder::new()).await;
    for nth in 1..=2 {
        let (answer, mut body) = http2.send_request(request(Method::POST, "/api/v1/verify"), false).unwrap();
        body.send_data(Bytes::from(send_body(&format!("+1555010000{nth}"))), true).unwrap();
        secure.gateway.upstream.has_seen(nth).await;
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
    }
    for _ in 0..50 {
        let (answer, _) = http2.send_request(request(Method::GET, "/api/v1/messages"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 503);
    }
    assert_eq!(turned_away(&secure.gateway, "streams").await, 50);
    assert_eq!(secure.gateway.upstream.seen().len(), 2, "the exchanges that run, and no other");
    secure.gateway.upstream.let_go(2);
    secure.gateway.is_idle().await;
    assert_eq!(secure.gateway.settled("kept", "success").await, 2, "neither was cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_make_no_more_connections_to_sendly_than_there_may_be() {
    let secure = Secure::start("upstream.max_connections = 8").await;
    secure.gateway.upstream.script(|_| Act::Hang);
    let mut answers = Vec::new();
    for _ in 0..5 {
        let mut http2 = http2(&secure, &Builder::new()).await;
        for _ in 0..20 {
            answers.push(http2.send_request(request(Method::GET, "/api/v1/messages"), true).unwrap().0);
            http2 = http2.ready().await.unwrap();
        }
    }
    secure.gateway.shows("sendly_gateway_turned_away_total{cap=\"upstream\"}", 96).await;
    assert_eq!(secure.gateway.upstream.seen().len(), 4, "half of them are for codes");
    assert_eq!(secure.gateway.metric("sendly_gateway_upstream_connections").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_that_are_reset_at_once_stay_within_the_caps_and_all_that_reached_sendly_are_charged() {
    let secure = Secure::start("upstream.max_connections = 8").await;
    let gateway = &secure.gateway;
    let mut connection = http2(&secure, &Builder::new()).await;
    let (answer, mut body) = connection.send_request(request(Method::POST, "/api/v1/verify"), false).unwrap();
    body.send_data(Bytes::from(send_body("+15550100001")), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 201, "its key is a good one");
    for nth in 0..300 {
        let (answer, mut body) = loop {
            // The gateway ends a connection that resets too much.
            match connection.ready().await {
                Ok(mut ready) => match ready.send_request(request(Method::POST, "/api/v1/verify"), false) {
                    Ok(sent) => {
                        connection = ready;
                        break sent;
                    }
                    Err(_) => connection = http2(&secure, &Builder::new()).await,
                },
                Err(_) => connection = http2(&secure, &Builder::new()).await,
            }
        };
        // The connection may have ended meanwhile: the next one is made anew.
        let _ = body.send_data(Bytes::from(send_body(&format!("+1555020{nth:04}"))), true);
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
        if nth % 20 == 0 {
            assert!(gateway.metric("sendly_gateway_upstream_connections").await <= 8);
        }
    }
    gateway.is_idle().await;
    let sends = gateway.upstream.count(|seen| seen.is_send());
    assert_eq!(gateway.settled("kept", "success").await, sends as u64);
}
