//! The access log: one line per request, with what became of it, and no more of a phone than may be seen.

use serde_json::{Value, json};

use crate::client::{KEY, Wire};
use crate::process::{Process, Serving};
use crate::upstream::{Act, Upstream};

const SEND: &str = r#"{"to":"+15550100123"}"#;
const VERIFY: &str = "/api/v1/verify";

async fn gateway(upstream: &Upstream, config: &str) -> Serving {
    Process::gateway(config, &upstream.url(), &[]).await
}

/// The access log's lines so far: so many, and no more.
async fn lines(serving: &Serving, many: usize) -> Vec<Value> {
    let lines = serving.process.lines("\"target\":\"access\"", many).await;
    assert_eq!(lines.len(), many, "{lines:#?}");
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Stops it, and returns its access log's lines.
async fn all_lines(serving: Serving) -> Vec<Value> {
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let err = serving.process.err();
    let lines = err.lines().filter(|line| line.contains("\"target\":\"access\""));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The line of a request that is asked alone.
async fn line(
    serving: &Serving,
    nth: usize,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Value {
    let answer = serving.ask(method, target, headers, body).await;
    let line = lines(serving, nth).await.pop().unwrap();
    assert_eq!(line["status"], answer.status.as_u16(), "{line}");
    assert_eq!(line["bytes"], answer.body.len(), "{line}");
    assert_eq!((&line["method"], &line["client"]), (&json!(method), &json!("127.0.0.1")), "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
    line
}

fn what(line: &Value) -> [&str; 2] {
    ["operation", "outcome"].map(|field| line[field].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_is_allowed_is_told_with_its_masked_phone_and_its_account() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "").await;
    let first = line(&serving, 1, "POST", VERIFY, &[], SEND).await;
    assert_eq!(what(&first), ["send", "allowed"]);
    assert_eq!(first["phone"], "+1555•••0123");
    let account = first["account"].as_str().unwrap();
    assert!(account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    let fields: Vec<&str> = first.as_object().unwrap().keys().map(String::as_str).collect();
    for field in &fields {
        assert!(
            matches!(
                *field,
                "timestamp"
                    | "level"
                    | "target"
                    | "method"
                    | "operation"
                    | "outcome"
                    | "status"
                    | "phone"
                    | "account"
                    | "client"
                    | "duration_ms"
                    | "bytes"
            ),
            "{field} is in {first}"
        );
    }
    let other = line(&serving, 2, "POST", VERIFY, &[("authorization", "Bearer sk_test_v1_other")], SEND).await;
    assert_ne!(other["account"], first["account"]);
    upstream.knows("ver_1", "+15550100199");
    let resend = line(&serving, 3, "POST", "/api/v1/verify/ver_1/resend", &[], "").await;
    assert_eq!(
        (what(&resend), &resend["phone"]),
        (["resend", "allowed"], &json!("+1555•••0199")),
        "as it was looked up"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_tells_which_limit_or_throttle_it_was() {
    let upstream = Upstream::start().await;
    let config = "[[throttles]]\nname = \"slow\"\nper = \"client\"\nrate = \"1/h\"\noperations = [\"check\"]\n\
                  [[limits]]\nname = \"one\"\nper = \"phone\"\nmax = 1\nwindow = \"1h\"\n";
    let serving = gateway(&upstream, config).await;
    line(&serving, 1, "POST", VERIFY, &[], SEND).await;
    let refused = line(&serving, 2, "POST", VERIFY, &[], SEND).await;
    assert_eq!((what(&refused), &refused["refused_by"]), (["send", "refused"], &json!("one")));
    assert_eq!((&refused["phone"], &refused["status"]), (&json!("+1555•••0123"), &json!(429)));
    upstream.script(|_| Act::json(429, &json!({ "error": "rate_limit_exceeded", "message": "", "retryAfter": 60 })));
    let other = SEND.replace("0123", "0124");
    assert_eq!(
        what(&line(&serving, 3, "POST", VERIFY, &[], &other).await),
        ["send", "allowed"],
        "it is Sendly that refuses"
    );
    let held = line(&serving, 4, "POST", VERIFY, &[], &other).await;
    assert_eq!((what(&held), &held["refused_by"]), (["send", "refused"], &json!("hold")));
    let check = "/api/v1/verify/ver_1/check";
    line(&serving, 5, "POST", check, &[], "{}").await;
    let throttled = line(&serving, 6, "POST", check, &[], "{}").await;
    assert_eq!((what(&throttled), &throttled["refused_by"]), (["check", "throttled"], &json!("slow")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rejected_is_told_once_whatever_is_wrong_with_it() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "clients.body_timeout = \"500ms\"").await;
    let mut nth = 0;
    for (method, target, body, operation) in [
        ("POST", VERIFY, "{", "send"),
        ("POST", VERIFY, r#"{"to":"0123"}"#, "send"),
        ("POST", "/api/v1/Verify", SEND, "other"),
        ("PUT", VERIFY, SEND, "other"),
        ("POST", "/api/v1/verify/ver_unknown/resend", "", "resend"),
    ] {
        nth += 1;
        assert_eq!(
            what(&line(&serving, nth, method, target, &[], body).await),
            [operation, "rejected"],
            "{target} {body}"
        );
    }
    let head = |target: &str, more: &str| {
        let usual = format!("host: g\r\nauthorization: {KEY}\r\ncontent-type: application/json");
        format!("POST {target} HTTP/1.1\r\n{usual}\r\n{more}\r\n\r\n")
    };
    for (target, operation) in [(VERIFY, "send"), ("/api/v1/messages", "other")] {
        for (bytes, status) in [
            (head(target, "transfer-encoding: chunked") + "nonsense\r\n", 400),
            (head(target, "content-length: 400") + "{", 408),
        ] {
            nth += 1;
            let mut wire = serving.connect().await;
            wire.write(&bytes).await;
            let answer = wire.answer().await;
            let line = lines(&serving, nth).await.pop().unwrap();
            assert_eq!((what(&line), &line["status"]), ([operation, "rejected"], &json!(status)), "{line} {bytes}");
            assert_eq!(answer.unwrap().status, status);
        }
    }
    assert_eq!(all_lines(serving).await.len(), nth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_is_told_without_path_or_query() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "").await;
    let passed = line(&serving, 1, "GET", "/api/v1/messages/5550100123?to=%2B15550100123", &[], "").await;
    assert_eq!(what(&passed), ["other", "passed"]);
    assert!(passed.get("phone").is_none() && !passed.to_string().contains("5550100123"), "{passed}");
    assert_eq!(what(&line(&serving, 2, "GET", VERIFY, &[], "").await), ["list", "passed"]);
    assert_eq!(
        what(&line(&serving, 3, "GET", "/api/v1/verify/ver_1", &[], "").await),
        ["get", "passed"],
        "a 404 of Sendly's"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_told_as_one() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "").await;
    let key = [("idempotency-key", "k")];
    assert_eq!(what(&line(&serving, 1, "POST", VERIFY, &key, SEND).await), ["send", "allowed"]);
    let retry = line(&serving, 2, "POST", VERIFY, &key, SEND).await;
    assert_eq!((what(&retry), &retry["phone"]), (["send", "retry"], &json!("+1555•••0123")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sendly_breaks_is_told_as_failed() {
    let upstream = Upstream::start().await;
    upstream.script(|_| Act::BreakOff);
    let serving = gateway(&upstream, "").await;
    for (nth, (method, target, body, operation)) in [
        ("POST", VERIFY, SEND, "send"),
        ("GET", "/api/v1/messages", "", "other"),
        ("GET", "/api/v1/verify/ver_1", "", "get"),
    ]
    .into_iter()
    .enumerate()
    {
        let failed = line(&serving, nth + 1, method, target, &[], body).await;
        assert_eq!((what(&failed), &failed["status"]), ([operation, "failed"], &json!(502)));
    }
    let closed = Upstream::closed();
    let serving = Process::gateway("", &closed.url(), &[]).await;
    for (nth, (method, body, operation)) in [("POST", SEND, "send"), ("GET", "", "list")].into_iter().enumerate() {
        let failed = line(&serving, nth + 1, method, VERIFY, &[], body).await;
        assert_eq!((what(&failed), &failed["status"]), ([operation, "failed"], &json!(502)));
    }
    // One that was told to send its body is told what became of it, too.
    let mut wire = serving.connect().await;
    let expects = "content-length: 2\r\nexpect: 100-continue\r\n";
    wire.write(format!("POST /api/v1/messages HTTP/1.1\r\nhost: g\r\n{expects}\r\n{{}}")).await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    assert_eq!(wire.answer().await.unwrap().status, 502);
    assert_eq!(lines(&serving, 3).await[2]["status"], 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_it_is_told_has_abandoned_its_request() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "").await;
    let mut nth = 0;

    // In the middle of its body.
    for target in [VERIFY, "/api/v1/messages"] {
        let mut wire = serving.connect().await;
        let continues = "content-length: 400\r\nexpect: 100-continue\r\n";
        let headers = format!("host: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n{continues}");
        wire.write(format!("POST {target} HTTP/1.1\r\n{headers}\r\n")).await;
        assert_eq!(wire.answer().await.unwrap().status, 100, "it is being read");
        wire.reset();
        nth += 1;
        let line = lines(&serving, nth).await.pop().unwrap();
        assert_eq!(line["outcome"], "abandoned", "{line}");
    }

    // While Sendly is asked.
    upstream.script(|_| Act::AnswerWhenLet(201, "{}".into()));
    for (method, target, body, operation) in [("POST", VERIFY, SEND, "send"), ("GET", "/api/v1/messages", "", "other")]
    {
        let asked = upstream.seen().len();
        let mut wire = Wire::connect(serving.address).await;
        wire.request(method, target, &[], body.as_bytes()).await;
        upstream.has_seen(asked + 1).await;
        wire.reset();
        if operation == "send" {
            // The gateway has seen it go.
            let unclaimed = async {
                loop {
                    let metrics = serving.admin("/metrics").await.body;
                    if String::from_utf8(metrics).unwrap().contains("sendly_gateway_unclaimed_exchanges 1") {
                        break;
                    }
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), unclaimed).await.expect("it is not seen to go");
            upstream.let_go(1);
        }
        nth += 1;
        let line = lines(&serving, nth).await.pop().unwrap();
        // What it would have been told, where that was known.
        let status = if operation == "send" { 201 } else { 0 };
        assert_eq!((what(&line), &line["status"]), ([operation, "abandoned"], &json!(status)), "{line}");
    }
    assert_eq!(all_lines(serving).await.len(), nth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_at_all_has_a_line_that_tells_nothing_of_it() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "").await;
    for (nth, (bytes, method)) in [
        ("NONSENSE\r\n\r\n", "_OTHER"),
        ("POST / HTTP/1.1\r\nhost: g\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "POST"),
        ("+15550100123 / HTTP/1.1\r\nhost: g\r\ncontent-length: 05\r\n\r\n", "_OTHER"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut wire = serving.connect().await;
        wire.write(bytes).await;
        assert_eq!(wire.answer().await.unwrap().status, 400);
        let line = lines(&serving, nth + 1).await.pop().unwrap();
        assert_eq!(what(&line), ["other", "rejected"]);
        assert_eq!((&line["method"], &line["status"]), (&json!(method), &json!(400)));
    }
    assert_eq!(all_lines(serving).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_can_be_switched_off() {
    for off in ["log.access = false", "log.filter = \"info,access=warn\"", "log.filter = \"warn\""] {
        let file = crate::process::config_file(off);
        let arguments = ["run", "--sandbox", "--config", &file];
        let process = Process::start(&arguments, &[]);
        // Where it listens stands on standard output too.
        process.says("listens on http://127.0.0.1:").await;
        let out = process.out();
        let address = out.split("listens on http://").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let mut wire = Wire::connect(address).await;
        wire.request("POST", VERIFY, &[], SEND.as_bytes()).await;
        assert_eq!(wire.answer().await.unwrap().status, 201);
        process.signal("TERM");
        assert_eq!(process.code().await, 0);
        assert!(!process.err().contains("access"), "{off}: {}", process.err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_in_a_clients_own_words_is_not_told() {
    let upstream = Upstream::start().await;
    let serving = gateway(&upstream, "").await;
    let mut wire = serving.connect().await;
    wire.write("+15550100123 /api/v1/messages HTTP/1.1\r\nhost: g\r\n\r\n").await;
    assert!(wire.answer().await.is_some());
    assert_eq!(lines(&serving, 1).await[0]["method"], "_OTHER");
    assert!(!serving.process.err().contains("5550100123"));
}

/// So many requests at once on one connection, none of which is any route, with methods in an order of their own.
async fn ask_many(serving: &Serving, many: usize) -> Vec<&'static str> {
    let methods: Vec<_> = (0..many).map(|nth| ["GET", "POST", "PUT", "PATCH", "DELETE"][nth * nth % 7 % 5]).collect();
    let requests = methods.iter().map(|method| format!("{method} /api/v1/Verify HTTP/1.1\r\nhost: g\r\n\r\n"));
    let mut wire = serving.connect().await;
    wire.write(requests.collect::<String>()).await;
    for _ in 0..many {
        assert_eq!(wire.answer().await.unwrap().status, 404);
    }
    methods
}

/// One series, once no request is under way any more: an answer comes before its line.
async fn metric_when_idle(serving: &Serving, series: &str) -> usize {
    let idle = async {
        loop {
            let metrics = String::from_utf8(serving.admin("/metrics").await.body).unwrap();
            let value = |series: &str| metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
            if value("sendly_gateway_in_flight") == Some(0) {
                return value(series).unwrap();
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), idle).await.expect("it stays busy")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_every_line_is_there_in_the_order_of_the_requests() {
    let upstream = Upstream::start().await;
    for signal in ["TERM", "INT"] {
        let serving = gateway(&upstream, "").await;
        let methods = ask_many(&serving, 300).await;
        // INT waits for nothing that is under way.
        metric_when_idle(&serving, "sendly_gateway_in_flight").await;
        serving.process.signal(signal);
        assert_eq!(serving.process.code().await, 0);
        let err = serving.process.err();
        let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let told = lines.iter().filter(|line| line["target"] == "access");
        let told: Vec<_> = told.map(|line| line["method"].as_str().unwrap()).collect();
        assert_eq!(told, methods, "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_reads_the_log_requests_go_on_and_the_lines_that_are_lost_are_counted() {
    let upstream = Upstream::start().await;
    let (serving, unread) = Process::unread_gateway("", &upstream.url()).await;
    let (mut asked, mut dropped) = (0, 0);
    while dropped == 0 {
        asked += ask_many(&serving, 500).await.len();
        dropped = metric_when_idle(&serving, "sendly_gateway_access_log_dropped_total").await;
    }
    drop(unread);
    serving.process.logs("are dropped").await;
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let err = serving.process.err();
    let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let from = |target: &str| lines.iter().filter(|line| line["target"] == target).count();
    assert_eq!(from("access") + dropped, asked);
    assert_eq!(from("sendly_gateway::log::writer"), 1, "one warning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_reads_the_log_a_sendly_that_is_down_stops_nothing_and_is_warned_of_once_a_second() {
    let closed = Upstream::closed();
    let config = "workers = 1\nlimits = []";
    let (serving, unread) = Process::unread_gateway(config, &closed.url()).await;
    let send = format!(
        "POST {VERIFY} HTTP/1.1\r\nhost: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{SEND}",
        SEND.len()
    );
    let mut wire = serving.connect().await;
    let (mut asked, mut dropped) = (0, 0);
    while dropped == 0 {
        wire.write(send.repeat(200)).await;
        for _ in 0..200 {
            assert_eq!(wire.answer().await.unwrap().status, 502, "it is answered");
            asked += 1;
        }
        assert_eq!(serving.admin("/livez").await.status, 200);
        dropped = metric_when_idle(&serving, "sendly_gateway_access_log_dropped_total").await;
    }
    drop(unread);
    serving.process.logs("are dropped").await;
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let err = serving.process.err();
    let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.iter().filter(|line| line["target"] == "access").count() + dropped, asked);
    let warnings: Vec<_> = lines.iter().filter(|line| line["message"] == "Sendly could not be reached").collect();
    assert!(!warnings.is_empty());
    let suppressed: u64 = warnings.iter().filter_map(|line| line["suppressed"].as_u64()).sum();
    assert!(warnings.len() + suppressed as usize <= asked, "each request has one");
    assert!(warnings.len() < asked / 10, "{} for {asked} requests", warnings.len());
    let said = |message: &str| lines.iter().position(|line| line["message"] == message);
    assert!(said("serving") < said("draining") && said("draining") < said("stopped"), "in their order");
    assert_eq!(said("stopped"), Some(lines.len() - 1), "to the last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_log_nobody_reads_ends_all_the_same() {
    let upstream = Upstream::start().await;
    let (serving, unread) = Process::unread_gateway("", &upstream.url()).await;
    while metric_when_idle(&serving, "sendly_gateway_access_log_dropped_total").await == 0 {
        ask_many(&serving, 500).await;
    }
    let admin = serving.admin;
    serving.process.signal("TERM");
    let ended = async { while tokio::net::TcpStream::connect(admin).await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.expect("it does not end");
    drop(unread);
    assert_eq!(serving.process.code().await, 0);
}
