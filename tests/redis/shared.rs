//! What gateways promise together, while Redis is there.

use std::time::Duration;

use bytes::Bytes;

use sendly_gateway::clock::{Clock, Moment};

use crate::fleet::{Fleet, PATIENCE, PATIENT, config};
use crate::server::Server;
use crate::start::serve;
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const PHONES: [&str; 3] = ["+15550100123", "+15550100124", "+4915112345678"];

async fn five_in_all(many: usize) {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(many, &redis.url(), PATIENT).await;
    let answers = fleet.storm(&PHONES, 40).await;
    assert_eq!(answers.keys().filter(|status| ![201, 429].contains(*status)).count(), 0, "{answers:?}");
    assert_eq!(answers[&201], 15, "{answers:?}");
    for phone in PHONES {
        assert_eq!(fleet.upstream.codes(phone), 5, "{phone}");
    }
    for nth in 0..many {
        assert_eq!(fleet.metric(nth, "ledger_up").await, 1, "Redis was never away");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_let_five_codes_through_between_them() {
    five_in_all(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_gateways_let_five_codes_through_between_them() {
    five_in_all(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_one_limit_on_all_gateways() {
    let redis = Server::start(&[]);
    let limits = "[[limits]]\nname = \"account\"\nper = \"account\"\nmax = 30\nwindow = \"1h\"\n";
    // Tables of an array cannot stand before a section of their own file's top: they end it.
    let config = config(&redis.url(), PATIENT, "") + limits;
    let fleet = Fleet::with(&[config.clone(), config]).await;
    let phones: Vec<String> = (0..20).map(|nth| format!("+1555010{nth:04}")).collect();
    let answers = fleet.storm(&phones.iter().map(String::as_str).collect::<Vec<_>>(), 4).await;
    assert_eq!(answers[&201], 30, "{answers:?}");
    assert_eq!(phones.iter().map(|phone| fleet.upstream.codes(phone)).sum::<usize>(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_whose_clocks_disagree_count_alike() {
    let redis = Server::start(&[]);
    let mut fleet = Fleet::of(1, &redis.url(), PATIENT).await;
    // Years behind, and years ahead.
    for start in [1_600_000_000_000_000, 2_000_000_000_000_000] {
        let clock = Clock::set_to(Moment::from_micros(start));
        let config = config(&redis.url(), PATIENT, "");
        fleet.gateways.push(serve(&config, &fleet.upstream.url(), clock).await);
    }
    for nth in [0, 1, 2, 1, 2] {
        fleet.send_ok(nth, PHONE).await;
    }
    for nth in 0..3 {
        let refused = fleet.send(nth, PHONE).await;
        assert_eq!(refused.status, 429);
        let wait = refused.json()["retryAfter"].as_u64().unwrap();
        assert!((570..=600).contains(&wait), "gateway {nth} says {wait}");
    }
    assert_eq!(fleet.upstream.codes(PHONE), 5);
}

/// One gateway sends and resends, another one clears the phone.
pub(crate) async fn a_phone_is_cleared_by_a_gateway_that_has_met_none_of_its_ids(fleet: &Fleet) {
    let ids = [fleet.send_ok(0, PHONE).await, fleet.send_ok(0, PHONE).await];
    for id in &ids {
        assert_eq!(fleet.resend(0, id).await.status, 200);
    }
    let other = fleet.send_ok(0, PHONES[1]).await;
    assert_eq!(fleet.resend(0, &other).await.status, 200);
    let cleared = fleet.gateways[1].gateway().clear(PHONE.parse().unwrap()).await;
    assert_eq!((cleared.codes, cleared.cooldowns), (4, 2));
    for id in &ids {
        assert_eq!(fleet.resend(0, id).await.status, 200, "on the first one too");
    }
    assert_eq!(fleet.resend(1, &other).await.error(), "resend_cooldown", "another phone's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_a_phone_ends_its_cooldowns_whichever_gateway_has_met_its_ids() {
    let redis = Server::start(&[]);
    a_phone_is_cleared_by_a_gateway_that_has_met_none_of_its_ids(&Fleet::of(2, &redis.url(), PATIENT).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_that_lands_on_another_gateway_finds_its_phone_and_its_cooldown() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    let id = fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.resend(1, &id).await.status, 200);
    assert_eq!(fleet.upstream.count(crate::upstream::Seen::is_lookup), 0, "nobody had to ask Sendly");
    let refused = fleet.resend(0, &id).await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "resend_cooldown"));
    assert_eq!(fleet.codes_left(0, PHONE).await, 3, "a resend is charged to its phone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cooldown_follows_both_ids_whichever_gateway_is_asked() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(3, &redis.url(), PATIENT).await;
    let id = fleet.send_ok(0, PHONE).await;
    fleet.upstream.knows("ver_another", PHONE);
    fleet.upstream.script(|_| Act::verification(200, "ver_another", PHONE));
    assert_eq!(fleet.resend(1, &id).await.status, 200);
    for nth in 0..3 {
        for id in [id.as_str(), "ver_another"] {
            let refused = fleet.resend(nth, id).await;
            assert_eq!(refused.error(), "resend_cooldown", "{id} at {nth}: {refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ids_that_were_known_apart_are_one_on_all_gateways_once_one_gateway_knows() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(3, &redis.url(), PATIENT).await;
    let (one, other) = (fleet.send_ok(0, PHONE).await, fleet.send_ok(1, PHONE).await);
    // The third gateway knows the other by itself.
    assert_eq!(fleet.resend(2, &other).await.status, 200);
    let answered = other.clone();
    fleet.upstream.script(move |_| Act::verification(200, &answered, PHONE));
    assert_eq!(fleet.resend(0, &one).await.status, 200);
    for nth in 0..3 {
        for id in [&one, &other] {
            assert_eq!(fleet.resend(nth, id).await.error(), "resend_cooldown", "{id} at {nth}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_gateway_gives_back_another_may_send_at_once() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    fleet.upstream.script(|_| Act::error(402, "insufficient_credits"));
    for nth in [0, 1, 0, 1, 0, 1, 0, 1] {
        assert_eq!(fleet.send(nth, PHONE).await.status, 402);
    }
    fleet.upstream.behave();
    assert_eq!(fleet.codes_left(1, PHONE).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendlys_own_refusal_of_two_accounts_holds_on_all_gateways() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    let send = async |nth, key: &str| {
        let authorization = format!("Bearer {key}");
        let body = format!("{{\"to\":\"{PHONE}\"}}");
        fleet.ask(nth, "/api/v1/verify", &[("authorization", &authorization)], &body).await
    };
    let body = serde_json::json!({ "error": "rate_limit_exceeded", "message": "scripted", "retryAfter": 120 });
    fleet.upstream.script(move |_| Act::json(429, &body));
    assert_eq!(send(0, "sk_a").await.status, 429);
    let phone = PHONE.parse().unwrap();
    let known = async {
        while fleet.gateways[1].gateway().held_for_an_account(phone).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("the other is told");
    // It is the second account that is told so, at whichever gateway.
    assert_eq!(send(1, "sk_b").await.status, 429);
    fleet.upstream.behave();
    for (nth, key) in [(1, "sk_a"), (0, "sk_c"), (1, "sk_c")] {
        let refused = send(nth, key).await;
        assert_eq!(refused.status, 429, "{key} at {nth}: {refused:?}");
        assert!((100..=120).contains(&refused.json()["retryAfter"].as_u64().unwrap()), "{key} at {nth}: {refused:?}");
    }
    assert_eq!(fleet.upstream.codes(PHONE), 2, "Sendly was asked once for each of two accounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_lands_on_another_gateway_is_judged_as_a_click_of_its_own() {
    // The limit of "one click buys one SMS": answers are kept where they were given. What holds across gateways is that
    // the second code is counted, and the cooldown and the phone's limits are the same.
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    let body = format!("{{\"to\":\"{PHONE}\"}}");
    let key = [("idempotency-key", "a-click")];
    for nth in [0, 0, 1, 1] {
        assert_eq!(fleet.ask(nth, "/api/v1/verify", &key, &body).await.status, 201);
    }
    assert_eq!(fleet.upstream.codes(PHONE), 2, "one for each gateway");
    assert_eq!(fleet.codes_left(0, PHONE).await, 3, "and both are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_redis_tells_a_phone_an_id_or_an_api_key_and_all_of_it_expires() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    let id = fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.resend(1, &id).await.status, 200);
    let keys = redis.ask(&["EVAL", "return table.concat(redis.call('KEYS', '*'), ' ')", "0"]);
    let keys: Vec<&str> = keys.split(' ').collect();
    assert_eq!(
        keys.len(),
        7,
        "phone and its ids, verification, account, id, which data it is, what is in flight: {keys:?}"
    );
    let number: u64 = PHONE[1..].parse().unwrap();
    for key in keys {
        let hex =
            "return (redis.call('GET', KEYS[1]):gsub('.', function(c) return string.format('%02x', c:byte()) end))";
        let value = redis.ask(&["EVAL", hex, "1", key]);
        for secret in [&PHONE.as_bytes()[1..], &number.to_be_bytes()[3..], id.as_bytes(), b"sk_test_v1_test"] {
            let written: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!value.contains(&written), "{key} tells");
            assert!(!key.contains(&String::from_utf8_lossy(secret).into_owned()), "{key} tells");
        }
        let left: i64 = redis.ask(&["PTTL", key]).trim_start_matches(':').parse().unwrap();
        let longest = Duration::from_secs(24 * 60 * 60 + 3600 + 360);
        let expires = left > 0 && Duration::from_millis(left.unsigned_abs()) <= longest;
        assert!(expires || key == "sendly:data", "{key}: {left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_redis_has_forgotten_is_sent_again() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(1, &redis.url(), PATIENT).await;
    fleet.send_ok(0, PHONE).await;
    assert_eq!(redis.ask(&["SCRIPT", "FLUSH"]), "+OK");
    fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.codes_left(0, PHONE).await, 3);
    assert_eq!(fleet.metric(0, "ledger_up").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_a_database_and_a_prefix_are_kept_to() {
    let redis = Server::start(&[]);
    // No more than what docs/redis.md says that it takes.
    let page = include_str!("../../docs/redis.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER gateway ")).expect("there is such a line");
    let line = line.replace("gateway", "gate").replace(">password", ">p:w/1").replace("~sendly:*", "~theirs:*");
    assert_eq!(redis.ask(&line.split(' ').collect::<Vec<_>>()), "+OK");
    assert_eq!(redis.ask(&["ACL", "SETUSER", "default", "off"]), "+OK");
    let url = format!("redis://gate:p%3Aw%2F1@127.0.0.1:{}/3", redis.port);
    let fleet = Fleet::of(2, &url, &format!("{PATIENT}prefix = \"theirs\"\n")).await;
    fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.codes_left(1, PHONE).await, 4);
    // An account's log that is too long to be written whole, of which something is given back, and what Sendly refuses.
    for nth in 0..30 {
        fleet.send_ok(nth % 2, &format!("+1555010{nth:04}")).await;
    }
    fleet.upstream.script(|_| Act::error(402, "insufficient_credits"));
    assert_eq!(fleet.send(0, PHONES[1]).await.status, 402);
    fleet.upstream.script(|_| Act::error(429, "rate_limit_exceeded"));
    assert_eq!(fleet.send(0, PHONES[1]).await.status, 429);
    fleet.upstream.behave();
    let id = fleet.send_ok(0, "+15550109999").await;
    assert_eq!(fleet.resend(1, &id).await.status, 200);
    for nth in 0..2 {
        assert_eq!((fleet.metric(nth, "ledger_up").await, fleet.outages(nth, "auth").await), (1, 0));
    }
}

/// Two gateways, of which the first has both codes of a phone in flight, and a third click at the second: how that is answered once `first_ends`
/// is what Sendly says to the codes in flight, or they hang for longer than it waits.
async fn a_third_click_elsewhere(rest: &str, first_ends: Option<u16>) -> crate::client::Answer {
    let redis = Server::start(&[]);
    let limits = "[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 2\nwindow = \"1h\"\n";
    let config = config(&redis.url(), PATIENT, rest) + limits;
    let fleet = Fleet::with(&[config.clone(), config]).await;
    // Both keys are known to work.
    for nth in [0, 1] {
        fleet.send_ok(nth, &format!("+1555010000{nth}")).await;
    }
    let (body, seen) = (Bytes::from(r#"{"error":"scripted","message":"scripted"}"#), fleet.upstream.seen().len());
    let status = first_ends.unwrap_or(402);
    fleet.upstream.script(move |_| Act::AnswerWhenLet(status, body.clone()));
    let third = async {
        fleet.upstream.has_seen(seen + 2).await;
        fleet.upstream.behave();
        let asked = fleet.send(1, PHONE);
        let ended = async {
            if first_ends.is_some() {
                while fleet.metric(1, "limit_waiting").await == 0 {}
                fleet.upstream.let_go(2);
            }
        };
        let (answer, ()) = tokio::join!(asked, ended);
        fleet.upstream.let_go(2);
        answer
    };
    let (_, _, third) = tokio::join!(fleet.send(0, PHONE), fleet.send(0, PHONE), third);
    third
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_only_codes_in_flight_at_another_gateway_stand_in_the_way_of_waits_and_goes_out_once_one_failed() {
    let third = a_third_click_elsewhere("limits_wait = \"20s\"", Some(402)).await;
    assert_eq!(third.status, 201, "{third:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_refused_for_the_window_once_they_went_out() {
    let third = a_third_click_elsewhere("limits_wait = \"20s\"", Some(500)).await;
    assert_eq!(third.status, 429, "{third:?}");
    assert!((3570..=3600).contains(&third.json()["retryAfter"].as_u64().unwrap()), "{third:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_is_told_to_come_back_in_a_second_if_they_do_not_end() {
    let third = a_third_click_elsewhere("limits_wait = \"500ms\"", None).await;
    assert_eq!((third.status.as_u16(), third.error().as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(third.json()["retryAfter"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_of_a_gateway_that_claims_nothing_counts_as_settled() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), PATIENT).await;
    for _ in 0..5 {
        fleet.send_ok(0, PHONE).await;
    }
    // As one of version 0.1 does, and one that has ended.
    let mut fleet = fleet;
    drop(fleet.gateways.remove(0));
    redis.ask(&["DEL", "sendly:open"]);
    let refused = fleet.send(0, PHONE).await;
    assert_eq!(refused.status, 429);
    assert!(refused.json()["retryAfter"].as_u64().unwrap() > 570, "{refused:?}");
    assert_eq!(fleet.metric(0, r#"limit_waits_total{result="timed_out"}"#).await, 0);
}
