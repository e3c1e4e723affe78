//! Which codes pass, and which are refused.

use std::time::Duration;

use sendly_gateway::policy::Key;

use crate::start::{gateway, gateway_with, send_body};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_micros(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sixth_code_in_ten_minutes_is_refused_and_sendly_never_hears_of_it() {
    let gateway = gateway().await;
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    let refused = gateway.send(PHONE).await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(refused.json()["retryAfter"], 600);
    assert_eq!(refused.header("retry-after"), Some("600"));
    assert_eq!(refused.header("ratelimit"), Some("\"phone-10m\";r=0;t=600"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"phone-10m\";q=5;w=600"));
    assert_eq!(gateway.upstream.codes(PHONE), 5);
    gateway.send_ok(OTHER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_phone_is_let_through_at_exactly_the_end_of_its_wait() {
    let gateway = gateway().await;
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
        gateway.wait(MINUTE);
    }
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 300);
    gateway.wait(5 * MINUTE - TICK);
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 1, "a microsecond is told as a second");
    gateway.wait(TICK);
    gateway.send_ok(PHONE).await;
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 60, "the window slides code by code");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_twenty_first_code_of_a_day_is_refused() {
    let gateway = gateway().await;
    for _ in 0..20 {
        gateway.send_ok(PHONE).await;
        gateway.wait(10 * MINUTE);
    }
    let refused = gateway.send(PHONE).await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"phone-day\";q=20;w=86400"));
    assert_eq!(refused.json()["retryAfter"], (24 * 60 - 200) * 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_is_charged_to_its_phone() {
    let gateway = gateway().await;
    let id = gateway.send_ok(PHONE).await;
    for _ in 0..4 {
        assert_eq!(gateway.resend(&id).await.status, 200);
        gateway.wait(MINUTE);
    }
    assert_eq!(gateway.send(PHONE).await.status, 429);
    assert_eq!(gateway.resend(&id).await.error(), "rate_limit_exceeded");
    assert_eq!(gateway.upstream.codes(PHONE), 5);
    assert_eq!(gateway.upstream.count(|seen| seen.is_lookup()), 0, "the id was learned from the send's answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verification_is_resent_within_its_cooldown() {
    let gateway = gateway().await;
    let id = gateway.send_ok(PHONE).await;
    assert_eq!(gateway.resend(&id).await.status, 200, "the countdown starts at a resend");
    let refused = gateway.resend(&id).await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "resend_cooldown"));
    assert_eq!(refused.json()["retryAfter"], 60);
    gateway.wait(MINUTE - TICK);
    assert_eq!(gateway.resend(&id).await.status, 429);
    gateway.wait(TICK);
    assert_eq!(gateway.resend(&id).await.status, 200);
    assert_eq!(gateway.upstream.count(|seen| seen.is_resend()), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cooldown_can_start_with_the_first_code() {
    let gateway = gateway_with(
        r#"
        [[limits]]
        name = "cooldown"
        per = "verification"
        max = 1
        window = "60s"
        counts = ["send", "resend"]
        "#,
    )
    .await;
    let id = gateway.send_ok(PHONE).await;
    assert_eq!(gateway.resend(&id).await.json()["retryAfter"], 60);
    gateway.wait(MINUTE);
    assert_eq!(gateway.resend(&id).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cooldown_follows_the_id_that_is_asked_and_the_id_that_is_answered() {
    let gateway = gateway().await;
    let old = gateway.send_ok(PHONE).await;
    gateway.upstream.script(|_| Act::verification(200, "ver_new", PHONE));
    assert_eq!(gateway.resend(&old).await.json()["id"], "ver_new");
    for id in [old.as_str(), "ver_new"] {
        assert_eq!(gateway.resend(id).await.error(), "resend_cooldown", "{id}");
    }
    gateway.wait(MINUTE);
    assert_eq!(gateway.resend("ver_new").await.status, 200);
    assert_eq!(gateway.resend(&old).await.error(), "resend_cooldown", "they stay one verification");
    assert_eq!(gateway.upstream.count(|seen| seen.is_lookup()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_id_is_looked_up_once_for_all_who_ask_at_once() {
    let gateway = gateway().await;
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.knows("ver_unknown", PHONE);
    gateway.upstream.script(move |seen| match like_sendly(seen) {
        Act::Answer(status, _, body) if seen.is_lookup() => Act::AnswerWhenLet(status, body),
        other => other,
    });
    let mut wires = Vec::new();
    for _ in 0..10 {
        let mut wire = gateway.connect().await;
        wire.request("POST", "/api/v1/verify/ver_unknown/resend", &[], b"").await;
        wires.push(wire);
    }
    // All ten have arrived when they are under way.
    while gateway.metric("sendly_gateway_in_flight").await < 10 {}
    gateway.upstream.let_go(1);
    let mut statuses = Vec::new();
    for wire in &mut wires {
        statuses.push(wire.answer().await.unwrap().status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429, 429, 429, 429, 429, 429, 429, 429, 429]);
    assert_eq!(gateway.upstream.count(|seen| seen.is_lookup()), 1);
    let lookup = gateway.upstream.seen().into_iter().find(|seen| seen.is_lookup()).unwrap();
    assert_eq!(lookup.headers["authorization"], "Bearer sk_test_v1_test", "on the caller's own key");
    assert_eq!(gateway.upstream.codes(PHONE), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_look_up_may_not_be_done_the_answer_is_charged_to_the_phone_that_it_names() {
    let gateway = gateway().await;
    gateway.upstream.script(|seen| match seen {
        seen if seen.is_lookup() => Act::error(403, "insufficient_permissions"),
        seen if seen.is_resend() => Act::verification(200, seen.id(), PHONE),
        seen => Act::verification(201, "ver_sent", &seen.to().unwrap()),
    });
    for nth in 0..5 {
        assert_eq!(gateway.resend(&format!("ver_{nth}")).await.status, 200);
    }
    assert_eq!(gateway.resend("ver_0").await.status, 429, "the id is known now, and in its cooldown");
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 600, "five codes went to this phone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_sendly_does_not_know_a_verification_neither_does_the_gateway() {
    let gateway = gateway().await;
    let answer = gateway.resend("ver_nobody").await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (404, "not_found"));
    assert_eq!(gateway.upstream.count(|seen| seen.is_resend()), 0, "nothing was asked for");
    gateway.upstream.knows("ver_nobody", PHONE);
    assert_eq!(gateway.resend("ver_nobody").await.status, 200, "a failure is not remembered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_and_check_teach_whose_a_verification_is_before_the_client_can_use_it() {
    let gateway = gateway().await;
    gateway.upstream.knows("ver_seen", PHONE);
    gateway.upstream.knows("ver_checked", PHONE);
    assert_eq!(gateway.ask("GET", "/api/v1/verify/ver_seen", &[], "").await.json()["phone"], PHONE);
    assert_eq!(gateway.ask("POST", "/api/v1/verify/ver_checked/check", &[], r#"{"code":"1"}"#).await.status, 200);
    for id in ["ver_seen", "ver_checked"] {
        assert_eq!(gateway.resend(id).await.status, 200);
    }
    assert_eq!(gateway.upstream.count(|seen| seen.is_lookup()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_has_a_hundred_codes_a_minute_and_a_refusal_charges_no_phone() {
    let gateway = gateway().await;
    for nth in 0..100 {
        gateway.send_ok(&format!("+1555010{nth:04}")).await;
    }
    let refused = gateway.send(PHONE).await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"account-1m\";q=100;w=60"));
    let other_key = [("authorization", "Bearer sk_test_v1_other")];
    for _ in 0..5 {
        let answer = gateway.ask("POST", "/api/v1/verify", &other_key, &send_body(PHONE)).await;
        assert_eq!(answer.status, 201, "the refusal left all five codes of the phone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_judges_and_counts_and_refuses_nothing() {
    let gateway = gateway_with(
        r#"
        [[limits]]
        name = "trial"
        per = "phone"
        max = 2
        window = "10m"
        mode = "shadow"
        "#,
    )
    .await;
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!(gateway.metric(r#"sendly_gateway_decisions_total{decision="allow",limit="trial"}"#).await, 2);
    assert_eq!(gateway.metric(r#"sendly_gateway_decisions_total{decision="shadow_deny",limit="trial"}"#).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_bound_a_new_phone_is_refused_and_no_counted_one_forgotten() {
    let gateway = gateway_with("memory.max_keys = 2").await;
    gateway.send_ok(PHONE).await;
    let refused = gateway.send(OTHER).await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (503, "at_capacity"));
    for _ in 0..4 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!(gateway.send(PHONE).await.status, 429);
    assert_eq!(gateway.upstream.codes(OTHER), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_spellings_of_a_number_that_sendly_takes_for_one_share_its_codes() {
    let gateway = gateway().await;
    // Both are of a possible length: Argentina's mobiles are dialled with and without a 9.
    const TRUNK: &str = "+5491123456789";
    const REAL: &str = "+541123456789";
    gateway.upstream.script(|seen| Act::verification(201, &format!("ver_{}", seen.body.len()), REAL));
    for phone in [TRUNK, REAL, TRUNK, REAL, TRUNK] {
        gateway.send_ok(phone).await;
    }
    for phone in [TRUNK, REAL] {
        assert_eq!(gateway.send(phone).await.json()["retryAfter"], 600, "{phone}");
    }
    gateway.wait(10 * MINUTE);
    gateway.send_ok(REAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_spellings_that_are_asked_for_in_turn_never_get_more_than_one_would() {
    let gateway = gateway().await;
    const TRUNK: &str = "+5491123456789";
    const REAL: &str = "+541123456789";
    gateway.upstream.script(|seen| Act::verification(201, &format!("ver_{}", seen.body.len()), REAL));
    let mut sent = Vec::new();
    for minute in 0..40 {
        let spelling = if minute % 7 < 3 { TRUNK } else { REAL };
        if gateway.send(spelling).await.status == 201 {
            sent.push(minute);
        }
        gateway.running.gateway().sweep().await;
        gateway.wait(MINUTE);
    }
    let expected: Vec<_> = (0..40).filter(|minute| minute % 10 < 5).collect();
    assert_eq!(sent, expected, "five in any ten minutes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_number_is_refused_unless_the_configuration_says_otherwise() {
    const NONE: [&str; 3] = ["+4407700900123", "+155501001234", "+4477009001"];
    const SOME: [&str; 4] = ["+447700900123", "+390612345678", "+2250123456789", "+24106031234"];
    let strict = gateway().await;
    for phone in NONE {
        let refused = strict.send(phone).await;
        assert_eq!((refused.status.as_u16(), refused.error().as_str()), (400, "invalid_phone_format"), "{phone}");
    }
    assert!(strict.upstream.seen().is_empty());
    for phone in SOME {
        strict.send_ok(phone).await;
    }
    let lenient = gateway_with("[phones]\nstrict = false\n").await;
    for phone in NONE {
        lenient.send_ok(phone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_key_has_one_reading_or_none() {
    let gateway = gateway().await;
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        "sk_test_v1_test",
        "Basic sk_test_v1_test",
        "Bearer a b",
        "Bearer a,b",
        "Bearer a, Bearer b",
    ] {
        let answer =
            gateway.ask("POST", "/api/v1/verify", &[("authorization", authorization)], &send_body(PHONE)).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "unauthorized"), "{authorization:?}");
    }
    assert!(gateway.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_sendly_a_code_is_json_whatever_the_client_wrote() {
    let gateway = gateway().await;
    let mine = |kind| [("content-type", kind), ("accept", "text/html"), ("accept", "*/*;q=0.1"), ("x-mine", "1")];
    let sent = gateway.ask("POST", "/api/v1/verify", &mine("Application/JSON; charset=UTF-8"), &send_body(PHONE)).await;
    assert_eq!(sent.status, 201);
    let id = sent.json()["id"].as_str().unwrap().to_owned();
    gateway.wait(10 * MINUTE);
    let resend = format!("/api/v1/verify/{id}/resend");
    assert_eq!(gateway.ask("POST", &resend, &mine("text/plain"), "").await.status, 200);
    let seen = gateway.upstream.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        for name in ["content-type", "accept"] {
            let values: Vec<_> = seen.headers.get_all(name).iter().collect();
            assert_eq!(values, ["application/json"], "{name} of {}", seen.target);
        }
        assert_eq!(seen.headers["x-mine"], "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_way_a_code_goes_to_an_exempt_phone_its_account_is_not_charged() {
    let config = format!(
        "exempt = [\"{PHONE}\"]\n\
         [[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 50\nwindow = \"1h\"\n\
         [[limits]]\nname = \"cooldown\"\nper = \"verification\"\nmax = 1\nwindow = \"1m\"\ncounts = [\"resend\"]\n\
         [[limits]]\nname = \"account\"\nper = \"account\"\nmax = 3\nwindow = \"1h\"\n"
    );
    let gateway = gateway_with(&config).await;
    let id = gateway.send_ok(PHONE).await;
    for _ in 0..4 {
        gateway.send_ok(PHONE).await;
        assert_eq!(gateway.resend(&id).await.status, 200, "a known id");
    }
    gateway.upstream.knows("ver_elsewhere", PHONE);
    assert_eq!(gateway.resend("ver_elsewhere").await.status, 200, "one that is looked up");
    gateway.upstream.script(|seen| match seen {
        seen if seen.is_lookup() => Act::error(403, "insufficient_permissions"),
        seen => Act::verification(200, seen.id(), PHONE),
    });
    for nth in 0..4 {
        assert_eq!(gateway.resend(&format!("ver_{nth}")).await.status, 200, "one whose phone its answer tells");
    }
    assert_eq!(gateway.resend("ver_0").await.status, 200, "its cooldown refuses nobody either");
    let used = async |key| gateway.running.gateway().look(key).await.standings[0].used;
    assert_eq!(used(Key::Phone(PHONE.parse().unwrap())).await, 15, "each is logged per phone");
    let hash_key = gateway.running.gateway().config().hash_key;
    assert_eq!(used(Key::Verification(hash_key.verification("ver_1"))).await, 1, "and per verification");
    gateway.upstream.behave();
    for nth in 0..3 {
        gateway.send_ok(&format!("+1555010020{nth}")).await;
    }
    let refused = gateway.send("+15550100300").await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"account\";q=3;w=3600"));
    gateway.send_ok(PHONE).await;
    assert_eq!((gateway.decided("account", "allow").await, gateway.decided("account", "deny").await), (3 + 4, 1));
}
