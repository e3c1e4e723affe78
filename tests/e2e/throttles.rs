//! Throttles: a smoothed rate on attempts, per API key or per client, that charges nothing.

use std::time::Duration;

use crate::client::{Answer, KEY};
use crate::start::{Gateway, gateway_with, send_body};

const PHONE: &str = "+15550100123";
const CHECK: &str = "/api/v1/verify/ver_1/check";
const TICK: Duration = Duration::from_micros(1);

fn throttle(per: &str, operations: &str) -> String {
    format!("[[throttles]]\nname = \"slow\"\nper = \"{per}\"\nrate = \"6/m\"\nburst = 2\noperations = {operations}\n")
}

async fn check(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    gateway.ask("POST", CHECK, headers, r#"{"code":"123456"}"#).await
}

async fn is_throttled(gateway: &Gateway, headers: &[(&str, &str)]) -> bool {
    let answer = check(gateway, headers).await;
    // Sendly would say that it knows no such verification.
    assert!(matches!(answer.status.as_u16(), 404 | 429), "{answer:?}");
    answer.status == 429
}

/// Whether these speak for one client: the throttle's two attempts are gone after one of each.
async fn are_one(trusted: &str, one: &[(&str, &str)], other: &[(&str, &str)]) -> bool {
    let config = format!("clients.trusted_proxies = {trusted}\n{}", throttle("client", "[\"check\"]"));
    let gateway = gateway_with(&config).await;
    assert!(!is_throttled(&gateway, one).await && !is_throttled(&gateway, other).await);
    let throttled = is_throttled(&gateway, one).await;
    assert_eq!(is_throttled(&gateway, other).await, throttled, "{one:?} {other:?}");
    throttled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_its_burst_and_then_its_rate_and_other_keys_have_their_own() {
    let gateway = gateway_with(&throttle("account", "\"any\"")).await;
    let other = [("authorization", "Bearer sk_test_v1_other")];
    assert!(!is_throttled(&gateway, &[]).await && !is_throttled(&gateway, &[]).await);
    let refused = check(&gateway, &[]).await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "rate_limit_exceeded"));
    assert_eq!((&refused.json()["retryAfter"], refused.header("retry-after")), (&10.into(), Some("10")));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert_eq!(refused.header("ratelimit"), None, "a rate is no quota in a window");
    assert!(is_throttled(&gateway, &[("authorization", "bearer   sk_test_v1_test")]).await, "another spelling");
    assert!(!is_throttled(&gateway, &other).await && !is_throttled(&gateway, &other).await);
    assert!(is_throttled(&gateway, &other).await);
    gateway.wait(Duration::from_secs(10) - TICK);
    assert_eq!(check(&gateway, &[]).await.header("retry-after"), Some("1"), "a microsecond is told as a second");
    gateway.wait(TICK);
    assert!(!is_throttled(&gateway, &[]).await, "refusals did not put it off");
    assert!(is_throttled(&gateway, &[]).await);
    assert_eq!(gateway.metric("sendly_gateway_throttled_total{throttle=\"slow\"}").await, 5);
    assert_eq!(
        gateway.metric("sendly_gateway_requests_total{operation=\"check\",outcome=\"throttled\"}").await,
        5,
        "and each has its outcome"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttle_charges_no_code_and_judges_none() {
    let gateway = gateway_with(&throttle("account", "[\"send\"]")).await;
    gateway.send_ok(PHONE).await;
    gateway.send_ok(PHONE).await;
    for _ in 0..5 {
        assert_eq!(gateway.send(PHONE).await.error(), "rate_limit_exceeded");
    }
    assert_eq!(gateway.metric(r#"sendly_gateway_decisions_total{decision="allow",limit="phone-10m"}"#).await, 2);
    assert_eq!(gateway.metric(r#"sendly_gateway_decisions_total{decision="deny",limit="phone-10m"}"#).await, 0);
    for _ in 0..3 {
        gateway.wait(Duration::from_secs(10));
        gateway.send_ok(PHONE).await;
    }
    gateway.wait(Duration::from_secs(10));
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 560, "five codes went out, and count");
    assert_eq!(gateway.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttle_counts_its_operations_and_no_others() {
    let requests = [
        ("send", "POST", "/api/v1/verify", send_body(PHONE)),
        ("resend", "POST", "/api/v1/verify/ver_1/resend", String::new()),
        ("check", "POST", CHECK, "{}".to_owned()),
        ("get", "GET", "/api/v1/verify/ver_1", String::new()),
        ("list", "GET", "/api/v1/verify", String::new()),
        ("profiles", "GET", "/api/v1/verify/profiles", String::new()),
        ("sessions", "POST", "/api/v1/verify/sessions", "{}".to_owned()),
        ("other", "POST", "/api/v1/messages", "{}".to_owned()),
    ];
    for (counted, ..) in &requests {
        let gateway = gateway_with(&throttle("account", &format!("[\"{counted}\"]"))).await;
        for (operation, method, target, body) in &requests {
            let mut throttled = Vec::new();
            for _ in 0..3 {
                let answer = gateway.ask(method, target, &[], body).await;
                throttled.push(answer.header("retry-after") == Some("10"));
            }
            assert_eq!(throttled, [false, false, counted == operation], "{counted} and {operation}");
        }
    }
    let gateway = gateway_with(&throttle("account", "\"any\"")).await;
    for ((_, method, target, body), throttled) in
        requests.iter().zip([false, false, true, true, true, true, true, true])
    {
        let answer = gateway.ask(method, target, &[], body).await;
        assert_eq!(answer.header("retry-after") == Some("10"), throttled, "{target}: all count together");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_speaks_to_each_sdk_as_it_has_to() {
    for (agent, code) in [
        ("sendly-rs/7.0.0", "rate_limit_exceeded"),
        ("@sendly/node/3.31.0", "rate_limit_exceeded"),
        ("sendly-python/4.5.1", "rate_limit_wait"),
        ("sendly-go/4.3.0", "rate_limit_wait"),
        // It would sleep by the header, which is not there then.
        ("sendly-go/4.2.0", "rate_limit_exceeded"),
    ] {
        let gateway = gateway_with(&throttle("account", "\"any\"")).await;
        for _ in 0..2 {
            check(&gateway, &[]).await;
        }
        let answer = check(&gateway, &[("user-agent", agent)]).await;
        assert_eq!(answer.error(), code, "{agent}");
        assert_eq!(answer.header("retry-after").is_some(), agent != "sendly-go/4.2.0", "{agent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_request_is_answered_before_its_body_has_come() {
    let gateway = gateway_with(&throttle("account", "\"any\"")).await;
    for _ in 0..2 {
        check(&gateway, &[]).await;
    }
    let head = |more: &str| {
        format!(
            "POST /api/v1/verify HTTP/1.1\r\nhost: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n{more}\r\n"
        )
    };
    let mut waits = gateway.connect().await;
    waits.write(head("content-length: 30\r\nexpect: 100-continue\r\n")).await;
    assert_eq!(waits.answer().await.unwrap().status, 429, "and is not told to go on");
    assert!(waits.is_closed().await);
    for framing in ["content-length: 1000000000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut silent = gateway.connect().await;
        silent.write(head(framing)).await;
        assert_eq!(silent.answer().await.unwrap().status, 429, "{framing}");
        assert!(silent.is_closed().await, "nobody waits for the rest");
    }
    let mut keeps = gateway.connect().await;
    for _ in 0..2 {
        keeps.request("POST", "/api/v1/verify", &[], send_body(PHONE).as_bytes()).await;
        assert_eq!(keeps.answer().await.unwrap().status, 429, "one whose body is there keeps its connection");
    }
    assert_eq!(gateway.upstream.codes(PHONE), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_believed_about_the_clients_address_unless_he_is_trusted() {
    for (one, other) in [("203.0.113.1", "203.0.113.2"), ("203.0.113.1", "2001:db8::1"), ("127.0.0.1", "10.0.0.1")] {
        let (one, other) = ([("x-forwarded-for", one)], [("x-forwarded-for", other)]);
        assert!(are_one("[]", &one, &other).await);
        assert!(are_one("[\"10.0.0.0/8\"]", &one, &other).await, "whoever the header names");
        assert!(are_one("[]", &[], &other).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_tells_the_client_and_the_client_tells_nothing() {
    let trusted = r#"["127.0.0.0/8", "10.0.0.0/8", "2001:db8:ffff::/48"]"#;
    let client = [("x-forwarded-for", "203.0.113.9")];
    for forwarded in [
        &["203.0.113.9"][..],
        &[" 203.0.113.9 "],
        &["::ffff:203.0.113.9"],
        &["198.51.100.1, 203.0.113.9"],
        &["198.51.100.1,203.0.113.9, 10.1.2.3,127.0.0.9"],
        &["198.51.100.1", "203.0.113.9"],
        &["203.0.113.9", "10.1.2.3", "2001:db8:ffff::1"],
        &["10.0.0.1, 203.0.113.9"],
        &["unknown, 203.0.113.9"],
        &["\u{e9}\u{ff}, 203.0.113.9"],
        &[", , 203.0.113.9, 10.1.2.3"],
    ] {
        let forwarded: Vec<(&str, &str)> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
        assert!(are_one(trusted, &client, &forwarded).await, "{forwarded:?}");
    }
    for forwarded in ["203.0.113.10", "203.0.113.9, 203.0.113.10", "203.0.113.9, unknown", "10.1.2.3", ""] {
        assert!(!are_one(trusted, &client, &[("x-forwarded-for", forwarded)]).await, "{forwarded:?}");
    }
    let v6 = |address| [("x-forwarded-for", address)];
    assert!(are_one(trusted, &v6("2001:db8::1"), &v6("2001:db8::ffff:2")).await, "a host has a whole /64");
    assert!(!are_one(trusted, &v6("2001:db8::1"), &v6("2001:db8:0:1::1")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_back_at_the_start_are_forgotten() {
    let config = format!("clients.trusted_proxies = [\"127.0.0.0/8\"]\n{}", throttle("client", "[\"check\"]"));
    let gateway = gateway_with(&config).await;
    for host in 0..50 {
        assert!(!is_throttled(&gateway, &[("x-forwarded-for", &format!("203.0.113.{host}"))]).await);
    }
    let swept = "sendly_gateway_swept_total{what=\"throttles\"}";
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.metric(swept).await, 0);
    gateway.wait(Duration::from_secs(20));
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.metric(swept).await, 50);
}
