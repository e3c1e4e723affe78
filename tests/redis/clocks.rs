//! Redis' clock is set back or forward: what goes out then, and who is kept out for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sendly_gateway::clock::{Clock, ManualClock};

use crate::fleet::{Fleet, PATIENCE, PATIENT, config};
use crate::server::Server;
use crate::start::serve;

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

/// Several gateways that watch a Redis whose clock is set, to and fro.
async fn watched(steps: &[i64]) {
    let redis = Server::with_clock();
    let fleet = Fleet::of(2, &redis.url(), "timeout = \"1s\"\nconnect_timeout = \"10s\"\n").await;
    for nth in [0, 1, 0, 1, 0] {
        fleet.send_ok(nth, PHONE).await;
    }
    fleet.send_ok(0, OTHER).await;
    let mut codes = 1;
    for (nth, ahead) in steps.iter().enumerate() {
        redis.set_clock(*ahead);
        for gateway in [nth % 2, (nth + 1) % 2] {
            let refused = fleet.send(gateway, PHONE).await;
            assert_eq!(refused.status, 429, "at {gateway}, set to {ahead}: {refused:?}");
            let wait = refused.json()["retryAfter"].as_u64().unwrap();
            assert!((560..=600).contains(&wait), "at {gateway}, set to {ahead}: {wait}");
            if codes < 5 {
                fleet.send_ok(gateway, OTHER).await;
                codes += 1;
            }
        }
    }
    // One that starts now takes time as it stands.
    let mut fleet = fleet;
    let config = config(&redis.url(), PATIENT, "");
    fleet.gateways.push(serve(&config, &fleet.upstream.url(), Clock::system()).await);
    for gateway in [2, 0, 1] {
        assert_eq!(fleet.codes_left(gateway, PHONE).await, 0, "at {gateway}");
        assert_eq!(fleet.codes_left(gateway, OTHER).await, 5 - codes, "at {gateway}");
        codes = 5;
        for nth in 0..3 {
            assert_eq!(fleet.metric(nth, "ledger_up").await, 1, "Redis is away for none");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_forward_while_gateways_watch_lets_nothing_through_too_soon() {
    watched(&[HOUR - 60]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_while_gateways_watch_keeps_nobody_out_for_longer() {
    watched(&[-30 * HOUR]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_to_and_fro_while_gateways_watch_changes_nothing() {
    watched(&[1800, 0, -7200, -7200 + 1800, 60]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_when_the_clock_is_set_forward_by_days_each_gateway_tells_anew() {
    let redis = Server::with_clock();
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    for nth in [0, 1, 0, 1, 0] {
        fleet.send_ok(nth, PHONE).await;
    }
    redis.set_clock(30 * 24 * HOUR);
    // Each notices within a second, without being asked.
    let told = async {
        let length = "local key = redis.call('KEYS', 'sendly:p:*')[1] return key and redis.call('STRLEN', key) or 0";
        while redis.ask(&["EVAL", length, "0"]) != ":55" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    for gateway in [0, 1] {
        fleet.has_told_all(gateway).await;
        assert_eq!(fleet.codes_left(gateway, PHONE).await, 0, "at {gateway}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_that_stood_still_takes_for_a_step_another_undoes() {
    let redis = Server::with_clock();
    let mut fleet = Fleet::of(1, &redis.url(), PATIENT).await;
    // For this one and for Redis a minute passes, and for the first gateway none.
    let (system, minutes) = (Clock::system(), Arc::new(AtomicU64::new(0)));
    let manual = ManualClock::new(system.now());
    let (hands, passed) = (manual.clone(), Arc::clone(&minutes));
    let going = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        loop {
            ticks.tick().await;
            hands.set(system.now() + Duration::from_secs(60 * passed.load(Ordering::SeqCst)));
        }
    });
    let config = config(&redis.url(), PATIENT, "");
    fleet.gateways.push(serve(&config, &fleet.upstream.url(), Clock::from(manual)).await);
    for nth in [0, 1, 0, 1, 0] {
        fleet.send_ok(nth, PHONE).await;
    }
    redis.set_clock(60);
    minutes.store(1, Ordering::SeqCst);
    let undone = async {
        for nth in [0, 1] {
            loop {
                let refused = fleet.send(nth, PHONE).await;
                assert_eq!(refused.status, 429);
                if refused.json()["retryAfter"].as_u64().unwrap() <= 540 {
                    break;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, undone).await.expect("the minute has passed");
    going.abort();
}
