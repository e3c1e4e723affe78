//! No way round: however a send is spelled, it is judged as what it is, or refused. It never passes unlimited.
//!
//! The upstream here is a socket that keeps what it hears, byte by byte, and the tests read that as the most lenient server
//! would: a target that could be taken for the verify family has to be one of its twelve routes, spelled canonically.

use std::time::Duration;

use parking_lot::Mutex;
use sendly_gateway::clock::ManualClock;
use sendly_gateway::server::Running;

use crate::client::{Answer, KEY, Wire};
use crate::raw::{Heard, Raw, Say, like_sendly};
use crate::start::{START, send_body, serve};

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const SEND: &str = "/api/v1/verify";

/// What a client is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// 429: it was known for what it is, a code for a phone that is full.
    Full,
    /// The gateway's own refusal, in Sendly's shape.
    Refused(u16, &'static str),
    /// It is no code, and goes to Sendly as what it is: this method, this target.
    Passes(&'static str, &'static str),
    /// Go on, says the gateway, to a client that has asked for leave to send its body.
    GoOn,
}

use Told::{Full, GoOn, Passes, Refused};

const NOT_A_ROUTE: Told = Refused(404, "not_found");
const INVALID: Told = Refused(400, "invalid_request");
const NO_PHONE: Told = Refused(400, "invalid_phone_format");
const WRONG_METHOD: Told = Refused(405, "method_not_allowed");

/// A gateway before an upstream that keeps what it hears.
struct Door {
    running: Running,
    upstream: Raw,
    clock: ManualClock,
    /// What went wrong, so that a table tells of all its rows at once.
    wrong: Mutex<Vec<String>>,
}

impl Door {
    async fn open() -> Self {
        Self::before(Raw::start().await).await
    }

    async fn before(upstream: Raw) -> Self {
        let clock = ManualClock::new(START);
        let running = serve("", &upstream.url(), clock.clone().into()).await;
        Self { running, upstream, clock, wrong: Mutex::default() }
    }

    /// One behind which [`PHONE`] has had all its codes; and the id of the last one.
    async fn full() -> (Self, String) {
        let door = Self::open().await;
        let mut id = String::new();
        for _ in 0..5 {
            let answer = door.says(&post(SEND, &[], &send_body(PHONE))).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            id = answer.json()["id"].as_str().unwrap().to_owned();
        }
        (door, id)
    }

    async fn connect(&self) -> Wire {
        Wire::connect(self.running.address).await
    }

    async fn says(&self, bytes: &[u8]) -> Answer {
        let mut wire = self.connect().await;
        wire.write(bytes).await;
        wire.answer().await.expect("the connection ends without an answer")
    }

    /// The codes that Sendly was asked for, all in all.
    fn codes(&self) -> usize {
        self.upstream.heard().iter().filter(|heard| is_code(heard)).count()
    }

    /// Tries one disguise: what it is told, and what arrives at Sendly because of it.
    async fn tries(&self, name: &str, bytes: &[u8], told: &[Told]) {
        let before = self.upstream.heard().len();
        let mut wire = self.connect().await;
        wire.write(bytes).await;
        for told in told {
            let head = bytes.starts_with(b"HEAD ");
            let answer = if head { wire.bodiless_answer().await } else { wire.answer().await };
            let as_expected = answer.as_ref().is_some_and(|answer| is_told(*told, answer, head));
            if !as_expected {
                let answer = answer.map(|answer| (answer.status, String::from_utf8_lossy(&answer.body).into_owned()));
                self.wrong.lock().push(format!("{name}: not {told:?}, but {answer:?}"));
            }
        }
        let expected = told.iter().filter_map(|told| match told {
            Passes(method, target) => Some((*method, *target)),
            _ => None,
        });
        let heard = self.upstream.heard();
        let passed = heard[before..].iter().filter(|heard| !is_lookup(heard));
        let in_order = passed.map(|heard| (heard.method.as_str(), heard.target.as_str())).eq(expected);
        if !in_order || !heard[before..].iter().all(is_plain) {
            self.wrong.lock().push(format!("{name}: this reached Sendly: {:?}", &heard[before..]));
        }
    }

    /// Nothing was wrong, and Sendly was asked for so many codes, all in all.
    fn verdict(&self, codes: usize) {
        let wrong = self.wrong.lock();
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        assert_eq!(self.codes(), codes);
    }
}

fn is_told(told: Told, answer: &Answer, head: bool) -> bool {
    let speaks_sendly = |error: &str| {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let is_json = answer.header("content-type") == Some("application/json");
        is_json && body["error"] == *error && body["message"].is_string() && body.get("code").is_none()
    };
    match told {
        Full => answer.status == 429 && speaks_sendly("rate_limit_exceeded"),
        Refused(status, error) => answer.status == status && (head || speaks_sendly(error)),
        Passes(..) => answer.status == 200,
        GoOn => answer.status == 100,
    }
}

/// Whether a request has one reading only: its target has one of the usual forms, and is a route of the verify family if it
/// could be taken for one; and no header speaks of another method or target.
fn is_plain(heard: &Heard) -> bool {
    const MISLEADING: [&str; 5] =
        ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];
    let misleads = |name: &str| MISLEADING.contains(&name.to_ascii_lowercase().replace('_', "-").as_str());
    (heard.target.starts_with('/') || heard.target == "*")
        && (is_route(heard) || !reads_as_verify(&heard.target))
        && !heard.headers.iter().any(|(name, _)| misleads(name))
}

/// A request of the gateway's own.
fn is_lookup(heard: &Heard) -> bool {
    heard.method == "GET" && heard.all("user-agent").iter().any(|agent| agent.starts_with("sendly-gateway/"))
}

fn is_code(heard: &Heard) -> bool {
    reads_as_verify(&heard.target)
        && !matches!(heard.method.as_str(), "GET" | "HEAD")
        && !heard.target.ends_with("/check")
}

/// Whether the most lenient of servers could read this target as the verify family: any segment will do.
fn reads_as_verify(target: &str) -> bool {
    let mut path = target.split(['?', '#']).next().unwrap_or_default().as_bytes().to_vec();
    while let Some(place) = path
        .windows(3)
        .position(|window| window[0] == b'%' && window[1].is_ascii_hexdigit() && window[2].is_ascii_hexdigit())
    {
        let digits = std::str::from_utf8(&path[place + 1..place + 3]).unwrap();
        let byte = u8::from_str_radix(digits, 16).unwrap();
        path.splice(place..place + 3, [byte]);
    }
    let path = String::from_utf8_lossy(&path).to_lowercase().replace('\\', "/");
    let stops = |c: char| matches!(c, ';' | '.' | '?' | '#' | '%') || c.is_control() || c.is_whitespace();
    let squeezed: String = path.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect();
    [&path, &squeezed].iter().any(|path| path.split('/').any(|part| part.split(stops).next() == Some("verify")))
}

/// Whether this is one of the routes, spelled canonically.
fn is_route(heard: &Heard) -> bool {
    let path = heard.target.split('?').next().unwrap_or_default();
    let Some(rest) = path.strip_prefix(SEND) else { return false };
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match (heard.method.as_str(), parts.as_slice()) {
        ("GET" | "POST", []) => rest.is_empty(),
        ("GET", [id]) | ("POST", [id, "check" | "resend"]) => is_id(id),
        _ => false,
    }
}

/// A request with the usual headers but for those that are given, and a length that is right unless one is given.
fn request(method: &str, target: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    let length = body.len().to_string();
    let usual = [
        ("host", "gateway"),
        ("authorization", KEY),
        ("content-type", "application/json"),
        ("content-length", &length),
    ];
    let framed = given("transfer-encoding");
    for (name, value) in usual.into_iter().filter(|(name, _)| !(given(name) || framed && *name == "content-length")) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    // A header whose value is `-` is one that is left out.
    for (name, value) in headers.iter().filter(|(_, value)| *value != "-") {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

fn post(target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    request("POST", target, headers, body)
}

fn chunked(body: &str, size: usize, extension: &str) -> String {
    let mut text = String::new();
    for chunk in body.as_bytes().chunks(size) {
        text.push_str(&format!("{:x}{extension}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()));
    }
    text + "0\r\n\r\n"
}

const CHUNKED: &[(&str, &str)] = &[("transfer-encoding", "chunked")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_its_path_lets_a_send_pass() {
    let (door, id) = Door::full().await;
    let recognised = [
        "/api/v1/verify",
        "//api/v1/verify",
        "/api//v1/verify",
        "/api/v1//verify",
        "///api///v1///verify",
        "/api/v1/%76erify",
        "/api/v1/verif%79",
        "/%61%70%69/%76%31/%76%65%72%69%66%79",
        "/api/%76%31/verify",
        "/./api/v1/./verify",
        "/api/v1/verify/.",
        "/api/v1/x/../verify",
        "/api/v1/%2e/verify",
        "/api/v1/x/%2E%2e/verify",
        "/api/v1/x/.%2e/verify",
        "/../../api/v1/verify",
        "/api/v1/verify?",
        "/api/v1/verify?to=%2B15550100124",
        "/api/v1/verify?/../../messages",
        "/api/v1/verify?_method=GET",
        "/api/v1/verify#/x",
    ];
    let refused = [
        "/api/v1/verify/",
        "/api/v1/verify//",
        "/api/v1/verify;",
        "/api/v1/verify;a=b",
        "/api/v1/verify;jsessionid=1?x",
        "/api/v1;x/verify",
        "/api;x/v1/verify",
        "/api/v1/verify%3b",
        "/api/v1/Verify",
        "/api/v1/VERIFY",
        "/API/v1/verify",
        "/api/V1/verify",
        "/api/v1/%56erify",
        "/api/v1%2fverify",
        "/api/v1%2Fverify",
        "/api%2fv1%2fverify",
        "/%2fapi/v1/verify",
        "/api/v1/verify%2f",
        "/api/v1/%2576erify",
        "/api/v1/%252576erify",
        "/api/v1/%25%37%36erify",
        "/api/v1/x%2f..%2fverify",
        "/api/v1/x%2f%2e%2e%2fverify",
        "/api/v1/x/%252e%252e/verify",
        "/api/v1/x/..;/verify",
        "/api/v1/..%00/v1/verify",
        "/api/v1/verify/../messages",
        "/api/v1/messages/..%2fverify",
        "/api/v1\\verify",
        "/api\\v1/verify",
        "/api/v1/%5cverify",
        "/api/v1/x\\..\\verify",
        "/api/v1/verify\\",
        "/api/v1/verify%00",
        "/api/v1/verify%00.html",
        "/api/v1/verify%00x",
        "/api/v1/verify%20",
        "/api/v1/verify%20x",
        "/api/v1/%20verify",
        "/api/v1/verify%09",
        "/api/v1/ver%09ify",
        "/api/v1/verify%0d%0a",
        "/api/v1/verify%0aHost:x",
        "/api/v1/verify%3f",
        "/api/v1/verify%3fx=1",
        "/api/v1/verify%23",
        "/api/v1/verify%",
        "/api/v1/verify%7",
        "/api/v1/verify.",
        "/api/v1/verify.json",
        "/api/v1/verify%2ejson",
        "/verify",
        "/api/verify",
        "/v1/verify",
        "/v2/verify",
        "/api/v2/verify",
        "/api/v11/verify",
        // A relative reference to another host, for whoever resolves targets as a browser would.
        "//other/api/v1/verify",
        "///other/api/v1/verify",
        "//user@other:80/api/v1/verify",
        "/\\other/api/v1/verify",
        "/%2fother/api/v1/verify",
        "//other/api/v1/%76erify",
    ];
    // None of the forms that a target may have (RFC 9112, 3.2).
    let formless = [
        "api/v1/verify",
        "foo:/api/v1/verify",
        "http+x:/api/v1/verify",
        "foo:api/v1/verify",
        "foo://gateway/api/v1/verify",
        "?/api/v1/verify",
        "?",
        "*",
        " /api/v1/verify",
        "gateway:80",
        "./api/v1/verify",
        "\\api\\v1\\verify",
        "/api/v1/verify x",
    ];
    let others = [
        ("/api/v1/verify/send", WRONG_METHOD),
        ("http://gateway/api/v1/verify", Full),
        ("HTTP://gateway/api/v1/verify", Full),
        ("https://gateway/api/v1/%76erify", Full),
        ("http://gateway//api/v1/verify?x", Full),
        ("http://gateway/api/v1/verify/", NOT_A_ROUTE),
        ("http://gateway//other/api/v1/verify", NOT_A_ROUTE),
        ("http://other/api/v1/verify", INVALID),
        ("http://gateway@other/api/v1/verify", INVALID),
        ("http://gateway:80/api/v1/verify", INVALID),
        ("http:/api/v1/verify", INVALID),
        ("http:api/v1/verify", INVALID),
        ("http:///api/v1/verify", INVALID),
        ("http:\\\\gateway\\api\\v1\\verify", INVALID),
        ("://gateway/api/v1/verify", INVALID),
        ("http://gateway/api/v1/messages", Passes("POST", "/api/v1/messages")),
        ("http://gateway/api/v1/messages?to=a%20b", Passes("POST", "/api/v1/messages?to=a%20b")),
        ("http://gateway", Passes("POST", "/")),
        ("http://gateway?x", Passes("POST", "/?x")),
    ];
    let body = send_body(PHONE);
    for (targets, told) in [(recognised.as_slice(), Full), (&refused, NOT_A_ROUTE), (&formless, INVALID)] {
        for target in targets {
            door.tries(target, &post(target, &[], &body), &[told]).await;
        }
    }
    for (target, told) in others {
        door.tries(target, &post(target, &[], &body), &[told]).await;
    }
    for (target, told) in [
        (b"/api/v1/verify\xff".as_slice(), INVALID),
        (b"/api/v1/\xef\xbd\x96erify", INVALID),
        (b"/api/v1/verify\xc2\xa0", INVALID),
        (b"http://gateway/api/v1/verify\xff", INVALID),
        (b"http://gateway/api/v1/\xef\xbd\x96erify", INVALID),
    ] {
        let bytes = [b"POST ", target, &post("", &[], &body)[b"POST ".len()..]].concat();
        door.tries(&target.escape_ascii().to_string(), &bytes, &[told]).await;
    }

    let resends = [
        (format!("/api/v1/verify/{id}/resend"), Full),
        (format!("/api/v1/verify//{id}//resend"), Full),
        (format!("/api/v1/verify/{id}/%72esend"), Full),
        (format!("/api/v1/verify/{}/resend", id.replace('v', "%76")), Full),
        (format!("/api/v1/verify/{}/resend", id.to_uppercase()), Full),
        (format!("/api/v1/verify/{}/resend", id.replace('a', "A")), Full),
        (format!("/api/v1/verify/x/../{id}/resend"), Full),
        (format!("/api/v1/verify/{id}/resend?id=ver_1"), Full),
        (format!("http://gateway/api/v1/verify/{id}/resend"), Full),
        (format!("/api/v1/verify/{id}/resend/"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}/RESEND"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}/resend;x"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}%2fresend"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}%00/resend"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}%20/resend"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id};x/resend"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}.json/resend"), NOT_A_ROUTE),
        ("/api/v1/verify/%2576er_1/resend".to_owned(), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}/check/../resend"), Full),
        (format!("/api/v1/verify/{id}/check/resend"), NOT_A_ROUTE),
        (format!("/api/v1/verify/{id}/resend/check"), NOT_A_ROUTE),
        (format!("/api/v1/verify/profiles/{id}/resend"), NOT_A_ROUTE),
        (format!("/api/v2/verify/{id}/resend"), NOT_A_ROUTE),
        (format!("//other/api/v1/verify/{id}/resend"), NOT_A_ROUTE),
    ];
    for (target, told) in &resends {
        for body in ["", "{}", "[]", "null", &send_body(OTHER)] {
            door.tries(target, &post(target, &[], body), &[*told]).await;
        }
    }
    door.verdict(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letter_case_of_an_id_makes_no_other_verification_of_it() {
    let lenient = like_sendly();
    let upstream = Raw::scripted(move |heard| match heard.method.as_str() {
        "GET" => Say::json(403, &serde_json::json!({ "error": "insufficient_permissions", "message": "scripted" })),
        _ => lenient(heard),
    })
    .await;
    let door = Door::before(upstream).await;
    let id = door.says(&post(SEND, &[], &send_body(PHONE))).await.json()["id"].as_str().unwrap().to_owned();
    for spelling in 0_u8..8 {
        let upper = |nth: usize| nth < 3 && spelling & (1 << nth) != 0;
        let letter = |(nth, c): (usize, char)| if upper(nth) { c.to_ascii_uppercase() } else { c };
        let spelled: String = id.chars().enumerate().map(letter).collect();
        door.says(&post(&format!("/api/v1/verify/{spelled}/resend"), &[], "")).await;
        door.clock.advance(Duration::from_secs(59));
    }
    assert_eq!(door.codes(), 5, "one verification, one cooldown; one phone, five codes in ten minutes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_method_lets_a_send_pass() {
    let (door, id) = Door::full().await;
    let body = send_body(PHONE);
    for method in
        ["post", "Post", "pOST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "SEND", "POSTX", "QUERY"]
    {
        for target in [SEND, "//api/v1/%76erify"] {
            door.tries(method, &request(method, target, &[], &body), &[WRONG_METHOD]).await;
        }
        let resend = format!("/api/v1/verify/{id}/resend");
        door.tries(method, &request(method, &resend, &[], ""), &[WRONG_METHOD]).await;
    }
    door.tries("GET", &request("GET", &format!("/api/v1/verify/{id}/resend"), &[], ""), &[WRONG_METHOD]).await;
    for (method, target) in [("CONNECT", "gateway:80"), ("CONNECT", SEND)] {
        door.tries("CONNECT", &request(method, target, &[], &body), &[WRONG_METHOD]).await;
    }
    for method in ["", "PO@ST"] {
        door.tries("no method", &request(method, SEND, &[], &body), &[INVALID]).await;
    }
    door.tries("two methods", &request("PO ST", SEND, &[], &body), &[INVALID]).await;
    for header in [
        "X-HTTP-Method-Override",
        "x-http-method-override",
        "X_HTTP_METHOD_OVERRIDE",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
    ] {
        let value = if header.ends_with("URL") { SEND } else { "POST" };
        let overridden = [(header, value)];
        for (method, target, told) in [
            ("GET", SEND, Passes("GET", SEND)),
            ("GET", "/api/v1/messages", Passes("GET", "/api/v1/messages")),
            ("POST", "/api/v1/messages", Passes("POST", "/api/v1/messages")),
            ("PUT", SEND, WRONG_METHOD),
            ("POST", SEND, INVALID),
            ("POST", "/api/v1/verify/ver_1/resend", INVALID),
        ] {
            door.tries(header, &request(method, target, &overridden, &body), &[told]).await;
        }
    }
    door.tries(
        "_method",
        &request("GET", "/api/v1/verify?_method=POST", &[], &body),
        &[Passes("GET", "/api/v1/verify?_method=POST")],
    )
    .await;
    door.verdict(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_its_body_lets_a_send_pass() {
    let (door, _) = Door::full().await;
    let quoted = |text: &str| format!("{{\"to\":{text}}}");
    let padding = "x".repeat(30 * 1024);
    let recognised = [
        send_body(PHONE),
        format!(" \t\r\n{{ \"to\" :\n\"{PHONE}\" }}\r\n "),
        r#"{"\u0074o":"+15550100123"}"#.to_owned(),
        r#"{"\u0074\u006F":"\u002b1\u0035550100123"}"#.to_owned(),
        format!(r#"{{"app_name":"\"to\":\"{OTHER}\",","to":"{PHONE}"}}"#),
        format!(r#"{{"nested":{{"to":"{OTHER}"}},"to":"{PHONE}"}}"#),
        format!(r#"{{"to ":"{OTHER}","to":"{PHONE}"}}"#),
        format!(r#"{{"":"{OTHER}","to":"{PHONE}"}}"#),
        format!(r#"{{"app_name":"{padding}","to":"{PHONE}"}}"#),
        format!(r#"{{"to":"{PHONE}","app_name":"{padding}"}}"#),
        format!("{}{}", " ".repeat(30 * 1024), send_body(PHONE)),
        format!(r#"{{"__proto__":{{"to":"{OTHER}"}},"to":"{PHONE}"}}"#),
        format!("{{\"to\":\"{PHONE}\",\"x\":\"\\ud800\"}}"),
        format!("{{\"to\":\"{PHONE}\",\"x\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000)),
        format!(r#"{{"to[]":"{OTHER}","phone":"{OTHER}","to":"{PHONE}"}}"#),
    ];
    let unclear = [
        format!(r#"{{"to":"{OTHER}","to":"{PHONE}"}}"#),
        format!(r#"{{"to":"{PHONE}","to":"{PHONE}"}}"#),
        format!(r#"{{"to":"{OTHER}","\u0074o":"{PHONE}"}}"#),
        format!(r#"{{"To":"{PHONE}","to":"{OTHER}"}}"#),
        format!(r#"{{"to":"{OTHER}","TO":"{PHONE}"}}"#),
        format!(r#"{{"TO":"{PHONE}"}}"#),
        format!(r#"{{"To":"{PHONE}"}}"#),
        format!(r#"{{"to":"{OTHER}","app_name":1,"app_name":2}}"#),
        format!("\u{feff}{}", send_body(PHONE)),
        format!(r#"{{"to":"{PHONE}",}}"#),
        format!(r#"{{,"to":"{PHONE}"}}"#),
        format!("{}x", send_body(PHONE)),
        format!("{}\0", send_body(PHONE)),
        format!("{}{}", send_body(OTHER), send_body(PHONE)),
        format!("{}\n{}", send_body(OTHER), send_body(PHONE)),
        format!(r#"{{"to":"{PHONE}","x":NaN}}"#),
        format!(r#"{{"to":"{PHONE}","x":Infinity}}"#),
        format!(r#"{{"to":"{PHONE}","x":01}}"#),
        format!(r#"{{"to":"{PHONE}","x":0x10}}"#),
        format!("{{'to':'{PHONE}'}}"),
        format!("{{to:\"{PHONE}\"}}"),
        format!("{{\"to\":\"{PHONE}\"/**/}}"),
        format!("// {OTHER}\n{}", send_body(PHONE)),
        format!("{{\"to\":\"{PHONE}\",\"x\":\"\n\"}}"),
        format!("{{\"to\":\"{PHONE}\",\"x\":\"\\x41\"}}"),
        format!("{{\"to\":\"{PHONE}\""),
        format!("[{}]", send_body(PHONE)),
        format!("[\"{PHONE}\"]"),
        format!("\"{PHONE}\""),
        format!("[[\"to\",\"{PHONE}\"]]"),
        format!("{{{}\"to\":\"{PHONE}\"}}", (0..100).map(|nth| format!("\"k{nth}\":0,")).collect::<String>()),
        quoted(&format!("[\"{PHONE}\"]")),
        quoted(&format!("[\"{OTHER}\",\"{PHONE}\"]")),
        quoted(&format!("{{\"phone\":\"{PHONE}\"}}")),
        quoted("15550100123"),
        quoted("+15550100123"),
        quoted("1.5550100123e10"),
        quoted("null"),
        quoted("true"),
        "{}".to_owned(),
        "null".to_owned(),
        String::new(),
        format!("to={PHONE}"),
        "to=%2B15550100123".to_owned(),
        format!(")]}}',\n{}", send_body(PHONE)),
        format!("\u{1e}{}", send_body(PHONE)),
    ];
    let no_phones = [
        "+1 555 010 0123",
        "+1-555-010-0123",
        "+1.555.010.0123",
        "+1 (555) 010-0123",
        "+1(555)0100123",
        "15550100123",
        "5550100123",
        "0015550100123",
        "+0015550100123",
        "01115550100123",
        "++15550100123",
        "+ 15550100123",
        " +15550100123",
        "+15550100123 ",
        "\\t+15550100123",
        "+15550100123\\n",
        "+15550100123\\u0000",
        "+15550100123\\u0000+1",
        "\\u200e+15550100123",
        "+1555\\u200b0100123",
        "+1555\\u00ad0100123",
        "+１５５５０１００１２３",
        "＋15550100123",
        "+1٥٥٥0100123",
        "+1555010012³",
        "+15550100123,+15550100124",
        "+15550100124;+15550100123",
        "+15550100123;ext=1",
        "+15550100123x1",
        "+15550100123#",
        "tel:+15550100123",
        "sms:+15550100123",
        "whatsapp:+15550100123",
        "+15550100123@example.org",
        "+1555010012301234",
        "+015550100123",
        "+1015550100123",
        "+115550100123",
        "+1555010012",
        "",
        "+",
    ];
    for body in &recognised {
        door.tries(&head(body), &post(SEND, &[], body), &[Full]).await;
        door.tries(&head(body), &post(SEND, CHUNKED, &chunked(body, 4000, "")), &[Full]).await;
    }
    for body in &unclear {
        door.tries(&head(body), &post(SEND, &[], body), &[INVALID]).await;
    }
    for phone in no_phones {
        door.tries(phone, &post(SEND, &[], &send_body(phone)), &[NO_PHONE]).await;
    }
    let utf16: Vec<u8> = send_body(PHONE).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let overlong =
        [b"{\"to\":\"+15550100123\",\"x\":\"\xc0\xaf\"}".as_slice(), &utf16, b"\x1f\x8b\x08\x00", b"\x00\x00\x00{"];
    for body in overlong {
        door.tries("not UTF-8", &request("POST", SEND, &[], body), &[INVALID]).await;
    }
    let too_long = format!(r#"{{"app_name":"{}","to":"{PHONE}"}}"#, "x".repeat(32 * 1024));
    let too_large = Refused(413, "payload_too_large");
    door.tries("announced", &post(SEND, &[], &too_long), &[too_large]).await;
    door.tries("chunked", &post(SEND, CHUNKED, &chunked(&too_long, 5000, "")), &[too_large]).await;
    door.verdict(5);
}

/// What names a case: the beginning of it.
fn head(text: &str) -> String {
    text.chars().take(80).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_lets_a_send_pass() {
    let (door, id) = Door::full().await;
    let body = send_body(PHONE);
    for value in [
        "-",
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/vnd.api+json",
        "application/json, text/plain",
        "application/json; charset=utf-16",
        "application/json; charset=\"utf-16le\"",
        "application/json;charset=latin1",
        "application/json; charset=utf-8; charset=utf-16",
        "application/json; CHARSET = utf-7",
    ] {
        door.tries(value, &post(SEND, &[("content-type", value)], &body), &[INVALID]).await;
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    door.tries("form", &post(SEND, &form, "to=%2B15550100123"), &[INVALID]).await;
    let multipart = "--x\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n+15550100123\r\n--x--\r\n";
    door.tries("multipart", &post(SEND, &[("content-type", "multipart/form-data; boundary=x")], multipart), &[INVALID])
        .await;
    for value in [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        "application/json; charset=\"UTF-8\"",
        "application/json; version=2",
    ] {
        door.tries(value, &post(SEND, &[("content-type", value)], &body), &[Full]).await;
    }
    for headers in [
        [("content-type", "application/json"), ("content-type", "text/plain")],
        [("content-type", "application/json"), ("Content-Type", "application/json")],
        [("authorization", KEY), ("authorization", "Bearer sk_test_v1_other")],
        [("content-encoding", "gzip"), ("x", "y")],
        [("content-encoding", "identity"), ("x", "y")],
        [("content-encoding", ""), ("x", "y")],
    ] {
        door.tries(headers[0].0, &post(SEND, &headers, &body), &[INVALID]).await;
        // A resend has no body to misread, but two keys are two accounts there too.
        if headers[0].0 != "content-type" {
            let resend = format!("/api/v1/verify/{id}/resend");
            door.tries(headers[0].0, &post(&resend, &headers, ""), &[INVALID]).await;
        }
    }
    // Naming a header in Connection takes nothing out of what is judged.
    for connection in ["authorization", "content-type, content-length", "transfer-encoding", "host", "idempotency-key"]
    {
        door.tries(connection, &post(SEND, &[("connection", connection)], &body), &[Full]).await;
    }
    for upgrade in ["h2c", "websocket", "TLS/1.0"] {
        let headers = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", upgrade), ("http2-settings", "AAMAAABk")];
        door.tries(upgrade, &post(SEND, &headers, &body), &[Full]).await;
    }
    for forwarded in
        ["x-forwarded-for", "x-forwarded-host", "forwarded", "x-forwarded-uri", "x-forwarded-prefix", "referer"]
    {
        door.tries(forwarded, &post(SEND, &[(forwarded, "127.0.0.1")], &body), &[Full]).await;
    }

    // An idempotency key repeats what it has bought before, and buys nothing else.
    let long = "k".repeat(256);
    for key in ["k", "", "\u{e9}", "a b", &long, "other"] {
        let keyed = [("idempotency-key", key)];
        door.tries(key, &post(SEND, &keyed, &body), &[Full]).await;
        door.tries(key, &post(SEND, &keyed, &body), &[Full]).await;
        door.tries(key, &post(&format!("/api/v1/verify/{id}/resend"), &keyed, ""), &[Full]).await;
    }
    let keyed = [("idempotency-key", "key of another phone")];
    let before = door.codes();
    assert_eq!(door.says(&post(SEND, &keyed, &send_body(OTHER))).await.status, 201);
    assert_eq!(door.codes(), before + 1);
    door.tries("a key that is known", &post(SEND, &keyed, &body), &[Full]).await;
    let twice = [keyed[0], ("idempotency-key", "another")];
    door.tries("two keys", &post(SEND, &twice, &body), &[INVALID]).await;
    door.verdict(6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_framing_lets_a_send_pass() {
    let (door, _) = Door::full().await;
    let body = send_body(PHONE);
    let message = send_body(OTHER);
    let send = post(SEND, &[], &body);
    let length = body.len().to_string();
    let get = request("GET", "/api/v1/messages", &[("content-length", "-")], "");
    let passes = Passes("GET", "/api/v1/messages");
    let elsewhere = Passes("POST", "/api/v1/messages");

    let framed = |headers: &[(&str, &str)], body: &str| post(SEND, headers, body);
    for (name, bytes, told) in [
        ("chunked", framed(CHUNKED, &chunked(&body, 1000, "")), vec![Full]),
        ("chunks of one byte", framed(CHUNKED, &chunked(&body, 1, "")), vec![Full]),
        ("chunk extensions", framed(CHUNKED, &chunked(&body, 5, ";a=b;c=\"d\"")), vec![Full]),
        ("leading zeros", framed(CHUNKED, &format!("000{:x}\r\n{body}\r\n0\r\n\r\n", body.len())), vec![Full]),
        ("capital Chunked", framed(&[("transfer-encoding", "Chunked")], &chunked(&body, 9, "")), vec![Full]),
        (
            "trailers",
            framed(
                CHUNKED,
                &chunked(&body, 9, "").replace("0\r\n\r\n", "0\r\nto: x\r\ncontent-type: text/plain\r\n\r\n"),
            ),
            vec![Full],
        ),
        ("no chunk", framed(CHUNKED, &body), vec![INVALID]),
        ("a negative chunk", framed(CHUNKED, &format!("-1\r\n{body}\r\n0\r\n\r\n")), vec![INVALID]),
        ("a huge chunk", framed(CHUNKED, &format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n")), vec![INVALID]),
        (
            "an encoding of an encoding",
            framed(&[("transfer-encoding", "gzip, chunked")], &chunked("\u{1f}x", 9, "")),
            vec![INVALID],
        ),
        ("xchunked", framed(&[("transfer-encoding", "xchunked")], &chunked(&body, 9, "")), vec![INVALID]),
        (
            "chunked, identity",
            framed(&[("transfer-encoding", "chunked, identity")], &chunked(&body, 9, "")),
            vec![INVALID],
        ),
        ("identity", framed(&[("transfer-encoding", "identity")], &body), vec![INVALID]),
        (
            "a space before the colon",
            framed(&[("transfer-encoding ", "chunked"), ("content-length", "-")], &chunked(&body, 9, "")),
            vec![INVALID],
        ),
        (
            "both lengths",
            framed(&[("content-length", &length), ("transfer-encoding", "chunked")], &chunked(&body, 9, "")),
            vec![INVALID],
        ),
        ("two lengths", framed(&[("content-length", &length), ("content-length", "0")], &body), vec![INVALID]),
        (
            "two equal lengths",
            framed(&[("content-length", &length), ("content-length", &length)], &body),
            vec![INVALID],
        ),
        (
            "a list of equal lengths",
            framed(&[("content-length", &format!("{length}, {length}"))], &body),
            vec![INVALID],
        ),
        ("a length behind a zero", framed(&[("content-length", &format!("0{length}"))], &body), vec![INVALID]),
        ("a list of lengths", framed(&[("content-length", &format!("{length}, 0"))], &body), vec![INVALID]),
        ("a signed length", framed(&[("content-length", &format!("+{length}"))], &body), vec![INVALID]),
        ("a negative length", framed(&[("content-length", "-1")], &body), vec![INVALID]),
        ("a length in hex", framed(&[("content-length", "0x1b")], &body), vec![INVALID]),
        ("no length", framed(&[("content-length", "-")], ""), vec![INVALID]),
        ("two hosts", framed(&[("host", "gateway"), ("host", "other")], &body), vec![INVALID]),
        ("no host", framed(&[("host", "-")], &body), vec![INVALID]),
        ("a folded header", framed(&[("x", "a\r\n b")], &body), vec![INVALID]),
        ("a folded type", framed(&[("content-type", "text/plain;\r\n application/json")], &body), vec![INVALID]),
        ("a header without a colon", framed(&[("x", "a\r\nPOST /x HTTP/1.1")], &body), vec![INVALID]),
        ("a null", framed(&[("x", "a\0b")], &body), vec![INVALID]),
        ("a bare carriage return", framed(&[("x", "a\rb")], &body), vec![INVALID]),
        ("leave to send", framed(&[("expect", "100-continue")], &body), vec![GoOn, Full]),
        (
            "leave to send, chunked",
            framed(&[("expect", "100-Continue"), CHUNKED[0]], &chunked(&body, 9, "")),
            vec![GoOn, Full],
        ),
        ("two in one packet", [send.clone(), send.clone()].concat(), vec![Full, Full]),
        ("one behind a GET", [get.clone(), send.clone()].concat(), vec![passes, Full]),
        ("one behind a refusal", [post("/api/v1/verify/", &[], &body), send.clone()].concat(), vec![NOT_A_ROUTE, Full]),
        ("one behind empty lines", [b"\r\n\r\n".as_slice(), &send].concat(), vec![Full]),
        ("one with bare line feeds", String::from_utf8(send.clone()).unwrap().replace("\r\n", "\n").into(), vec![Full]),
        ("HTTP/1.0", String::from_utf8(send.clone()).unwrap().replace("HTTP/1.1", "HTTP/1.0").into(), vec![Full]),
        (
            "HTTP/1.0, chunked",
            String::from_utf8(framed(CHUNKED, &chunked(&body, 9, ""))).unwrap().replace("HTTP/1.1", "HTTP/1.0").into(),
            vec![INVALID],
        ),
        ("HTTP/0.9", format!("POST {SEND}\r\n\r\n{body}").into(), vec![INVALID]),
        ("HTTP/1.2", String::from_utf8(send.clone()).unwrap().replace("HTTP/1.1", "HTTP/1.2").into(), vec![INVALID]),
        ("HTTP/2 without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![INVALID]),
        // A send inside another request's body, for whoever reads that one's framing otherwise.
        (
            "behind a chunked end that a length hides",
            post(
                "/api/v1/messages",
                &[("content-length", "9999"), ("transfer-encoding", "chunked")],
                &["0\r\n\r\n", std::str::from_utf8(&send).unwrap()].concat(),
            ),
            vec![INVALID],
        ),
        (
            "in a body that claims to be shorter",
            post("/api/v1/messages", &[("content-length", "0"), ("content-length", "100")], &body),
            vec![INVALID],
        ),
        ("in a body", post("/api/v1/messages", &[], std::str::from_utf8(&send).unwrap()), vec![elsewhere]),
        (
            "in a chunk",
            post("/api/v1/messages", CHUNKED, &chunked(std::str::from_utf8(&send).unwrap(), 4000, "")),
            vec![elsewhere],
        ),
        ("in a GET's body", request("GET", "/api/v1/messages", &[], &send), vec![passes]),
        (
            "in a chunk extension",
            post("/api/v1/messages", CHUNKED, &chunked(&message, 4000, ";x=\nPOST /api/v1/verify HTTP/1.1")),
            vec![INVALID],
        ),
    ] {
        door.tries(name, &bytes, &told).await;
    }
    // Whatever was smuggled would have arrived before this.
    assert_eq!(door.says(&get).await.status, 200);
    door.verdict(5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sdks_send_buys_a_code_while_there_is_room() {
    let door = Door::open().await;
    let mut phones = (0..).map(|nth| format!("+1555010{nth:04}"));
    let mut body = || send_body(&phones.next().unwrap());
    let send = post(SEND, &[], &body());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let variants = [
        ("plain", send),
        ("a base URL with a slash at its end (Rust, Go, Java)", post("/api/v1//verify", &[], &body())),
        ("chunked", post(SEND, CHUNKED, &chunked(&body(), 7, ""))),
        ("a charset", post(SEND, &[("content-type", "application/json; charset=utf-8")], &body())),
        ("a charset in capitals", post(SEND, &[("content-type", "application/json;charset=UTF-8")], &body())),
        ("an idempotency key", post(SEND, &[("idempotency-key", "sendly-go-retry-1")], &body())),
        ("HTTP/1.0", text(post(SEND, &[("connection", "close")], &body())).replace("HTTP/1.1", "HTTP/1.0").into()),
        ("absolute form, as to a proxy", post("http://gateway/api/v1/verify", &[], &body())),
        ("gzip wanted", post(SEND, &[("accept-encoding", "gzip, deflate")], &body())),
        ("all six keys", {
            let all = r#","template_id":"t","profile_id":"p","app_name":"ü","timeout_secs":300,"code_length":6}"#;
            post(SEND, &[], &body().replace('}', all))
        }),
    ];
    for (nth, (name, bytes)) in variants.iter().enumerate() {
        let answer = door.says(bytes).await;
        assert_eq!(answer.status, 201, "{name}: {answer:?}");
        assert_eq!(door.codes(), nth + 1, "{name}");
    }
    let mut wire = door.connect().await;
    wire.write(post(SEND, &[("expect", "100-continue")], &body())).await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    assert_eq!(wire.answer().await.unwrap().status, 201);
    wire.write([post(SEND, &[], &body()), post(SEND, &[], &body())].concat()).await;
    for _ in 0..2 {
        assert_eq!(wire.answer().await.unwrap().status, 201, "pipelined");
    }
    for heard in door.upstream.heard() {
        assert_eq!((heard.method.as_str(), heard.target.as_str()), ("POST", SEND));
        assert_eq!(heard.all("host"), [door.upstream.address.to_string()]);
        assert_eq!(heard.all("content-length"), [heard.body.len().to_string()]);
        assert!(heard.all("transfer-encoding").is_empty() && heard.all("expect").is_empty());
    }
}
