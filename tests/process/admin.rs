//! What the program says about what was changed in it, and what it never says.

use crate::client::{Answer, Wire};
use crate::process::{Process, Serving};
use crate::upstream::Upstream;

const TOKEN: &str = "t0ken-0123456789";
const DIGITS: &str = "5550198765";

async fn ask(serving: &Serving, method: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("x-operator", "Ada \u{1F600}")];
    let mut wire = Wire::connect(serving.admin).await;
    wire.request(method, path, &headers, body.as_bytes()).await;
    wire.answer().await.expect("the connection ends without an answer")
}

async fn gateway(filter: &str) -> (Serving, Upstream) {
    let upstream = Upstream::start().await;
    let variables = [("LOG_FILTER", filter), ("ADMIN_TOKEN", TOKEN)];
    (Process::gateway("", &upstream.url(), &variables).await, upstream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_has_a_line_that_says_who_made_it() {
    let (serving, _upstream) = gateway("info").await;
    for (method, path, action) in [
        ("DELETE", "/v1/phones/15550198765", "clear_phone"),
        ("PUT", "/v1/exemptions/15550198765?for=2h", "exempt"),
        ("DELETE", "/v1/exemptions/15550198765", "unexempt"),
        ("PUT", "/v1/log", "log_filter"),
    ] {
        assert_eq!(ask(&serving, method, path, "{\"filter\":\"warn\"}").await.status, 200, "{path}");
        let line = serving.process.lines(&format!("\"action\":\"{action}\""), 1).await.remove(0);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["target"], &line["operator"]), (&"audit".into(), &"Ada ????".into()), "{line}");
        let phone = if action == "log_filter" { "" } else { "+1555•••8765" };
        assert_eq!(line["phone"], phone);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_lets_through_changes_while_it_runs() {
    for (filter, is_told) in [("info", true), ("warn", false)] {
        let (serving, _upstream) = gateway("info").await;
        let set = ask(&serving, "PUT", "/v1/log", &format!("{{\"filter\":\"{filter}\"}}")).await;
        assert_eq!((set.status.as_u16(), set.json()["filter"].as_str()), (200, Some(filter)));
        assert_eq!(ask(&serving, "GET", "/v1/log", "").await.json()["filter"], filter);
        serving.process.signal("TERM");
        assert_eq!(serving.process.code().await, 0);
        assert_eq!(serving.process.err().contains("draining"), is_told, "{}", serving.process.err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_it_is_changed_to_other_libraries_stay_quiet() {
    let (serving, _upstream) = gateway("warn,sendly_gateway=info").await;
    for filter in ["trace", "info,hyper=trace,pingora_core=trace,pingora_proxy=trace,h2=trace"] {
        assert_eq!(ask(&serving, "PUT", "/v1/log", &format!("{{\"filter\":\"{filter}\"}}")).await.status, 200);
        serving.ask("POST", "/api/v1/verify", &[], &format!("{{\"to\":\"+1{DIGITS}\"}}")).await;
        serving.ask("GET", &format!("/api/v1/verify?phone={DIGITS}"), &[], "").await;
    }
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let err = serving.process.err();
    for line in err.lines().filter(|line| line.contains("\"DEBUG\"") || line.contains("\"TRACE\"")) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["target"].as_str().unwrap().starts_with("sendly_gateway"), "{line}");
    }
    assert!(err.contains("stopped") && !err.contains(DIGITS) && !err.contains(TOKEN), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_phone_nor_the_token_of_a_request_is_ever_logged() {
    let (serving, _upstream) = gateway("trace").await;
    for path in [
        "/v1/phones/15550198765",
        "/v1/phones/15550198765/x",
        "/v1/verifications/%2B15550198765",
        "/?phone=15550198765",
    ] {
        ask(&serving, "GET", path, "").await;
        // Whoever hangs up makes pingora say which request it could not answer.
        for _ in 0..20 {
            let mut wire = Wire::connect(serving.admin).await;
            wire.write(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n")).await;
            wire.reset();
        }
    }
    for broken in [
        format!("GET /v1/phones/+1 {DIGITS} HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nauthorization Bearer {TOKEN}{DIGITS}\r\n\r\n"),
        format!(
            "PUT /v1/exemptions/1{DIGITS} HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\nauthorization: Bearer {TOKEN}\r\n\r\nx"
        ),
    ] {
        let mut wire = Wire::connect(serving.admin).await;
        wire.write(broken).await;
        wire.finish().await;
        wire.rest().await;
    }
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let err = serving.process.err();
    for secret in [DIGITS, TOKEN] {
        assert!(!err.contains(secret), "{secret} is in\n{err}");
    }
}
