//! Promises among many threads at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::policy::{Key, Kind, Per, Policy, Subject};

use super::world::*;
use Kind::{Resend, Send};

const THREADS: usize = 32;

/// Runs `work` on all threads at once, and says so if they never come to an end.
fn at_once(work: impl Fn(usize) + std::marker::Send + Sync + 'static) {
    let (work, barrier) = (Arc::new(work), Arc::new(Barrier::new(THREADS)));
    let (done, all_done) = mpsc::channel();
    for nth in 0..THREADS {
        let (work, barrier, done) = (work.clone(), barrier.clone(), done.clone());
        std::thread::spawn(move || {
            barrier.wait();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(nth)));
            done.send(outcome.is_ok()).ok();
        });
    }
    for _ in 0..THREADS {
        match all_done.recv_timeout(Duration::from_secs(60)) {
            Ok(passed) => assert!(passed, "a thread failed"),
            Err(_) => panic!("the threads wait for each other"),
        }
    }
}

/// Asks once and keeps it. Whether it passed.
fn passes(ledger: &Ledger, policy: &Policy, subject: &Subject, kind: Kind, micros: usize) -> bool {
    let now = START + Duration::from_micros(micros as u64);
    matches!(ask(ledger, policy, subject, kind, now).1, Verdict::Reserved(_))
}

pub fn one_phone_gets_exactly_max_from_many_threads(new: New) {
    for round in 0..20 {
        let (ledger, passed) = (new(), Arc::new(AtomicUsize::new(0)));
        let count = passed.clone();
        at_once(move |nth| {
            let policy = policy([limit(Per::Phone, 5, MINUTE), limit(Per::Phone, 20, HOUR)]);
            // Their clocks disagree.
            let micros = (nth * 7 + round) % THREADS;
            let passed = passes(&ledger, &policy, &subject(0, nth, nth), Send, micros);
            count.fetch_add(usize::from(passed), Ordering::SeqCst);
        });
        assert_eq!(passed.load(Ordering::SeqCst), 5);
    }
}

pub fn many_phones_share_one_account_exactly(new: New) {
    let (ledger, passed) = (new(), Arc::new(AtomicUsize::new(0)));
    let (judge, count) = (ledger.clone(), passed.clone());
    let policy = policy([limit(Per::Phone, 5, MINUTE), limit(Per::Account, 100, MINUTE)]);
    let limits = policy.clone();
    at_once(move |nth| {
        for round in 0..10 {
            let passed = passes(&judge, &limits, &subject(nth * 10 + round, 0, 0), Send, round);
            count.fetch_add(usize::from(passed), Ordering::SeqCst);
        }
    });
    assert_eq!(passed.load(Ordering::SeqCst), 100);
    // All or nothing: no phone was charged for a code that the account refused.
    let now = START + SECOND;
    let charged = (0..THREADS * 10).map(|nth| contents(&ledger, Key::Phone(phone(nth)), now).0.len());
    assert_eq!(charged.sum::<usize>(), 100);
}

pub fn what_threads_give_back_others_get_and_no_more(new: New) {
    let (ledger, out) = (new(), Arc::new(AtomicUsize::new(0)));
    let policy = policy([limit(Per::Phone, 5, HOUR)]);
    let (judge, limits, count) = (ledger.clone(), policy.clone(), out.clone());
    at_once(move |nth| {
        for round in 0..50 {
            let now = START + MICRO * u32::try_from((nth * 13 + round * 5) % 64).unwrap();
            let (_, verdict) = ask(&judge, &limits, &subject(0, 0, 0), Send, now);
            let Verdict::Reserved(reservation) = verdict else { continue };
            let reserved = count.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(reserved <= 5, "{reserved} are out");
            std::thread::yield_now();
            if nth < 3 && round == 49 {
                wait(reservation.settle(Settlement::Keep));
            } else {
                count.fetch_sub(1, Ordering::SeqCst);
                wait(reservation.settle(Settlement::GiveBack));
            }
        }
    });
    let (kept, now) = (out.load(Ordering::SeqCst), START + SECOND);
    assert_eq!(contents(&ledger, Key::Phone(phone(0)), now).0.len(), kept, "what was kept is there, and nothing else");
    for _ in kept..5 {
        buy(&ledger, &policy, &subject(0, 0, 0), Send, now);
    }
    assert!(wait_of(&ledger, &policy, &subject(0, 0, 0), Send, now).is_some());
}

pub fn opposite_lock_orders_do_not_deadlock(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Phone, 7, HOUR), limit(Per::Verification, 7, HOUR)]));
    // Of these nothing is known, so they never become one: each call takes both locks, in either order.
    let keys = [8, 9].map(|nth| Key::Verification(verification(nth)));
    at_once(move |nth| {
        for _ in 0..5000 {
            wait(ledger.absorb(&policy, keys[nth % 2], keys[1 - nth % 2], START));
        }
        for round in 0..300 {
            // Every phone meets every verification; and all else happens in between.
            let (one, other) = ((nth + round) % 7, (nth * 3 + round * 5) % 7);
            let now = START + MICRO * u32::try_from(round).unwrap();
            match ask(&ledger, &policy, &subject(one, other, 0), Resend, now) {
                (_, Verdict::Reserved(reservation)) if round % 3 > 0 => wait(reservation.settle(Settlement::GiveBack)),
                _ => {}
            }
            let [into, from] = [one, other].map(|nth| Key::Verification(verification(nth)));
            match (nth + round) % 16 {
                0 => wait(ledger.absorb(&policy, into, from, START)),
                1 => wait(ledger.record(&policy, Key::Phone(phone(one)), Send, now)),
                2 => wait(ledger.hold(from, now, now)),
                3 => drop(memory_of(&ledger).map(|memory| memory.sweep(&policy, now, std::thread::yield_now))),
                _ => {}
            }
        }
    });
}

pub fn reservations_settle_exactly_while_their_keys_are_absorbed(new: New) {
    let (ledger, kept) = (new(), Arc::new(AtomicUsize::new(0)));
    let (judge, count) = (ledger.clone(), kept.clone());
    let policy = policy([shadow(limit(Per::Verification, 1000, HOUR))]);
    let limits = policy.clone();
    at_once(move |nth| {
        for round in 0..20 {
            let id = (nth + round) % 8;
            let reservation = take(&judge, &limits, &only(Key::Verification(verification(id))), Resend, START);
            if nth == 0 && round < 7 {
                let [into, from] = [round + 1, round].map(|nth| Key::Verification(verification(nth)));
                wait(judge.absorb(&limits, into, from, START));
            }
            let keep = (nth + round) % 5 == 0;
            count.fetch_add(usize::from(keep), Ordering::SeqCst);
            wait(reservation.settle(if keep { Settlement::Keep } else { Settlement::GiveBack }));
        }
    });
    wait(ledger.absorb(&policy, Key::Verification(verification(7)), Key::Verification(verification(0)), START));
    let (_, resends, _) = contents(&ledger, Key::Verification(verification(7)), START);
    assert_eq!(resends.len(), kept.load(Ordering::SeqCst));
}
