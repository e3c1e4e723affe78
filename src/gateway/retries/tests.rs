//! Which request is a retry, and what it is told.

use super::*;
use crate::clock::ManualClock;
use http::StatusCode;

const KEYED: Fingerprint = Fingerprint { hash: 1, keyed: true };
const PLAIN: Fingerprint = Fingerprint { hash: 2, keyed: false };

fn retries() -> (Retries, ManualClock) {
    let seconds = Duration::from_secs;
    let settings =
        Settings { undelivered: seconds(60), unknown: seconds(15), idempotency: seconds(600), max_kept: 100 };
    let clock = ManualClock::new(Moment::from_micros(1_800_000_000_000_000));
    (Retries::new(settings, clock.clone().into()), clock)
}

fn new(place: Place<'_>) -> Click<'_> {
    match place {
        Place::New(click) => click,
        Place::Retry(_) => panic!("taken for a retry"),
    }
}

fn retry(place: Place<'_>) -> Ticket<'_> {
    match place {
        Place::Retry(ticket) => ticket,
        Place::New(..) => panic!("taken for a new click"),
    }
}

/// Whether it is a new click; if so, it is refused, so that nothing of it stays.
fn is_new(place: Place<'_>) -> bool {
    match place {
        Place::New(mut click) => {
            click.refuse(&reply("refused"));
            true
        }
        Place::Retry(_) => false,
    }
}

fn reply(text: &str) -> Reply {
    Reply::error(StatusCode::CREATED, text, "")
}

async fn text(ticket: &Ticket<'_>) -> String {
    String::from_utf8(ticket.answer().await.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_with_the_idempotency_key_of_one_in_flight_joins_it() {
    let (retries, clock) = retries();
    let mut first = new(retries.place(KEYED));
    let second = retry(retries.place(KEYED));
    first.end(reply("one"), Ending::Final);
    assert!(text(&second).await.contains("one"));
    first.delivered();
    second.delivered();
    clock.advance(Duration::from_secs(599));
    assert!(text(&retry(retries.place(KEYED))).await.contains("one"), "a final answer is kept under its key");
    clock.advance(Duration::from_secs(1));
    assert!(is_new(retries.place(KEYED)));
}

#[tokio::test]
async fn two_live_requests_are_two() {
    let (retries, _clock) = retries();
    let _first = new(retries.place(PLAIN));
    assert!(is_new(retries.place(PLAIN)));
}

#[tokio::test]
async fn a_request_like_one_whose_client_has_gone_adopts_its_exchange_in_flight() {
    let (retries, _clock) = retries();
    let mut first = new(retries.place(PLAIN));
    first.give_up();
    assert_eq!(retries.unclaimed(), 1);
    let second = retry(retries.place(PLAIN));
    assert!(is_new(retries.place(PLAIN)), "it has a client again");
    first.end(reply("one"), Ending::Final);
    assert!(text(&second).await.contains("one"));
    second.delivered();
    assert!(is_new(retries.place(PLAIN)), "delivered: the next one is a new click");
}

#[tokio::test]
async fn a_click_that_is_answered_leaves_no_trace() {
    let (retries, _clock) = retries();
    for ending in [Ending::Final, Ending::Passing, Ending::Nothing] {
        let mut first = new(retries.place(PLAIN));
        first.end(reply("one"), ending);
        assert!(is_new(retries.place(PLAIN)), "{ending:?}: it is being told");
        first.delivered();
        assert!(is_new(retries.place(PLAIN)), "{ending:?}");
        assert_eq!((retries.kept(), retries.unclaimed(), retries.exchanges.len()), (0, 0, 0));
    }
}

#[tokio::test]
async fn of_those_with_one_key_that_come_before_the_verdict_one_is_judged() {
    let (retries, _clock) = retries();
    let mut first = new(retries.place(KEYED));
    let others: Vec<_> = (0..3).map(|_| retry(retries.place(KEYED))).collect();
    first.refuse(&reply("refused"));
    for other in others {
        assert!(text(&other).await.contains("refused"), "what is judged for one is judged for all who joined");
        other.delivered();
    }
    assert!(is_new(retries.place(KEYED)), "and judged anew for the next");
    assert_eq!((retries.kept(), retries.exchanges.len()), (0, 1), "the click that refused is being told");
    first.delivered();
    assert_eq!(retries.exchanges.len(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_after_the_end_leaves_its_answer() {
    let (retries, _clock) = retries();
    let mut first = new(retries.place(PLAIN));
    first.give_up();
    first.end(reply("one"), Ending::Final);
    assert_eq!((retries.kept(), retries.unclaimed()), (1, 0));
    // It was only half gone, and has been told all the same: nobody can know that.
    first.delivered();
    let second = retry(retries.place(PLAIN));
    assert!(text(&second).await.contains("one"));
    second.delivered();
    assert_eq!((retries.kept(), retries.exchanges.len()), (0, 0));
}

#[tokio::test]
async fn an_answer_that_could_not_be_delivered_waits_a_minute() {
    let (retries, clock) = retries();
    for ending in [Ending::Final, Ending::Passing, Ending::Unknown] {
        let mut first = new(retries.place(PLAIN));
        first.end(reply("one"), ending);
        drop(first);
        clock.advance(Duration::from_secs(59));
        drop(retry(retries.place(PLAIN)));
        assert_eq!(retries.kept(), 1, "the retry's client went too");
        clock.advance(Duration::from_secs(1));
        assert!(is_new(retries.place(PLAIN)), "{ending:?}");
        retries.sweep();
        assert_eq!(retries.kept(), 0);
    }
}

#[tokio::test]
async fn what_nobody_knows_is_not_sent_again_by_a_retry() {
    let (retries, clock) = retries();
    let mut first = new(retries.place(PLAIN));
    first.end(reply("unknown"), Ending::Unknown);
    first.delivered();
    for _ in 0..3 {
        clock.advance(Duration::from_secs(4));
        let again = retry(retries.place(PLAIN));
        assert!(text(&again).await.contains("unknown"));
        again.delivered();
    }
    clock.advance(Duration::from_secs(3));
    assert!(is_new(retries.place(PLAIN)));
}

#[tokio::test]
async fn what_nobody_knows_answers_retries_that_come_at_once() {
    let (retries, _clock) = retries();
    let mut first = new(retries.place(PLAIN));
    first.end(reply("unknown"), Ending::Unknown);
    let (_second, third) = (retry(retries.place(PLAIN)), retry(retries.place(PLAIN)));
    assert!(text(&third).await.contains("unknown"));
}

#[tokio::test]
async fn refusals_and_passing_failures_are_never_kept_under_a_key() {
    let (retries, _clock) = retries();
    for ending in [Ending::Nothing, Ending::Passing] {
        let mut first = new(retries.place(KEYED));
        first.end(reply("no"), ending);
        first.delivered();
        assert!(is_new(retries.place(KEYED)), "{ending:?}");
        assert_eq!(retries.kept(), 0);
    }
    let mut first = new(retries.place(KEYED));
    first.end(reply("no"), Ending::Nothing);
    drop(first);
    assert!(is_new(retries.place(KEYED)), "also not where the client has gone");
}

#[tokio::test]
async fn an_exchange_whose_task_dies_ends_unknown() {
    let (retries, _clock) = retries();
    for fingerprint in [PLAIN, KEYED] {
        drop(new(retries.place(fingerprint)));
        assert!(text(&retry(retries.place(fingerprint))).await.contains("internal_error"));
    }
}

#[tokio::test]
async fn no_more_answers_are_kept_than_there_is_room_for() {
    let (retries, clock) = retries();
    for hash in 0..200 {
        let mut first = new(retries.place(Fingerprint { hash, keyed: true }));
        first.end(reply("one"), Ending::Final);
        first.delivered();
    }
    assert_eq!(retries.kept(), 100);
    clock.advance(Duration::from_secs(600));
    assert_eq!(retries.sweep(), 100);
    assert_eq!((retries.kept(), retries.exchanges.len()), (0, 0));
}
