//! Promises to people: what a look at a key says, what clearing one does, and what an exemption is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use proptest::prelude::*;
use sendly_gateway::ledger::{Cleared, Settlement, Verdict};
use sendly_gateway::policy::{Counts, Key, Kind, LimitSet, Obstacle, Per};

use super::world::*;
use Kind::{Resend, Send};

fn phone_key(nth: usize) -> Key {
    Key::Phone(phone(nth))
}

pub fn a_look_says_what_the_next_code_would_be_told(new: New) {
    let limits = [
        limit(Per::Phone, 2, MINUTE),
        limit(Per::Account, 9, HOUR),
        counting(Counts::RESENDS, limit(Per::Phone, 1, HOUR)),
        shadow(limit(Per::Phone, 1, HOUR * 2)),
    ];
    let (ledger, policy) = (new(), policy(limits));
    let look = |now| {
        let look = wait(ledger.look(&policy, phone_key(0), now));
        look.standings.iter().map(|standing| (standing.place, standing.used, standing.wait)).collect::<Vec<_>>()
    };
    assert_eq!(look(START), [(0, 0, None), (2, 0, None), (3, 0, None)], "of its own limits alone");
    buy(&ledger, &policy, &subject(0, 0, 0), Send, START);
    assert_eq!(look(START), [(0, 1, None), (2, 0, None), (3, 1, Some(HOUR * 2))]);
    buy(&ledger, &policy, &subject(0, 0, 0), Resend, START + SECOND);
    let now = START + SECOND * 2;
    assert_eq!(look(now)[..2], [(0, 2, Some(MINUTE - SECOND * 2)), (2, 1, Some(HOUR - SECOND))]);
    assert_eq!(wait_of(&ledger, &policy, &subject(0, 0, 0), Send, now), Some(MINUTE - SECOND * 2));
    assert_eq!(look(START + MINUTE - MICRO)[0], (0, 2, Some(MICRO)));
    assert_eq!(look(START + MINUTE)[0], (0, 1, None), "the first has left");
}

pub fn whatever_happens_a_look_says_what_the_model_does(new: New) {
    prove((policies(), sequences(anything())), |(limits, events)| {
        let mut world = World::new(new(), limits);
        for event in &events {
            world.step(event);
            for key in world.keys() {
                let max = |place: usize| world.policy.limits()[place].max as usize;
                let look = wait(world.ledger.look(&world.policy, key, world.now));
                let told = look.standings.iter().map(|told| (told.place, told.used.min(max(told.place)), told.wait));
                prop_assert_eq!(told.collect::<Vec<_>>(), world.model.look(key, world.now), "{:?}", key);
            }
        }
        Ok(())
    });
}

pub fn a_look_changes_nothing_and_shows_a_hold_until_its_end(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Phone, 1, HOUR)]));
    wait(ledger.hold(phone_key(0), START + MINUTE, START));
    let held = |now| wait(ledger.look(&policy, phone_key(0), now)).held_until;
    assert_eq!([held(START), held(START + MINUTE - MICRO)], [Some(START + MINUTE); 2]);
    assert_eq!(held(START + MINUTE), None);
    buy(&ledger, &policy, &only(phone_key(1)), Send, START);
    for _ in 0..3 {
        wait(ledger.look(&policy, phone_key(1), START));
        wait(ledger.look(&policy, phone_key(2), START));
    }
    assert_eq!(contents(&ledger, phone_key(1), START), (vec![START], vec![], None));
    assert_eq!(contents(&ledger, phone_key(2), START), (vec![], vec![], None));
}

pub fn clearing_a_phone_gives_it_its_full_limits_and_touches_nobody_else(new: New) {
    let limits = [limit(Per::Phone, 2, HOUR), limit(Per::Verification, 9, HOUR), limit(Per::Account, 9, HOUR)];
    let (ledger, policy) = (new(), policy(limits));
    for nth in 0..2 {
        buy(&ledger, &policy, &subject(nth, nth, 0), Send, START);
        buy(&ledger, &policy, &subject(nth, nth, 0), Resend, START + SECOND);
        wait(ledger.hold(phone_key(nth), START + MINUTE, START));
    }
    let keys = [phone_key(1), Key::Verification(verification(0)), Key::Account(account(0))];
    let now = START + SECOND * 2;
    let others = || keys.map(|key| contents(&ledger, key, now));
    let before = others();
    assert_eq!(wait(ledger.clear(&policy, phone_key(0), now)), Cleared { codes: 2, hold: true, cooldowns: 0 });
    assert_eq!(others(), before);
    for _ in 0..2 {
        buy(&ledger, &policy, &only(phone_key(0)), Send, now);
    }
    assert_eq!(wait_of(&ledger, &policy, &only(phone_key(0)), Send, now), Some(HOUR), "its full limits, and no more");
    assert_eq!(wait(ledger.clear(&policy, phone_key(2), now)), Cleared::default(), "there was nothing");
    let late = now + HOUR;
    assert_eq!(wait(ledger.clear(&policy, phone_key(1), late)), Cleared::default(), "nothing counts any more");
}

pub fn clearing_a_phone_ends_the_cooldowns_of_its_verifications_under_any_spelling(new: New) {
    let limits = [limit(Per::Phone, 9, HOUR), limit(Per::Verification, 1, HOUR), limit(Per::Account, 9, HOUR)];
    let (ledger, policy) = (new(), policy(limits));
    // The first two are of one phone under two spellings, the third is another's; of the last nothing counts.
    for (id, of) in [(0, 0), (1, 1), (2, 2)] {
        wait(ledger.learn(verification(id), phone(of), START));
        buy(&ledger, &policy, &subject(of, id, 0), Resend, START);
    }
    wait(ledger.learn(verification(3), phone(0), START));
    wait(ledger.absorb(&policy, phone_key(0), phone_key(1), START));
    let now = START + SECOND;
    let cleared = wait(ledger.clear_phone(&policy, phone(1), now));
    assert_eq!(cleared, Cleared { codes: 2, hold: false, cooldowns: 2 });
    let waits = [0, 1, 2].map(|id| wait_of(&ledger, &policy, &only(Key::Verification(verification(id))), Resend, now));
    assert_eq!(waits, [None, None, Some(HOUR - SECOND)]);
    assert_eq!(wait(ledger.clear_phone(&policy, phone(0), now)), Cleared::default(), "there is nothing any more");
}

pub fn a_code_under_way_when_its_phone_is_cleared_gives_nothing_back(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Phone, 1, HOUR), limit(Per::Account, 2, HOUR)]));
    let open = take(&ledger, &policy, &subject(0, 0, 0), Send, START);
    assert_eq!(wait(ledger.clear(&policy, phone_key(0), START)), Cleared { codes: 1, hold: false, cooldowns: 0 });
    buy(&ledger, &policy, &subject(0, 1, 0), Send, START + MICRO);
    wait(open.settle(Settlement::GiveBack));
    assert_eq!(contents(&ledger, phone_key(0), START + SECOND).0, [START + MICRO], "the new code's charge stays");
    assert_eq!(contents(&ledger, Key::Account(account(0)), START + SECOND).0, [START + MICRO], "the old one's is back");
}

pub fn whoever_asks_while_a_phone_is_cleared_gets_its_limit_before_and_after_and_no_more(new: New) {
    const THREADS: usize = 8;
    let (ledger, policy) = (new(), policy([limit(Per::Phone, 5, HOUR)]));
    let (barrier, passed) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        for nth in 0..THREADS {
            let (ledger, policy, barrier, passed) = (&ledger, &policy, &barrier, &passed);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..200 {
                    let now = START + MICRO * u32::try_from(round * THREADS + nth).unwrap();
                    let (_, verdict) = ask(ledger, policy, &only(phone_key(0)), Send, now);
                    let passes = matches!(verdict, Verdict::Reserved(_));
                    passed.fetch_add(usize::from(passes), Ordering::SeqCst);
                }
            });
        }
        barrier.wait();
        wait(ledger.clear(&policy, phone_key(0), START + SECOND));
    });
    let left = (0..10)
        .take_while(|_| {
            matches!(ask(&ledger, &policy, &only(phone_key(0)), Send, START + SECOND).1, Verdict::Reserved(_))
        })
        .count();
    let passed = passed.load(Ordering::SeqCst) + left;
    assert!((5..=10).contains(&passed), "{passed}");
    assert_eq!(contents(&ledger, phone_key(0), START + MINUTE).0.len(), 5);
}

pub fn an_exempt_phone_is_never_refused_and_is_charged_to_itself_alone(new: New) {
    let limits = [limit(Per::Phone, 2, HOUR), limit(Per::Account, 3, HOUR), limit(Per::Verification, 2, HOUR)];
    let (ledger, policy) = (new(), policy(limits));
    let exempting = policy.for_exempt_phones();
    let account_key = Key::Account(account(0));
    buy(&ledger, &policy, &subject(1, 1, 0), Send, START);
    let before = contents(&ledger, account_key, START);
    for nth in 0..6 {
        let (decision, verdict) = ask(&ledger, &exempting, &subject(0, 0, 0), Send, START);
        let Verdict::Reserved(reservation) = verdict else { panic!("{nth}: {verdict:?}") };
        let is = |limits: LimitSet| [0, 1, 2].map(|place| limits.contains(place));
        assert_eq!(is(decision.met), [true, false, true], "{nth}: its account is not asked");
        assert_eq!(is(decision.reached), [nth >= 2, false, nth >= 2], "{nth}");
        wait(reservation.settle(Settlement::Keep));
    }
    wait(take(&ledger, &exempting, &subject(0, 0, 0), Send, START).settle(Settlement::GiveBack));
    assert_eq!(contents(&ledger, phone_key(0), START).0.len(), 6);
    assert_eq!(contents(&ledger, Key::Verification(verification(0)), START).0.len(), 6);
    assert_eq!(contents(&ledger, account_key, START), before);
    for nth in 2..4 {
        buy(&ledger, &policy, &subject(nth, nth, 0), Send, START);
    }
    let refusal = ask(&ledger, &policy, &subject(4, 4, 0), Send, START).0.refusal.unwrap();
    assert_eq!(refusal.by, Obstacle::Limit(1), "the others of its account have the account's limit to themselves");
    // A full account refuses it no more than its own limits do.
    wait(take(&ledger, &exempting, &subject(0, 0, 0), Send, START).settle(Settlement::Keep));
    assert_eq!(
        wait_of(&ledger, &policy, &subject(0, 9, 1), Send, START),
        Some(HOUR),
        "and for itself, once it is exempt no more"
    );
}

pub fn sendlys_hold_refuses_an_exempt_phone_too(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Phone, 2, HOUR)]));
    wait(ledger.hold(phone_key(0), START + MINUTE, START));
    let refusal = ask(&ledger, &policy.for_exempt_phones(), &subject(0, 0, 0), Send, START).0.refusal.unwrap();
    assert_eq!((refusal.by, refusal.retry_after), (Obstacle::Hold, MINUTE));
}
