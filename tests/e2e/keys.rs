//! Made-up API keys: what they cost Sendly, what they learn, and whom they hurt.

use std::fs;
use std::time::Duration;

use http::Method;

use crate::client::{Answer, KEY};
use crate::start::{Gateway, OTHER_KEY, START, gateway, gateway_with, send_body, serve};
use crate::upstream::{Act, Seen, Upstream};
use sendly_gateway::clock::ManualClock;
use sendly_gateway::policy::Key;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const MESSAGES: &str = "/api/v1/messages";

/// A key that Sendly knows and this gateway does not.
const GOOD: &str = "Bearer sk_test_v1_good";

fn key_of(seen: &Seen) -> &str {
    seen.headers.get("authorization").map_or("", |key| key.to_str().unwrap())
}

fn is_good(seen: &Seen) -> bool {
    [KEY, OTHER_KEY, GOOD].contains(&key_of(seen))
}

/// Sendly knows some keys, and answers all others with 401.
fn knows_its_keys(gateway: &Gateway) {
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match is_good(seen) {
        true if seen.target.starts_with(MESSAGES) || seen.target == "/api/v1/verify?limit=1" => {
            Act::json(200, &serde_json::json!({ "data": [] }))
        }
        true => like_sendly(seen),
        false => Act::error(401, "invalid_api_key"),
    });
}

async fn send(gateway: &Gateway, key: &str, phone: &str) -> Answer {
    gateway.ask("POST", "/api/v1/verify", &[("authorization", key)], &send_body(phone)).await
}

async fn resend(gateway: &Gateway, key: &str, id: &str) -> Answer {
    gateway.ask("POST", &format!("/api/v1/verify/{id}/resend"), &[("authorization", key)], "").await
}

async fn messages(gateway: &Gateway, key: &str) -> Answer {
    gateway.ask("GET", MESSAGES, &[("authorization", key)], "").await
}

fn failures(gateway: &Gateway) -> usize {
    gateway.upstream.count(|seen| !is_good(seen))
}

/// What an answer tells, but for the time.
fn told(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), String::from_utf8(answer.body.clone()).unwrap())
}

#[tokio::test]
async fn a_bad_key_is_asked_of_sendly_once_a_minute_and_then_every_five() {
    let gateway = gateway().await;
    knows_its_keys(&gateway);
    for nth in 0..60 {
        let answer = if nth % 2 == 0 {
            send(&gateway, "Bearer bad", PHONE).await
        } else {
            messages(&gateway, "Bearer bad").await
        };
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "invalid_api_key"));
    }
    assert_eq!(failures(&gateway), 1);
    for (waited, asked) in [(60, 2), (60, 2), (240, 3)] {
        gateway.wait(Duration::from_secs(waited));
        assert_eq!(send(&gateway, "Bearer bad", PHONE).await.status, 401);
        assert_eq!(failures(&gateway), asked, "after {waited} s more");
    }
    assert_eq!(gateway.metric("sendly_gateway_key_refusals_total{reason=\"refused\"}").await, 60);
}

#[tokio::test]
async fn a_thousand_made_up_keys_cost_ten_failures_at_sendly_and_good_keys_go_on() {
    let gateway = std::sync::Arc::new(gateway_with("limits = []").await);
    knows_its_keys(&gateway);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..10 {
        let gateway = std::sync::Arc::clone(&gateway);
        clients.spawn(async move {
            let mut wire = gateway.connect().await;
            for nth in 0..100 {
                let key = format!("Bearer sk_live_v1_made_up_{client}_{nth}");
                let (method, target) = if nth % 2 == 0 { ("POST", "/api/v1/verify") } else { ("GET", MESSAGES) };
                let body = if nth % 2 == 0 { send_body(PHONE) } else { String::new() };
                wire.request(method, target, &[("authorization", &key)], body.as_bytes()).await;
                let answer = wire.answer().await.unwrap();
                match answer.status.as_u16() {
                    401 => assert_eq!(answer.error(), "invalid_api_key"),
                    503 => {
                        assert_eq!(answer.error(), "key_not_proven");
                        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                        assert!((1..=300).contains(&wait));
                    }
                    status => panic!("{status}"),
                }
            }
        });
    }
    for _ in 0..20 {
        assert_eq!(send(&gateway, KEY, PHONE).await.status, 201, "a proven key goes on");
        assert_eq!(messages(&gateway, KEY).await.status, 200);
    }
    clients.join_all().await;
    assert_eq!(failures(&gateway), 10);
    assert_eq!(gateway.metric("sendly_gateway_failed_keys_recent").await, 10);
    let turned_away = send(&gateway, GOOD, PHONE).await;
    assert_eq!(
        (turned_away.status.as_u16(), turned_away.header("retry-after")),
        (503, Some("300")),
        "it is not proven"
    );
    gateway.wait(Duration::from_secs(300));
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 201);
}

#[tokio::test]
async fn a_lock_of_sendlys_is_waited_out_by_keys_that_are_not_proven() {
    let gateway = gateway().await;
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match key_of(seen) == KEY {
        true => like_sendly(seen),
        false => Act::json(
            429,
            &serde_json::json!({ "error": "too_many_failed_key_attempts", "message": "scripted", "retryAfter": 120 }),
        ),
    });
    assert_eq!(messages(&gateway, "Bearer bad").await.status, 429);
    for key in ["Bearer bad", "Bearer worse", GOOD] {
        let answer = send(&gateway, key, PHONE).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("120")), "{key}");
    }
    assert_eq!(gateway.send(PHONE).await.status, 201);
    assert_eq!(failures(&gateway), 1);
    knows_its_keys(&gateway);
    gateway.wait(Duration::from_secs(120));
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 201);
}

#[tokio::test]
async fn a_made_up_key_cannot_tell_a_full_phone_from_another_or_an_id_that_is_known() {
    let gateway = gateway().await;
    knows_its_keys(&gateway);
    let id = gateway.send_ok(PHONE).await;
    for _ in 1..5 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!(gateway.send(PHONE).await.status, 429, "it is full");
    let unknown = format!("ver_{:032x}", 77);
    let answers = [
        send(&gateway, "Bearer bad_1", PHONE).await,
        send(&gateway, "Bearer bad_2", OTHER).await,
        resend(&gateway, "Bearer bad_3", &id).await,
        resend(&gateway, "Bearer bad_4", &unknown).await,
    ];
    for answer in &answers {
        assert_eq!(told(answer), told(&answers[0]));
        assert_eq!(answer.status, 401);
    }
    assert_eq!(gateway.upstream.codes(PHONE), 5);
    // The same while Sendly is ill.
    gateway.upstream.script(|_| Act::error(500, "internal_error"));
    let answers = [
        send(&gateway, "Bearer bad_5", PHONE).await,
        send(&gateway, "Bearer bad_6", OTHER).await,
        resend(&gateway, "Bearer bad_7", &id).await,
        resend(&gateway, "Bearer bad_8", &unknown).await,
    ];
    for answer in &answers {
        assert_eq!(told(answer), told(&answers[0]));
        assert_eq!(answer.status, 500);
    }
}

#[tokio::test]
async fn a_good_key_that_is_new_is_told_what_limits_say_once_it_is_proven() {
    let gateway = gateway().await;
    knows_its_keys(&gateway);
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    let proofs =
        || gateway.upstream.count(|seen| seen.method == Method::GET && seen.target == "/api/v1/verify?limit=1");
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 429);
    assert_eq!((send(&gateway, GOOD, PHONE).await.status.as_u16(), proofs()), (429, 1), "it is proven once");
    assert_eq!(gateway.upstream.codes(PHONE), 5);
}

#[tokio::test]
async fn a_page_that_is_no_answer_of_sendlys_to_a_proof_is_not_told_to_a_send() {
    let gateway = gateway().await;
    knows_its_keys(&gateway);
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    // A stand-in that knows sends alone; a proxy before Sendly that redirects.
    for status in [404, 405, 302, 200] {
        gateway.upstream.script(move |_| {
            Act::Answer(
                status,
                vec![("content-type", "text/html".to_owned())],
                b"<h1>Cannot GET</h1>".as_slice().into(),
            )
        });
        let answer = send(&gateway, GOOD, PHONE).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (503, "key_not_proven"), "{status}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{status}");
    }
    gateway.upstream.script(|_| Act::error(429, "rate_limit_exceeded"));
    assert_eq!(send(&gateway, GOOD, PHONE).await.error(), "rate_limit_exceeded", "that one is");
    assert_eq!(gateway.upstream.codes(PHONE), 5);
}

#[tokio::test]
async fn made_up_sends_while_sendly_is_ill_fill_no_phone() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::error(500, "internal_error"));
    for nth in 0..8 {
        assert_eq!(send(&gateway, &format!("Bearer bad_{nth}"), PHONE).await.status, 500);
    }
    assert_eq!(gateway.settled("given_back", "unproven").await, 8);
    assert_eq!(gateway.metric("sendly_gateway_unproven_codes").await, 8);
    knows_its_keys(&gateway);
    for _ in 0..5 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!(gateway.send(PHONE).await.status, 429);
}

#[tokio::test]
async fn a_code_of_a_key_that_turns_out_to_be_good_is_charged_at_its_own_time() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::error(500, "internal_error"));
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 500);
    let sends = gateway.upstream.count(Seen::is_send);
    // The next one has to be proved first: at most one code of an unproven key is out without anybody knowing.
    gateway.wait(Duration::from_secs(60));
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 500);
    assert_eq!(gateway.upstream.count(Seen::is_send), sends, "only its key was asked for");
    knows_its_keys(&gateway);
    for _ in 0..4 {
        assert_eq!(send(&gateway, GOOD, PHONE).await.status, 201);
    }
    let full = send(&gateway, GOOD, PHONE).await;
    assert_eq!(
        (full.status.as_u16(), full.json()["retryAfter"].as_u64()),
        (429, Some(540)),
        "the first counts from its time"
    );
}

#[tokio::test]
async fn two_hundred_requests_at_once_with_a_new_key_lose_none() {
    let gateway = std::sync::Arc::new(gateway_with("limits = []").await);
    knows_its_keys(&gateway);
    let mut requests = tokio::task::JoinSet::new();
    for nth in 0..200 {
        let gateway = std::sync::Arc::clone(&gateway);
        requests.spawn(async move { send(&gateway, GOOD, &format!("+1555010{nth:04}")).await.status.as_u16() });
    }
    let statuses = requests.join_all().await;
    assert_eq!(statuses, vec![201; 200]);
    assert_eq!(gateway.upstream.count(|seen| !seen.is_send()), 0, "its first answer proves it");
}

#[tokio::test]
async fn new_keys_wait_for_their_turn_and_all_get_it() {
    let gateway = std::sync::Arc::new(gateway_with("limits = []").await);
    // Sendly knows them all.
    let mut requests = tokio::task::JoinSet::new();
    for nth in 0..60 {
        let gateway = std::sync::Arc::clone(&gateway);
        let key = format!("Bearer sk_live_v1_customer_{nth}");
        requests.spawn(async move { send(&gateway, &key, &format!("+1555010{nth:04}")).await.status.as_u16() });
    }
    assert_eq!(requests.join_all().await, vec![201; 60]);
    assert_eq!(gateway.metric("sendly_gateway_proven_keys").await, 63);
    assert_eq!(gateway.metric("sendly_gateway_unproven_in_flight").await, 0);
    assert_eq!(gateway.metric("sendly_gateway_unproven_waiting").await, 0);
}

#[tokio::test]
async fn a_slot_that_a_request_holds_at_sendly_is_no_others() {
    let gateway = gateway_with("[accounts]\nmax_failed = 1").await;
    gateway.upstream.script(|_| Act::AnswerWhenLet(401, r#"{"error":"invalid_api_key"}"#.into()));
    let held = messages(&gateway, "Bearer bad_1");
    let other = async {
        gateway.upstream.has_seen(1).await;
        let answer = messages(&gateway, "Bearer bad_2").await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("1")), "it waited in vain");
        gateway.upstream.let_go(1);
    };
    let (held, ()) = tokio::join!(held, other);
    assert_eq!((held.status.as_u16(), failures(&gateway)), (401, 1));
    assert_eq!(gateway.metric("sendly_gateway_key_refusals_total{reason=\"busy\"}").await, 1);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_counts_as_a_failure() {
    let gateway = gateway_with("[accounts]\nmax_failed = 1").await;
    gateway.upstream.script(|_| Act::Hang);
    let mut wire = gateway.connect().await;
    wire.request("GET", MESSAGES, &[("authorization", "Bearer bad")], b"").await;
    gateway.upstream.has_seen(1).await;
    wire.reset();
    gateway.shows("sendly_gateway_failed_keys_recent", 1).await;
    assert_eq!(messages(&gateway, "Bearer worse").await.header("retry-after"), Some("300"));
    assert_eq!(failures(&gateway), 1);
}

#[tokio::test]
async fn what_passes_through_proves_and_disproves_keys_too() {
    let gateway = gateway().await;
    knows_its_keys(&gateway);
    assert_eq!(gateway.metric("sendly_gateway_proven_keys").await, 3);
    assert_eq!(messages(&gateway, GOOD).await.status, 200);
    assert_eq!(gateway.metric("sendly_gateway_proven_keys").await, 4);
    // Revoked.
    gateway.upstream.script(|_| Act::error(401, "unauthorized"));
    let asked = gateway.upstream.seen().len();
    for _ in 0..3 {
        let answer = messages(&gateway, GOOD).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "unauthorized"));
        assert_eq!(send(&gateway, GOOD, PHONE).await.error(), "unauthorized", "on every route, in Sendly's word");
    }
    assert_eq!(gateway.upstream.seen().len(), asked + 1);
    assert_eq!(gateway.metric("sendly_gateway_proven_keys").await, 3);
}

#[tokio::test]
async fn what_sendly_answers_without_looking_at_the_key_proves_none() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::json(200, &serde_json::json!({ "ok": true })));
    for (method, target) in [("GET", "/api/v1/health"), ("OPTIONS", MESSAGES), ("GET", "/api/v1/messages/../health")] {
        let answer = gateway.ask(method, target, &[("authorization", "Bearer bad")], "").await;
        assert_eq!(answer.status, 200, "{method} {target}");
        assert_eq!(gateway.metric("sendly_gateway_proven_keys").await, 3, "{method} {target}");
    }
}

#[tokio::test]
async fn an_id_of_another_account_is_not_found_and_a_key_that_may_not_read_meets_its_limits() {
    let gateway = gateway().await;
    let id = gateway.send_ok(PHONE).await;
    for _ in 1..5 {
        gateway.send_ok(PHONE).await;
    }
    assert_eq!(gateway.resend(&id).await.status, 429, "it is full");
    assert_eq!(gateway.upstream.count(Seen::is_lookup), 0, "Sendly has shown the id to this key");
    let like_sendly = gateway.upstream.like_sendly();
    gateway.upstream.script(move |seen| match key_of(seen) == OTHER_KEY {
        true => Act::error(404, "not_found"),
        false => like_sendly(seen),
    });
    for _ in 0..2 {
        let answer = resend(&gateway, OTHER_KEY, &id).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (404, "not_found"));
    }
    gateway.upstream.script(|_| Act::error(403, "insufficient_permissions"));
    let before = gateway.upstream.seen().len();
    for _ in 0..3 {
        assert_eq!(resend(&gateway, GOOD, &id).await.status, 429);
    }
    assert_eq!(gateway.upstream.seen().len(), before + 1, "it is looked up once, and that proves the key too");
}

#[tokio::test]
async fn keys_that_are_not_listed_get_401_and_cost_nothing() {
    let hash_key = sendly_gateway::policy::subject::HashKey::from_passphrase("0123456789abcdef");
    let hash = format!("{:032x}", hash_key.account(KEY.as_bytes()).bits());
    let config = format!("hash_key = \"0123456789abcdef\"\n[accounts]\nallow = [\"{hash}\"]");
    let gateway = gateway_with(&config).await;
    assert_eq!(gateway.send(PHONE).await.status, 201);
    assert_eq!(gateway.ask("GET", MESSAGES, &[], "").await.status, 200);
    let seen = gateway.upstream.seen().len();
    for key in [OTHER_KEY, GOOD] {
        assert_eq!(send(&gateway, key, PHONE).await.error(), "invalid_api_key");
        assert_eq!(messages(&gateway, key).await.status, 401);
    }
    assert_eq!(gateway.upstream.seen().len(), seen);
    assert_eq!(gateway.metric("sendly_gateway_key_refusals_total{reason=\"not_allowed\"}").await, 4);
}

#[tokio::test]
async fn a_proof_outlives_a_restart() {
    let dir = std::env::temp_dir().join(format!("sendly-gateway-proofs-{}", std::process::id()));
    let config = format!("state.dir = {:?}", dir.display().to_string());
    let upstream = Upstream::start().await;
    let url = upstream.url();
    let start = || serve(&config, &url, ManualClock::new(START).into());
    let gateway = Gateway { running: start().await, upstream: Upstream::start().await, clock: ManualClock::new(START) };
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 201);
    let Gateway { running, .. } = gateway;
    running.drain(Duration::from_secs(5)).await;
    let gateway = Gateway { running: start().await, upstream: Upstream::start().await, clock: ManualClock::new(START) };
    assert_eq!(gateway.metric("sendly_gateway_proven_keys").await, 4, "three of the suite's, and this one");
    fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn an_honest_key_beside_eight_attackers_on_its_phone_gets_its_code() {
    let gateway = std::sync::Arc::new(gateway().await);
    knows_its_keys(&gateway);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut attackers = tokio::task::JoinSet::new();
    for attacker in 0..8 {
        let (gateway, stop) = (std::sync::Arc::clone(&gateway), std::sync::Arc::clone(&stop));
        attackers.spawn(async move {
            let mut wire = gateway.connect().await;
            for nth in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let key = format!("Bearer bad_{attacker}_{nth}");
                wire.request("POST", "/api/v1/verify", &[("authorization", &key)], send_body(PHONE).as_bytes()).await;
                assert!([401, 503].contains(&wire.answer().await.unwrap().status.as_u16()));
            }
        });
    }
    for _ in 0..5 {
        assert_eq!(gateway.send(PHONE).await.status, 201);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    attackers.join_all().await;
    assert!(failures(&gateway) <= 10);
}

#[tokio::test]
async fn a_code_to_an_exempt_phone_is_not_charged_to_its_account_once_the_key_turns_out_to_be_good() {
    let config = format!(
        "exempt = [\"{PHONE}\"]\n[[limits]]\nname = \"account\"\nper = \"account\"\nmax = 1\nwindow = \"1h\"\n\
         [[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 5\nwindow = \"1h\"\n"
    );
    let gateway = gateway_with(&config).await;
    gateway.upstream.script(|_| Act::error(500, "internal_error"));
    assert_eq!(send(&gateway, GOOD, PHONE).await.status, 500);
    assert_eq!(gateway.metric("sendly_gateway_unproven_codes").await, 1);
    knows_its_keys(&gateway);
    assert_eq!(send(&gateway, GOOD, "+15550100200").await.status, 201);
    assert_eq!(send(&gateway, GOOD, "+15550100201").await.status, 429, "one, and not the one to the exempt phone");
    let look = gateway.running.gateway().look(Key::Phone(PHONE.parse().unwrap())).await;
    assert_eq!(look.standings[0].used, 1);
}
