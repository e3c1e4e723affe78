//! A request's trace: passed on as it came, told in its line of the log, and never made up.

use serde_json::Value;

use crate::client::KEY;
use crate::process::{Process, Serving};
use crate::upstream::Upstream;

const SEND: &str = r#"{"to":"+15550100123"}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn parent() -> String {
    format!("00-{TRACE}-00f067aa0ba902b7-01")
}

/// The log's line of the request that was made as the `nth`.
async fn line(serving: &Serving, nth: usize) -> Value {
    let lines = serving.process.lines("\"target\":\"access\"", nth).await;
    serde_json::from_str(&lines[nth - 1]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_passed_on_and_told_whichever_way_its_request_goes() {
    let upstream = Upstream::start().await;
    let config = "[[throttles]]\nname = \"slow\"\nper = \"client\"\nrate = \"1/h\"\noperations = [\"list\"]\n";
    let serving = Process::gateway(config, &upstream.url(), &[]).await;
    let parent = parent();
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=opaque")];
    for (nth, (method, target, body)) in
        [("POST", "/api/v1/verify", SEND), ("GET", "/api/v1/messages", ""), ("GET", "/api/v1/verify", "")]
            .into_iter()
            .enumerate()
    {
        serving.ask(method, target, &headers, body).await;
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.target, target);
        for (name, value) in headers {
            assert_eq!(seen.headers[name], value, "{target}");
        }
        assert_eq!(line(&serving, nth + 1).await["trace_id"], TRACE);
    }
    let asked = upstream.seen().len();
    assert_eq!(serving.ask("GET", "/api/v1/verify", &headers, "").await.status, 429, "the throttle");
    assert_eq!(line(&serving, 4).await["trace_id"], TRACE);
    assert_eq!(upstream.seen().len(), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trace_is_begun_and_what_is_none_is_not_told() {
    let upstream = Upstream::start().await;
    let serving = Process::gateway("", &upstream.url(), &[]).await;
    serving.ask("POST", "/api/v1/verify", &[], SEND).await;
    assert_eq!(upstream.seen()[0].headers.get("traceparent"), None);
    assert_eq!(line(&serving, 1).await.get("trace_id"), None);
    for (nth, wrong) in ["+15550100124", KEY, "00-0-0-00", &parent().to_uppercase()].into_iter().enumerate() {
        serving.ask("POST", "/api/v1/verify", &[("traceparent", wrong)], SEND).await;
        assert_eq!(line(&serving, nth + 2).await.get("trace_id"), None, "{wrong}");
    }
    assert!(!serving.process.err().contains("15550100124"));
}
