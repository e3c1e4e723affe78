//! Traces that are recorded: what a collector is told of requests and of the calls that they lead to, and what a collector that is not
//! there costs.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message as _;

use crate::client::KEY;
use crate::process::{Process, Serving};
use crate::upstream::{Act, Seen, Upstream};

const SEND: &str = r#"{"to":"+15550100123"}"#;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A collector that takes all that it is told.
async fn collector() -> Upstream {
    let collector = Upstream::start().await;
    collector.script(|_| Act::Answer(200, vec![("content-type", "application/x-protobuf".to_owned())], "".into()));
    collector
}

fn config(collector: &Upstream, rest: &str) -> String {
    format!("[traces]\nurl = \"{}/otlp\"\n{rest}\n", collector.url())
}

/// What a collector was told, in OpenTelemetry's own words.
fn told(collector: &Upstream) -> Vec<ExportTraceServiceRequest> {
    let read = |seen: &Seen| {
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/otlp/v1/traces"));
        assert_eq!(seen.headers["content-type"], "application/x-protobuf");
        ExportTraceServiceRequest::decode(seen.body.clone()).expect("what it is told is OTLP")
    };
    collector.seen().iter().map(read).collect()
}

fn spans(collector: &Upstream) -> Vec<Span> {
    let scopes = told(collector).into_iter().flat_map(|told| told.resource_spans).flat_map(|told| told.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn attributes(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let value = |attribute: &KeyValue| text(attribute.value.as_ref().unwrap().value.as_ref().unwrap());
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Stops a gateway, which tells the rest then, and returns all spans of requests and of calls, as they began.
async fn all(serving: Serving, collector: &Upstream) -> (Vec<Span>, Vec<Span>) {
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    let mut spans = spans(collector);
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans.into_iter().partition(|span| span.kind() == SpanKind::Server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_a_span_and_its_call_to_sendly_one_below_it_whose_id_sendly_is_told() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let serving = Process::gateway(&config(&collector, "service = \"otp\""), &upstream.url(), &[]).await;
    let traceparent = traceparent("01");
    let headers = [("traceparent", traceparent.as_str()), ("tracestate", "vendor=opaque")];
    assert_eq!(serving.ask("POST", "/api/v1/verify", &headers, SEND).await.status, 201);
    let (requests, calls) = all(serving, &collector).await;
    let ([request], [call]) = (requests.as_slice(), calls.as_slice()) else { panic!("{requests:?} {calls:?}") };
    for span in [request, call] {
        assert_eq!((hex(&span.trace_id).as_str(), span.name.as_str()), (TRACE, "POST /api/v1/verify"));
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!((&call.parent_span_id, call.kind()), (&request.span_id, SpanKind::Client));
    assert!(request.start_time_unix_nano <= call.start_time_unix_nano);
    assert!(call.end_time_unix_nano <= request.end_time_unix_nano);
    let heard = upstream.seen().pop().unwrap().headers;
    assert_eq!(heard.get_all("traceparent").iter().count(), 1);
    assert_eq!(heard["traceparent"], format!("00-{TRACE}-{}-01", hex(&call.span_id)));
    assert_eq!(heard["tracestate"], "vendor=opaque");

    let is = |span: &Span, name: &str| attributes(&span.attributes).get(name).cloned();
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/v1/verify"),
        ("url.scheme", "http"),
        ("http.response.status_code", "201"),
        ("client.address", "127.0.0.1"),
        ("sendly_gateway.operation", "send"),
        ("sendly_gateway.outcome", "allowed"),
        ("sendly_gateway.phone", "+1555•••0123"),
    ] {
        assert_eq!(is(request, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(is(call, "server.address").as_deref(), Some("127.0.0.1"));
    assert_eq!(is(call, "server.port"), Some(upstream.address.port().to_string()));
    let resource = told(&collector)[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "otp");
    let bodies: Vec<u8> = collector.seen().into_iter().flat_map(|seen| seen.body.to_vec()).collect();
    for secret in ["+15550100123", KEY] {
        assert!(!bodies.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_and_what_passes_through_and_what_is_looked_up_are_spans_too() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    upstream.knows("ver_unseen", "+15550100124");
    let limits = "[[limits]]\nname = \"one\"\nper = \"phone\"\nmax = 1\nwindow = \"1h\"";
    let serving = Process::gateway(&config(&collector, limits), &upstream.url(), &[]).await;
    for (method, target, body, status) in [
        ("POST", "/api/v1/verify", SEND, 201),
        ("POST", "/api/v1/verify", SEND, 429),
        ("GET", "/api/v1/verify/ver_15550100199?to=+15550100199", "", 404),
        ("POST", "/api/v1/verify/ver_unseen/resend", "{}", 200),
        ("+15550100198", "/api/v1/verify", "", 405),
    ] {
        let told = serving.ask(method, target, &[("traceparent", &traceparent("01"))], body).await.status.as_u16();
        assert_eq!(told, status, "{method} {target}");
    }
    let heard = upstream.seen();
    let (requests, calls) = all(serving, &collector).await;
    let outcomes: Vec<_> = requests
        .iter()
        .map(|span| (span.name.as_str(), attributes(&span.attributes)["sendly_gateway.outcome"].clone()))
        .collect();
    let expected = [
        ("POST /api/v1/verify", "allowed"),
        ("POST /api/v1/verify", "refused"),
        ("GET /api/v1/verify/{id}", "passed"),
        ("POST /api/v1/verify/{id}/resend", "allowed"),
        ("HTTP", "rejected"),
    ];
    assert_eq!(outcomes, expected.map(|(name, outcome)| (name, outcome.to_owned())));
    assert_eq!(attributes(&requests[1].attributes)["sendly_gateway.refused_by"], "one");
    let names: Vec<_> = calls.iter().map(|span| span.name.as_str()).collect();
    let asked = [
        "POST /api/v1/verify",
        "GET /api/v1/verify/{id}",
        "GET /api/v1/verify/{id}",
        "POST /api/v1/verify/{id}/resend",
    ];
    assert_eq!(names, asked);
    for (call, heard) in calls.iter().zip(&heard) {
        assert_eq!(heard.headers["traceparent"], format!("00-{TRACE}-{}-01", hex(&call.span_id)), "{}", call.name);
    }
    assert_eq!(calls[2].parent_span_id, requests[3].span_id, "a look-up belongs to whoever needs it");
    assert_eq!(attributes(&calls[1].attributes)["error.type"], "404");
    assert_eq!(calls[1].status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(requests[2].status.as_ref().unwrap().code(), StatusCode::Unset, "the client's own mistake");
    let bodies: Vec<u8> = collector.seen().into_iter().flat_map(|seen| seen.body.to_vec()).collect();
    for secret in ["15550100199", "15550100198", "ver_unseen"] {
        assert!(!bodies.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_tells_why() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let timeouts = "[upstream]\nexchange_timeout = \"300ms\"\nlookup_timeout = \"300ms\"\nconnect_timeout = \"300ms\"\n\
                    read_timeout = \"300ms\"\n[retries]\nunknown = \"0s\"";
    let serving = Process::gateway(&config(&collector, timeouts), &upstream.url(), &[]).await;
    // That proves the key.
    assert_eq!(serving.ask("POST", "/api/v1/verify", &[], SEND).await.status, 201);
    for act in [Act::Hang, Act::BreakOff, Act::CutBody(201)] {
        upstream.script(move |_| act.clone());
        serving.ask("POST", "/api/v1/verify", &[], SEND).await;
        let mut wire = serving.connect().await;
        wire.request("GET", "/api/v1/messages", &[], b"").await;
        let _ = wire.answer().await;
    }
    let (requests, mut calls) = all(serving, &collector).await;
    calls.retain(|call| attributes(&call.attributes).contains_key("error.type"));
    let failures = |of: &str| -> Vec<String> {
        let of = calls.iter().filter(|call| call.name.starts_with(of));
        of.map(|call| attributes(&call.attributes)["error.type"].clone()).collect()
    };
    assert_eq!(failures("POST"), ["timeout", "broken", "cut"]);
    assert_eq!(failures("GET"), ["timeout", "broken", "cut"]);
    assert_eq!(requests.len(), 7);
    assert!(calls.iter().all(|call| call.status.as_ref().unwrap().code() == StatusCode::Error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_its_beginner_does_not_record_is_passed_on_and_not_told() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let serving = Process::gateway(&config(&collector, ""), &upstream.url(), &[]).await;
    let traceparent = traceparent("00");
    for (method, target, body) in [("POST", "/api/v1/verify", SEND), ("GET", "/api/v1/messages", "")] {
        let headers = [("traceparent", traceparent.as_str()), ("tracestate", "vendor=opaque")];
        serving.ask(method, target, &headers, body).await;
        let heard = upstream.seen().pop().unwrap().headers;
        assert_eq!(heard["traceparent"], traceparent);
        assert_eq!(heard["tracestate"], "vendor=opaque");
    }
    let line: serde_json::Value =
        serde_json::from_str(&serving.process.lines("\"target\":\"access\"", 2).await[1]).unwrap();
    assert_eq!(line["trace_id"], TRACE);
    let (requests, calls) = all(serving, &collector).await;
    assert!(requests.is_empty() && calls.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_valid_trace_begins_one_and_what_it_said_of_another_is_dropped() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let serving = Process::gateway(&config(&collector, ""), &upstream.url(), &[]).await;
    let headers = [("traceparent", "00-nonsense"), ("tracestate", "vendor=opaque")];
    for (method, target, body) in [("POST", "/api/v1/verify", SEND), ("GET", "/api/v1/messages", "")] {
        serving.ask(method, target, &headers, body).await;
    }
    let lines = serving.process.lines("\"target\":\"access\"", 2).await;
    let heard = upstream.seen();
    let (requests, calls) = all(serving, &collector).await;
    for nth in 0..2 {
        let trace = hex(&requests[nth].trace_id);
        assert!(requests[nth].parent_span_id.is_empty(), "it is the first of its trace");
        assert_eq!(calls[nth].trace_id, requests[nth].trace_id);
        assert_eq!(heard[nth].headers["traceparent"], format!("00-{trace}-{}-01", hex(&calls[nth].span_id)));
        assert_eq!(heard[nth].headers.get("tracestate"), None);
        assert!(lines[nth].contains(&format!("\"trace_id\":\"{trace}\"")), "the log and the trace find each other");
    }
    assert_ne!(requests[0].trace_id, requests[1].trace_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_of_a_trace_that_is_not_recorded_says_what_its_request_said() {
    let upstream = Upstream::start().await;
    upstream.knows("ver_unseen", "+15550100124");
    let serving = Process::gateway("", &upstream.url(), &[]).await;
    let traceparent = traceparent("01");
    let headers = [("traceparent", traceparent.as_str()), ("tracestate", "vendor=opaque")];
    serving.ask("POST", "/api/v1/verify/ver_unseen/resend", &headers, "{}").await;
    let heard = upstream.seen();
    assert!(heard[0].is_lookup() && heard[1].is_resend());
    for heard in heard {
        assert_eq!(heard.headers["traceparent"], traceparent);
        assert_eq!(heard.headers["tracestate"], "vendor=opaque");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_told_while_it_runs_and_headers_go_with_them() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let config = config(&collector, "headers = \"authorization=Bearer%20to%25p,x-team=ops\"");
    let serving = Process::gateway(&config, &upstream.url(), &[]).await;
    serving.ask("POST", "/api/v1/verify", &[], SEND).await;
    collector.has_seen(1).await;
    serving.until_it_exposes("trace_spans_total{result=\"exported\"} 2").await;
    let seen = &collector.seen()[0];
    assert_eq!(seen.headers["authorization"], "Bearer to%p");
    assert_eq!(seen.headers["x-team"], "ops");
    assert!(!serving.process.err().contains("to%p") && !serving.process.err().contains("to%25p"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_costs_spans_and_nothing_else() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    collector.script(|_| Act::error(400, "no"));
    let serving = Process::gateway(&config(&collector, ""), &upstream.url(), &[]).await;
    assert_eq!(serving.ask("POST", "/api/v1/verify", &[], SEND).await.status, 201);
    serving.until_it_exposes("trace_spans_total{result=\"failed\"} 2").await;
    assert_eq!(serving.ask("POST", "/api/v1/verify", &[], SEND).await.status, 201);
    serving.until_it_exposes("trace_spans_total{result=\"failed\"} 4").await;
    assert_eq!(serving.process.lines("the collector did not take spans", 1).await.len(), 1, "said once");
    collector.script(|_| Act::Answer(200, vec![], "".into()));
    assert_eq!(serving.ask("POST", "/api/v1/verify", &[], SEND).await.status, 201);
    serving.process.logs("the collector takes spans again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_holds_up_neither_requests_nor_the_end() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    collector.script(|_| Act::Hang);
    let config = format!("limits = []\n{}", config(&collector, ""));
    let serving = Process::gateway(&config, &upstream.url(), &[]).await;
    for _ in 0..300 {
        assert_eq!(serving.ask("POST", "/api/v1/verify", &[], SEND).await.status, 201);
    }
    collector.has_seen(1).await;
    serving.process.signal("TERM");
    // Well within the 20 s that this waits, where a batch would be tried for 10 s, and there are several.
    assert_eq!(serving.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_switches_traces_on_and_off() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let file = crate::process::config_file("reload.watch = false");
    let process = Process::start(&["run", "--config", &file], &[("UPSTREAM_URL", &upstream.url())]);
    let serving = Serving::of(process).await;
    serving.ask("POST", "/api/v1/verify", &[], SEND).await;
    let mut loads = 0;
    for (text, spans) in [(config(&collector, ""), 2), (String::new(), 2), (config(&collector, "sample = 0"), 2)] {
        std::fs::write(&file, format!("reload.watch = false\n{text}")).unwrap();
        serving.process.signal("HUP");
        loads += 1;
        serving.process.lines("the configuration was loaded anew", loads).await;
        serving.ask("POST", "/api/v1/verify", &[], SEND).await;
        serving.until_it_exposes(&format!("trace_spans_total{{result=\"exported\"}} {spans}")).await;
    }
    let (requests, calls) = all(serving, &collector).await;
    assert_eq!((requests.len(), calls.len()), (1, 1));
}

/// A way to a collector over TLS, and who vouches for it: a file.
async fn over_tls(collector: &Upstream) -> (std::net::SocketAddr, String) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
    let (acceptor, to) = (tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)), collector.address);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Whoever does not trust it breaks off.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut plain = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut plain).await });
        }
    });
    (address, crate::process::config_file(&signed.cert.pem()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_told_over_tls_if_it_is_vouched_for() {
    let (upstream, collector) = (Upstream::start().await, collector().await);
    let (address, ca_file) = over_tls(&collector).await;
    let url = format!("[traces]\nurl = \"https://localhost:{}/otlp\"\n", address.port());
    let serving = Process::gateway(&format!("{url}ca_file = {ca_file:?}"), &upstream.url(), &[]).await;
    serving.ask("POST", "/api/v1/verify", &[], SEND).await;
    let (requests, calls) = all(serving, &collector).await;
    assert_eq!((requests.len(), calls.len()), (1, 1));
    let (_, another) = over_tls(&collector).await;
    let serving = Process::gateway(&format!("{url}ca_file = {another:?}"), &upstream.url(), &[]).await;
    serving.ask("POST", "/api/v1/verify", &[], SEND).await;
    serving.until_it_exposes("trace_spans_total{result=\"failed\"} 2").await;
    assert_eq!(spans(&collector).len(), 2, "nothing more came");
}
