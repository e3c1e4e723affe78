//! Another configuration while it serves: no request is dropped, and no count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::{Answer, KEY, Wire};
use crate::start::{Gateway, gateway, gateway_with, reload, send_body};
use crate::upstream::{Act, Upstream};

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";
const SEND: &str = "/api/v1/verify";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TICK: Duration = Duration::from_micros(1);

/// One limit per phone.
fn per_phone(max: u32, window: &str) -> String {
    format!("[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = {max}\nwindow = \"{window}\"\n")
}

impl Gateway {
    async fn sends(&self, many: usize) {
        for _ in 0..many {
            self.send_ok(PHONE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_request_meets_the_new_limits_with_all_that_was_counted() {
    let gateway = gateway_with(&per_phone(5, "10m")).await;
    let mut wire = gateway.connect().await;
    let mut ask = async || {
        wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
        wire.answer().await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(ask().await.status, 201);
    }
    let applied = gateway.reload(&per_phone(3, "10m")).await;
    assert_eq!((applied.changed, applied.kept), (vec!["limits"], vec![]));
    let refused = ask().await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"phone\";q=3;w=600"), "on the same connection");
    gateway.reload(&per_phone(4, "10m")).await;
    assert_eq!(ask().await.status, 201);
    assert_eq!(ask().await.status, 429);
    gateway.reload("limits = []").await;
    assert_eq!(ask().await.status, 201);
    assert_eq!(gateway.upstream.codes(PHONE), 5);
    assert_eq!((gateway.decided("phone", "allow").await, gateway.decided("phone", "deny").await), (4, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_under_the_limits_that_it_began_with() {
    let body = send_body(PHONE);
    for framing in [format!("content-length: {}", body.len()), "transfer-encoding: chunked".to_owned()] {
        let gateway = gateway_with(&per_phone(2, "10m")).await;
        gateway.sends(1).await;
        let mut began = gateway.connect().await;
        let head = format!(
            "POST {SEND} HTTP/1.1\r\nhost: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
        );
        began.write(head).await;
        gateway.shows("sendly_gateway_in_flight", 1).await;
        gateway.reload(&per_phone(1, "10m")).await;
        assert_eq!(gateway.send(PHONE).await.status, 429, "whatever begins now");
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        began.write(if framing.contains("chunked") { &chunked } else { &body }).await;
        assert_eq!(began.answer().await.unwrap().status, 201, "{framing}");
        began.request("POST", SEND, &[], body.as_bytes()).await;
        assert_eq!(began.answer().await.unwrap().status, 429, "and so does the next on its connection");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_in_flight_settles_with_the_upstream_and_the_ledger_that_it_began_with() {
    let gateway = gateway_with(&per_phone(3, "10m")).await;
    gateway.sends(1).await;
    let Act::Answer(_, _, created) = Act::verification(201, "ver_old", PHONE) else { unreachable!() };
    for (status, body, left) in [(201, created, 1), (402, "{\"error\":\"insufficient_credits\"}".into(), 1)] {
        let seen = gateway.upstream.seen().len();
        gateway.upstream.script(move |_| Act::AnswerWhenLet(status, body.clone()));
        let mut wire = gateway.connect().await;
        wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
        gateway.upstream.has_seen(seen + 1).await;
        let upstream = Upstream::start().await;
        let applied = reload(&gateway.running, &per_phone(3, "10m"), &upstream.url()).await.unwrap();
        assert_eq!(applied.changed, ["upstream"]);
        // Sent there, and passed through.
        assert_eq!(gateway.send(OTHER).await.status, 201);
        assert_eq!(gateway.ask("GET", "/api/v1/messages", &[], "").await.status, 200);
        assert_eq!(upstream.seen().len(), 2, "what begins now goes to the new one");
        gateway.upstream.let_go(1);
        assert_eq!(wire.answer().await.unwrap().status.as_u16(), status);
        gateway.is_idle().await;
        gateway.reload(&per_phone(3, "10m")).await;
        assert_eq!(gateway.codes_left(PHONE).await, left);
        gateway.wait(10 * MINUTE);
        gateway.sends(2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_limit_counts_what_was_not_forgotten_and_says_from_when_on_it_counts_all() {
    let gateway = gateway_with(&per_phone(5, "10m")).await;
    gateway.sends(5).await;
    gateway.wait(9 * MINUTE);
    let applied = gateway.reload(&per_phone(20, "24h")).await;
    assert_eq!(applied.catching_up, [("phone".to_owned(), gateway.clock.now() + DAY)]);
    assert_eq!(gateway.codes_left(PHONE).await, 15, "nothing had been forgotten yet");

    // Where it had: never more than the new max after the reload, whatever went before.
    let gateway = gateway_with(&per_phone(5, "10m")).await;
    gateway.sends(5).await;
    gateway.wait(10 * MINUTE);
    gateway.running.gateway().sweep().await;
    let began = gateway.clock.now();
    gateway.reload(&per_phone(20, "24h")).await;
    assert_eq!(gateway.codes_left(PHONE).await, 20);
    // And from then on it is exact.
    gateway.wait(DAY - TICK);
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 1);
    gateway.wait(TICK);
    assert_eq!(gateway.clock.now(), began + DAY);
    assert_eq!(gateway.codes_left(PHONE).await, 20);
    assert_eq!(gateway.upstream.codes(PHONE), 5 + 20 + 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_limit_refuses_nothing_that_it_would_not_have_refused_by_itself() {
    let gateway = gateway_with(&per_phone(20, "24h")).await;
    for _ in 0..10 {
        gateway.sends(1).await;
        gateway.wait(2 * MINUTE);
    }
    // In the last ten minutes: the four of 2, 4, 6 and 8 minutes ago; that of 10 minutes ago has just left.
    let applied = gateway.reload(&per_phone(5, "10m")).await;
    assert_eq!(applied.catching_up, []);
    assert_eq!(gateway.codes_left(PHONE).await, 1);
    gateway.wait(2 * MINUTE);
    assert_eq!(gateway.codes_left(PHONE).await, 1, "that of 8 minutes ago has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_are_put_back_within_their_window_have_missed_nothing() {
    let before =
        format!("{}[[limits]]\nname = \"key\"\nper = \"account\"\nmax = 7\nwindow = \"24h\"\n", per_phone(6, "24h"));
    let gateway = gateway_with(&before).await;
    gateway.sends(5).await;
    // A slip of the pen, for an hour in which everything is swept.
    gateway.reload(&per_phone(5, "1s")).await;
    gateway.wait(HOUR);
    gateway.running.gateway().sweep().await;
    gateway.sends(1).await;
    let applied = gateway.reload(&before).await;
    assert_eq!(applied.catching_up, [], "it was counted for all the time");
    assert_eq!(gateway.send(PHONE).await.json()["retryAfter"], 23 * 60 * 60, "six went out");
    gateway.send_ok(OTHER).await;
    assert_eq!(gateway.send(OTHER).await.header("ratelimit-policy"), Some("\"key\";q=7;w=86400"), "and seven in all");
    // Once its window is over, nothing is kept for what is not in force.
    gateway.reload(&per_phone(5, "1s")).await;
    gateway.wait(DAY);
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.metric("sendly_gateway_tracked_keys").await, 0);
    gateway.sends(1).await;
    gateway.wait(MINUTE);
    gateway.running.gateway().sweep().await;
    assert_eq!(gateway.metric("sendly_gateway_tracked_keys").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_go_on_by_their_names_new_ones_begin_at_zero_and_old_ones_stay() {
    let gateway = gateway().await;
    gateway.sends(3).await;
    gateway
        .reload(&format!(
            "{}{}",
            per_phone(9, "1h").replace("phone\"\nper", "new\"\nper"),
            per_phone(9, "10m").replace("\"phone\"\nper", "\"phone-10m\"\nper")
        ))
        .await;
    assert_eq!((gateway.decided("phone-10m", "allow").await, gateway.decided("new", "allow").await), (3, 0));
    gateway.sends(1).await;
    assert_eq!((gateway.decided("phone-10m", "allow").await, gateway.decided("new", "allow").await), (4, 1));
    assert_eq!(gateway.decided("phone-day", "allow").await, 3, "it happened");
    assert_eq!(gateway.metric("sendly_gateway_config_reloads_total{result=\"applied\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_else_may_change_changes() {
    let gateway = gateway_with("memory.max_keys = 2").await;
    gateway.sends(1).await;
    assert_eq!(gateway.send(OTHER).await.status, 503);
    gateway.reload("memory.max_keys = 3").await;
    gateway.send_ok(OTHER).await;
    assert_eq!(gateway.metric("sendly_gateway_tracked_keys_max").await, 3);
    gateway.reload("memory = { max_keys = 3, when_full = \"allow\" }").await;
    gateway.send_ok("+15550100125").await;
    assert_eq!(gateway.metric("sendly_gateway_uncounted_charges_total").await, 1);

    let throttle = "[[throttles]]\nname = \"slow\"\nper = \"account\"\nrate = \"1/h\"\noperations = [\"list\"]\n";
    gateway.reload(&format!("replies.ratelimit_headers = false\n{throttle}{}", per_phone(1, "1h"))).await;
    let refused = gateway.send(PHONE).await;
    assert_eq!((refused.status.as_u16(), refused.header("ratelimit")), (429, None));
    let list = async || gateway.ask("GET", SEND, &[], "").await.status.as_u16();
    assert_eq!((list().await, list().await), (200, 429));
    gateway.reload(throttle).await;
    assert_eq!(list().await, 429, "a throttle that goes on remembers");
    assert_eq!(gateway.metric("sendly_gateway_throttled_total{throttle=\"slow\"}").await, 2);

    gateway.reload("credits.domestic.credits = 50\nclients.body_timeout = \"50ms\"").await;
    gateway.wait(HOUR);
    let sent = "sendly_gateway_credits_total{outcome=\"sent\",tier=\"domestic\"}";
    let before = gateway.metric(sent).await;
    gateway.send_ok("+12125550123").await;
    assert_eq!(gateway.metric(sent).await, before + 50);
    let mut slow = gateway.connect().await;
    let head = format!("POST {SEND} HTTP/1.1\r\nhost: g\r\nauthorization: {KEY}\r\ncontent-type: application/json\r\n");
    slow.write(format!("{head}content-length: 9\r\n\r\n")).await;
    assert_eq!(slow.answer().await.unwrap().status, 408);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_kept_for_as_long_as_the_retries_of_now_say() {
    let gateway = gateway().await;
    gateway.upstream.script(|_| Act::BreakOff);
    assert_eq!(gateway.send(PHONE).await.status, 502);
    gateway.upstream.behave();
    gateway.reload("retries.unknown = \"20s\"").await;
    gateway.wait(Duration::from_secs(16));
    assert_eq!(gateway.send(PHONE).await.status, 502, "it is a retry still");
    gateway.reload("retries.unknown = \"1s\"").await;
    gateway.send_ok(PHONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_a_restart_is_named_and_stays_and_the_rest_is_taken() {
    let gateway = gateway_with("").await;
    let applied =
        gateway.reload(&format!("log.format = \"text\"\nupstream.max_idle = 3\n{}", per_phone(1, "1h"))).await;
    assert_eq!(applied.kept, ["log.format", "upstream.max_idle"]);
    assert_eq!(applied.changed, ["limits"]);
    gateway.sends(1).await;
    assert_eq!(gateway.send(PHONE).await.status, 429);
    assert_eq!(gateway.metric("sendly_gateway_config_reloads_total{result=\"partial\"}").await, 1);
    assert_eq!(gateway.metric("sendly_gateway_config_last_reload_successful").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_cannot_be_found_is_not_taken() {
    let gateway = gateway().await;
    let nowhere = reload(&gateway.running, "", "http://nowhere.invalid").await.unwrap_err();
    assert_eq!(nowhere, ["upstream.url: the name nowhere.invalid cannot be resolved"]);
    gateway.sends(1).await;
    assert_eq!(gateway.ask("GET", "/api/v1/messages", &[], "").await.status, 200);
    assert_eq!(gateway.metric("sendly_gateway_config_last_reload_successful").await, 0);
    gateway.reload("").await;
    assert_eq!(gateway.metric("sendly_gateway_config_last_reload_successful").await, 1);
}

/// What comes back from so many requests on one connection, each to a phone of its own turn.
async fn load(mut wire: Wire, phones: Vec<String>) -> Vec<(String, Answer)> {
    let mut answers = Vec::new();
    for (nth, phone) in phones.into_iter().enumerate() {
        // Each fourth goes the long way.
        let more: &[(&str, &str)] = if nth % 4 == 0 { &[("te", "trailers")] } else { &[] };
        wire.request("POST", SEND, more, send_body(&phone).as_bytes()).await;
        answers.push((phone, wire.answer().await.expect("the connection breaks off")));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_no_reload_drops_a_request_or_a_count() {
    const PHONES: usize = 40;
    const CLIENTS: usize = 6;
    // Two, that differ in all that may change: each reload builds the way to Sendly anew.
    let few = format!("upstream.exchange_timeout = \"19s\"\nclients.keep_alive = \"50s\"\n{}", per_phone(5, "10m"));
    let more = format!(
        "memory.max_keys = 900000\n{}[[limits]]\nname = \"key\"\nper = \"account\"\nmax = 100000\nwindow = \"1h\"\n\
         [[throttles]]\nname = \"slow\"\nper = \"account\"\nrate = \"1000000/s\"\n",
        per_phone(8, "1h")
    );
    let gateway = gateway_with(&few).await;
    let phone = |nth: usize| format!("+1555020{nth:04}");
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        // Each asks twice for each phone, in an order of its own.
        let phones = (0..2 * PHONES).map(|nth| phone((nth * 7 + client * 11) % PHONES)).collect();
        clients.spawn(load(gateway.connect().await, phones));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let (reloads, mut all) = {
        let reloading = async {
            let (mut turns, mut reloads) = (tokio::time::interval(Duration::from_millis(2)), 0);
            while !is_over.load(Ordering::Relaxed) || reloads < 20 {
                turns.tick().await;
                reloads += 1;
                gateway.reload(if reloads % 2 == 0 { &few } else { &more }).await;
            }
            reloads
        };
        let answering = async {
            let answers = clients.join_all().await;
            is_over.store(true, Ordering::Relaxed);
            answers
        };
        let (reloads, answers) = tokio::join!(reloading, answering);
        (reloads, answers.into_iter().flatten().collect::<Vec<_>>())
    };
    assert_eq!(all.len(), CLIENTS * PHONES * 2);
    all.retain(|(_, answer)| answer.status != 429);
    assert!(all.iter().all(|(_, answer)| answer.status == 201), "{all:?}");
    gateway.is_idle().await;
    for phone in (0..PHONES).map(phone) {
        let allowed = all.iter().filter(|(to, _)| *to == phone).count();
        // Five pass under either, and a ninth under none.
        assert!((5..=8).contains(&allowed), "{allowed} codes went to {phone}");
        assert_eq!(gateway.upstream.codes(&phone), allowed);
    }
    let decided = gateway.decided("phone", "allow").await + gateway.decided("phone", "deny").await;
    assert_eq!(decided as usize, CLIENTS * PHONES * 2, "each was judged by the limit, whichever it was");
    assert_eq!(gateway.settled("kept", "success").await as usize, all.len());
    assert_eq!(gateway.metric("sendly_gateway_config_reloads_total{result=\"applied\"}").await, reloads);
    // The ledger has them all.
    gateway.reload(&per_phone(8, "1h")).await;
    for nth in [0, PHONES / 2, PHONES - 1] {
        let allowed = all.iter().filter(|(to, _)| *to == phone(nth)).count();
        assert_eq!(gateway.codes_left(&phone(nth)).await, 8 - allowed);
    }
}
