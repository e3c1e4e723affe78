//! The phones that make trouble, and Sendly's own limits.

use serde_json::json;

use super::*;
use crate::sandbox::reply::Leaves;

#[test]
fn the_last_four_digits_decide() {
    let rig = Rig::new();
    for (phone, expected, sent) in [
        ("+15550100001", (400, "unsupported_destination"), 0),
        ("+15550100002", (402, "insufficient_credits"), 0),
        ("+15550100003", (500, "delivery_failed"), 0),
        ("+15550100005", (500, "internal_error"), 1),
        ("+15550100008", (429, "rate_limit_exceeded"), 0),
    ] {
        assert_eq!(error(rig.send(phone)), (expected.0, expected.1.to_owned()), "{phone}");
        assert_eq!(rig.sent(phone), sent, "{phone}");
    }
    for (phone, leaves) in [
        ("+15550100004", Leaves::AtOnce),
        ("+15550100006", Leaves::Never),
        ("+15550100007", Leaves::WhenReleased),
        ("+15550100000", Leaves::AtOnce),
        ("+15550100009", Leaves::AtOnce),
    ] {
        let request = rig.request("POST", "/verify", json!({ "to": phone }));
        let begun = rig.sandbox.begin(&request, rig.clock.now());
        assert_eq!((begun.reply.status.as_u16(), begun.reply.leaves), (201, leaves), "{phone}");
        assert_eq!(rig.sent(phone), 1, "{phone}");
    }
    assert_eq!(rig.sandbox.sent_total(), 6);
}

#[test]
fn what_no_carrier_takes_has_failed() {
    let rig = Rig::new();
    rig.send("+15550100003");
    let (_, listed) = rig.get("/verify");
    let failed = &listed["verifications"][0];
    assert_eq!((&failed["status"], &failed["delivery_status"]), (&"failed".into(), &"failed".into()));
    let id = text(failed, "id");
    assert_eq!(error(rig.resend(&id)), (400, "invalid_state".into()));
    assert_eq!(error(rig.check(&id, "123456")), (400, "invalid_state".into()));
}

#[test]
fn what_does_not_arrive_says_so() {
    let rig = Rig::new();
    let (id, _) = rig.begun("+15550100004");
    let (_, read) = rig.get(&format!("/verify/{id}"));
    assert_eq!((&read["status"], &read["delivery_status"]), (&"pending".into(), &"failed".into()));
}

#[test]
fn a_resend_meets_the_fate_of_its_phone() {
    let rig = Rig::new();
    rig.send("+15550100005");
    let id = text(&rig.get("/verify").1["verifications"][0], "id");
    rig.pass(300);
    assert_eq!(error(rig.resend(&id)), (500, "internal_error".into()));
    assert_eq!(rig.sent("+15550100005"), 2);
}

/// Sendly's documented answer, to the letter.
const TOO_MANY: &str = r#"{"error":"rate_limit_exceeded","message":"Too many OTPs sent to this phone number. Max 5 per 10 minutes.","retryAfter":600}"#;

#[test]
fn the_sixth_code_in_ten_minutes_is_refused_as_documented() {
    let rig = Rig::limited();
    let (id, _) = rig.begun("+15550100004");
    for _ in 0..4 {
        rig.pass(10);
        assert_eq!(rig.resend(&id).0, 200, "resends count");
    }
    rig.pass(559);
    let sixth = rig.answer(&rig.request("POST", "/verify", json!({ "to": "+15550100004" })));
    assert_eq!((sixth.status().as_u16(), sixth.body().as_ref()), (429, TOO_MANY.as_bytes()));
    assert!(!sixth.headers().contains_key("retry-after"));
    assert_eq!(sixth.headers()["content-type"], "application/json");
    assert_eq!(error(rig.resend(&id)).0, 429, "a resend too");
    rig.pass(1);
    rig.begun("+15550100004");
    assert_eq!(error(rig.send("+15550100004")).0, 429, "the window slides");
    assert_eq!(rig.sent("+15550100004"), 6);
    rig.begun(PHONE);
}

#[test]
fn a_phone_gets_twenty_codes_a_day() {
    let rig = Rig::limited();
    for _ in 0..20 {
        rig.begun(PHONE);
        rig.pass(600);
    }
    let (status, body) = rig.send(PHONE);
    assert_eq!((status, &body["retryAfter"]), (429, &86_400.into()));
    rig.pass(86_400 - 20 * 600);
    rig.begun(PHONE);
}

#[test]
fn an_account_sends_a_hundred_codes_a_minute() {
    let rig = Rig { key: LIVE_KEY, ..Rig::limited() };
    let phone = |n: u32| format!("+1555010{:04}", 1000 + n);
    for n in 0..100 {
        assert_eq!(rig.send(&phone(n)).0, 201);
    }
    let (status, body) = rig.send(&phone(100));
    assert_eq!((status, &body["retryAfter"]), (429, &60.into()));
    let other = Rig { key: "sk_live_v1_b", ..rig };
    assert_eq!(other.send(&phone(100)).0, 201);
}

#[test]
fn a_test_key_has_sixty_requests_a_minute() {
    let rig = Rig::limited();
    for _ in 0..60 {
        assert_eq!(rig.get("/verify").0, 200);
    }
    rig.pass(59);
    let (status, body) = rig.get("/verify");
    assert_eq!((status, &body["error"], &body["retryAfter"]), (429, &"rate_limit_exceeded".into(), &1.into()));
    rig.pass(1);
    assert_eq!(rig.get("/verify").0, 200);
}

#[test]
fn without_the_switch_nothing_is_limited() {
    let rig = Rig::new();
    for _ in 0..120 {
        rig.begun(PHONE);
    }
    assert_eq!(rig.sent(PHONE), 120);
}
