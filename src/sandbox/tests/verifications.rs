//! Send, resend, check, get and list, over the life of a verification.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_send_answers_what_sendly_documents() {
    let rig = Rig::new();
    let (status, body) = rig.send(PHONE);
    assert_eq!(status, 201);
    let (id, code) = (text(&body, "id"), text(&body, "sandbox_code"));
    assert!(id.len() == 36 && id.starts_with("ver_") && id[4..].bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()), "{code}");
    let expected = json!({
        "id": id, "status": "pending", "phone": PHONE, "expires_at": "2026-11-23T09:05:00.123Z",
        "sandbox": true, "sandbox_code": code, "message": body["message"],
    });
    assert_eq!(body, expected);
    assert!(!text(&body, "message").contains(&code));
}

#[test]
fn a_live_key_is_shown_no_code() {
    let rig = Rig { key: LIVE_KEY, ..Rig::new() };
    let (_, body) = rig.send(PHONE);
    let names: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["expires_at", "id", "phone", "sandbox", "status"]);
    assert_eq!(body["sandbox"], false);
}

#[test]
fn timeout_and_code_length_are_clamped() {
    for (asked, expires, length) in [
        (json!({ "timeout_secs": 1, "code_length": 1 }), "2026-11-23T09:01:00.123Z", 4),
        (json!({ "timeout_secs": -5, "code_length": -5 }), "2026-11-23T09:01:00.123Z", 4),
        (json!({ "timeout_secs": 90.5, "code_length": 7 }), "2026-11-23T09:01:30.123Z", 7),
        (json!({ "timeout_secs": 1e300, "code_length": u64::MAX }), "2026-11-23T10:00:00.123Z", 10),
        (json!({ "timeout_secs": null, "code_length": null }), "2026-11-23T09:05:00.123Z", 6),
    ] {
        let rig = Rig::new();
        let mut asked = asked;
        asked["to"] = PHONE.into();
        let (_, body) = rig.ask("POST", "/verify", &asked);
        assert_eq!(
            (text(&body, "expires_at").as_str(), text(&body, "sandbox_code").len()),
            (expires, length),
            "{asked}"
        );
    }
}

#[test]
fn a_send_that_cannot_be_read_is_refused() {
    let rig = Rig::new();
    for body in ["", "{", "null", "[]", "7", "{}", r#"{"to":7}"#, r#"{"to":null}"#, "to=%2B15550100123"] {
        assert_eq!(error(rig.ask("POST", "/verify", body)), (400, "invalid_request".into()), "{body}");
    }
    for field in ["timeout_secs", "code_length", "app_name", "template_id", "profile_id"] {
        let body = json!({ "to": PHONE, field: [] });
        assert_eq!(error(rig.ask("POST", "/verify", body)), (400, "invalid_request".into()), "{field}");
    }
    for to in ["", "15550100123", "+1 555 010 0123", "+1", "sms"] {
        assert_eq!(error(rig.send(to)), (400, "invalid_phone_format".into()), "{to}");
    }
    let mut form = rig.request("POST", "/verify", json!({ "to": PHONE }));
    form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(error(told(&rig.answer(&form))), (400, "invalid_request".into()));
    form.headers_mut().insert("content-type", "Application/JSON ; charset=utf-8".parse().unwrap());
    assert_eq!(told(&rig.answer(&form)).0, 201);
    assert_eq!(rig.sandbox.sent_total(), 1);
}

#[test]
fn the_right_code_verifies_and_says_so_again() {
    let rig = Rig::new();
    let (id, code) = rig.begun(PHONE);
    rig.pass(10);
    let verified = json!({ "id": id, "status": "verified", "phone": PHONE, "verified_at": "2026-11-23T09:00:10.123Z" });
    assert_eq!(rig.check(&id, &code), (200, verified.clone()));
    rig.pass(3600);
    assert_eq!(rig.check(&id, &code), (200, verified));
    assert_eq!(error(rig.check(&id, "no")), (400, "invalid_code".into()));
    assert_eq!(rig.get(&format!("/verify/{id}")).1["status"], "verified", "and stays so");
}

#[test]
fn three_wrong_codes_end_the_checks() {
    let rig = Rig::new();
    let (id, code) = rig.begun(PHONE);
    for remaining in [2, 1, 0] {
        let (status, body) = rig.check(&id, &wrong(&code));
        assert_eq!(
            (status, &body["error"], &body["remaining_attempts"]),
            (400, &"invalid_code".into(), &remaining.into())
        );
    }
    let (status, body) = rig.check(&id, &code);
    assert_eq!((status, &body["error"], &body["retryAfter"]), (429, &"max_attempts_exceeded".into(), &Value::Null));
    assert_eq!(rig.get(&format!("/verify/{id}")).1["attempts"], 3);
}

#[test]
fn a_check_needs_its_code_as_a_string() {
    let rig = Rig::new();
    let (id, _) = rig.begun(PHONE);
    for body in ["", "{}", "null", r#"{"code":123456}"#] {
        let answer = rig.ask("POST", &format!("/verify/{id}/check"), body);
        assert_eq!(error(answer), (400, "invalid_request".into()), "{body}");
    }
    assert_eq!(rig.get(&format!("/verify/{id}")).1["attempts"], 0);
}

#[test]
fn an_expired_code_is_gone() {
    let rig = Rig::new();
    let (id, code) = rig.begun(PHONE);
    rig.pass(300);
    assert_eq!(error(rig.check(&id, &code)), (410, "expired".into()));
}

#[test]
fn a_resend_is_legal_only_when_expired_or_undelivered() {
    let rig = Rig::new();
    let refused = (400, "invalid_state".to_owned());
    let (id, code) = rig.begun(PHONE);
    assert_eq!(error(rig.resend(&id)), refused, "pending");
    rig.pass(299);
    assert_eq!(error(rig.resend(&id)), refused, "pending to the last second");
    rig.pass(1);
    assert_eq!(rig.resend(&id).0, 200, "expired");
    assert_eq!(error(rig.resend(&id)), refused, "pending again");

    let (verified, its_code) = rig.begun(PHONE);
    rig.check(&verified, &its_code);
    assert_eq!(error(rig.resend(&verified)), refused, "verified");

    let (undelivered, _) = rig.begun("+15550100004");
    assert_eq!(rig.resend(&undelivered).0, 200, "not delivered");
    assert_eq!(rig.resend(&undelivered).0, 200, "nor that one");
    assert_eq!(error(rig.check(&id, &code)), (400, "invalid_code".into()), "the old code is void");
}

#[test]
fn a_resend_begins_anew() {
    let rig = Rig::new();
    let (_, body) = rig.ask("POST", "/verify", json!({ "to": PHONE, "timeout_secs": 60, "code_length": 8 }));
    let (id, code) = (text(&body, "id"), text(&body, "sandbox_code"));
    rig.check(&id, &wrong(&code));
    rig.pass(60);
    let (status, body) = rig.resend(&id);
    assert_eq!((status, text(&body, "id"), text(&body, "phone")), (200, id.clone(), PHONE.into()));
    assert_eq!(text(&body, "expires_at"), "2026-11-23T09:02:00.123Z");
    let renewed = text(&body, "sandbox_code");
    assert!(renewed != code && renewed.len() == 8, "{code} {renewed}");
    let (_, read) = rig.get(&format!("/verify/{id}"));
    assert_eq!((&read["attempts"], &read["status"]), (&0.into(), &"pending".into()));
    assert_eq!(rig.check(&id, &renewed).0, 200);
    assert_eq!((rig.sent(PHONE), rig.sandbox.sent_total()), (2, 2));
}

#[test]
fn a_resend_needs_no_body_but_takes_no_null() {
    let rig = Rig::new();
    let (id, _) = rig.begun("+15550100004");
    let path = format!("/verify/{id}/resend");
    for body in ["", "{}", "[]", r#"{"x":1}"#] {
        assert_eq!(rig.ask("POST", &path, body).0, 200, "{body:?}");
    }
    for body in ["null", "7", "{", " "] {
        assert_eq!(error(rig.ask("POST", &path, body)), (400, "invalid_request".into()), "{body:?}");
    }
    assert_eq!(rig.sent("+15550100004"), 5);
}

#[test]
fn a_resend_may_answer_a_new_id() {
    let rig = Rig::with(Options { renew_ids: true, ..Options::default() });
    let (id, _) = rig.begun(PHONE);
    rig.pass(300);
    let (status, body) = rig.resend(&id);
    assert_eq!(status, 200);
    let renewed = text(&body, "id");
    assert_ne!(renewed, id);
    assert_eq!(rig.get(&format!("/verify/{id}")).1["status"], "expired");
    assert_eq!(rig.check(&renewed, &text(&body, "sandbox_code")).0, 200);
}

#[test]
fn a_read_shows_every_documented_field() {
    let rig = Rig::new();
    let ask = json!({ "to": PHONE, "app_name": "Acme", "template_id": "tpl_1", "profile_id": "vp_1" });
    let id = text(&rig.ask("POST", "/verify", ask).1, "id");
    let expected = json!({
        "id": id, "status": "pending", "phone": PHONE, "delivery_status": "delivered", "attempts": 0,
        "max_attempts": 3, "expires_at": "2026-11-23T09:05:00.123Z", "verified_at": null,
        "created_at": "2026-11-23T09:00:00.123Z", "sandbox": true, "app_name": "Acme", "template_id": "tpl_1",
        "profile_id": "vp_1",
    });
    assert_eq!(rig.get(&format!("/verify/{id}")), (200, expected));
    let (plain, _) = rig.begun(PHONE);
    let (_, read) = rig.get(&format!("/verify/{plain}"));
    assert_eq!([&read["app_name"], &read["template_id"], &read["profile_id"]], [&Value::Null; 3]);
}

#[test]
fn a_read_flips_an_expired_verification() {
    let rig = Rig::new();
    let (id, _) = rig.begun(PHONE);
    let status = || text(&rig.get(&format!("/verify/{id}")).1, "status");
    rig.pass(299);
    assert_eq!(status(), "pending");
    rig.pass(1);
    assert_eq!(status(), "expired");
    rig.clock.set(Moment::from_micros(0));
    assert_eq!(status(), "expired", "for good");
}

#[test]
fn a_list_shows_the_newest_first() {
    let rig = Rig::new();
    let ids: Vec<_> = (0..25).map(|_| rig.begun(PHONE).0).collect();
    let listed = |query: &str| -> (Vec<String>, Value) {
        let (status, body) = rig.get(&format!("/verify{query}"));
        assert_eq!(status, 200, "{body}");
        let ids = body["verifications"].as_array().unwrap().iter().map(|each| text(each, "id")).collect();
        (ids, body["pagination"].clone())
    };
    let newest = |n: usize| ids.iter().rev().take(n).cloned().collect::<Vec<_>>();
    assert_eq!(listed(""), (newest(20), json!({ "limit": 20, "has_more": true })));
    assert_eq!(listed("?limit=1"), (newest(1), json!({ "limit": 1, "has_more": true })));
    assert_eq!(listed("?limit=25&x"), (newest(25), json!({ "limit": 25, "has_more": false })));
    assert_eq!(listed("?status=verified").0, [""; 0]);
    for query in ["?limit=0", "?limit=101", "?limit=x", "?limit=", "?status=gone"] {
        assert_eq!(error(rig.get(&format!("/verify{query}"))), (400, "invalid_request".into()), "{query}");
    }
}

#[test]
fn a_list_flips_what_has_expired_before_it_filters() {
    let rig = Rig::new();
    let (old, _) = rig.begun(PHONE);
    rig.pass(300);
    let (new, _) = rig.begun(PHONE);
    for (status, id) in [("pending", new), ("expired", old)] {
        let (_, body) = rig.get(&format!("/verify?status={status}"));
        let ids: Vec<_> = body["verifications"].as_array().unwrap().iter().map(|each| text(each, "id")).collect();
        assert_eq!(ids, [id], "{status}");
    }
}

#[test]
fn the_oldest_verification_makes_room() {
    let rig = Rig::with(Options { capacity: 2, ..Options::default() });
    let ids: Vec<_> = (0..3).map(|_| rig.begun(PHONE).0).collect();
    let found: Vec<_> = ids.iter().map(|id| rig.get(&format!("/verify/{id}")).0).collect();
    assert_eq!(found, [404, 200, 200]);
}
