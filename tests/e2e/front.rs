//! A request is the same whoever reads its head, the gateway itself or pingora; and a connection may change hands with every request.

use std::time::Duration;

use sendly_gateway::clock::ManualClock;

use crate::client::{Answer, KEY, Wire};
use crate::raw::{Heard, Raw};
use crate::start::{START, gateway, gateway_with, send_body, serve};

const VERIFY: &str = "/api/v1/verify";

/// A header that concerns the connection alone, and keeps pingora's reader on: the request is not plain then.
const NOT_PLAIN: (&str, &str) = ("te", "trailers");

struct Asked {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

fn asked(method: &'static str, target: &str, headers: &[(&'static str, &'static str)], body: &str) -> Asked {
    Asked { method, target: target.to_owned(), headers: headers.to_vec(), body: body.to_owned() }
}

/// All that a client is told, but for when, and what the connection does.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let own = |name: &str| !matches!(name, "date" | "connection" | "ratelimit-reset");
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| own(name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort_unstable();
    (answer.status.as_u16(), headers, String::from_utf8(answer.body.clone()).unwrap())
}

/// All that Sendly hears, in an order that does not matter; but for where it is, which is another place for each.
fn heard(heard: &Heard) -> (String, String, Vec<(String, String)>, Vec<u8>) {
    let lower = heard.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut headers: Vec<_> = lower.filter(|(name, _)| name != "host").collect();
    headers.sort_unstable();
    (heard.method.clone(), heard.target.clone(), headers, heard.body.clone())
}

/// What each request is told and what Sendly hears of it, by a gateway that has seen nothing else.
async fn run(requests: &[Asked], more: &[(&'static str, &'static str)]) -> Vec<String> {
    let upstream = Raw::start().await;
    let running = serve("", &upstream.url(), ManualClock::new(START).into()).await;
    let mut wire = Wire::connect(running.address).await;
    let mut all = Vec::new();
    for Asked { method, target, headers, body } in requests {
        let before = upstream.heard().len();
        let headers = [headers.as_slice(), more].concat();
        wire.request(method, target, &headers, body.as_bytes()).await;
        let answer = wire.answer().await.unwrap_or_else(|| panic!("{target} is not answered"));
        let new: Vec<_> = upstream.heard().iter().skip(before).map(heard).collect();
        all.push(format!(
            "{method} {target} {headers_len} {body_len}: {:?} {new:?}",
            told(&answer),
            headers_len = headers.len() - more.len(),
            body_len = body.len()
        ));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_a_request_it_is_judged_answered_and_forwarded_the_same() {
    let phone = send_body("+15550100123");
    let long = format!("{{\"to\":\"+15550100124\",\"metadata\":\"{}\"}}", "x".repeat(30_000));
    let resend = |id: u32| format!("{VERIFY}/ver_{id:032x}/resend");
    let mut requests = vec![
        asked("POST", VERIFY, &[], &phone),
        asked("POST", &resend(0xabc1), &[], ""),
        asked("POST", &resend(0xabc1), &[("user-agent", "sendly-go/4.1")], "{}"),
        asked("POST", VERIFY, &[("Idempotency-Key", "k-1"), ("X-ORGANIZATION-ID", "org")], &phone),
        asked("POST", VERIFY, &[("Idempotency-Key", "k-1"), ("X-Organization-Id", "org")], &phone),
        asked("POST", VERIFY, &[("user-agent", "sendly-python/4.5.1"), ("accept-encoding", "gzip")], &phone),
        asked("POST", VERIFY, &[("x-empty", ""), ("x-tabs", "a\tb"), ("cookie", "a=b; c=d"), ("cookie", "e")], &long),
        asked("POST", "/api/v1//verify", &[], &phone),
        asked("POST", "/api/v1/%76erify?x=1", &[("connection", "keep-alive")], &phone),
        asked("POST", VERIFY, &[], &phone),
        asked("POST", VERIFY, &[("user-agent", "@sendly/node/3.31.0")], &phone),
        asked("POST", &resend(0xfff), &[], "null"),
        // What the gateway refuses itself.
        asked("POST", VERIFY, &[], "not json"),
        asked("POST", VERIFY, &[], r#"{"to":"+15550100123","TO":"+15550100124"}"#),
        asked("POST", VERIFY, &[], r#"{"to":"5550100123"}"#),
        asked("POST", VERIFY, &[("authorization", "Basic x")], &phone),
        asked("POST", VERIFY, &[("authorization", KEY), ("authorization", KEY)], &phone),
        asked("POST", VERIFY, &[("content-type", "text/plain")], &phone),
        asked("POST", VERIFY, &[("content-encoding", "gzip")], &phone),
        asked("POST", VERIFY, &[("X-HTTP-Method-Override", "GET")], &phone),
        asked("POST", VERIFY, &[("x_original_url", "/x")], &phone),
        asked("POST", "/api/v1/verify/", &[], &phone),
        asked("PUT", VERIFY, &[], &phone),
    ];
    requests.extend((0..3).map(|_| asked("POST", VERIFY, &[("X-Private", "1")], &send_body("+15550100125"))));
    let (own, pingoras) = (run(&requests, &[]).await, run(&requests, &[NOT_PLAIN]).await);
    for (own, pingoras) in own.iter().zip(&pingoras) {
        assert_eq!(own, pingoras);
    }
    assert_eq!((own.len(), pingoras.len()), (requests.len(), requests.len()));
    let of = |status: u16| own.iter().filter(|line| line.contains(&format!(": ({status}, "))).count();
    assert!(of(201) >= 7 && of(200) == 1 && of(429) >= 3 && of(400) >= 6 && of(404) == 2 && of(401) == 1, "{own:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_changes_hands_with_every_request_also_when_they_come_at_once() {
    let upstream = Raw::start().await;
    let running = serve("", &upstream.url(), ManualClock::new(START).into()).await;
    let mut wire = Wire::connect(running.address).await;
    let request = |line: &str, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "{line} HTTP/1.1\r\nhost: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        )
    };
    let send = format!("POST {VERIFY}");
    let resend = format!("POST {VERIFY}/ver_{:032x}/resend", 0xabc1);
    let chunked = format!(
        "{send} HTTP/1.1\r\nhost: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n17\r\n{}\r\n0\r\n\r\n",
        r#"{"to": "+15550100124" }"#
    );
    let phone = send_body("+15550100123");
    let all = [
        request(&send, "", &phone),
        "GET /api/v1/messages?limit=1 HTTP/1.1\r\nhost: g\r\n\r\n".to_owned(),
        request(&send, "te: trailers\r\n", &phone),
        request("POST /api/v1/messages", "", "{\"to\":\"+15550100123\",\"text\":\"POST /api/v1/verify HTTP/1.1\"}"),
        request(&resend, "", ""),
        request(&format!("POST {VERIFY}/ver_{:032x}/check", 0xabc1), "", "{\"code\":\"123456\"}"),
        request(&resend, "", "{}"),
        "HEAD /api/v1/balance HTTP/1.1\r\nhost: g\r\n\r\n".to_owned(),
        chunked,
        request(&send, "", &phone),
        request(&send, "", "{}"),
    ];
    let expected = [201, 200, 201, 200, 200, 200, 429, 200, 201, 201, 400];
    wire.write(all.concat()).await;
    for (nth, (expected, asked)) in expected.into_iter().zip(&all).enumerate() {
        let answer =
            if asked.starts_with("HEAD") { wire.bodiless_answer().await } else { wire.answer().await }.unwrap();
        assert_eq!(answer.status.as_u16(), expected, "the {nth}th: {asked} {answer:?}");
    }
    let heard: Vec<_> = upstream.heard().into_iter().map(|heard| (heard.method, heard.target)).collect();
    let passed = all.len() - 2;
    assert_eq!(heard.len(), passed, "each once, and none that was refused: {heard:?}");
    for (asked, (method, target)) in all.iter().filter(|asked| !asked.ends_with("{}")).zip(&heard) {
        assert!(asked.starts_with(&format!("{method} {target} ")), "{asked} came as {method} {target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_come_in_any_pieces() {
    let gateway = gateway().await;
    let mut wire = gateway.connect().await;
    let body = send_body("+15550100123");
    for size in [1, 2, 3, 7, 50] {
        let text = format!(
            "\r\nPOST {VERIFY} HTTP/1.1\r\nHost: g\r\nAuthorization: {KEY}\r\nContent-Type: application/json\r\n\
             X-Pad: {}\r\nContent-Length: {}\r\n\r\n{body}",
            "x".repeat(5000),
            body.len()
        );
        // Those of one byte are many: only the head's end comes so.
        let (most, rest) = text.split_at(text.len() - body.len() - 120);
        wire.write(most).await;
        for piece in rest.as_bytes().chunks(size) {
            wire.write(piece).await;
        }
        assert_eq!(wire.answer().await.unwrap().status, 201, "in pieces of {size}");
    }
    assert_eq!(gateway.upstream.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_in_time_is_told_so_and_costs_nothing() {
    let gateway = gateway_with("clients.header_timeout = \"50ms\"").await;
    for begin in [format!("POST {VERIFY} HTTP/1.1\r\nhost: g\r\nx: "), "GET / HT".to_owned(), "\r\n".to_owned()] {
        let mut wire = gateway.connect().await;
        wire.write(&begin).await;
        let answer = wire.answer().await.unwrap_or_else(|| panic!("{begin:?} is not answered"));
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (408, "request_timeout"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.is_closed().await);
    }
    assert!(gateway.upstream.seen().is_empty());
    let rejected = "sendly_gateway_requests_total{operation=\"other\",outcome=\"rejected\"}";
    assert_eq!(gateway.metric(rejected).await, 3);
    // What has a whole head has time.
    let mut wire = gateway.connect().await;
    wire.request("POST", VERIFY, &[], send_body("+15550100123").as_bytes()).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_in_its_time_and_at_once_when_the_gateway_drains() {
    let gateway = gateway_with("clients.keep_alive = \"1s\"").await;
    let mut wire = gateway.connect().await;
    wire.request("POST", VERIFY, &[], send_body("+15550100123").as_bytes()).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert!(wire.is_closed().await, "after a second");

    let patient = crate::start::gateway().await;
    let (mut used, mut fresh) = (patient.connect().await, patient.connect().await);
    used.request("POST", VERIFY, &[], send_body("+15550100123").as_bytes()).await;
    assert_eq!(used.answer().await.unwrap().status, 201);
    let drained = patient.running.drain(Duration::from_secs(20));
    assert_eq!(drained.await, 0);
    assert!(used.is_closed().await && fresh.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_when_the_gateway_drains_is_answered_and_its_connection_closed() {
    let gateway = gateway().await;
    let upstream = &gateway.upstream;
    upstream.script(|_| crate::upstream::Act::AnswerWhenLet(201, "{}".into()));
    let mut wire = gateway.connect().await;
    wire.request("POST", VERIFY, &[], send_body("+15550100123").as_bytes()).await;
    upstream.has_seen(1).await;
    let drained = gateway.running.drain(Duration::from_secs(20));
    upstream.let_go(1);
    assert_eq!(drained.await, 0);
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (201, Some("close")));
    assert!(wire.is_closed().await);
}

/// Brings a connection to its next request in one of the ways there are: fresh, behind one of the gateway's own, one of pingora's, and one
/// in chunks.
async fn behind(nth: usize, address: std::net::SocketAddr) -> Wire {
    let mut wire = Wire::connect(address).await;
    match nth {
        0 => return wire,
        1 => wire.request("POST", VERIFY, &[], b"{}").await,
        2 => wire.request("PUT", "/api/v1/echo", &[], b"abc").await,
        _ => {
            let chunked =
                "PUT /api/v1/echo HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
            wire.write(chunked).await;
        }
    }
    assert_eq!(wire.answer().await.unwrap().status, if nth == 1 { 400 } else { 200 });
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_may_have_16_kib_and_100_fields_wherever_it_stands_on_its_connection() {
    let gateway = gateway().await;
    let long = format!("x: {}\r\n", "y".repeat(16 * 1024));
    let many = "x: y\r\n".repeat(101);
    let drips_on = format!("x: {}", "y".repeat(16 * 1024));
    for nth in 0..4 {
        for (line, fields) in [("GET /api/v1/echo", &long), ("GET /api/v1/echo", &many), ("POST /api/v1/verify", &long)]
        {
            let mut wire = behind(nth, gateway.running.address).await;
            wire.write(format!("{line} HTTP/1.1\r\nhost: g\r\n{fields}\r\n")).await;
            let answer = wire.answer().await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.error().as_str()), (431, "headers_too_large"), "{nth}: {line}");
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(wire.is_closed().await);
        }
        // It is told before its end.
        let mut wire = behind(nth, gateway.running.address).await;
        wire.write(format!("GET / HTTP/1.1\r\nhost: g\r\n{drips_on}")).await;
        assert_eq!(wire.answer().await.unwrap().status, 431);
        let mut wire = behind(nth, gateway.running.address).await;
        let fits = format!("x: {}\r\n{}", "y".repeat(15_000), "a: b\r\n".repeat(97));
        wire.write(format!("GET /api/v1/echo HTTP/1.1\r\nhost: g\r\n{fits}\r\n")).await;
        assert_eq!(wire.answer().await.unwrap().status, 200, "{nth}: 99 fields and less than 16 KiB");
    }
    let rejected = "sendly_gateway_requests_total{operation=\"other\",outcome=\"rejected\"}";
    assert_eq!(gateway.metric(rejected).await, 16, "each has its line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_head_has_its_deadline_and_every_idle_connection_wherever_it_stands() {
    let gateway = gateway_with("clients.header_timeout = \"50ms\"\nclients.keep_alive = \"1s\"").await;
    for nth in 0..4 {
        let mut wire = behind(nth, gateway.running.address).await;
        wire.write("GET /api/v1/echo HT").await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (408, "request_timeout"), "{nth}");
        assert!(wire.is_closed().await);
    }
    let address = gateway.running.address;
    let mut idle =
        [behind(0, address).await, behind(1, address).await, behind(2, address).await, behind(3, address).await];
    for (nth, wire) in idle.iter_mut().enumerate() {
        assert!(wire.is_closed().await, "{nth}: after a second");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_cannot_be_read_is_told_so_wherever_it_stands() {
    let gateway = gateway().await;
    let before = gateway.upstream.seen().len();
    for nth in 0..4 {
        for head in [
            "nonsense\r\n\r\n",
            "GET /api/v1/echo HTTP/1.1\r\nhost: g\r\n folded\r\n\r\n",
            "GET http://other/api/v1/echo HTTP/1.1\r\nhost: g\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0\x01",
        ] {
            let mut wire = behind(nth, gateway.running.address).await;
            wire.write(head).await;
            let answer = wire.answer().await.unwrap_or_else(|| panic!("{nth}: {head:?} is not answered"));
            assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, "invalid_request"), "{nth}: {head:?}");
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(wire.is_closed().await);
        }
    }
    assert_eq!(gateway.upstream.seen().len(), before + 8, "only what stood before them");
}
