//! Who may ask, what is there to ask for, and what every answer carries.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn only_keys_of_sendlys_form_are_let_in() {
    let rig = Rig::new();
    let with = |value: Option<&str>| {
        let mut request = rig.request("GET", "/verify", "");
        request.headers_mut().remove("authorization");
        if let Some(value) = value {
            request.headers_mut().insert("authorization", value.parse().unwrap());
        }
        told(&rig.answer(&request))
    };
    for value in [None, Some(""), Some("Bearer"), Some("Bearer "), Some(TEST_KEY), Some("Basic c2s6"), Some("\u{e9} x")]
    {
        assert_eq!(error(with(value)), (401, "unauthorized".into()), "{value:?}");
    }
    for value in ["x", "sk_test_v1_", "sk_test_a", "sk_prod_v1_a", "SK_TEST_v1_a", "sk_test_v1_a b", "sk_live_v1_é"] {
        let (status, code) = error(with(Some(&format!("Bearer {value}"))));
        assert_eq!(status, 401, "{value}");
        assert!(code == "invalid_api_key" || !value.is_ascii(), "{value}: {code}");
    }
    assert_eq!(with(Some("bearer  sk_live_v1_a ")).0, 200);
    let mut two = rig.request("GET", "/verify", "");
    two.headers_mut().append("authorization", "Bearer sk_test_v1_b".parse().unwrap());
    assert_eq!(error(told(&rig.answer(&two))), (401, "unauthorized".into()));
}

#[test]
fn a_send_only_key_reads_nothing() {
    let rig = Rig { key: "sk_test_v1_sendonly_1", ..Rig::new() };
    let (id, code) = rig.begun("+15550100004");
    for path in ["/verify".to_owned(), format!("/verify/{id}"), "/verify/profiles".to_owned()] {
        assert_eq!(error(rig.get(&path)), (403, "insufficient_permissions".into()), "{path}");
    }
    let (_, body) = rig.resend(&id);
    assert_ne!(text(&body, "sandbox_code"), code);
    assert_eq!(rig.check(&id, &text(&body, "sandbox_code")).0, 200);
}

#[test]
fn an_account_sees_only_its_own() {
    let rig = Rig::new();
    let (id, code) = rig.begun("+15550100004");
    let (_, profile) = rig.ask("POST", "/verify/profiles", r#"{"name":"p"}"#);
    let other = Rig { key: "sk_test_v1_b", ..rig };
    let not_found = (404, "not_found".to_owned());
    assert_eq!(error(other.get(&format!("/verify/{id}"))), not_found);
    assert_eq!(error(other.check(&id, &code)), not_found);
    assert_eq!(error(other.resend(&id)), not_found);
    assert_eq!(other.get("/verify").1["verifications"], json!([]));
    let profile = format!("/verify/profiles/{}", text(&profile, "id"));
    assert_eq!(error(other.get(&profile)), not_found);
    assert_eq!(error(other.ask("PATCH", &profile, "{}")), not_found);
    assert_eq!(error(other.ask("DELETE", &profile, "")), not_found);
    assert_eq!(other.get("/verify/profiles").1, json!({ "profiles": [] }));
    let back = Rig { key: TEST_KEY, ..other };
    assert_eq!((back.get(&format!("/verify/{id}")).0, back.get(&profile).0), (200, 200));
}

#[test]
fn what_is_not_there_is_not_found() {
    let rig = Rig::new();
    for (method, path) in [
        ("GET", "/verify/ver_0"),
        ("POST", "/verify/ver_0/resend"),
        ("POST", "/verify/ver_0/cancel"),
        ("PUT", "/verify"),
        ("GET", "/verify/sessions"),
        ("POST", "/verify/profiles/resend"),
        ("GET", "/verify/profiles/vp_0"),
        ("POST", "/messages"),
        ("GET", "/"),
    ] {
        assert_eq!(error(rig.ask(method, path, "{}")), (404, "not_found".into()), "{method} {path}");
    }
    assert_eq!(error(rig.check("ver_0", "123456")), (404, "not_found".into()));
}

#[test]
fn profiles_can_be_kept() {
    let rig = Rig::new();
    let (status, made) = rig.ask("POST", "/verify/profiles", r#"{"name":"p","code_length":8,"id":"mine"}"#);
    assert_eq!((status, &made["code_length"]), (201, &8.into()));
    let id = text(&made, "id");
    assert!(id.starts_with("vp_"), "{id}");
    let path = format!("/verify/profiles/{id}");
    assert_eq!(rig.get(&path), (200, made.clone()));
    assert_eq!(rig.get("/verify/profiles"), (200, json!({ "profiles": [made] })));
    rig.pass(1);
    let (_, changed) = rig.ask("PATCH", &path, r#"{"name":"q","id":"x"}"#);
    let expected = json!({
        "id": id, "name": "q", "code_length": 8,
        "created_at": "2026-11-23T09:00:00.123Z", "updated_at": "2026-11-23T09:00:01.123Z",
    });
    assert_eq!(changed, expected);
    assert_eq!(rig.ask("DELETE", &path, "").0, 204);
    assert_eq!(error(rig.get(&path)), (404, "not_found".into()));
    let fat = json!({ "name": "x".repeat(5000) });
    for body in ["{}".to_owned(), fat.to_string()] {
        assert_eq!(error(rig.ask("POST", "/verify/profiles", body)), (400, "invalid_request".into()));
    }
}

#[test]
fn sessions_open_and_are_never_valid() {
    let rig = Rig::new();
    let (status, session) = rig.ask("POST", "/verify/sessions", r#"{"success_url":"https://example.com/done"}"#);
    assert_eq!((status, &session["status"]), (201, &"pending".into()));
    assert_eq!(rig.ask("POST", "/verify/sessions/validate", r#"{"token":"t"}"#), (200, json!({ "valid": false })));
    for path in ["/verify/sessions", "/verify/sessions/validate"] {
        assert_eq!(error(rig.ask("POST", path, "{}")), (400, "invalid_request".into()), "{path}");
    }
}

#[test]
fn every_answer_tells_the_request_quota_in_integers() {
    let rig = Rig::new();
    let quota = |request: &Request<String>| {
        let response = rig.answer(request);
        ["limit", "remaining", "reset"]
            .map(|name| response.headers()[format!("x-ratelimit-{name}")].to_str().unwrap().parse::<u64>().unwrap())
    };
    assert_eq!(quota(&rig.request("POST", "/verify", json!({ "to": PHONE }))), [60, 59, 60]);
    rig.pass(20);
    assert_eq!(quota(&rig.request("POST", "/verify", "not JSON")), [60, 58, 40]);
    for _ in 0..60 {
        rig.get("/verify");
    }
    let over = rig.request("GET", "/verify", "");
    assert_eq!((quota(&over), rig.answer(&over).status().as_u16()), ([60, 0, 40], 200));
    let live = Rig { key: LIVE_KEY, ..Rig::new() };
    assert_eq!(quota(&live.request("GET", "/verify", "")), [600, 599, 60]);
}

proptest! {
    /// Whatever stands in a request, it gets an answer: a JSON one, that blames the client or nobody.
    #[test]
    fn no_request_breaks_the_sandbox(
        method in "(GET|POST|PUT|PATCH|DELETE|HEAD|X)",
        segments in proptest::collection::vec("(verify|profiles|sessions|validate|ID|resend|check|%[0-9a-f]{0,2}|[!-~&&[^?#]]{0,5})", 0..4),
        query in "(limit=[0-9x]{0,3}|status=[a-z]{0,8}|[!-~&&[^#]]{0,5})",
        headers in proptest::collection::vec(("(authorization|content-type|idempotency-key)", "[ -~\u{e9}]{0,20}"), 0..3),
        body in prop_oneof![
            "[ -~\u{0}\u{e9}]{0,30}",
            r#"\{"(to|code|name|success_url|token)":("[+0-9]{0,16}"|null|-?[0-9]{1,30}|\[\{\}\])(,"(timeout_secs|code_length|id)":-?[0-9.e]{1,5})?\}"#,
        ],
    ) {
        let rig = Rig::new();
        let (id, _) = rig.begun("+15550100004");
        let path = format!("/verify/{}?{query}", segments.join("/").replace("ID", &id));
        let uri = format!("/api/v1{path}").parse::<http::Uri>();
        prop_assume!(uri.is_ok());
        let mut request = rig.request(&method, &path, body);
        for (name, value) in headers {
            request.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), http::HeaderValue::try_from(value).unwrap());
        }
        let (status, _) = told(&rig.answer(&request));
        prop_assert!(status < 500, "{status}");
    }
}
