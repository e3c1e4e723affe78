//! Redis is away, in each of the ways in which it can be: what goes out meanwhile, and what counts afterwards.

use std::time::Duration;

use sendly_gateway::clock::Clock;
use sendly_gateway::handover::{Attempt, Waiting};
use sendly_gateway::server::take_over;

use crate::fleet::{Fleet, HASTY, PATIENCE, config};
use crate::proxy::{Network, Proxy};
use crate::server::{Server, free_port};
use crate::start::parse;
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";

/// Gateways that know of three codes to a phone: as one that has asked last does.
async fn after_three(fleet: &Fleet) {
    for nth in 0..3 {
        fleet.send_ok(nth % fleet.gateways.len(), PHONE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_goes_on_with_all_that_it_has_seen_when_redis_is_killed() {
    let mut redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    // The first gateway has asked last, so it has seen the other's code.
    after_three(&fleet).await;
    redis.kill();
    assert_eq!(fleet.codes_left(0, PHONE).await, 2, "nothing starts at zero");
    assert_eq!(fleet.upstream.codes(PHONE), 5);
    // The other has not seen the third: what no gateway sees of another is what an outage may cost.
    assert_eq!(fleet.codes_left(1, PHONE).await, 3);
    assert_eq!(fleet.codes_left(1, OTHER).await, 5);
    assert_eq!((fleet.metric(0, "ledger_up").await, fleet.outages(0, "unreachable").await), (0, 1));
    let ready = fleet.admin(0, "/readyz").await;
    assert!(ready.starts_with("ok\nledger: Redis is away since 20") && ready.contains("(unreachable)"), "{ready}");

    // It comes back empty, and is told by each what it knows.
    redis.run();
    for nth in 0..2 {
        fleet.is_up(nth, true).await;
        fleet.has_told_all(nth).await;
    }
    for phone in [PHONE, OTHER] {
        assert_eq!((fleet.codes_left(0, phone).await, fleet.codes_left(1, phone).await), (0, 0), "{phone}");
    }
    assert_eq!((fleet.upstream.codes(PHONE), fleet.upstream.codes(OTHER)), (8, 5));
    assert!(fleet.metric(1, "ledger_merged_total").await >= 8);
    assert_eq!(fleet.metric(0, "ledger_lost_total").await, 0);
    assert!(fleet.admin(0, "/readyz").await.starts_with("ok\nledger: Redis is there since 20"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_costs_no_more_than_what_was_not_seen() {
    let mut redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    let phones = [PHONE, OTHER, "+15550100125", "+15550100126"];
    let killed = async {
        fleet.upstream.has_seen(8).await;
        tokio::task::spawn_blocking(move || {
            redis.kill();
            redis
        })
        .await
        .unwrap()
    };
    let (answers, mut redis) = tokio::join!(fleet.storm(&phones, 60), killed);
    assert_eq!(answers.keys().filter(|status| ![201, 429].contains(*status)).count(), 0, "{answers:?}");
    for phone in phones {
        let codes = fleet.upstream.codes(phone);
        assert!((5..=10).contains(&codes), "{phone}: its limit from each gateway at most, but {codes}");
    }
    let before = fleet.upstream.seen().len();
    redis.run();
    for nth in 0..2 {
        fleet.is_up(nth, true).await;
        fleet.has_told_all(nth).await;
    }
    assert_eq!(fleet.storm(&phones, 8).await.len(), 1, "nothing more goes out");
    assert_eq!(fleet.upstream.seen().len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_holds_no_decision_up_and_charges_nothing_when_it_goes_on() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    fleet.send_ok(0, PHONE).await;
    redis.pause();
    // The first ones find out; each waits for its 150 ms at most, and the rest for nothing.
    let all = async {
        for nth in [0, 0, 0, 0, 0, 0] {
            fleet.send(nth, PHONE).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), all).await.expect("decisions are held up");
    assert_eq!(fleet.upstream.codes(PHONE), 5);
    assert_eq!(fleet.outages(0, "timeout").await, 1);
    fleet.send_ok(0, OTHER).await;
    redis.go_on();
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    // What waited in its sockets was too late to be carried out, or is known by its token: nothing counts twice.
    assert_eq!(fleet.codes_left(1, OTHER).await, 4);
    assert_eq!(fleet.codes_left(1, PHONE).await, 0);
}

/// What a client waits for its answer while Redis stalls, in units of `ledger.timeout`: two seconds.
async fn waits_while_redis_stalls(ask: impl AsyncFnOnce(&Fleet, &str) -> u16) -> (u16, f64) {
    let redis = Server::start(&[]);
    let proxy = Proxy::before(redis.address()).await;
    let ledger = "timeout = \"2s\"\nconnect_timeout = \"10s\"\n";
    let configs = [proxy.url(), redis.url()].map(|url| config(&url, ledger, ""));
    let fleet = Fleet::with(&configs).await;
    // The other gateway's: the first one has to ask Redis for it.
    let id = fleet.send_ok(1, OTHER).await;
    // It is known to hold a working key, and has connections.
    fleet.send_ok(0, "+15550100125").await;
    proxy.is_now(Network::Swallows);
    let clock = Clock::system();
    let began = clock.now();
    let status = ask(&fleet, &id).await;
    (status, clock.now().since(began).as_secs_f64() / 2.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_once_while_redis_stalls_for_its_charge_and_for_giving_it_back() {
    let (status, waited) = waits_while_redis_stalls(async |fleet, _| {
        fleet.upstream.script(|_| Act::error(402, "insufficient_credits"));
        fleet.send(0, PHONE).await.status.as_u16()
    })
    .await;
    assert!(status == 402 && (1.0..1.8).contains(&waited), "{status} after {waited}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_once_while_redis_stalls_for_its_charge_a_hold_and_giving_it_back() {
    let (status, waited) = waits_while_redis_stalls(async |fleet, _| {
        fleet.upstream.script(|_| Act::error(429, "rate_limit_exceeded"));
        fleet.send(0, PHONE).await.status.as_u16()
    })
    .await;
    assert!(status == 429 && (1.0..1.8).contains(&waited), "{status} after {waited}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_once_while_redis_stalls_for_its_id_its_charge_and_what_it_learns() {
    let (status, waited) = waits_while_redis_stalls(async |fleet, id| fleet.resend(0, id).await.status.as_u16()).await;
    assert!(status == 200 && (1.0..1.8).contains(&waited), "{status} after {waited}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_once_while_redis_stalls_for_its_key_its_charge_and_its_id() {
    let (status, waited) = waits_while_redis_stalls(async |fleet, _| {
        let body = format!("{{\"to\":\"{PHONE}\"}}");
        let key = [("authorization", "Bearer sk_test_v1_new")];
        fleet.ask(0, "/api/v1/verify", &key, &body).await.status.as_u16()
    })
    .await;
    assert!(status == 201 && (1.0..1.8).contains(&waited), "{status} after {waited}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_are_refused_while_redis_is_away_where_that_is_chosen_and_none_is_charged_for_it() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(1, &redis.url(), &format!("{HASTY}on_outage = \"refuse\"\n")).await;
    fleet.send_ok(0, PHONE).await;
    redis.pause();
    for _ in 0..6 {
        let refused = fleet.send(0, PHONE).await;
        assert_eq!((refused.status.as_u16(), refused.error().as_str()), (503, "ledger_unavailable"));
        assert_eq!((refused.header("retry-after"), refused.json()["retryAfter"].as_u64()), (Some("1"), Some(1)));
    }
    assert_eq!(fleet.upstream.codes(PHONE), 1);
    redis.go_on();
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(0, PHONE).await, 4, "what was refused was not charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_go_out_while_redis_is_away_where_that_is_chosen_and_are_counted_afterwards() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), &format!("{HASTY}on_outage = \"allow\"\n")).await;
    redis.pause();
    for _ in 0..8 {
        fleet.send_ok(0, PHONE).await;
    }
    redis.go_on();
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(1, PHONE).await, 0);
    assert_eq!(fleet.codes_left(1, OTHER).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_while_redis_is_away_is_given_back() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    fleet.upstream.script(|seen| match seen.to().as_deref() {
        Some(PHONE) => Act::AnswerWhenLet(402, "{\"error\":\"insufficient_credits\",\"message\":\"scripted\"}".into()),
        _ => Act::error(402, "insufficient_credits"),
    });
    // One was charged in Redis, and is given back without it; others know no Redis at all.
    let early = async {
        let early = fleet.send(0, PHONE).await;
        assert_eq!(early.status, 402);
    };
    let rest = async {
        fleet.upstream.has_seen(1).await;
        redis.pause();
        for _ in 0..4 {
            assert_eq!(fleet.send(0, OTHER).await.status, 402);
        }
        fleet.is_up(0, false).await;
        fleet.upstream.let_go(1);
    };
    tokio::join!(early, rest);
    redis.go_on();
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    fleet.upstream.behave();
    assert_eq!((fleet.codes_left(1, PHONE).await, fleet.codes_left(1, OTHER).await), (5, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_has_no_memory_left_is_away() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    after_three(&fleet).await;
    assert_eq!(redis.ask(&["CONFIG", "SET", "maxmemory", "1"]), "+OK");
    assert_eq!(fleet.codes_left(0, PHONE).await, 2);
    assert_eq!((fleet.outages(0, "memory").await, fleet.upstream.codes(PHONE)), (1, 5));
    assert_eq!(redis.ask(&["CONFIG", "SET", "maxmemory", "0"]), "+OK");
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(1, PHONE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_does_not_let_the_gateway_in_is_away_until_it_does() {
    let redis = Server::start(&[]);
    let user = |rule: &str| assert_eq!(redis.ask(&["ACL", "SETUSER", "gate", "on", ">secret", "~*", rule]), "+OK");
    user("+@all");
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port);
    let fleet = Fleet::of(2, &url, HASTY).await;
    after_three(&fleet).await;
    // It may log in, and nothing else.
    user("-@all");
    assert_eq!(fleet.codes_left(0, PHONE).await, 2);
    assert_eq!((fleet.outages(0, "auth").await, fleet.upstream.codes(PHONE)), (1, 5));
    // Nor that.
    assert_eq!(redis.ask(&["ACL", "SETUSER", "gate", "resetpass", ">another"]), "+OK");
    let stranger = Fleet::of(1, &url, HASTY).await;
    assert_eq!(stranger.outages(0, "auth").await, 1);
    assert_eq!(stranger.codes_left(0, OTHER).await, 5, "it counts by itself");
    assert!(stranger.admin(0, "/readyz").await.contains("(auth)"));
    user("+@all");
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(1, PHONE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_a_replica_is_away_until_it_is_none() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    after_three(&fleet).await;
    let nobody = free_port().to_string();
    assert_eq!(redis.ask(&["REPLICAOF", "127.0.0.1", &nobody]), "+OK");
    assert_eq!(fleet.codes_left(0, PHONE).await, 2);
    assert_eq!((fleet.outages(0, "read_only").await, fleet.upstream.codes(PHONE)), (1, 5));
    assert_eq!(redis.ask(&["REPLICAOF", "NO", "ONE"]), "+OK");
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(1, PHONE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_what_it_had_saved_earlier_is_told_the_rest() {
    let mut redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    fleet.send_ok(0, PHONE).await;
    fleet.send_ok(1, PHONE).await;
    assert_eq!(redis.ask(&["SAVE"]), "+OK");
    fleet.send_ok(0, PHONE).await;
    fleet.send_ok(1, PHONE).await;
    redis.kill();
    redis.run();
    for nth in 0..2 {
        // Both find out by themselves, as soon as they ask.
        fleet.send(nth, OTHER).await;
        fleet.is_up(nth, true).await;
        fleet.has_told_all(nth).await;
    }
    assert_eq!(fleet.codes_left(0, PHONE).await, 1, "two were saved, and two were told again");
    assert_eq!(fleet.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_other_data_is_told_all_that_is_known() {
    let mut redis = Server::start(&[]);
    let fleet = Fleet::of(1, &redis.url(), HASTY).await;
    let phones: Vec<String> = (0..20).map(|nth| format!("+1555011{nth:04}")).collect();
    for phone in &phones {
        fleet.send_ok(0, phone).await;
    }
    let id = fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.resend(0, &id).await.status, 200);
    redis.kill();
    // Somebody else's.
    redis.run();
    assert_eq!(redis.ask(&["SET", "sendly:data", "another"]), "+OK");
    fleet.send(0, OTHER).await;
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    // Another gateway knows only what Redis does.
    let late = Fleet::of(1, &redis.url(), HASTY).await;
    late.upstream.knows(&id, PHONE);
    assert_eq!(late.resend(0, &id).await.error(), "resend_cooldown", "whose the id is, too");
    for phone in &phones {
        assert_eq!(late.codes_left(0, phone).await, 4);
    }
    assert_eq!(late.upstream.count(crate::upstream::Seen::is_lookup), 1, "only whether Sendly shows it to this key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_emptied_while_it_was_there_is_told_all_that_is_known() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    after_three(&fleet).await;
    assert_eq!(redis.ask(&["FLUSHALL"]), "+OK");
    let is_told = async {
        while redis.ask(&["DBSIZE"]) == ":0" || redis.ask(&["EXISTS", "sendly:data"]) == ":0" {
            tokio::task::yield_now().await;
        }
        for nth in 0..2 {
            fleet.has_told_all(nth).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_told).await.expect("nobody notices");
    let counted = async { while fleet.gateways[1].gateway().look(phone_key()).await.standings[0].used != 3 {} };
    tokio::time::timeout(PATIENCE, counted).await.expect("it is not told");
    assert_eq!(fleet.codes_left(1, PHONE).await, 2);
}

fn phone_key() -> sendly_gateway::policy::Key {
    sendly_gateway::policy::Key::Phone(PHONE.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_slow_is_an_outage_too() {
    let redis = Server::start(&[]);
    let proxy = Proxy::before(redis.address()).await;
    let fleet = Fleet::of(1, &proxy.url(), HASTY).await;
    fleet.send_ok(0, PHONE).await;
    proxy.is_now(Network::Delays(Duration::from_millis(400)));
    let all = async {
        for _ in 0..20 {
            fleet.send(0, PHONE).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), all).await.expect("decisions are held up");
    assert_eq!((fleet.outages(0, "timeout").await, fleet.upstream.codes(PHONE)), (1, 5));
    proxy.is_now(Network::Passes);
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(0, PHONE).await, 0);
    assert_eq!(fleet.codes_left(0, OTHER).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_cut_off_counts_by_itself_and_all_know_afterwards() {
    let redis = Server::start(&[]);
    let proxy = Proxy::before(redis.address()).await;
    let configs = [config(&proxy.url(), HASTY, ""), config(&redis.url(), HASTY, "")];
    let fleet = Fleet::with(&configs).await;
    fleet.send_ok(1, PHONE).await;
    fleet.send_ok(0, PHONE).await;
    proxy.is_now(Network::Swallows);
    fleet.send_ok(0, PHONE).await;
    fleet.send_ok(1, PHONE).await;
    fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.codes_left(0, PHONE).await, 1, "it has seen two of before, and its own two");
    assert_eq!(fleet.metric(1, "ledger_up").await, 1, "the other is not cut off");
    proxy.is_now(Network::Breaks);
    fleet.is_up(0, false).await;
    proxy.is_now(Network::Passes);
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!((fleet.codes_left(1, PHONE).await, fleet.upstream.codes(PHONE)), (0, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_away_is_tried_by_one_at_a_time_and_more_and_more_seldom() {
    let redis = Server::start(&[]);
    let proxy = Proxy::before(redis.address()).await;
    let fleet = Fleet::of(1, &proxy.url(), &format!("{HASTY}connections = 8\n")).await;
    assert_eq!(proxy.connections(), 8);
    proxy.is_now(Network::Breaks);
    fleet.is_up(0, false).await;
    let asked = async {
        for nth in 0..2000 {
            fleet.send(0, &format!("+1555012{nth:04}")).await;
        }
    };
    // However many ask for codes meanwhile.
    let _ = tokio::time::timeout(Duration::from_secs(3), asked).await;
    let tried = proxy.connections() - 8;
    // Pauses of 50 ms, 100, 200 and so on, or half of each: fewer than ten within three seconds.
    assert!((3..=10).contains(&tried), "{tried}");
    proxy.is_now(Network::Passes);
    fleet.is_up(0, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_redis_and_finds_it_later() {
    let port = free_port();
    let fleet = Fleet::of(2, &format!("redis://127.0.0.1:{port}"), HASTY).await;
    fleet.send_ok(0, PHONE).await;
    fleet.send_ok(1, PHONE).await;
    let _redis = Server::start_on(port, &[]);
    for nth in 0..2 {
        fleet.is_up(nth, true).await;
        fleet.has_told_all(nth).await;
    }
    assert_eq!(fleet.codes_left(0, PHONE).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_to_be_kept_is_lost_and_counted() {
    let redis = Server::start(&[]);
    let fleet = Fleet::of(1, &redis.url(), &format!("{HASTY}max_backlog = 10\n")).await;
    redis.pause();
    for nth in 0..10 {
        fleet.send_ok(0, &format!("+1555013{nth:04}")).await;
    }
    assert_eq!(fleet.metric(0, "ledger_backlog").await, 10);
    assert!(fleet.metric(0, "ledger_lost_total").await >= 10, "a code and its id each");
    redis.go_on();
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    assert_eq!(fleet.codes_left(0, "+15550130009").await, 4, "the newest are told");
}

/// A Redis that is gone, and two gateways, of which the first has sent two codes that it was not told of.
async fn two_codes_untold() -> (Server, Fleet) {
    let mut redis = Server::start(&[]);
    let fleet = Fleet::of(2, &redis.url(), HASTY).await;
    redis.kill();
    fleet.is_up(1, false).await;
    for _ in 0..2 {
        fleet.send_ok(0, PHONE).await;
    }
    (redis, fleet)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_tells_redis_what_it_has_yet_to_be_told_before_it_ends() {
    let (mut redis, mut fleet) = two_codes_untold().await;
    redis.run();
    // It may be about to try by itself, or in the middle of a pause.
    assert_eq!(fleet.gateways.remove(0).drain(PATIENCE).await, 0);
    fleet.is_up(0, true).await;
    assert_eq!(fleet.codes_left(0, PHONE).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_took_over_while_redis_was_away_tells_it_what_both_know() {
    let (mut redis, mut fleet) = two_codes_untold().await;
    let socket = redis.folder().join("successor.sock");
    let (waiting, config) = (Waiting::at(&socket).unwrap(), config(&redis.url(), HASTY, ""));
    let upstream = fleet.upstream.url();
    let taking = tokio::spawn(async move {
        let estate = tokio::task::spawn_blocking(move || waiting.estate()).await.unwrap().unwrap();
        take_over(parse(&config, &upstream), estate, Clock::system()).await.unwrap()
    });
    fleet.gateways[0].hand_over(socket, &Attempt::default()).await.unwrap();
    // The one that went takes with it what it had yet to tell.
    fleet.gateways[0] = taking.await.unwrap();
    fleet.send_ok(0, PHONE).await;
    redis.run();
    for nth in 0..2 {
        fleet.is_up(nth, true).await;
        fleet.has_told_all(nth).await;
    }
    assert_eq!(fleet.codes_left(1, PHONE).await, 2);
}
