//! A phone that Sendly knows under several spellings, and what its log counts.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sendly_gateway::clock::Moment;
use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::policy::{Key, Kind, Per, Policy};

use super::world::*;

pub const WINDOW: Duration = Duration::from_secs(4);
const MAX: usize = 5;
/// The first of them is what Sendly's answers name.
const SPELLINGS: usize = 3;

#[derive(Clone, Debug)]
pub enum Step {
    /// A code to a spelling: it goes out, or is given back.
    Code(usize, Settlement),
    Advance(u64),
    Hold(usize),
    Clear(usize),
    Sweep,
    /// Whatever a test makes of it: the number says what.
    Other(u8),
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let spelling = prop_oneof![2 => Just(0), 2 => Just(1), 1 => 0..SPELLINGS];
    let settlement = prop_oneof![4 => Just(Settlement::Keep), 1 => Just(Settlement::GiveBack)];
    let step = prop_oneof![
        12 => (spelling, settlement).prop_map(|(spelling, settlement)| Step::Code(spelling, settlement)),
        // Often shorter than a window, so that something counts for long.
        8 => (1..1500_u64).prop_map(Step::Advance),
        1 => Just(Step::Advance(4000)),
        1 => (0..SPELLINGS).prop_map(Step::Clear),
        1 => (0..SPELLINGS).prop_map(Step::Hold),
        4 => Just(Step::Sweep),
        2 => any::<u8>().prop_map(Step::Other),
    ];
    prop::collection::vec(step, 1..120)
}

pub fn five_in_four_seconds() -> Policy {
    policy([limit(Per::Phone, 5, WINDOW)])
}

fn key(spelling: usize) -> Key {
    Key::Phone(phone(spelling))
}

/// Takes a ledger through some steps. `sweep` and `other` do what a store does there, at a moment.
pub fn check(
    ledger: &Cell<Option<Ledger>>,
    steps: &[Step],
    sweep: impl Fn(&Ledger, Moment),
    other: impl Fn(u8, Moment),
) -> Result<(), TestCaseError> {
    let policy = five_in_four_seconds();
    let (mut now, mut codes, mut related) = (START, Vec::<Moment>::new(), [true, false, false]);
    for step in steps {
        let current = ledger.take().unwrap();
        ledger.set(Some(current.clone()));
        let counts = codes.iter().filter(|at| **at + WINDOW > now).count();
        if counts == 0 {
            related = [true, false, false];
        }
        match step {
            Step::Code(spelling, settlement) => {
                let (_, verdict) = ask(&current, &policy, &only(key(*spelling)), Kind::Send, now);
                let passes = matches!(verdict, Verdict::Reserved(_));
                // What only this test knows to be one phone may get more, and is known for one by the answer.
                if related[*spelling] || counts < MAX {
                    prop_assert_eq!(passes, counts < MAX, "{} of {:?} at {}", spelling, codes, now.as_micros());
                }
                let Verdict::Reserved(reservation) = verdict else { continue };
                let at = reservation.at();
                wait(reservation.settle(*settlement));
                if *settlement == Settlement::Keep {
                    codes.push(at);
                    if *spelling != 0 {
                        wait(current.absorb(&policy, key(0), key(*spelling), now));
                        related[*spelling] = true;
                    }
                }
            }
            Step::Advance(millis) => now = now + Duration::from_millis(*millis),
            // A hold that is over by now, so that it refuses nothing.
            Step::Hold(spelling) => wait(current.hold(key(*spelling), now, now)),
            Step::Clear(spelling) if related[*spelling] => {
                wait(current.clear(&policy, key(*spelling), now));
                codes.clear();
            }
            Step::Clear(_) => {}
            Step::Sweep => sweep(&current, now),
            Step::Other(what) => {
                drop(current);
                other(*what, now);
            }
        }
    }
    Ok(())
}

pub fn whatever_a_phone_is_called_it_has_one_log_for_as_long_as_that_counts(new: New) {
    prove(steps(), |steps| {
        let sweep = |ledger: &Ledger, now| {
            memory_of(ledger).map(|memory| memory.sweep(&five_in_four_seconds(), now, || ()));
        };
        check(&Cell::new(Some(new())), &steps, sweep, |_, _| ())
    });
}

pub fn codes_that_go_to_two_spellings_in_turn_are_as_many_as_to_one(new: New) {
    let (ledger, policy) = (new(), five_in_four_seconds());
    let mut codes = Vec::new();
    for nth in 0..400_u32 {
        let now = START + Duration::from_millis(130) * nth;
        let spelling = if nth % 7 < 3 { 1 } else { 0 };
        if let (_, Verdict::Reserved(reservation)) = ask(&ledger, &policy, &only(key(spelling)), Kind::Send, now) {
            wait(reservation.settle(Settlement::Keep));
            codes.push(now);
            if spelling == 1 {
                wait(ledger.absorb(&policy, key(0), key(1), now));
            }
        }
        memory_of(&ledger).map(|memory| memory.sweep(&policy, now, || ()));
    }
    let most = codes.iter().map(|end| codes.iter().filter(|at| **at <= *end && **at + WINDOW > *end).count()).max();
    assert_eq!(most, Some(MAX), "{codes:?}");
    assert!(codes.len() >= 50, "and none fewer: {}", codes.len());
}
