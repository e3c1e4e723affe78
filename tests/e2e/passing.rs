//! Everything that is no code streams through as it came, both ways.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sendly_gateway::clock::ManualClock;
use sendly_gateway::server::Running;
use tokio::net::TcpListener;

use crate::client::{Answer, KEY, Wire};
use crate::raw::{Heard, Raw, Say};
use crate::start::{START, gateway, gateway_with, serve};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const MB: usize = 1 << 20;

async fn before(upstream: &Raw, config: &str) -> Running {
    serve(config, &upstream.url(), ManualClock::new(START).into()).await
}

/// An upstream that says the same to everyone, and a gateway before it.
async fn saying(answer: impl AsRef<[u8]>) -> (Running, Raw) {
    let answer = answer.as_ref().to_vec();
    let upstream = Raw::scripted(move |_| Say::Bytes(answer.clone())).await;
    (before(&upstream, "").await, upstream)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Bytes that do not repeat early, so that a chunk lost or doubled shows.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(step).take(length).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_method_and_target_pass_byte_for_byte() {
    let (running, upstream) = saying(ok("passed")).await;
    let mut wire = Wire::connect(running.address).await;
    let targets = [
        "/",
        "/api/v1/messages",
        "/api/v1/messages?limit=1&to=%2B15550100123&x=a%20b+c&&y&z=",
        "/api/v1/messages?next=/api/v1/verify&u=http://x/api/v1/verify",
        "/api/v1/contacts/a%20b%2Fc%2e%41%c3%bc",
        "/api/v1/Contacts//x/./y/../z/",
        "/api/v1/webhooks/wh_1/verify",
        "/api/v1/webhooks/wh_1;a=b/x",
        "/api/v1/media/%00%0d%0a",
        "/api/v1/x%zz%",
        "/api/v1/verifications?verify",
        "/api/v1/verify?limit=10&status=pending",
        "/a|b",
        "//x/y",
        "/api/v1/x?a?b",
    ];
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "M-SEARCH"] {
        for target in targets {
            if target.starts_with("/api/v1/verify?") && method != "GET" {
                continue;
            }
            wire.request(method, target, &[], b"body").await;
            assert_eq!(wire.answer().await.unwrap().body, b"passed", "{method} {target}");
            let Heard { method: passed, target: to, body, .. } = upstream.heard().pop().unwrap();
            assert_eq!((passed.as_str(), to.as_str(), body.as_slice()), (method, target, b"body".as_slice()));
        }
    }
    wire.request("OPTIONS", "*", &[], b"").await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert_eq!(upstream.heard().pop().unwrap().target, "*");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_pass_in_both_directions() {
    let answer = "HTTP/1.1 202 Taken\r\nX-RateLimit-Limit: 600\r\nX-RateLimit-Remaining: 599\r\nX-RateLimit-Reset: 1795424400\r\n\
        Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nRateLimit: \"sendly\";r=1;t=2\r\nRetry-After: 7\r\nETag: \"e\"\r\n\
        X-Empty:\r\nX-Odd: \x7e\"(),;\r\nServer: sendly\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\
        Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\r\nhi";
    let (running, upstream) = saying(answer).await;
    let mut wire = Wire::connect(running.address).await;
    let sent = [
        ("User-Agent", "sendly-go/4.2.0"),
        ("X-Organization-Id", "org_1"),
        ("X-Custom", "a"),
        ("X-Custom", "b, c"),
        ("Cookie", "c=1; d=2"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept", "*/*"),
        ("Idempotency-Key", "k"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", "\"e\""),
        ("Origin", "https://app.example"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Content-Encoding", "gzip"),
        ("X-Empty", ""),
    ];
    let hop_by_hop = [
        ("Connection", "X-Private, keep-alive, X-Empty-Handed"),
        ("X-Private", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "trailers"),
        ("Trailer", "x"),
    ];
    wire.request("PUT", "/api/v1/messages/1", &[sent.as_slice(), &hop_by_hop].concat(), b"\x1f\x8b").await;

    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.status, 202);
    for (name, value) in [
        ("x-ratelimit-limit", "600"),
        ("x-ratelimit-remaining", "599"),
        ("x-ratelimit-reset", "1795424400"),
        ("ratelimit", "\"sendly\";r=1;t=2"),
        ("retry-after", "7"),
        ("etag", "\"e\""),
        ("x-empty", ""),
        ("x-odd", "~\"(),;"),
        ("server", "sendly"),
        ("content-length", "2"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2"]);

    let heard = upstream.only();
    for (name, value) in sent {
        assert!(heard.all(name).contains(&value), "{name} in {heard:?}");
        assert!(heard.headers.iter().any(|(spelled, _)| spelled == name), "{name} in {heard:?}");
    }
    assert_eq!(heard.all("x-custom"), ["a", "b, c"]);
    assert_eq!(heard.all("authorization"), [KEY]);
    assert_eq!(heard.all("content-type"), ["application/json"]);
    assert_eq!(heard.all("content-length"), ["2"]);
    assert_eq!(heard.all("host"), [upstream.address.to_string()]);
    for (name, _) in hop_by_hop {
        assert!(heard.all(name).is_empty(), "{name} in {heard:?}");
    }
    assert_eq!(heard.headers.len(), sent.len() + 4, "nothing was added: {heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_pass_up_and_down() {
    let upstream = Raw::scripted(|heard| {
        let body = if heard.body.is_empty() { noise(10 * MB) } else { heard.body.clone() };
        let framed = |head: &str, body: Vec<u8>| Say::Bytes([head.as_bytes(), &body].concat());
        match heard.target.as_str() {
            "/length" => framed(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()), body),
            "/chunked" => framed("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunked(&body, 30_000)),
            _ => match framed("HTTP/1.1 200 OK\r\n\r\n", body) {
                Say::Bytes(bytes) => Say::Last(bytes),
                other => other,
            },
        }
    })
    .await;
    let running = before(&upstream, "").await;
    let body = noise(10 * MB);
    for target in ["/length", "/chunked", "/until-close"] {
        let mut wire = Wire::connect(running.address).await;
        wire.request("POST", target, &[], &body).await;
        let read = |answer: Answer| answer.body;
        assert!(wire.answer().await.map(read).unwrap() == body, "{target}: announced up");
        wire.write(format!("PUT {target} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")).await;
        wire.write(chunked(&body, 70_000)).await;
        assert!(wire.answer().await.map(read).unwrap() == body, "{target}: chunked up");
        wire.request("GET", target, &[], b"").await;
        assert!(wire.answer().await.map(read).unwrap() == body, "{target}: only down");
    }
    assert!(upstream.heard().iter().all(|heard| heard.body.is_empty() || heard.body == body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_pass_and_the_connection_lives_on() {
    for (status, headers, body) in [
        ("200 OK", "content-length: 2\r\n", "hi"),
        ("200 OK", "content-length: 0\r\n", ""),
        ("201 Created", "transfer-encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n"),
        ("204 No Content", "", ""),
        ("301 Moved", "location: https://sendly.live/x\r\ncontent-length: 0\r\n", ""),
        ("302 Found", "location: /api/v1/verify\r\ncontent-length: 2\r\n", "hi"),
        ("304 Not Modified", "etag: \"e\"\r\n", ""),
        ("304 Not Modified", "content-length: 2\r\n", ""),
        ("404 Not Found", "content-length: 2\r\n", "{}"),
        ("429 Slow", "content-length: 2\r\nretry-after: 3\r\n", "{}"),
        ("500 Sorry", "content-length: 2\r\n", "{}"),
        ("503 Later", "sendly-upstream-status: 502\r\ncontent-length: 2\r\n", "{}"),
        ("599 Odd", "content-length: 2\r\n", "{}"),
    ] {
        let (running, _upstream) = saying(format!("HTTP/1.1 {status}\r\n{headers}\r\n{body}")).await;
        let mut wire = Wire::connect(running.address).await;
        for _ in 0..2 {
            wire.request("GET", "/api/v1/messages", &[], b"").await;
            let answer = wire.answer().await.unwrap_or_else(|| panic!("{status}: closed"));
            assert_eq!(answer.status.as_str(), &status[..3]);
            let whole = if headers.contains("chunked") { "hi" } else { body };
            assert_eq!(answer.body, whole.as_bytes(), "{status}");
        }
    }
    // An answer to a HEAD tells the length of a body that does not come.
    let (running, upstream) = saying("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n").await;
    let mut wire = Wire::connect(running.address).await;
    for _ in 0..2 {
        wire.request("HEAD", "/api/v1/messages", &[], b"").await;
        assert_eq!(wire.bodiless_answer().await.unwrap().header("content-length"), Some("12345"));
    }
    assert!(upstream.heard().iter().all(|heard| heard.method == "HEAD"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informational_answers_do_not_stand_for_the_real_one() {
    for early in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"] {
        let shown = format!(r#"{{"id":"ver_early","phone":"{PHONE}"}}"#);
        let (running, upstream) = saying(format!("{early}{}", ok(&shown))).await;
        let mut wire = Wire::connect(running.address).await;
        wire.request("GET", "/api/v1/verify/ver_early", &[], b"").await;
        let mut answer = wire.answer().await.unwrap();
        while answer.status.is_informational() {
            answer = wire.answer().await.unwrap();
        }
        assert_eq!(answer.body, shown.as_bytes());
        wire.request("POST", "/api/v1/verify/ver_early/resend", &[], b"").await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        assert_eq!(upstream.heard().len(), 2, "what it showed was learned");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_1_0_client_gets_what_it_can_read() {
    let (running, _upstream) =
        saying("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    let mut wire = Wire::connect(running.address).await;
    wire.write("GET /api/v1/messages HTTP/1.0\r\n\r\n").await;
    let rest = String::from_utf8(wire.rest().await.unwrap()).unwrap();
    let (head, body) = rest.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("chunked") && body == "hi", "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_down_is_502() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = serve("", &format!("http://{address}"), ManualClock::new(START).into()).await;
    let body = noise(8 * MB);
    for (method, target, body) in [
        ("GET", "/api/v1/messages", b"".as_slice()),
        ("POST", "/api/v1/messages", b"{}"),
        ("GET", "/api/v1/verify/ver_1", b""),
        ("POST", "/api/v1/media", &body),
    ] {
        let mut wire = Wire::connect(running.address).await;
        wire.request(method, target, &[], body).await;
        let answer = wire.answer().await.unwrap_or_else(|| panic!("{target}: a reset"));
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (502, "upstream_unreachable"), "{target}");
        assert!(answer.json()["message"].as_str().unwrap().contains("Nothing was sent"), "{target}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_answer_is_504() {
    let gateway = gateway_with("upstream.read_timeout = \"50ms\"").await;
    gateway.upstream.script(|_| Act::Hang);
    for (method, target) in [("GET", "/api/v1/messages"), ("POST", "/api/v1/messages"), ("GET", "/api/v1/verify/ver_1")]
    {
        let answer = gateway.ask(method, target, &[], "{}").await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (504, "upstream_timeout"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_breaks_off_before_it_answers_is_502() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::BreakOff);
    for (method, target) in [("GET", "/api/v1/messages"), ("POST", "/api/v1/messages"), ("GET", "/api/v1/verify/ver_1")]
    {
        let answer = gateway.ask(method, target, &[], "{}").await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (502, "upstream_unreachable"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_502() {
    for nonsense in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
        let upstream = Raw::scripted(move |_| Say::Last(nonsense.into())).await;
        let running = before(&upstream, "").await;
        for (method, target, body) in
            [("GET", "/api/v1/messages", ""), ("POST", "/api/v1/verify", "{\"to\":\"+15550100123\"}")]
        {
            let mut wire = Wire::connect(running.address).await;
            wire.request(method, target, &[], body.as_bytes()).await;
            let answer = wire.answer().await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.error().as_str()), (502, "upstream_unreachable"), "{nonsense}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_seen_to_break_off() {
    for target in ["/api/v1/messages", "/api/v1/verify/ver_1"] {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":\"ver_1\"",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\n{\"id\":\"ver_1\"\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\n{\"id\":\"v",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\n{\"id\":\"ver_1\"\r\nxyz\r\n",
        ] {
            let upstream = Raw::scripted(move |_| Say::Last(answer.into())).await;
            let running = before(&upstream, "").await;
            let mut wire = Wire::connect(running.address).await;
            wire.request("GET", target, &[], b"").await;
            // Whether the connection ends or breaks: what has come is no whole answer, and no second one is inside it.
            let rest = wire.rest().await.unwrap_or_default();
            let rest = String::from_utf8(rest).unwrap();
            assert!(!rest.contains("\"error\"") && !rest.contains("0\r\n\r\n"), "{target} {answer:?}: {rest:?}");
            assert_eq!(rest.matches("HTTP/1.1").count(), 1, "{target} {answer:?}: {rest:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_body_that_does_not_come_is_408() {
    let gateway = gateway_with("clients.body_timeout = \"50ms\"").await;
    for head in ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut wire = gateway.connect().await;
        wire.write(format!("POST /api/v1/messages HTTP/1.1\r\nhost: x\r\n{head}")).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (408, "request_timeout"));
        assert!(wire.is_closed().await);
    }
    assert_eq!(gateway.upstream.seen().len(), 0);
}

/// Drips a body with these many bytes each so many seconds of the gateway's clock. Returns the answer that comes meanwhile, if one does.
async fn drip(config: &str, framing: &str, piece: usize, every: Duration) -> Option<Answer> {
    let upstream = Raw::scripted(|_| Say::Bytes(ok("whole").into())).await;
    let clock = ManualClock::new(START);
    let running = serve(config, &upstream.url(), clock.clone().into()).await;
    let mut wire = Wire::connect(running.address).await;
    wire.write(format!("PUT /api/v1/media HTTP/1.1\r\nhost: g\r\n{framing}\r\n\r\n")).await;
    upstream.receives_more_than(0).await;
    let bytes = "x".repeat(piece);
    let piece = if framing.contains("chunked") { format!("{piece:x}\r\n{bytes}\r\n") } else { bytes };
    let mut waited = Duration::ZERO;
    while waited < Duration::from_secs(150) {
        let before = upstream.received();
        wire.write(&piece).await;
        tokio::select! {
            biased;
            () = upstream.receives_more_than(before) => {}
            answer = wire.answer() => return answer,
        }
        (waited, _) = (waited + every, clock.advance(every));
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_body_that_comes_too_slowly_is_408() {
    for framing in ["content-length: 1000000", "transfer-encoding: chunked"] {
        for (config, piece, every, is_too_slow) in [
            ("", 1, 31, true),
            ("", 100, 1, true),
            ("", 600, 1, false),
            ("", 20_000, 31, false),
            ("clients.min_rate = 2000", 600, 1, true),
            ("clients.min_rate = 0", 1, 31, false),
        ] {
            let answer = drip(config, framing, piece, Duration::from_secs(every)).await;
            let told = answer.as_ref().map(|answer| (answer.status.as_u16(), answer.error()));
            let expected = is_too_slow.then(|| (408, "request_timeout".to_owned()));
            assert_eq!(told, expected, "{framing}, {config}: {piece} bytes each {every} s");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_upgraded() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let upstream = Raw::scripted(move |heard| match heard.all("upgrade").is_empty() {
        true => Say::Bytes(ok("as it is").into()),
        false => Say::Bytes(switch.into()),
    })
    .await;
    let running = before(&upstream, "").await;
    for protocol in ["websocket", "h2c", "TLS/1.0"] {
        let mut wire = Wire::connect(running.address).await;
        let headers =
            [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", protocol), ("http2-settings", "AAMAAABk")];
        wire.request("GET", "/api/v1/messages", &headers, b"").await;
        assert_eq!(wire.answer().await.unwrap().body, b"as it is", "{protocol}");
    }
    // And if the upstream switches unasked, nobody can talk to it past the gateway.
    let unasked = Raw::scripted(move |_| Say::Bytes(switch.into())).await;
    let running = before(&unasked, "").await;
    for headers in [[("x", "y"), ("x", "z")], [("connection", "upgrade"), ("upgrade", "websocket")]] {
        let mut wire = Wire::connect(running.address).await;
        wire.request("GET", "/api/v1/messages", &headers, b"").await;
        wire.write("POST /api/v1/verify HTTP/1.1\r\nhost: x\r\ncontent-length: 21\r\n\r\n{\"to\":\"+15550100123\"}")
            .await;
        let answer = wire.answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 502), "{answer:?}");
        let _ = wire.rest().await;
    }
    assert!(unasked.heard().iter().all(|heard| heard.target == "/api/v1/messages"), "{:?}", unasked.heard());
    let mut wire = Wire::connect(running.address).await;
    wire.request("POST", "/api/v1/verify", &[], b"{\"to\":\"+15550100123\"}").await;
    assert_eq!(wire.answer().await.unwrap().status, 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_read_on_their_way_reach_the_client_whole() {
    let shown = format!(r#"{{"id":"ver_seen","status":"pending","phone":"{PHONE}","sandbox":true}}"#);
    let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{shown}", shown.len());
    let in_chunks = |size| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-kept: 1\r\n\r\n".as_slice();
        [head, &chunked(shown.as_bytes(), size)].concat()
    };
    for (framing, answer) in
        [("length", length.into_bytes()), ("chunked", in_chunks(1000)), ("tiny chunks", in_chunks(1))]
    {
        for (method, target) in [("GET", "/api/v1/verify/ver_seen"), ("POST", "/api/v1/verify/ver_seen/check")] {
            let (running, upstream) = saying(&answer).await;
            let mut wire = Wire::connect(running.address).await;
            wire.request(method, target, &[("accept-encoding", "gzip, deflate")], b"{\"code\":\"1\"}").await;
            assert_eq!(wire.answer().await.unwrap().body, shown.as_bytes(), "{framing} {target}");
            assert!(upstream.only().all("accept-encoding").is_empty(), "it has to be readable");
            wire.request("POST", "/api/v1/verify/ver_seen/resend", &[], b"").await;
            assert_eq!(wire.answer().await.unwrap().status, 200, "{framing} {target}");
            assert_eq!(upstream.heard().len(), 2, "{framing} {target}: no look-up, whose it is was learned");
        }
    }
    let upstream = Raw::scripted(move |_| Say::Last(format!("HTTP/1.1 200 OK\r\n\r\n{shown}").into())).await;
    let running = before(&upstream, "").await;
    let mut wire = Wire::connect(running.address).await;
    for (method, target) in [("GET", "/api/v1/verify/ver_seen"), ("POST", "/api/v1/verify/ver_seen/resend")] {
        wire.request(method, target, &[], b"").await;
        assert_eq!(wire.answer().await.unwrap().json()["phone"], PHONE, "until close, {target}");
    }
    assert_eq!(upstream.heard().len(), 2, "until close: no look-up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_to_read_passes_unread() {
    let long = format!(r#"{{"id":"ver_seen","phone":"{PHONE}","x":"{}"}}"#, "x".repeat(300_000));
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice();
    for answer in [ok(&long).into_bytes(), [head, &chunked(long.as_bytes(), 10_000)].concat()] {
        let (running, upstream) = saying(&answer).await;
        let mut wire = Wire::connect(running.address).await;
        for _ in 0..2 {
            wire.request("GET", "/api/v1/verify/ver_seen", &[], b"").await;
            assert!(wire.answer().await.unwrap().body == long.as_bytes());
        }
        assert_eq!(upstream.heard().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_are_no_obstacle_where_answers_are_read() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\u{1f}\u{8b}",
    ] {
        let (running, _upstream) = saying(answer).await;
        let mut wire = Wire::connect(running.address).await;
        for _ in 0..2 {
            wire.request("GET", "/api/v1/verify/ver_1", &[], b"").await;
            assert_eq!(wire.answer().await.unwrap().status.as_str(), &answer[9..12], "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_is_sent_on_other_connections_once_they_are_as_old_as_they_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, clock) = (format!("http://{}", listener.local_addr().unwrap()), ManualClock::new(START));
    tokio::spawn(async move {
        for nth in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = Response::new(Full::new(Bytes::from(format!("{nth}"))));
            let answer = service_fn(move |_: Request<Incoming>| ready(Ok::<_, Infallible>(answer.clone())));
            // The gateway closes it in the end.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    let running = serve("upstream.max_age = \"60s\"\nupstream.idle_timeout = \"1h\"", &url, clock.clone().into()).await;
    let mut wire = Wire::connect(running.address).await;
    let mut connection = async || -> u32 {
        wire.request("GET", "/api/v1/messages", &[], b"").await;
        String::from_utf8(wire.answer().await.unwrap().body).unwrap().parse().unwrap()
    };
    // Each connection, with the first second in which it was used, and the last.
    let mut used: Vec<(u32, u32, u32)> = Vec::new();
    for second in 0..180 {
        let now = connection().await;
        match used.iter_mut().find(|(nth, ..)| *nth == now) {
            Some((.., last)) => *last = second,
            None => used.push((now, second, second)),
        }
        clock.advance(Duration::from_secs(1));
    }
    assert!((3..=5).contains(&used.len()), "{used:?}");
    assert!(used.iter().all(|(_, first, last)| last - first <= 60), "{used:?}");
}
