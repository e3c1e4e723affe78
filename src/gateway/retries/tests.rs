//! Which request is a retry, and what it is told.

use super::*;
use crate::clock::ManualClock;
use http::StatusCode;

const KEYED: Fingerprint = Fingerprint { identity: 1, key: 1, keyed: true };
const PLAIN: Fingerprint = Fingerprint { identity: 2, key: 2, keyed: false };

/// The request of [`PLAIN`] under a key that an SDK made up, and under the next that it made up.
const MADE_UP: Fingerprint = Fingerprint { identity: 2, key: 21, keyed: true };
const ROTATED: Fingerprint = Fingerprint { identity: 2, key: 22, keyed: true };

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
        Place::Full => panic!("no room"),
    }
}

fn retry(place: Place<'_>) -> Ticket<'_> {
    match place {
        Place::Retry(ticket) => ticket,
        Place::New(..) => panic!("taken for a new click"),
        Place::Full => panic!("no room"),
    }
}

/// Whether it is a new click; if so, it is refused, so that nothing of it stays.
fn is_new(place: Place<'_>) -> bool {
    match place {
        Place::New(mut click) => {
            click.refuse(&reply("refused"), Ending::Nothing);
            true
        }
        Place::Retry(_) => false,
        Place::Full => panic!("no room"),
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
    first.refuse(&reply("refused"), Ending::Nothing);
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
async fn what_another_process_kept_under_a_clock_that_is_ahead_is_kept_no_longer_for_that() {
    let ((old, ahead), (successor, clock)) = (retries(), retries());
    ahead.advance(Duration::from_secs(660));
    let mut first = new(old.place(PLAIN));
    first.end(reply("unknown"), Ending::Unknown);
    first.delivered();
    for (key, kept) in old.kept_answers() {
        successor.take(key, kept, crate::clock::Shift::NONE);
    }
    retry(successor.place(PLAIN)).delivered();
    clock.advance(Duration::from_secs(16));
    assert!(is_new(successor.place(PLAIN)), "that is another click");
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
        let mut first = new(retries.place(Fingerprint { identity: hash, key: hash, keyed: true }));
        first.end(reply("one"), Ending::Final);
        first.delivered();
    }
    assert_eq!(retries.kept(), 100);
    clock.advance(Duration::from_secs(600));
    assert_eq!(retries.sweep(), 100);
    assert_eq!((retries.kept(), retries.exchanges.len()), (0, 0));
}

fn with_room_for(max_kept: usize) -> (Retries, ManualClock) {
    let (retries, clock) = retries();
    let settings = Settings { max_kept, ..**retries.settings.load() };
    retries.set(settings);
    (retries, clock)
}

fn keyed(hash: u128) -> Fingerprint {
    Fingerprint { identity: hash, key: hash, keyed: true }
}

#[tokio::test]
async fn for_a_new_answer_the_oldest_that_was_delivered_goes() {
    let (retries, _clock) = with_room_for(3);
    for hash in 0..3 {
        let mut first = new(retries.place(keyed(hash)));
        first.end(reply("one"), Ending::Final);
        // The second one's client has gone.
        if hash != 1 {
            first.delivered();
        }
    }
    let _fourth = new(retries.place(keyed(3)));
    assert_eq!(retries.kept(), 2);
    drop(retry(retries.place(keyed(1))));
    retry(retries.place(keyed(2))).delivered();
    let _fifth = new(retries.place(keyed(0)));
    drop(retry(retries.place(keyed(1))));
    assert!(matches!(retries.place(keyed(2)), Place::Full), "one was not delivered, and two are in flight");
}

#[tokio::test]
async fn a_table_full_of_answers_that_no_client_was_told_takes_no_new_click_and_forgets_none() {
    for ending in [Ending::Final, Ending::Unknown] {
        let (retries, clock) = with_room_for(10);
        for hash in 0..10 {
            new(retries.place(Fingerprint { identity: hash, key: hash, keyed: hash % 2 == 0 }))
                .end(reply("one"), ending);
        }
        assert_eq!(retries.kept(), 10);
        for hash in 10..3000 {
            assert!(matches!(
                retries.place(Fingerprint { identity: hash, key: hash, keyed: hash % 2 == 0 }),
                Place::Full
            ));
        }
        assert_eq!((retries.kept(), retries.exchanges.len()), (10, 10), "what is refused leaves nothing");
        for hash in 0..10 {
            drop(retry(retries.place(Fingerprint { identity: hash, key: hash, keyed: hash % 2 == 0 })));
        }
        clock.advance(Duration::from_secs(600));
        assert!(is_new(retries.place(KEYED)), "what has expired takes no room, also before the next sweep");
        assert_eq!(retries.places.counts(), (0, 0));
    }
}

#[tokio::test]
async fn requests_in_flight_take_the_room_that_their_answers_may_need() {
    let (retries, _clock) = with_room_for(2);
    let (first, second) = (new(retries.place(PLAIN)), new(retries.place(PLAIN)));
    assert!(matches!(retries.place(PLAIN), Place::Full));
    drop((first, second));
    assert_eq!(retries.kept(), 2);
    assert!(matches!(retries.place(KEYED), Place::Full));
}

#[tokio::test]
async fn what_was_answered_without_a_code_makes_room_for_what_buys_one() {
    let (retries, _clock) = with_room_for(1);
    new(retries.place(PLAIN)).end(reply("402"), Ending::Passing);
    assert_eq!(retries.kept(), 1, "its client has gone");
    let _next = new(retries.place(KEYED));
    assert_eq!(retries.kept(), 0);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_kept_but_told_to_those_who_wait_for_it() {
    let large = |status| Reply::error(status, &"x".repeat(10_000), "");
    for (status, kept_as) in [(StatusCode::CREATED, 409), (StatusCode::BAD_GATEWAY, 502)] {
        let (retries, _clock) = retries();
        let mut first = new(retries.place(KEYED));
        let second = retry(retries.place(KEYED));
        first.end(large(status), Ending::Unknown);
        assert_eq!(first.answer().unwrap().status, status);
        assert_eq!(second.answer().await.status, status);
        first.delivered();
        second.delivered();
        let later = retry(retries.place(KEYED)).answer().await;
        assert_eq!(later.status, kept_as);
        assert!(later.body.len() < 500);

        let mut gone = new(retries.place(PLAIN));
        gone.give_up();
        gone.end(large(status), Ending::Final);
        assert_eq!(gone.answer().unwrap().status, status, "it may only have closed its sending side");
        assert_eq!(retry(retries.place(PLAIN)).answer().await.status, kept_as);
    }
}

mod random {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 4;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask(u128, bool),
        End(usize, Ending),
        Deliver(usize),
        Leave(usize),
        Advance(u64),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        let ending = prop::sample::select(vec![Ending::Final, Ending::Passing, Ending::Unknown, Ending::Nothing]);
        prop_oneof![
            4 => (0..8_u128, any::<bool>()).prop_map(|(hash, keyed)| Step::Ask(hash * 2 + u128::from(keyed), keyed)),
            3 => (0..8_usize, ending).prop_map(|(at, ending)| Step::End(at, ending)),
            2 => (0..8_usize).prop_map(Step::Deliver),
            2 => (0..8_usize).prop_map(Step::Leave),
            1 => (1..20_u64).prop_map(Step::Advance),
            1 => Just(Step::Sweep),
        ]
    }

    /// A code that was bought, or may have been, and that no client has been told of; until when it may not be forgotten.
    type Untold = (Fingerprint, Moment);

    /// A click whose client is there, and how and when it has ended.
    type Open<'r> = (Fingerprint, Click<'r>, Option<(Ending, Moment)>);

    proptest! {
        #[test]
        fn no_more_is_kept_than_there_is_room_for_and_no_code_that_was_not_told_is_forgotten(
            steps in prop::collection::vec(step(), 1..120)
        ) {
            let (retries, clock) = with_room_for(ROOM);
            let (mut clicks, mut untold): (Vec<Open<'_>>, Vec<Untold>) = (vec![], vec![]);
            for step in steps {
                match step {
                    Step::Ask(hash, keyed) => {
                        let fingerprint = Fingerprint { identity: hash, key: hash, keyed };
                        untold.retain(|(_, until)| *until > clock.now());
                        let must_be_known = untold.iter().any(|(known, _)| *known == fingerprint);
                        match retries.place(fingerprint) {
                            Place::New(click) => {
                                prop_assert!(!must_be_known, "forgotten");
                                clicks.push((fingerprint, click, None));
                            }
                            // Its client goes as well.
                            Place::Retry(ticket) => drop(ticket),
                            Place::Full => {
                                prop_assert!(!must_be_known, "forgotten");
                                let (taken, forgettable) = retries.places.counts();
                                prop_assert_eq!((taken, forgettable), (ROOM, 0), "there was room");
                            }
                        }
                    }
                    Step::End(at, ending) => {
                        if let Some((_, click, end)) = clicks.get_mut(at).filter(|(_, _, end)| end.is_none()) {
                            click.end(reply("one"), ending);
                            *end = Some((ending, clock.now()));
                        }
                    }
                    Step::Deliver(at) => {
                        if at < clicks.len() {
                            let (_, mut click, end) = clicks.swap_remove(at);
                            if end.is_none() {
                                click.end(reply("one"), Ending::Final);
                            }
                            click.delivered();
                        }
                    }
                    Step::Leave(at) => {
                        if at < clicks.len() {
                            let (fingerprint, click, end) = clicks.swap_remove(at);
                            drop(click);
                            // What is dropped before its end has an unknown one.
                            let (ending, ended) = end.unwrap_or((Ending::Unknown, clock.now()));
                            if matches!(ending, Ending::Final | Ending::Unknown) {
                                // `retries.undelivered` counts from the end of the exchange.
                                untold.push((fingerprint, ended + Duration::from_secs(60)));
                            }
                        }
                    }
                    Step::Advance(seconds) => clock.advance(Duration::from_secs(seconds)),
                    Step::Sweep => drop(retries.sweep()),
                }
                let (taken, forgettable) = retries.places.counts();
                prop_assert!(taken <= ROOM);
                let entered: usize = retries.exchanges.iter().map(|exchanges| exchanges.len()).sum();
                let unknown_here = clicks.iter().filter(|(_, click, _)| click.registered.is_none()).count();
                prop_assert_eq!(taken, entered + unknown_here);
                let count = |which: fn(&Exchange) -> bool| {
                    retries.exchanges.iter().map(|all| all.iter().filter(|one| which(one)).count()).sum::<usize>()
                };
                prop_assert_eq!(retries.kept(), count(Exchange::is_kept));
                prop_assert_eq!(forgettable, count(|one| one.is_kept() && !one.may_be_bought_twice()));
            }
        }
    }
}

#[tokio::test]
async fn where_the_outcome_is_not_known_another_key_of_the_sdk_is_the_same_click() {
    for other in [MADE_UP, ROTATED, PLAIN] {
        let (retries, clock) = retries();
        let mut first = new(retries.place(MADE_UP));
        first.end(reply("unknown"), Ending::Unknown);
        first.delivered();
        for _ in 0..3 {
            clock.advance(Duration::from_secs(4));
            let again = retry(retries.place(other));
            assert!(text(&again).await.contains("unknown"));
            again.delivered();
        }
        clock.advance(Duration::from_secs(3));
        assert!(is_new(retries.place(other)), "{other:?}");
    }
}

#[tokio::test]
async fn where_the_client_has_gone_another_key_of_the_sdk_adopts_its_exchange() {
    for other in [ROTATED, PLAIN] {
        let (retries, _clock) = retries();
        let mut first = new(retries.place(MADE_UP));
        first.give_up();
        let second = retry(retries.place(other));
        first.end(reply("one"), Ending::Final);
        assert!(text(&second).await.contains("one"));
        second.delivered();
        assert!(is_new(retries.place(other)), "delivered: the next one is a new click");
        assert!(text(&retry(retries.place(MADE_UP))).await.contains("one"), "but not under its own key");
    }
}

#[tokio::test]
async fn two_live_clicks_of_one_app_each_with_a_key_of_its_own_are_two() {
    let (retries, _clock) = retries();
    let mut first = new(retries.place(MADE_UP));
    let mut second = new(retries.place(ROTATED));
    first.end(reply("one"), Ending::Final);
    assert!(is_new(retries.place(PLAIN)), "it is being told");
    first.delivered();
    second.end(reply("two"), Ending::Final);
    second.delivered();
    assert!(text(&retry(retries.place(MADE_UP))).await.contains("one"));
    assert!(text(&retry(retries.place(ROTATED))).await.contains("two"));
    assert!(is_new(retries.place(PLAIN)));
}

#[tokio::test]
async fn a_key_that_the_app_chose_keeps_its_meaning() {
    let (retries, _clock) = retries();
    let mut first = new(retries.place(PLAIN));
    first.end(reply("unknown"), Ending::Unknown);
    first.delivered();
    // Its identity is another one: the app said that it is not the same.
    assert!(is_new(retries.place(KEYED)));
}

#[tokio::test]
async fn a_key_that_was_refused_is_refused_again_while_its_sdk_tries_again_by_itself() {
    let (retries, clock) = retries();
    let mut first = new(retries.place(MADE_UP));
    let ending = first.refused("sendly-go/4.2.0");
    assert_eq!(ending, Ending::Refused);
    first.refuse(&reply("refused"), ending);
    first.delivered();
    clock.advance(sdk::RETRY_SPAN - Duration::from_micros(1));
    assert!(text(&retry(retries.place(MADE_UP))).await.contains("refused"));
    assert!(is_new(retries.place(ROTATED)), "another click is judged");
    assert!(is_new(retries.place(PLAIN)));
    clock.advance(Duration::from_micros(1));
    assert!(is_new(retries.place(MADE_UP)));
    for (fingerprint, agent) in [(PLAIN, "sendly-go/4.2.0"), (KEYED, "sendly-go/4.2.0"), (MADE_UP, "sendly-go/4.3.0")] {
        assert_eq!(new(retries.place(fingerprint)).refused(agent), Ending::Nothing, "{fingerprint:?} {agent}");
        clock.advance(Duration::from_secs(60));
    }
}

#[tokio::test]
async fn of_identical_answers_under_many_keys_a_bounded_number_is_kept() {
    let (retries, clock) = retries();
    for key in 0..90 {
        let mut first = new(retries.place(Fingerprint { identity: 7, key, keyed: true }));
        first.end(reply("one"), Ending::Final);
        first.delivered();
    }
    assert_eq!(retries.kept(), MAX_ALIKE);
    clock.advance(Duration::from_secs(600));
    assert_eq!(retries.sweep(), MAX_ALIKE);
    assert_eq!(retries.places.counts(), (0, 0));
}
