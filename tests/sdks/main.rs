//! Sendly's own SDKs as clients of the gateway: what an application sees, and what it costs.
//!
//! They keep all their defaults, three retries included, but for the timeout in the scenarios with a slow Sendly.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

#[path = "../sdk/client.rs"]
mod client;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../sdk/rust.rs"]
mod rust_sdk;

use std::time::Duration;

use client::{Client, Outcome, Sdk};
use gateway::UNDELIVERABLE;

const PHONE: &str = "+15550100123";

/// The SDKs' default.
const PATIENT: Duration = Duration::from_secs(30);

/// With this timeout an SDK gives up its first attempt, sleeps 1 to 1.5 seconds, and tries again.
const IMPATIENT: Duration = Duration::from_secs(1);

/// The answer comes after the first attempt was given up, and before the second would be.
const SLOW: Duration = Duration::from_millis(2500);

/// It was thrown without a sleep or a retry. The shortest way with either takes seven seconds; on an idle machine this takes 0.1.
#[track_caller]
fn assert_at_once(outcome: &Outcome) {
    assert!(outcome.elapsed_ms < 3000, "thrown late: {outcome:?}");
}

/// Each scenario with each SDK.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        mod python { $(#[test] fn $name() { super::$name(super::Sdk::Python); })+ }
        mod node { $(#[test] fn $name() { super::$name(super::Sdk::Node); })+ }
        mod rust { $(#[test] fn $name() { super::$name(super::Sdk::Rust); })+ }
    };
}

scenarios!(
    a_verification_from_send_to_verified,
    an_unknown_verification_is_not_found,
    what_is_no_phone_is_refused,
    the_sixth_code_in_ten_minutes_is_refused_at_once,
    a_trailing_slash_in_the_base_url_changes_nothing,
    a_resend_in_the_cooldown_is_refused_at_once,
    a_short_wait_is_not_slept_through,
    a_send_that_the_sdk_retries_buys_one_code,
    a_resend_that_the_sdk_retries_buys_one_code,
    a_send_whose_outcome_nobody_knows_is_not_bought_again,
);

fn a_verification_from_send_to_verified(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), PATIENT);

    let sent = client.send(PHONE);
    assert!(sent.ok, "{sent:?}");
    assert_eq!((sent.phone.as_deref(), sent.status.as_deref()), (Some(PHONE), Some("pending")), "{sent:?}");
    let right = sent.sandbox_code.as_deref().unwrap();
    let wrong: String = right.chars().map(|digit| if digit == '1' { '2' } else { '1' }).collect();

    let checked = client.check(sent.id(), &wrong);
    assert_eq!((checked.code.as_deref(), checked.http), (Some("invalid_code"), Some(400)), "{checked:?}");
    assert_eq!(checked.remaining_attempts, Some(2), "{checked:?}");
    assert_at_once(&checked);

    let checked = client.check(sent.id(), right);
    assert!(checked.ok, "{checked:?}");
    assert_eq!((checked.id(), checked.status.as_deref()), (sent.id(), Some("verified")), "{checked:?}");

    let got = client.get(sent.id());
    assert!(got.ok, "{got:?}");
    assert_eq!((got.phone.as_deref(), got.status.as_deref()), (Some(PHONE), Some("verified")), "{got:?}");
    assert_eq!(gateway.codes(PHONE), 1);
}

/// The one error that Sendly's how-to tells every application to look for.
fn an_unknown_verification_is_not_found(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), PATIENT);
    let resent = client.resend("ver_00000000000000000000000000000000");
    assert_eq!((resent.code.as_deref(), resent.http), (Some("not_found"), Some(404)), "{resent:?}");
    assert_at_once(&resent);
}

fn what_is_no_phone_is_refused(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), PATIENT);
    let sent = client.send("(555) 010-0123");
    let expected = match sdk {
        Sdk::Node => (Some("invalid_request"), None), // its own check: the gateway is not asked
        Sdk::Python | Sdk::Rust => (Some("invalid_phone_format"), Some(400)),
    };
    assert_eq!((sent.code.as_deref(), sent.http), expected, "{sent:?}");
    assert_at_once(&sent);
}

fn the_sixth_code_in_ten_minutes_is_refused_at_once(sdk: Sdk) {
    let gateway = gateway::start();
    six_sends(sdk, &gateway, &gateway.base_url());
}

/// The Rust SDK then asks for `/api/v1//verify`.
fn a_trailing_slash_in_the_base_url_changes_nothing(sdk: Sdk) {
    let gateway = gateway::start();
    six_sends(sdk, &gateway, &format!("{}/", gateway.base_url()));
}

fn six_sends(sdk: Sdk, gateway: &gateway::Gateway, base_url: &str) {
    let mut client = Client::new(sdk, base_url, PATIENT);
    for code in 1..=5 {
        let sent = client.send(PHONE);
        assert!(sent.ok, "{code}: {sent:?}");
    }
    let refused = client.send(PHONE);
    assert_eq!(refused.class, if sdk == Sdk::Rust { "RateLimit" } else { "RateLimitError" }, "{refused:?}");
    assert_eq!((refused.code.as_deref(), refused.http), (Some("rate_limit_exceeded"), Some(429)), "{refused:?}");
    assert!(refused.retry_after.is_some_and(|wait| (540..=600).contains(&wait)), "{refused:?}");
    assert_at_once(&refused);
    assert_eq!(gateway.codes(PHONE), 5);

    let sent = client.send("+15550100124");
    assert!(sent.ok, "another phone: {sent:?}");
}

fn a_resend_in_the_cooldown_is_refused_at_once(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), PATIENT);
    let sent = client.send(UNDELIVERABLE);
    assert!(sent.ok, "{sent:?}");
    let got = client.get(sent.id());
    assert_eq!(got.delivery_status.as_deref(), Some("failed"), "{got:?}");

    let resent = client.resend(sent.id());
    assert!(resent.ok, "{resent:?}");
    assert_eq!(resent.phone.as_deref(), Some(UNDELIVERABLE), "{resent:?}");

    for id in [sent.id(), resent.id()] {
        let refused = client.resend(id);
        let expected = match sdk {
            Sdk::Node => ("RateLimitError", Some("rate_limit_exceeded")), // it would retry any other code
            Sdk::Python => ("SendlyError", Some("resend_cooldown")), // it would sleep through the other, and resend
            Sdk::Rust => ("RateLimit", Some("resend_cooldown")),
        };
        assert_eq!((refused.class.as_str(), refused.code.as_deref()), expected, "{refused:?}");
        assert_eq!(refused.http, Some(429), "{refused:?}");
        assert!(refused.retry_after.is_some_and(|wait| (1..=60).contains(&wait)), "{refused:?}");
        assert_at_once(&refused);
    }
    assert_eq!(gateway.codes(UNDELIVERABLE), 2);
}

fn a_send_that_the_sdk_retries_buys_one_code(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), IMPATIENT);
    gateway.delay_answers(SLOW);
    let sent = client.send(PHONE);
    assert!(sent.ok, "{sent:?}");
    assert!(sent.elapsed_ms > 2000, "the SDK did not retry: {sent:?}");
    assert_eq!(gateway.codes(PHONE), 1);

    // The retry has the code that was bought, and its answer closes the matter: another click buys another code.
    gateway.delay_answers(Duration::ZERO);
    let checked = client.check(sent.id(), sent.sandbox_code.as_deref().unwrap());
    assert!(checked.ok, "{checked:?}");
    let again = client.send(PHONE);
    assert!(again.ok, "{again:?}");
    assert_ne!(again.id(), sent.id());
    assert_eq!(gateway.codes(PHONE), 2);
}

/// Sendly itself knows no idempotency for resends.
fn a_resend_that_the_sdk_retries_buys_one_code(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), IMPATIENT);
    let sent = client.send(UNDELIVERABLE);
    assert!(sent.ok, "{sent:?}");
    gateway.delay_answers(SLOW);
    let resent = client.resend(sent.id());
    assert!(resent.ok, "refused as if the retry were a second click? {resent:?}");
    assert!(resent.elapsed_ms > 2000, "the SDK did not retry: {resent:?}");
    assert_eq!(gateway.codes(UNDELIVERABLE), 2);
}

fn a_send_whose_outcome_nobody_knows_is_not_bought_again(sdk: Sdk) {
    let gateway = gateway::start();
    let mut client = Client::new(sdk, &gateway.base_url(), PATIENT);
    gateway.break_off();

    let sent = client.send(PHONE);
    assert!(!sent.ok, "{sent:?}");
    assert_eq!(gateway.codes(PHONE), 1, "the SDK's retries bought another");
}

fn a_short_wait_is_not_slept_through(sdk: Sdk) {
    let limit = "[[limits]]\nname = \"short\"\nper = \"phone\"\nmax = 1\nwindow = \"30s\"\n";
    let gateway = gateway::start_with(limit);
    let mut client = Client::new(sdk, &gateway.base_url(), PATIENT);
    assert!(client.send(PHONE).ok);

    let refused = client.send(PHONE);
    assert!(!refused.ok, "{refused:?}");
    assert_at_once(&refused);
    let expected = if sdk == Sdk::Python { "rate_limit_wait" } else { "rate_limit_exceeded" };
    assert_eq!((refused.http, refused.code.as_deref()), (Some(429), Some(expected)), "{refused:?}");
    assert_eq!(gateway.codes(PHONE), 1);
}
