//! What the ledger in memory promises beyond the verbs: what it remembers, and how much.

use std::sync::Arc;

use proptest::prelude::*;
use sendly_gateway::ledger::memory::{Bounds, Memory};
use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::policy::{Counts, Key, Kind, Per, WhenFull};

use super::world::*;
use Kind::{Resend, Send};

fn memory(max_keys: usize, when_full: WhenFull) -> (Arc<Memory>, Ledger) {
    let memory = Arc::new(Memory::new(Bounds { keys: max_keys, when_full, verifications: 1000, remember: HOUR }));
    (memory.clone(), Ledger::Memory(memory))
}

fn phone_only(nth: usize) -> sendly_gateway::policy::Subject {
    only(Key::Phone(phone(nth)))
}

#[test]
fn a_sweep_drops_what_no_limit_needs_and_nothing_else() {
    let strategy = (policies(), sequences(anything()));
    prove(strategy, |(limits, events)| {
        let (memory, ledger) = memory(1000, WhenFull::Refuse);
        let absorbs = events.iter().any(|event| matches!(event, Event::Absorb(..)));
        let mut world = World::new(ledger, limits);
        for event in &events {
            let before = memory.tracked();
            let answer = world.step(event);
            if answer.is_some_and(|answer| answer.charged.is_none()) {
                prop_assert_eq!(memory.tracked(), before, "a refusal tracks nothing");
            }
            if matches!(event, Event::Sweep) {
                let needed = world.model.needed(world.now);
                // Where an absorbed key went is remembered for as long as its codes count.
                prop_assert!(memory.tracked() >= needed && (absorbs || memory.tracked() == needed));
            }
        }
        memory.sweep(&world.policy, world.now + HOUR * 100_000, || ());
        prop_assert_eq!(memory.tracked(), 0);
        Ok(())
    });
}

#[test]
fn a_log_is_swept_when_its_last_charge_leaves_the_last_window_that_counts_it() {
    let (memory, ledger) = memory(10, WhenFull::Refuse);
    // Sends count for a minute, resends for an hour.
    let resends = counting(Counts::RESENDS, limit(Per::Phone, 1, HOUR));
    let policy = policy([counting(SENDS, limit(Per::Phone, 5, MINUTE)), resends]);
    buy(&ledger, &policy, &phone_only(0), Resend, START);
    buy(&ledger, &policy, &phone_only(1), Send, START);
    wait(ledger.hold(Key::Phone(phone(2)), START + SECOND, START));
    let swept = |now| (memory.sweep(&policy, now, || ()).keys, memory.tracked());
    assert_eq!(swept(START + SECOND - MICRO), (0, 3));
    assert_eq!(swept(START + SECOND), (1, 2), "the hold is over");
    assert_eq!(swept(START + MINUTE - MICRO), (0, 2));
    assert_eq!(swept(START + MINUTE), (1, 1), "the send has left");
    assert_eq!(swept(START + HOUR - MICRO), (0, 1));
    assert_eq!(swept(START + HOUR), (1, 0), "and the resend");
}

#[test]
fn a_charge_in_the_future_is_not_swept() {
    let (memory, ledger) = memory(10, WhenFull::Refuse);
    let policy = policy([limit(Per::Phone, 1, MINUTE)]);
    wait(ledger.record(&policy, Key::Phone(phone(0)), Send, START + HOUR));
    for now in [START, START + HOUR, START + HOUR + MINUTE - MICRO] {
        assert_eq!(memory.sweep(&policy, now, || ()).keys, 0, "{now}");
    }
    assert_eq!(memory.sweep(&policy, START + HOUR + MINUTE, || ()).keys, 1);
}

#[test]
fn a_clock_that_is_behind_a_sweep_gets_no_more() {
    let (memory, ledger) = memory(10, WhenFull::Refuse);
    let policy = policy([limit(Per::Phone, 1, MINUTE)]);
    buy(&ledger, &policy, &phone_only(0), Send, START);
    assert_eq!(memory.sweep(&policy, START + MINUTE, || ()).keys, 1);
    // This thread read its clock when the code was still in its window; the log that says so is gone.
    let late = take(&ledger, &policy, &phone_only(0), Send, START + MINUTE - MICRO);
    assert!(late.at() >= START + MINUTE, "charged at {}", late.at());
    assert_eq!(wait_of(&ledger, &policy, &phone_only(0), Send, START + MINUTE - MICRO), Some(MINUTE + MICRO));
}

#[test]
fn what_is_given_back_leaves_no_trace() {
    let (memory, ledger) = memory(10, WhenFull::Refuse);
    let policy = policy([limit(Per::Phone, 2, MINUTE), limit(Per::Account, 2, MINUTE)]);
    let open = [0, 1].map(|nth| take(&ledger, &policy, &subject(nth, nth, nth), Send, START));
    assert_eq!(memory.tracked(), 4, "the verification has no limit, and no log");
    open.into_iter().for_each(|reservation| wait(reservation.settle(Settlement::GiveBack)));
    assert_eq!(memory.tracked(), 0);
}

#[test]
fn a_reservation_that_outlives_its_window_settles_in_peace() {
    let (policy, now) = (policy([limit(Per::Phone, 1, MINUTE)]), START + HOUR);
    for settlement in [Settlement::Keep, Settlement::GiveBack] {
        let (memory, ledger) = memory(10, WhenFull::Refuse);
        let old = take(&ledger, &policy, &phone_only(0), Send, START);
        memory.sweep(&policy, now, || ());
        buy(&ledger, &policy, &phone_only(0), Send, now);
        wait(old.settle(settlement));
        assert_eq!(wait_of(&ledger, &policy, &phone_only(0), Send, now), Some(MINUTE), "{settlement:?}");
        memory.sweep(&policy, now + MINUTE, || ());
        assert_eq!(memory.tracked(), 0, "{settlement:?}");
    }
}

#[test]
fn two_keys_that_become_one_are_tracked_for_as_long_as_their_codes_count() {
    let (memory, ledger) = memory(3, WhenFull::Refuse);
    let policy = policy([limit(Per::Verification, 9, MINUTE)]);
    let key = |nth| Key::Verification(verification(nth));
    let absorb = |into, from| (wait(ledger.absorb(&policy, key(into), key(from), START)), memory.tracked()).1;
    buy(&ledger, &policy, &only(key(1)), Resend, START);
    assert_eq!(absorb(1, 1), 1, "itself");
    assert_eq!(absorb(1, 5), 1, "one that nothing is known of");
    assert_eq!(absorb(0, 1), 2, "where the old one went is remembered");
    assert_eq!(absorb(0, 1), 2);
    buy(&ledger, &policy, &only(key(1)), Resend, START + SECOND);
    buy(&ledger, &policy, &only(key(2)), Resend, START);
    assert_eq!((memory.tracked(), memory.uncounted()), (3, 0));
    // Without room they stay two.
    assert_eq!(absorb(7, 2), 3);
    assert_eq!((memory.uncounted(), contents(&ledger, key(2), START).1.len()), (1, 1));
    assert_eq!(memory.sweep(&policy, START + MINUTE, || ()).keys, 1, "the third; the second code still counts");
    assert_eq!(memory.sweep(&policy, START + MINUTE + SECOND, || ()).keys, 2, "and where the second went");
    assert_eq!(memory.tracked(), 0);
}

#[test]
fn keys_that_became_one_after_the_other_are_one_for_as_long_as_the_last_counts_or_is_held() {
    let (memory, ledger) = memory(9, WhenFull::Refuse);
    let policy = policy([limit(Per::Phone, 1, MINUTE)]);
    let key = |nth| Key::Phone(phone(nth));
    let absorb = |into, from, now| wait(ledger.absorb(&policy, key(into), key(from), now));
    let waits = |nth, now| wait_of(&ledger, &policy, &only(key(nth)), Send, now);
    buy(&ledger, &policy, &only(key(1)), Send, START);
    absorb(2, 1, START);
    absorb(3, 2, START);
    absorb(1, 3, START);
    let mut now = START;
    for _ in 0..5 {
        now = now + MINUTE;
        buy(&ledger, &policy, &only(key(3)), Send, now);
        memory.sweep(&policy, now, || ());
        assert_eq!([1, 2, 3].map(|nth| waits(nth, now)), [Some(MINUTE); 3]);
    }
    wait(ledger.clear(&policy, key(1), now));
    assert_eq!([1, 2, 3].map(|nth| waits(nth, now)), [None; 3]);
    wait(ledger.hold(key(2), now + HOUR, now));
    memory.sweep(&policy, now + HOUR - SECOND, || ());
    assert_eq!([1, 2, 3].map(|nth| waits(nth, now + HOUR - SECOND)), [Some(SECOND); 3]);
    memory.sweep(&policy, now + HOUR, || ());
    assert_eq!(memory.tracked(), 0);
}

#[test]
fn without_room_a_new_key_is_refused_and_no_live_key_is_forgotten() {
    let (memory, ledger) = memory(4, WhenFull::Refuse);
    let policy = policy([limit(Per::Phone, 1, HOUR), limit(Per::Account, 100, HOUR)]);
    for nth in 0..3 {
        buy(&ledger, &policy, &subject(nth, 0, 0), Send, START);
    }
    let account_before = contents(&ledger, Key::Account(account(0)), START);
    for nth in 3..50 {
        let (decision, verdict) = ask(&ledger, &policy, &subject(nth, 0, 0), Send, START);
        assert!(matches!(verdict, Verdict::NoRoom));
        assert!(decision.refusal.is_none());
    }
    assert_eq!((memory.tracked(), memory.uncounted()), (4, 0));
    assert_eq!(contents(&ledger, Key::Account(account(0)), START), account_before, "nothing was charged");
    for nth in 0..3 {
        assert_eq!(wait_of(&ledger, &policy, &subject(nth, 0, 0), Send, START), Some(HOUR), "each is still known");
    }
    // Once the old ones are swept there is room again.
    memory.sweep(&policy, START + HOUR, || ());
    buy(&ledger, &policy, &subject(9, 0, 0), Send, START + HOUR);
}

#[test]
fn without_room_but_allowed_a_code_passes_and_is_counted_where_there_is_room() {
    let (memory, ledger) = memory(3, WhenFull::Allow);
    let policy = policy([limit(Per::Phone, 1, HOUR), limit(Per::Verification, 1, HOUR), limit(Per::Account, 3, HOUR)]);
    buy(&ledger, &policy, &subject(0, 0, 0), Send, START);
    assert_eq!((memory.tracked(), memory.uncounted()), (3, 0));
    // The account is known and counts on; two keys find no room.
    buy(&ledger, &policy, &subject(1, 1, 0), Send, START);
    assert_eq!((memory.tracked(), memory.uncounted()), (3, 2));
    wait(take(&ledger, &policy, &subject(2, 2, 0), Send, START).settle(Settlement::GiveBack));
    buy(&ledger, &policy, &subject(3, 3, 0), Send, START);
    assert_eq!(
        wait_of(&ledger, &policy, &subject(4, 4, 0), Send, START),
        Some(HOUR),
        "the account's third was the last"
    );
    assert_eq!(wait_of(&ledger, &policy, &subject(0, 9, 9), Send, START), Some(HOUR), "a known phone is still limited");
}

#[test]
fn with_room_for_one_of_two_new_keys_one_is_counted() {
    let (memory, ledger) = memory(1, WhenFull::Allow);
    let policy = policy([limit(Per::Phone, 1, HOUR), limit(Per::Account, 100, HOUR)]);
    buy(&ledger, &policy, &subject(0, 0, 0), Send, START);
    assert_eq!((memory.tracked(), memory.uncounted()), (1, 1));
    assert_eq!(wait_of(&ledger, &policy, &subject(0, 0, 0), Send, START), Some(HOUR));
}

#[test]
fn without_room_shadow_limits_refuse_nothing() {
    let (memory, ledger) = memory(1, WhenFull::Refuse);
    let shadows = policy([shadow(limit(Per::Phone, 1, HOUR))]);
    buy(&ledger, &shadows, &phone_only(0), Send, START);
    buy(&ledger, &shadows, &phone_only(1), Send, START);
    assert_eq!((memory.tracked(), memory.uncounted()), (1, 1));
    // The key that can refuse has the room that there is.
    let (memory, ledger) = self::memory(1, WhenFull::Refuse);
    let mixed = policy([shadow(limit(Per::Phone, 1, HOUR)), limit(Per::Account, 1, HOUR)]);
    buy(&ledger, &mixed, &subject(0, 0, 0), Send, START);
    assert_eq!((memory.tracked(), memory.uncounted()), (1, 1));
    assert_eq!(wait_of(&ledger, &mixed, &subject(1, 0, 0), Send, START), Some(HOUR));
}

#[test]
fn the_bound_holds_whatever_happens() {
    let strategy = (policies(), sequences(anything()), 0..6_usize, any::<bool>());
    prove(strategy, |(limits, events, max_keys, allow)| {
        let (memory, ledger) = memory(max_keys, if allow { WhenFull::Allow } else { WhenFull::Refuse });
        let mut world = World::new(ledger, limits);
        for event in &events {
            let (before, uncounted) = (memory.tracked(), memory.uncounted());
            let answer = world.step(event);
            prop_assert!(memory.tracked() <= max_keys);
            let shrinks = matches!(event, Event::Sweep | Event::GiveBack(_) | Event::Absorb(..) | Event::Clear { .. });
            prop_assert!(shrinks || memory.tracked() >= before, "a live key was forgotten");
            if answer.is_some_and(|answer| answer.no_room) {
                prop_assert!(!allow);
                prop_assert_eq!((memory.tracked(), memory.uncounted()), (before, uncounted));
            }
        }
        // Everything settled and swept: nothing leaks.
        world.close();
        memory.sweep(&world.policy, world.now + HOUR * 100_000, || ());
        prop_assert_eq!(memory.tracked(), 0);
        Ok(())
    });
}
