//! Idempotent sends.

use serde_json::json;

use super::*;

/// A send under a key: its status, its id if it has one, and whether it was replayed.
fn send(rig: &Rig, key: &str, to: &str) -> (u16, Option<String>, bool) {
    let mut request = rig.request("POST", "/verify", json!({ "to": to }));
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    let response = rig.answer(&request);
    let replayed = response.headers().get("idempotency-replayed").is_some_and(|value| value == "true");
    let (status, body) = told(&response);
    (status, body["id"].as_str().map(str::to_owned), replayed)
}

#[test]
fn an_idempotent_send_is_replayed() {
    let rig = Rig::new();
    let (status, id, replayed) = send(&rig, "k 1", PHONE);
    assert_eq!((status, replayed), (201, false));
    rig.pass(86_399);
    assert_eq!(send(&rig, "k 1", PHONE), (201, id.clone(), true));
    assert_ne!(send(&rig, "k 2", PHONE).1, id);
    assert_eq!(rig.sent(PHONE), 2);
    rig.pass(1);
    let (status, another, replayed) = send(&rig, "k 1", PHONE);
    assert_eq!((status, replayed), (201, false), "after a day");
    assert_ne!(another, id);
}

#[test]
fn one_key_is_for_one_body() {
    let rig = Rig::new();
    send(&rig, "k", PHONE);
    let mut other = rig.request("POST", "/verify", json!({ "to": "+15550100124" }));
    other.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(error(told(&rig.answer(&other))), (422, "idempotency_key_mismatch".into()));
    assert_eq!(rig.sandbox.sent_total(), 1);
}

#[test]
fn a_key_belongs_to_its_account() {
    let rig = Rig::new();
    send(&rig, "k", PHONE);
    let other = Rig { key: "sk_test_v1_b", ..rig };
    assert_eq!(send(&other, "k", "+15550100124").0, 201);
}

#[test]
fn a_refusal_is_replayed_too() {
    let rig = Rig::new();
    assert_eq!(send(&rig, "k", "+15550100002"), (402, None, false));
    assert_eq!(send(&rig, "k", "+15550100002"), (402, None, true));
}

#[test]
fn failures_and_429_are_never_recorded() {
    let rig = Rig::new();
    for phone in ["+15550100003", "+15550100005", "+15550100008"] {
        let first = send(&rig, phone, phone);
        assert_eq!(send(&rig, phone, phone), first, "{phone}");
        assert!(!first.2);
    }
    assert_eq!(rig.sent("+15550100005"), 2);
}

#[test]
fn two_sends_in_flight_at_once_both_run() {
    let rig = Rig::new();
    let mut request = rig.request("POST", "/verify", json!({ "to": PHONE }));
    request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    let both = [(); 2].map(|()| rig.sandbox.begin(&request, rig.clock.now()));
    assert_eq!(rig.sent(PHONE), 2);
    let [_, first] = both.map(|begun| told(&rig.sandbox.complete(begun, rig.clock.now()))).map(|told| told.1);
    let id = text(&first, "id");
    let (_, replayed, _) = send(&rig, "k", PHONE);
    assert_ne!(replayed, Some(id), "the first that completed is the one");
    assert_eq!(rig.sent(PHONE), 2);
}

#[test]
fn a_key_is_printable_ascii() {
    let rig = Rig::new();
    let longest = "k".repeat(255);
    assert_eq!(send(&rig, &longest, PHONE).0, 201);
    for key in ["", "a\tb", "k\u{e9}", &"k".repeat(256)] {
        let mut request = rig.request("POST", "/verify", json!({ "to": PHONE }));
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        assert_eq!(error(told(&rig.answer(&request))), (400, "invalid_idempotency_key".into()), "{key:?}");
    }
    let mut twice = rig.request("POST", "/verify", json!({ "to": PHONE }));
    twice.headers_mut().append("idempotency-key", "a".parse().unwrap());
    twice.headers_mut().append("idempotency-key", "a".parse().unwrap());
    assert_eq!(error(told(&rig.answer(&twice))), (400, "invalid_idempotency_key".into()));
    assert_eq!(rig.sent(PHONE), 1);
}

#[test]
fn resends_and_checks_know_no_keys() {
    let rig = Rig::new();
    let (id, code) = rig.begun("+15550100004");
    let mut resend = rig.request("POST", &format!("/verify/{id}/resend"), "");
    resend.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    let codes = [(); 2].map(|()| text(&told(&rig.answer(&resend)).1, "sandbox_code"));
    assert_ne!(codes[0], codes[1]);
    assert_eq!(rig.sent("+15550100004"), 3);
    let mut check = rig.request("POST", &format!("/verify/{id}/check"), json!({ "code": wrong(&code) }));
    check.headers_mut().insert("idempotency-key", "".parse().unwrap());
    let remaining = [(); 2].map(|()| told(&rig.answer(&check)).1["remaining_attempts"].clone());
    assert_eq!(remaining, [json!(2), json!(1)]);
}
