//! The admin API: who may ask what, what the answers say, and that what is changed is changed.

use std::time::Duration;

use crate::client::{Answer, Wire};
use crate::start::{Gateway, gateway, gateway_with};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const DIGITS: &str = "15550100123";
const WITH_TOKEN: &str = "admin.token = \"0123456789abcdef\"\n";
const BEARER: [(&str, &str); 2] = [("authorization", "Bearer 0123456789abcdef"), ("x-operator", "ada")];

/// What asks for the token.
const GUARDED: [(&str, &str); 8] = [
    ("PUT", "/v1/log"),
    ("GET", "/v1/phones/15550100123"),
    ("DELETE", "/v1/phones/15550100123"),
    ("GET", "/v1/verifications/ver_1"),
    ("GET", "/v1/exemptions"),
    ("GET", "/v1/exemptions/15550100123"),
    ("PUT", "/v1/exemptions/15550100123"),
    ("DELETE", "/v1/exemptions/15550100123"),
];

/// What does not.
const OPEN: [&str; 7] = ["/", "/metrics", "/livez", "/readyz", "/v1/status", "/v1/config", "/v1/openapi.json"];

async fn token() -> Gateway {
    gateway_with(WITH_TOKEN).await
}

impl Gateway {
    async fn asks(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut wire = Wire::connect(self.running.admin_address).await;
        wire.request(method, path, headers, body.as_bytes()).await;
        wire.answer().await.expect("the connection ends without an answer")
    }

    /// With the token; it has to be answered.
    async fn admin(&self, method: &str, path: &str) -> serde_json::Value {
        let answer = self.asks(method, path, &BEARER, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains(&DIGITS[4..]), "a phone is in {text}");
        answer.json()
    }

    async fn changes(&self, action: &str) -> u64 {
        self.metric(&format!("sendly_gateway_admin_changes_total{{action=\"{action}\"}}")).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_in_the_configuration_nothing_is_changed_and_no_phone_is_told_of() {
    let gateway = gateway().await;
    gateway.send_ok(PHONE).await;
    for (method, path) in GUARDED {
        let answer = gateway.asks(method, path, &BEARER, "{\"filter\":\"trace\"}").await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (403, "token_not_configured"), "{method} {path}");
        assert!(answer.json()["message"].as_str().unwrap().contains("admin.token"), "it says which key to set");
    }
    for path in OPEN {
        assert_eq!(gateway.asks("GET", path, &[], "").await.status, 200, "{path}");
    }
    assert_eq!(gateway.codes_left(PHONE).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_token_or_none_is_refused() {
    let gateway = token().await;
    for (method, path) in GUARDED {
        for shown in ["Bearer 0123456789abcdeg", "Bearer ", "0123456789abcdef", "Basic 0123456789abcdef", "", "Bearer"]
        {
            let answer = gateway.asks(method, path, &[("authorization", shown)], "").await;
            assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "unauthorized"), "{path} {shown}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let scheme = [("authorization", "bearer  0123456789abcdef")];
    assert_eq!(gateway.asks("GET", "/v1/exemptions", &scheme, "").await.status, 200, "its scheme has no letter case");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_is_told_how_it_stands_under_either_spelling() {
    let gateway = token().await;
    gateway.send_ok(PHONE).await;
    gateway.wait(Duration::from_millis(60_500));
    for _ in 0..4 {
        gateway.send_ok(PHONE).await;
    }
    for path in ["/v1/phones/%2B15550100123", "/v1/phones/+15550100123", "/v1/phones/15550100123"] {
        let told = gateway.admin("GET", path).await;
        assert_eq!(told["phone"], "+1555•••0123");
        let limits = told["limits"].as_array().unwrap();
        assert_eq!((limits.len(), &limits[0]["name"]), (2, &"phone-10m".into()), "those per phone alone");
        assert_eq!((&limits[0]["max"], &limits[0]["used"], &limits[0]["remaining"]), (&5.into(), &5.into(), &0.into()));
        assert_eq!((&limits[1]["used"], &limits[1]["remaining"]), (&5.into(), &15.into()));
        let next = serde_json::json!({ "at": "2026-11-23T09:10:00.000Z", "seconds": 540 });
        assert_eq!((&limits[0]["next"], &told["next"]), (&next, &next), "539.5 s, rounded up");
        assert_eq!((&limits[1]["next"]["seconds"], &told["hold"]), (&0.into(), &serde_json::Value::Null));
    }
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 540, "as the refusal says");
    let unknown = gateway.admin("GET", "/v1/phones/4915112345678").await;
    assert_eq!((&unknown["limits"][0]["used"], &unknown["next"]["seconds"]), (&0.into(), &0.into()));
    for wrong in ["abc", "%2B", "05550100123", "1234567890123456", "%2B%2B15550100123"] {
        let answer = gateway.asks("GET", &format!("/v1/phones/{wrong}"), &BEARER, "").await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, "invalid_phone_format"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_of_sendlys_is_told_and_cleared_with_the_counts() {
    let gateway = token().await;
    gateway.send_ok(PHONE).await;
    gateway
        .upstream
        .script(|_| Act::json(429, &serde_json::json!({ "error": "rate_limit_exceeded", "retryAfter": 90 })));
    assert_eq!(gateway.send(PHONE).await.status, 429);
    gateway.upstream.behave();
    let told = gateway.admin("GET", "/v1/phones/15550100123").await;
    assert_eq!((&told["account_hold"]["seconds"], &told["hold"]), (&90.into(), &serde_json::Value::Null));
    assert_eq!(told["next"]["seconds"], 0, "other accounts may send to it");
    let cleared = gateway.admin("DELETE", "/v1/phones/15550100123").await;
    assert_eq!(cleared["cleared"], serde_json::json!({ "codes": 1, "cooldowns": 0, "hold": true }));
    gateway.send_ok(PHONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_a_phone_gives_it_its_full_limits_and_touches_nobody_else() {
    let gateway = token().await;
    for phone in [PHONE, "+15550100124"] {
        for _ in 0..5 {
            gateway.send_ok(phone).await;
        }
    }
    assert_eq!(gateway.send(PHONE).await.status, 429);
    let cleared = gateway.admin("DELETE", "/v1/phones/%2B15550100123").await;
    assert_eq!(
        cleared,
        serde_json::json!({ "phone": "+1555•••0123", "cleared": { "codes": 5, "cooldowns": 0, "hold": false } })
    );
    assert_eq!(gateway.changes("clear_phone").await, 1);
    assert_eq!(gateway.send("+15550100124").await.status, 429);
    assert_eq!(gateway.codes_left(PHONE).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_whose_phone_was_cleared_can_ask_for_a_code_at_once() {
    let gateway = token().await;
    let id = gateway.send_ok(PHONE).await;
    assert_eq!(gateway.resend(&id).await.status, 200);
    assert_eq!(gateway.resend(&id).await.error(), "resend_cooldown");
    let cleared = gateway.admin("DELETE", "/v1/phones/15550100123").await;
    assert_eq!(cleared["cleared"], serde_json::json!({ "codes": 2, "cooldowns": 1, "hold": false }));
    assert_eq!(gateway.resend(&id).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_is_told_with_its_phone_and_its_cooldown() {
    let gateway = token().await;
    let id = gateway.send_ok(PHONE).await;
    let path = format!("/v1/verifications/{id}");
    let told = gateway.admin("GET", &path).await;
    assert_eq!(
        (&told["known"], &told["phone"], &told["is_root"]),
        (&true.into(), &"+1555•••0123".into(), &true.into())
    );
    assert_eq!((&told["limits"][0]["name"], &told["next"]["seconds"]), (&"resend-cooldown".into(), &0.into()));
    assert_eq!(gateway.resend(&id).await.status, 200);
    gateway.wait(Duration::from_secs(20));
    let told = gateway.admin("GET", &path).await;
    assert_eq!((&told["limits"][0]["used"], &told["next"]["seconds"]), (&1.into(), &40.into()));
    assert!(!told["root"].as_str().unwrap().contains(&id), "a hash");
    assert_eq!(gateway.admin("GET", "/v1/verifications/ver_nobody").await, serde_json::json!({ "known": false }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exempt_phone_is_never_refused_and_is_charged_all_the_same() {
    let gateway = token().await;
    let exempt = gateway.admin("PUT", "/v1/exemptions/15550100123?for=10m").await;
    assert_eq!(exempt["exempt"]["until"]["seconds"], 600);
    for _ in 0..8 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!((gateway.decided("phone-10m", "allow").await, gateway.decided("phone-10m", "exempt").await), (5, 3));
    assert_eq!(gateway.decided("phone-10m", "deny").await, 0);
    let told = gateway.admin("GET", "/v1/phones/15550100123").await;
    assert_eq!((&told["limits"][0]["used"], &told["exempt"]["by"]), (&8.into(), &"admin".into()));
    assert_eq!(gateway.admin("GET", "/v1/exemptions").await["exemptions"][0]["phone"], "+1555•••0123");
    gateway.admin("DELETE", "/v1/exemptions/15550100123").await;
    assert_eq!(gateway.send(PHONE).await.status, 429, "its codes were charged");
    assert_eq!(gateway.asks("DELETE", "/v1/exemptions/15550100123", &BEARER, "").await.status, 404);
    assert_eq!((gateway.changes("exempt").await, gateway.changes("unexempt").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exemption_ends_when_it_says() {
    let gateway = token().await;
    gateway.admin("PUT", "/v1/exemptions/15550100123").await;
    for _ in 0..6 {
        gateway.send_ok(PHONE).await;
    }
    gateway.wait(Duration::from_secs(9 * 60));
    gateway.admin("PUT", "/v1/exemptions/15550100123?for=30s").await;
    gateway.wait(Duration::from_secs(29));
    gateway.send_ok(PHONE).await;
    gateway.wait(Duration::from_secs(1));
    assert_eq!(gateway.send(PHONE).await.status, 429);
    assert_eq!(gateway.admin("GET", "/v1/exemptions").await["exemptions"], serde_json::json!([]));
    for wrong in ["for=8d", "for=0s", "for=soon"] {
        let answer = gateway.asks("PUT", &format!("/v1/exemptions/15550100123?{wrong}"), &BEARER, "").await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, "invalid_request"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_of_the_configuration_is_exempt_for_good_but_not_from_sendlys_hold() {
    let gateway = gateway_with(&format!("exempt = [\"{PHONE}\"]\n{WITH_TOKEN}")).await;
    for _ in 0..6 {
        gateway.send_ok(PHONE).await;
    }
    for (method, status) in [("DELETE", 409), ("PUT", 200), ("GET", 200)] {
        let answer = gateway.asks(method, "/v1/exemptions/15550100123", &BEARER, "").await;
        assert_eq!(answer.status.as_u16(), status, "{method}");
        assert!(status != 200 || answer.json()["exempt"]["by"] == "configuration");
    }
    gateway
        .upstream
        .script(|_| Act::json(429, &serde_json::json!({ "error": "rate_limit_exceeded", "retryAfter": 90 })));
    gateway.send(PHONE).await;
    gateway.upstream.behave();
    let asked = gateway.upstream.seen().len();
    assert_eq!(gateway.send(PHONE).await.status, 429);
    assert_eq!(gateway.upstream.seen().len(), asked, "Sendly is not asked");
    let wrong = gateway.asks("GET", "/v1/config", &[], "").await;
    assert_eq!(wrong.json()["exempt"][0], "+1555•••0123");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_what_was_counted() {
    let gateway = gateway_with("[[limits]]\nname = \"few\"\nper = \"phone\"\nmax = 2\nwindow = \"1h\"\n[[limits]]\nname = \"all\"\nper = \"account\"\nmax = 3\nwindow = \"1h\"\n").await;
    gateway.wait(Duration::from_secs(5));
    for _ in 0..5 {
        gateway.send("+12125550123").await;
    }
    for phone in ["+4915112345678", "+33612345678"] {
        gateway.send(phone).await;
    }
    gateway.ask("GET", "/api/v1/verify", &[], "").await;
    gateway.is_idle().await;
    let status = gateway.asks("GET", "/v1/status", &[], "").await.json();
    assert_eq!((&status["ready"], &status["why"]), (&true.into(), &serde_json::Value::Null));
    let requests = &status["requests"];
    assert_eq!((&requests["total"]["allowed"], &requests["hour"]["refused"]), (&3.into(), &4.into()));
    assert_eq!((&requests["per_second"]["refused"], &requests["total"]["passed"]), (&0.8.into(), &1.into()));
    assert_eq!(status["credits"]["sent"]["hour"], 2 + 2 + 16);
    assert_eq!(
        (&status["codes"]["refused"]["total"], &status["credits"]["refused"]["total"]),
        (&4.into(), &(3 * 2 + 12).into())
    );
    let few = &status["limits"][0];
    assert_eq!((&few["name"], &few["hour"]["allow"], &few["hour"]["deny"]), (&"few".into(), &4.into(), &3.into()));
    let most = status["refused"]["most"].as_array().unwrap();
    let shown = |nth: usize| {
        (most[nth]["key"].as_str().unwrap(), most[nth]["limit"].as_str().unwrap(), most[nth]["count"].as_u64().unwrap())
    };
    assert_eq!(shown(0), ("+1212•••0123", "few", 3));
    assert_eq!((most.len(), shown(1).1, shown(1).0.len()), (2, "all", 12), "an account, by what logs show of it");
    assert_eq!(status["upstream"]["hour"]["answers"], 3);
    assert_eq!(
        status["minutes"].as_array().unwrap().iter().map(|minute| minute["refused"].as_u64().unwrap()).sum::<u64>(),
        4
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_no_token_shows_no_phone_in_full_and_no_secret() {
    let gateway =
        gateway_with(&format!("exempt = [\"+4915112345678\"]\nhash_key = \"fedcba9876543210\"\n{WITH_TOKEN}")).await;
    for _ in 0..7 {
        gateway.send(PHONE).await;
    }
    for path in OPEN {
        let text = String::from_utf8(gateway.asks("GET", path, &[], "").await.body).unwrap();
        for secret in [&DIGITS[4..], "15112345678", "fedcba", "0123456789abcdef", "sk_test"] {
            assert!(path == "/v1/openapi.json" || !text.contains(secret), "{secret} is in {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_runs_nothing_but_its_own_script_and_is_framed_by_nobody() {
    let gateway = gateway().await;
    let page = gateway.asks("GET", "/", &[], "").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    for rule in
        ["default-src 'none'", "script-src 'nonce-", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"));
    assert_eq!(
        (page.header("x-content-type-options"), page.header("cache-control")),
        (Some("nosniff"), Some("no-store"))
    );
    let again = gateway.asks("GET", "/", &[], "").await;
    assert_ne!(again.header("content-security-policy"), page.header("content-security-policy"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_says_where_to_look() {
    let gateway = token().await;
    for path in ["/v1", "/v1/", "/v1/phones", "/v1/phones/1/2", "/v2/status", "/page.html"] {
        let answer = gateway.asks("GET", path, &BEARER, "").await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (404, "not_found"), "{path}");
    }
    let answer = gateway.asks("POST", "/v1/phones/15550100123", &BEARER, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some("GET, HEAD, DELETE")));
    let mut wire = Wire::connect(gateway.running.admin_address).await;
    wire.request("HEAD", "/v1/status", &[], b"").await;
    let head = wire.bodiless_answer().await.unwrap();
    assert!(head.status == 200 && head.header("content-length").unwrap().parse::<usize>().unwrap() > 500);
    let long = "x".repeat(5000);
    assert_eq!(gateway.asks("PUT", "/v1/log", &BEARER, &long).await.status, 413);
    for wrong in ["", "{}", "{\"filter\":5}", "{\"filter\":\"inf\"}", "{\"filter\":\"info,[x]\"}"] {
        assert_eq!(gateway.asks("PUT", "/v1/log", &BEARER, wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_the_token_and_who_is_exempt_but_ends_no_exemption_for_a_while() {
    let gateway = token().await;
    gateway.admin("PUT", "/v1/exemptions/15550100124?for=10m").await;
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!(gateway.send(PHONE).await.status, 429);
    // Looked at before the limits change, as it is once a second.
    gateway.asks("GET", "/v1/status", &[], "").await;
    let limits = "[[limits]]\nname = \"new\"\nper = \"phone\"\nmax = 9\nwindow = \"1h\"\n[[limits]]\nname = \"phone-10m\"\nper = \"phone\"\nmax = 5\nwindow = \"10m\"\n";
    let other = format!("exempt = [\"{PHONE}\"]\nadmin.token = \"another-token-0123\"\n{limits}");
    assert_eq!(gateway.reload(&other).await.changed, ["admin", "limits", "exempt"]);
    assert_eq!(gateway.asks("GET", "/v1/exemptions", &BEARER, "").await.status, 401);
    gateway.send_ok(PHONE).await;
    assert_eq!(gateway.decided("phone-10m", "exempt").await, 1);
    let bearer = [("authorization", "Bearer another-token-0123")];
    let exempt = gateway.asks("GET", "/v1/exemptions", &bearer, "").await.json();
    assert_eq!(exempt["exemptions"].as_array().unwrap().len(), 2);
    let status = gateway.asks("GET", "/v1/status", &[], "").await.json();
    let hour = |nth: usize| &status["limits"][nth]["hour"];
    assert_eq!((&hour(0)["allow"], &hour(0)["deny"]), (&1.into(), &0.into()), "a limit that is new");
    let expected = [("allow", 5), ("deny", 1), ("exempt", 1)];
    assert!(
        expected.iter().all(|(verdict, count)| hour(1)[verdict] == *count),
        "one that has another place now: {status}"
    );
    assert_eq!(status["refused"]["most"][0]["limit"], "phone-10m");

    gateway.reload("").await;
    assert_eq!(gateway.send(PHONE).await.status, 429);
    assert_eq!(gateway.asks("GET", "/v1/exemptions", &bearer, "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_that_has_its_name_lead_to_the_listener_reads_nothing_there() {
    let gateway = gateway_with(&format!("{WITH_TOKEN}admin.hosts = [\"gateway.internal\"]\n")).await;
    let ask = async |path: &str, head: &str| {
        let mut wire = Wire::connect(gateway.running.admin_address).await;
        wire.write(format!("GET {path} HTTP/1.1\r\n{head}authorization: {}\r\n\r\n", BEARER[0].1)).await;
        wire.answer().await.expect("the connection ends without an answer")
    };
    let all = ["/", "/v1/status", "/v1/config", "/v1/openapi.json", "/v1/log", "/v1/phones/15550100123"];
    let foreign = "host: evil.example:9090\r\n";
    for path in all {
        assert_eq!(ask(path, foreign).await.status, 421, "{path}");
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(ask(path, foreign).await.status, 200, "{path}");
    }
    let misdirected = ask("/v1/status", foreign).await;
    assert_eq!((misdirected.status.as_u16(), misdirected.error().as_str()), (421, "unknown_host"));
    assert!(misdirected.json()["message"].as_str().unwrap().contains("admin.hosts"), "it says which key to set");
    // Two names, of which one is foreign: refused by whoever reads it first.
    for (target, hosts) in
        [("/", "host: 127.0.0.1\r\nhost: evil.example\r\n"), ("http://evil.example/", "host: localhost\r\n")]
    {
        let mut wire = Wire::connect(gateway.running.admin_address).await;
        wire.write(format!("GET {target} HTTP/1.1\r\n{hosts}\r\n")).await;
        wire.finish().await;
        assert!(wire.answer().await.is_none_or(|answer| answer.status.is_client_error()), "{target} {hosts}");
    }
    for own in ["host: 127.0.0.1:9090\r\n", "host: localhost\r\n", "host: Gateway.Internal:9090\r\n"] {
        for path in all {
            assert_ne!(ask(path, own).await.status, 421, "{path} {own}");
        }
    }
}
