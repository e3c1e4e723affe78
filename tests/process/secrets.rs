//! Nothing secret leaks: no phone, no API key and no code, wherever the program writes and however much it is asked to say.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::client::Answer;
use crate::process::{Process, Serving};
use crate::upstream::{Act, Upstream};

/// Everything that comes after the country code: however it is spelled, these digits stand in it.
const DIGITS: &str = "5550198765";
const PHONE: &str = "+15550198765";
const KEY: &str = "sk_live_v1_QmFzZTY0S2V5";
const CODE: &str = "907341";

const FILTERS: [&str; 2] = [
    "trace",
    "info,pingora_core=trace,pingora_proxy=trace,pingora_core::protocols::http::v1::server=trace,hyper=trace,\
     hyper_util=trace,h2=trace",
];

/// A gateway that says as much as it can be made to.
async fn talkative(upstream: &str, filter: &str) -> Serving {
    let config = "upstream.connect_timeout = \"500ms\"\nupstream.exchange_timeout = \"500ms\"\n\
                  upstream.lookup_timeout = \"500ms\"\nupstream.read_timeout = \"500ms\"\nclients.body_timeout = \"500ms\"\n\
                  [[throttles]]\nname = \"slow\"\nper = \"account\"\nrate = \"1/h\"\nburst = 1\noperations = [\"list\"]\n";
    Process::gateway(config, upstream, &[("LOG_FILTER", filter)]).await
}

/// What the gateway itself put into an answer's headers; Sendly's own pass as they are.
fn headers(answer: &Answer) -> String {
    format!("{:?}", answer.headers)
}

/// Ends it, and looks into everything that it ever said.
async fn said_nothing_secret(serving: Serving, answers: &[String], what: &str) {
    let metrics = String::from_utf8(serving.admin("/metrics").await.body).unwrap();
    let status = String::from_utf8(serving.admin("/v1/status").await.body).unwrap();
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let (out, err) = (serving.process.out(), serving.process.err());
    assert!(err.contains("\"access\""), "it logs at all");
    for (place, text) in
        [("stdout", &out), ("stderr", &err), ("metrics", &metrics), ("status", &status), ("headers", &answers.concat())]
    {
        for secret in [DIGITS, KEY, CODE] {
            if let Some(found) = text.find(secret) {
                let (from, to) = (text[..found].rfind('\n').map_or(0, |end| end + 1), text[found..].find('\n'));
                panic!("{what}: {secret} is in {place}:\n{}", &text[from..to.map_or(text.len(), |to| found + to)]);
            }
        }
    }
}

fn bearer() -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {KEY}"))]
}

async fn ask(serving: &Serving, method: &str, target: &str, more: &[(&str, &str)], body: &str) -> Answer {
    let bearer = bearer();
    let mut headers = vec![(bearer[0].0, bearer[0].1.as_str())];
    headers.extend(more);
    serving.ask(method, target, &headers, body).await
}

/// A success that shows everything there is.
fn verification(status: u16, id: &str) -> Act {
    Act::json(
        status,
        &serde_json::json!({ "id": id, "phone": PHONE, "sandbox_code": CODE, "message": format!("{CODE} to {PHONE}") }),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_and_answered_no_secret_is_written_anywhere() {
    for filter in FILTERS {
        let upstream = Upstream::start().await;
        let serving = talkative(&upstream.url(), filter).await;
        let mut seen = Vec::new();
        let send = format!("{{\"to\":\"{PHONE}\"}}");
        upstream.script(|seen| verification(if seen.is_send() { 201 } else { 200 }, "ver_1"));
        for nth in 0..7 {
            seen.push(ask(&serving, "POST", "/api/v1/verify", &[], &send).await);
            assert_eq!(seen[nth].status, if nth < 5 { 201 } else { 429 });
        }
        for _ in 0..2 {
            seen.push(ask(&serving, "POST", "/api/v1/verify/ver_1/resend", &[("idempotency-key", PHONE)], "").await);
        }
        for (method, target, body) in [
            ("POST", "/api/v1/verify/ver_2/resend".to_owned(), String::new()),
            ("POST", "/api/v1/verify/ver_1/check".to_owned(), format!("{{\"code\":\"{CODE}\"}}")),
            ("GET", "/api/v1/verify/ver_1".to_owned(), String::new()),
            ("GET", format!("/api/v1/verify/{DIGITS}"), String::new()),
            ("GET", format!("/api/v1/verify?phone={PHONE}"), String::new()),
            ("GET", format!("/api/v1/verify?phone={PHONE}&key={KEY}"), String::new()),
            ("POST", format!("/api/v1/verify?to={PHONE}"), send.clone()),
            ("POST", format!("/api/v1/verify/{PHONE}/resend"), String::new()),
            ("PUT", format!("/api/v1/verify/{DIGITS}/resend"), String::new()),
            ("POST", format!("/api/v1/verify/%2B1{DIGITS}/x"), String::new()),
            ("GET", format!("/api/v1/messages/{PHONE}?to=%2B1{DIGITS}&code={CODE}#{KEY}"), String::new()),
            ("POST", "/api/v1/messages".to_owned(), send.clone()),
        ] {
            seen.push(ask(&serving, method, &target, &[("x-phone", PHONE)], &body).await);
        }
        for body in [
            format!("{{\"to\":\"{PHONE}\""),
            format!("{{\"to\":\"{PHONE}\",\"to\":\"{PHONE}\"}}"),
            format!("{{\"to\":\" {PHONE}\"}}"),
            format!("{{\"to\":[\"{PHONE}\"],\"code\":\"{CODE}\"}}"),
            format!("to={PHONE}"),
            format!("{{\"{PHONE}\":\"{KEY}\"}}"),
        ] {
            let refused = ask(&serving, "POST", "/api/v1/verify", &[], &body).await;
            assert_eq!(refused.status, 400);
            assert!(!String::from_utf8_lossy(&refused.body).contains(DIGITS), "{refused:?}");
            seen.push(refused);
        }
        for more in [
            [("authorization", PHONE)],
            [("content-type", PHONE)],
            [("content-encoding", PHONE)],
            [("x-original-url", PHONE)],
            [("expect", PHONE)],
            [("x-forwarded-for", PHONE)],
            [("connection", KEY)],
            [("user-agent", PHONE)],
        ] {
            seen.push(ask(&serving, "POST", "/api/v1/verify", &more, &send).await);
        }
        said_nothing_secret(serving, &seen.iter().map(headers).collect::<Vec<_>>(), filter).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_cannot_be_read_no_secret_in_it_is_written_anywhere() {
    for filter in FILTERS {
        let upstream = Upstream::start().await;
        let serving = talkative(&upstream.url(), filter).await;
        let head = format!(
            "POST /api/v1/verify HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        );
        let mut answers = Vec::new();
        for bytes in [
            format!("{PHONE}\r\n\r\n"),
            format!("GET /{PHONE} HTTP/9.9\r\nauthorization: {KEY}\r\n\r\n"),
            format!("GET /{PHONE} {CODE} HTTP/1.1\r\nhost: g\r\n\r\n"),
            format!("GET /é{PHONE} HTTP/1.1\r\nhost: g\r\n\r\n"),
            format!("GET http://{DIGITS}:{KEY}/ HTTP/1.1\r\nhost: g\r\n\r\n"),
            format!("CONNECT {PHONE}:443 HTTP/1.1\r\nhost: {PHONE}\r\n\r\n"),
            format!("{head}x {PHONE}: {KEY}\r\n\r\n"),
            format!("{head}x-phone: {PHONE}\0{KEY}\r\n\r\n"),
            format!("{head}: {PHONE}\r\n\r\n"),
            format!("{head}content-length: {PHONE}\r\n\r\n"),
            format!("{head}content-length: -1{DIGITS}\r\n\r\n"),
            format!("{head}content-length: {DIGITS}\r\n\r\n"),
            format!("{head}content-length: 1\r\ncontent-length: {DIGITS}\r\n\r\n"),
            format!("{head}transfer-encoding: {KEY}\r\n\r\n"),
            format!("{head}transfer-encoding: chunked\r\n\r\n{PHONE}\r\n{PHONE}\r\n"),
            format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n{PHONE}\r\n"),
            format!("{head}content-length: 400\r\n\r\n{{\"to\":\"{PHONE}\""),
            format!("{head}content-length: 2\r\n\r\n{{}}GET /{PHONE} HTTP/1.1\r\n{KEY}\r\n\r\n"),
            format!("{}content-length: 400\r\n\r\n{PHONE}", head.replace("verify", "messages")),
            format!("{}transfer-encoding: chunked\r\n\r\n{PHONE}\r\n{PHONE}\r\n", head.replace("verify", "messages")),
            format!("{head}x-long: {}{PHONE}\r\n\r\n", "x".repeat(1_100_000)),
            format!("GET /{PHONE}"),
        ] {
            let mut wire = serving.connect().await;
            wire.write(&bytes).await;
            // What does not end is ended by the client; what is told to wait is answered when that is over.
            if !bytes.ends_with(&format!("GET /{PHONE}")) {
                answers.extend(wire.answer().await.as_ref().map(headers));
            }
        }
        answers.extend([headers(&ask(&serving, "GET", "/api/v1/verify", &[], "").await)]);
        serving.process.lines("\"access\"", 1).await;
        said_nothing_secret(serving, &answers, filter).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_sendly_fails_no_secret_is_written_anywhere() {
    for filter in FILTERS {
        let upstream = Upstream::start().await;
        let serving = talkative(&upstream.url(), filter).await;
        let mut seen = Vec::new();
        let failures = [
            Act::BreakOff,
            Act::CutBody(201),
            Act::CutBody(400),
            Act::Hang,
            Act::error(500, PHONE),
            Act::Answer(429, vec![("content-type", PHONE.to_owned())], Bytes::from_static(DIGITS.as_bytes())),
            Act::Answer(201, vec![], Bytes::from(vec![b'5'; 100_000])),
        ];
        for (nth, act) in failures.into_iter().enumerate() {
            upstream.script(move |_| act.clone());
            // Another phone each, of the same digits: not the limits are asked here.
            let send = format!("{{\"to\":\"+{}{DIGITS}\"}}", nth + 1);
            seen.push(ask(&serving, "POST", "/api/v1/verify", &[], &send).await);
            ask(&serving, "POST", &format!("/api/v1/verify/ver_{nth}/resend"), &[], "").await;
            for target in ["/api/v1/verify/ver_1".to_owned(), format!("/api/v1/messages/{PHONE}?to={PHONE}")] {
                let mut wire = serving.connect().await;
                wire.request("GET", &target, &[("authorization", KEY)], b"").await;
                // Some answers break off here too.
                wire.answer().await;
            }
        }
        // Only those that are the gateway's own.
        let own = seen.iter().filter(|answer| matches!(answer.status.as_u16(), 502 | 504)).map(headers);
        said_nothing_secret(serving, &own.collect::<Vec<_>>(), filter).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_sendly_says_that_cannot_be_read_no_secret_in_it_is_written_anywhere() {
    let nonsense = [
        format!("{PHONE}\r\n\r\n"),
        format!("HTTP/1.1 {PHONE} {KEY}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nx {PHONE}: {KEY}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nx-phone: {PHONE}\0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: {PHONE}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: -1{DIGITS}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {PHONE}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{PHONE}\r\n{PHONE}\r\n"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{PHONE}\r\n"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{}}{PHONE}\r\n\r\n"),
        format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: {KEY}\r\n\r\n{PHONE}"),
        format!("HTTP/1.1 100 {PHONE}\r\nx-phone: {PHONE}\r\n\r\nHTTP/1.1 200 OK\r\nx: {PHONE}\r\n"),
    ];
    for filter in FILTERS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = talkative(&format!("http://{}", listener.local_addr().unwrap()), filter).await;
        let (says, said) = watch::channel(String::new());
        let sendly = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let nonsense = said.borrow().clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(nonsense.as_bytes()).await;
                    let _ = stream.shutdown().await;
                    // Until the gateway has closed, too.
                    while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
                });
            }
        });
        for (nth, nonsense) in nonsense.iter().enumerate() {
            says.send_replace(nonsense.clone());
            let send = format!("{{\"to\":\"+{}{DIGITS}\"}}", nth + 1);
            for (method, target, body) in [
                ("POST", "/api/v1/verify", send.as_str()),
                ("GET", "/api/v1/verify/ver_1", ""),
                ("GET", "/api/v1/x", ""),
            ] {
                let mut wire = serving.connect().await;
                wire.request(method, target, &[("authorization", KEY)], body.as_bytes()).await;
                // Some of it passes through, and breaks off here too.
                wire.answer().await;
            }
        }
        sendly.abort();
        said_nothing_secret(serving, &[], filter).await;
    }
}
