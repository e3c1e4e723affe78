//! What metrics say of codes: where they went, what they cost, which were confirmed, how long the refused were told to wait.

use std::time::Duration;

use crate::start::{Gateway, gateway, gateway_with};
use crate::upstream::Act;

const AMERICAN: &str = "+12125550123";
const GERMAN: &str = "+4915112345678";

impl Gateway {
    async fn counted(&self, series: &str) -> u64 {
        self.metric(&format!("sendly_gateway_{series}")).await
    }

    /// How many codes, and what they cost.
    async fn codes(&self, tier: &str, outcome: &str) -> (u64, u64) {
        let labels = format!("{{outcome=\"{outcome}\",tier=\"{tier}\"}}");
        (self.counted(&format!("codes_total{labels}")).await, self.counted(&format!("credits_total{labels}")).await)
    }

    async fn check(&self, id: &str) {
        self.ask("POST", &format!("/api/v1/verify/{id}/check"), &[], "{\"code\":\"123456\"}").await;
    }
}

fn checked(status: u16, id: &str, says: &str) -> Act {
    Act::json(status, &serde_json::json!({ "id": id, "status": says, "phone": AMERICAN }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_are_counted_by_what_became_of_them() {
    let gateway = gateway().await;
    gateway.send_ok(AMERICAN).await;
    gateway.send_ok(GERMAN).await;
    gateway.upstream.script(|_| Act::error(402, "insufficient_credits"));
    gateway.send(GERMAN).await;
    gateway.upstream.script(|_| Act::error(500, "internal_error"));
    // Nobody knows whether it went out, so its charge is kept; and its retry buys nothing.
    for _ in 0..2 {
        assert_eq!(gateway.send(AMERICAN).await.status, 500);
    }
    assert_eq!(gateway.codes("domestic", "sent").await, (2, 4));
    assert_eq!(gateway.codes("tier3", "sent").await, (1, 16));
    assert_eq!(gateway.codes("tier3", "given_back").await, (1, 16));
    assert_eq!(gateway.counted("codes_sent_total{country=\"US\",kind=\"send\"}").await, 2);
    assert_eq!(gateway.counted("codes_sent_total{country=\"DE\",kind=\"send\"}").await, 1);
    assert_eq!(
        gateway.counted("verifications_confirmed_total{country=\"DE\"}").await,
        0,
        "to divide by the codes sent"
    );
    assert_eq!(gateway.counted("decision_seconds_count").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_counted_with_what_it_saves_and_the_wait_that_it_tells() {
    let gateway = gateway_with("credits.tier3.credits = 17").await;
    for _ in 0..5 {
        gateway.send_ok(GERMAN).await;
    }
    assert_eq!(gateway.counted("near_limit_total{limit=\"phone-10m\"}").await, 2, "the fourth and the fifth");
    assert_eq!(gateway.counted("near_limit_total{limit=\"phone-day\"}").await, 0);
    gateway.wait(Duration::from_millis(299_500));
    assert_eq!(gateway.send(GERMAN).await.json()["retryAfter"], 301);
    assert_eq!(gateway.codes("tier3", "refused").await, (1, 17));
    assert_eq!(gateway.counted("refusal_wait_seconds_sum{limit=\"phone-10m\"}").await, 301);
    assert_eq!(gateway.counted("refusal_wait_seconds_count{limit=\"hold\"}").await, 0);
    assert_eq!(gateway.counted("near_limit_total{limit=\"phone-10m\"}").await, 2, "what was refused is not near");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_whose_phone_only_its_answer_names_is_counted_where_it_went() {
    let gateway = gateway().await;
    gateway.upstream.script(|seen| match seen.is_resend() {
        true => Act::verification(200, "ver_1", GERMAN),
        false => Act::error(403, "insufficient_permissions"),
    });
    assert_eq!(gateway.resend("ver_1").await.status, 200);
    assert_eq!(gateway.counted("codes_sent_total{country=\"DE\",kind=\"resend\"}").await, 1);
    assert_eq!(gateway.counted("lookups_total{result=\"unavailable\"}").await, 1);
    // One whose phone nobody names costs what any other country does.
    gateway
        .upstream
        .script(|seen| if seen.is_resend() { Act::error(500, "internal_error") } else { Act::error(403, "x") });
    assert_eq!(gateway.resend("ver_2").await.status, 500);
    assert_eq!(gateway.counted("codes_sent_total{country=\"none\",kind=\"resend\"}").await, 1);
    assert_eq!(gateway.codes("tier3", "sent").await, (2, 32));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_is_confirmed_once_and_only_by_a_check_that_says_so() {
    let gateway = gateway().await;
    gateway.send_ok(AMERICAN).await;
    let confirmed = async || gateway.counted("verifications_confirmed_total{country=\"US\"}").await;
    gateway.upstream.script(|seen| match seen.id() {
        "ver_wrong" => checked(400, "ver_wrong", "verified"),
        "ver_open" => checked(200, "ver_open", "invalid"),
        id => checked(200, id, "verified"),
    });
    gateway.check("ver_wrong").await;
    gateway.check("ver_open").await;
    gateway.ask("GET", "/api/v1/verify/ver_1", &[], "").await;
    assert_eq!(confirmed().await, 0);
    for _ in 0..3 {
        gateway.check("ver_1").await;
    }
    assert_eq!(confirmed().await, 1, "Sendly says so to whoever asks again");
    gateway.check("ver_2").await;
    assert_eq!(confirmed().await, 2);
    assert!(!gateway.metrics().await.contains(&AMERICAN[1..]), "no phone is in it");
}
