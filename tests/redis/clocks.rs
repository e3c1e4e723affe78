//! Redis' clock is set back or forward: what goes out then, and who is kept out for how long.

use crate::fleet::{Fleet, PATIENT, config};
use crate::server::Server;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const HOUR: i64 = 3600;

/// A resend's cooldown of three seconds, besides the default limits.
fn with_a_short_cooldown(redis: &Server) -> String {
    let limit = "[[limits]]\nname = \"cooldown\"\nper = \"verification\"\nmax = 1\nwindow = \"3s\"\ncounts = [\"resend\"]\n\
                 [[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 5\nwindow = \"10m\"\n";
    config(&redis.url(), PATIENT, "") + limit
}

/// What a phone is told that has to wait, in seconds.
async fn wait_of(fleet: &Fleet, phone: &str) -> u64 {
    let refused = fleet.send(0, phone).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    refused.json()["retryAfter"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_back_while_no_gateway_watched_keeps_nobody_out_for_longer_than_a_window() {
    let redis = Server::with_clock();
    let config = with_a_short_cooldown(&redis);
    let before = Fleet::with(std::slice::from_ref(&config)).await;
    let id = before.send_ok(0, PHONE).await;
    assert_eq!(before.resend(0, &id).await.status, 200);
    assert_eq!(before.codes_left(0, OTHER).await, 5);
    drop(before);

    redis.set_clock(-HOUR);
    let after = Fleet::with(std::slice::from_ref(&config)).await;
    after.upstream.knows(&id, PHONE);
    let refused = after.resend(0, &id).await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "resend_cooldown"));
    assert!(refused.json()["retryAfter"].as_u64().unwrap() <= 3, "{refused:?}");
    assert_eq!(after.codes_left(0, PHONE).await, 3, "what it had counts");
    for phone in [PHONE, OTHER] {
        let wait = wait_of(&after, phone).await;
        assert!((590..=600).contains(&wait), "{phone}: {wait}");
    }
    drop(after);

    // What it is told is true: it does not begin anew each time that it asks.
    redis.set_clock(-HOUR + 300);
    let later = Fleet::with(std::slice::from_ref(&config)).await;
    let wait = wait_of(&later, OTHER).await;
    assert!((290..=300).contains(&wait), "{wait}");
    drop(later);
    redis.set_clock(-HOUR + 601);
    let at_last = Fleet::with(&[config]).await;
    assert_eq!(at_last.codes_left(0, OTHER).await, 5);
}
