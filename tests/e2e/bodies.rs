//! Bodies: too large, too slow, asked leave for; and connections that outlive what went wrong on them.

use crate::client::{KEY, Wire};
use crate::start::{Gateway, gateway, gateway_with, send_body};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const SEND: &str = "/api/v1/verify";
const LIMIT: usize = 32 * 1024;

/// A send that is exactly so long.
fn long_body(phone: &str, length: usize) -> String {
    let empty = format!(r#"{{"to":"{phone}","app_name":""}}"#);
    empty.replace(r#":"""#, &format!(r#":"{}""#, "x".repeat(length - empty.len())))
}

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: gateway\r\nauthorization: {KEY}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

fn json_head(headers: &[(&str, &str)]) -> String {
    head("POST", SEND, &[&[("content-type", "application/json")], headers].concat())
}

fn chunked(body: &str) -> String {
    let chunks = body.as_bytes().chunks(8000);
    let chunks = chunks.map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()));
    chunks.collect::<String>() + "0\r\n\r\n"
}

/// The connection is alive: another request on it is answered, to the right question.
async fn still_works(wire: &mut Wire, after: &str) {
    wire.request("GET", &format!("/api/v1/echo?{}", after.len()), &[], after.as_bytes()).await;
    let answer = wire.answer().await.unwrap_or_else(|| panic!("closed after {after}"));
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (200, after.as_bytes()), "{after}");
}

async fn sent(gateway: &Gateway) -> usize {
    gateway.upstream.count(|seen| seen.is_send())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_have_32_kib_and_not_a_byte_more() {
    let gateway = gateway().await;
    let (fits, too_long) = (long_body(PHONE, LIMIT), long_body(PHONE, LIMIT + 1));
    let mut wire = gateway.connect().await;
    wire.request("POST", SEND, &[], fits.as_bytes()).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
    wire.write(json_head(&[("transfer-encoding", "chunked")]) + &chunked(&fits)).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);

    wire.request("POST", SEND, &[], too_long.as_bytes()).await;
    let refused = wire.answer().await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (413, "payload_too_large"));
    still_works(&mut wire, "413, announced").await;
    wire.write(json_head(&[("transfer-encoding", "chunked")]) + &chunked(&too_long)).await;
    assert_eq!(wire.answer().await.unwrap().status, 413);
    still_works(&mut wire, "413, chunked").await;
    wire.request("POST", &format!("{SEND}/ver_1/resend"), &[], too_long.as_bytes()).await;
    assert_eq!(wire.answer().await.unwrap().status, 413, "a resend too");
    assert_eq!(sent(&gateway).await, 2);
    assert_eq!(gateway.upstream.seen()[1].body, fits, "what was judged is what went");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_far_too_much_sees_the_refusal_and_no_broken_pipe() {
    let gateway = gateway().await;
    let far_too_long = long_body(PHONE, 8 << 20);
    let length = far_too_long.len().to_string();
    let announced = ("content-length", length.as_str());
    let json = ("content-type", "application/json");
    for (head, body, status) in [
        (json_head(&[announced]), far_too_long.clone(), 413),
        (json_head(&[("transfer-encoding", "chunked")]), chunked(&far_too_long), 413),
        (head("POST", "/api/v1/verify/", &[json, announced]), far_too_long.clone(), 404),
        (head("PUT", SEND, &[json, announced]), far_too_long.clone(), 405),
        (head("POST", SEND, &[("content-type", "text/plain"), announced]), far_too_long.clone(), 400),
        (head("POST", "x:/api/v1/messages", &[json, announced]), far_too_long, 400),
    ] {
        // A simple client: it writes all of it, and only then looks for an answer.
        let mut wire = gateway.connect().await;
        assert!(wire.try_write(head + &body).await, "{status}: a broken pipe");
        let answer = wire.answer().await.unwrap_or_else(|| panic!("{status}: a reset"));
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.is_closed().await);
    }
    assert_eq!(gateway.upstream.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_408() {
    let gateway = gateway_with("clients.body_timeout = \"50ms\"").await;
    for (headers, some) in [
        ([("content-length", "100")], r#"{"to":"#),
        ([("content-length", "100")], ""),
        ([("transfer-encoding", "chunked")], "3\r\n{\"t\r\n"),
        ([("transfer-encoding", "chunked")], "15\r\n{\"to\":\"+15550100123\"}\r\n"),
        ([("transfer-encoding", "chunked")], ""),
    ] {
        let mut wire = gateway.connect().await;
        wire.write(json_head(&headers) + some).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (408, "request_timeout"), "{some}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.is_closed().await, "the rest of its body would be taken for a request");
    }
    assert_eq!(gateway.upstream.seen().len(), 0);
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_buys_nothing() {
    let gateway = gateway().await;
    for some in ["", r#"{"to":"#, r#"{"to":"+15550100123"}"#] {
        let mut wire = gateway.connect().await;
        wire.write(json_head(&[("content-length", "100")]) + some).await;
        drop(wire);
    }
    still_works(&mut gateway.connect().await, "other clients").await;
    while gateway.metric(r#"sendly_gateway_in_flight"#).await > 0 {}
    assert_eq!(sent(&gateway).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_for_leave_to_send_gets_it_and_then_its_answer() {
    let gateway = gateway().await;
    let body = send_body(PHONE);
    let length = body.len().to_string();
    let mut wire = gateway.connect().await;
    for (framing, body) in [(("content-length", length.as_str()), body.clone()), (CHUNKED, chunked(&body))] {
        wire.write(json_head(&[framing, ("expect", "100-continue")])).await;
        let go_on = wire.answer().await.unwrap();
        assert_eq!((go_on.status.as_u16(), go_on.headers.len()), (100, 0));
        wire.write(body).await;
        assert_eq!(wire.answer().await.unwrap().status, 201);
        still_works(&mut wire, "leave to send").await;
    }
    // The same where the request passes through.
    wire.write(head("PUT", "/api/v1/echo", &[("content-length", "3"), ("expect", "100-Continue")])).await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    wire.write("abc").await;
    assert_eq!(wire.answer().await.unwrap().body, b"abc");
    still_works(&mut wire, "leave to pass").await;
    assert_eq!(gateway.upstream.count(|seen| seen.headers.contains_key("expect")), 0);
}

const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_for_leave_is_refused_at_once_where_its_header_is_enough() {
    let gateway = gateway().await;
    let json = ("content-type", "application/json");
    let resend = format!("{SEND}/ver_1/resend");
    for (name, method, target, headers, status) in [
        ("too long", "POST", SEND, vec![json, ("content-length", "65537")], 413),
        ("not JSON", "POST", SEND, vec![("content-type", "text/plain"), ("content-length", "21")], 400),
        ("no type", "POST", SEND, vec![("content-length", "21")], 400),
        ("two types", "POST", SEND, vec![json, json, ("content-length", "21")], 400),
        ("encoded", "POST", SEND, vec![json, ("content-encoding", "gzip"), ("content-length", "21")], 400),
        ("overridden", "POST", &resend, vec![("x-http-method", "GET"), ("content-length", "2")], 400),
        ("two keys", "POST", &resend, vec![("authorization", "Bearer x"), ("content-length", "2")], 400),
        ("no route", "POST", "/api/v1/verify/", vec![json, ("content-length", "21")], 404),
        ("no method", "PUT", SEND, vec![json, ("content-length", "21")], 405),
        ("no target", "POST", "x:/y", vec![json, ("content-length", "21")], 400),
    ] {
        let mut wire = gateway.connect().await;
        wire.write(head(method, target, &[headers.as_slice(), &[("expect", "100-continue")]].concat())).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status, status, "{name}");
        // Whether the body still comes is up to the client: what follows on this connection could be either.
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        assert!(wire.is_closed().await, "{name}");
    }
    assert_eq!(gateway.upstream.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_1_0_client_is_never_told_to_go_on() {
    let gateway = gateway().await;
    let body = send_body(PHONE);
    let head = json_head(&[("content-length", &body.len().to_string()), ("expect", "100-continue")]);
    let mut wire = gateway.connect().await;
    wire.write(head.replace("HTTP/1.1", "HTTP/1.0") + &body).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert!(wire.is_closed().await);
    let mut wire = gateway.connect().await;
    let echo = "PUT /api/v1/echo HTTP/1.0\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\nabc";
    wire.write(echo).await;
    assert_eq!(wire.answer().await.unwrap().body, b"abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_refusals_and_errors() {
    let gateway = gateway().await;
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match seen.to().as_deref() {
        Some("+15550100400") => Act::error(400, "unsupported_destination"),
        Some("+15550100500") => Act::error(500, "internal_error"),
        Some("+15550100503") => Act::BreakOff,
        _ => like_sendly(seen),
    });
    let mut wire = gateway.connect().await;
    for _ in 0..5 {
        wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
        assert_eq!(wire.answer().await.unwrap().status, 201);
    }
    for (name, method, target, body, status) in [
        ("a full phone", "POST", SEND, send_body(PHONE), 429),
        ("no JSON", "POST", SEND, "x".to_owned(), 400),
        ("no phone", "POST", SEND, send_body("1"), 400),
        ("no body", "POST", SEND, String::new(), 400),
        ("no route", "POST", "/api/v1/verify/", send_body(PHONE), 404),
        ("no route, a long body", "POST", "/api/v1/verify/", "x".repeat(500_000), 404),
        ("no method", "DELETE", SEND, send_body(PHONE), 405),
        ("no target", "POST", "x:/y", send_body(PHONE), 400),
        ("an unknown id", "POST", "/api/v1/verify/ver_1/resend", String::new(), 404),
        ("Sendly's 400", "POST", SEND, send_body("+15550100400"), 400),
        ("Sendly's 500", "POST", SEND, send_body("+15550100500"), 500),
        ("Sendly's break", "POST", SEND, send_body("+15550100503"), 502),
        ("Sendly's 404, passed through", "GET", "/api/v1/verify/ver_1", String::new(), 404),
    ] {
        for framing in ["announced", "chunked"] {
            match framing {
                "announced" => wire.request(method, target, &[], body.as_bytes()).await,
                _ => {
                    let headers = [("content-type", "application/json"), CHUNKED];
                    wire.write(head(method, target, &headers) + &chunked(&body)).await;
                }
            }
            let answer = wire.answer().await.unwrap_or_else(|| panic!("{name}, {framing}: closed"));
            assert_eq!(answer.status, status, "{name}, {framing}");
            assert_eq!(answer.header("connection"), Some("keep-alive"), "{name}, {framing}");
            still_works(&mut wire, name).await;
        }
    }
    wire.request("HEAD", SEND, &[], b"").await;
    assert_eq!(wire.bodiless_answer().await.unwrap().status, 405);
    still_works(&mut wire, "a HEAD").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_a_body_are_the_next_request_and_break_nothing_off() {
    let gateway = gateway().await;
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match like_sendly(seen) {
        Act::Answer(status, _, body) => Act::AnswerWhenLet(status, body),
        other => other,
    });
    let second = json_head(&[("content-length", "21")]) + &send_body("+15550100124");
    let third = head("GET", "/api/v1/echo", &[("content-length", "3")]) + "abc";
    let mut wire = gateway.connect().await;
    wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
    gateway.upstream.has_seen(1).await;
    // In flight now. Byte by byte, the gateway's look-out for a client that goes away meets every kind of beginning.
    for byte in second.bytes().chain(third.bytes()) {
        wire.write([byte]).await;
    }
    gateway.upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().json()["phone"], PHONE);
    gateway.upstream.has_seen(2).await;
    wire.write(&third).await;
    gateway.upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().json()["phone"], "+15550100124");
    gateway.upstream.has_seen(3).await;
    gateway.upstream.let_go(2);
    for _ in 0..2 {
        assert_eq!(wire.answer().await.unwrap().body, b"abc");
    }
    assert_eq!(gateway.upstream.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_closed_its_sending_side_gets_its_answer() {
    let gateway = gateway().await;
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match like_sendly(seen) {
        Act::Answer(status, _, body) => Act::AnswerWhenLet(status, body),
        other => other,
    });
    let mut wire = gateway.connect().await;
    wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
    gateway.upstream.has_seen(1).await;
    wire.finish().await;
    gateway.upstream.let_go(1);
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert!(wire.is_closed().await);
}
