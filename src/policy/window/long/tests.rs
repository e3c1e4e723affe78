//! Long logs say what a plain list of all charges says.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{BLOCK, LongLog};
use crate::clock::Moment;
use crate::policy::window::charge::Charge;
use crate::policy::window::{Log, UNSETTLED};
use crate::policy::{Counts, Keep, Kind, Retention, Rule};

const MINUTE: u64 = 60_000_000;
const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

const SENDS: Counts = Counts::SENDS;

/// Limits of which some count both kinds, so that as many of each are kept.
const OF_BOTH: &[Rule] = &[
    rule(1, HOUR, Counts::BOTH),
    rule(7, WINDOW, Counts::RESENDS),
    rule(600, HOUR, SENDS),
    rule(3_000, WINDOW, Counts::RESENDS),
    rule(4_000, WINDOW, SENDS),
    rule(5_000, WINDOW, Counts::BOTH),
];

/// Limits of one kind each: of one many charges are needed, of the other few.
const OF_ONE: &[Rule] = &[
    rule(4_000, WINDOW, SENDS),
    rule(1_100, HOUR, SENDS),
    rule(300, WINDOW, Counts::RESENDS),
    rule(9, HOUR, Counts::RESENDS),
];

const fn rule(max: u32, window: Duration, counts: Counts) -> Rule {
    Rule { place: 0, max, window, counts, near: max - max / 5, enforced: true }
}

fn retention_of(rules: &[Rule]) -> Retention {
    let keep = |kind| {
        let of_kind = || rules.iter().filter(move |rule| rule.counts.includes(kind));
        let charges = of_kind().map(|rule| rule.max as usize).max().unwrap();
        Keep { charges, window: of_kind().map(|rule| rule.window).max().unwrap() }
    };
    Retention { sends: keep(Kind::Send), resends: keep(Kind::Resend) }
}

/// All charges that there ever were, in their order.
#[derive(Default)]
struct Model(Vec<(Moment, Kind, bool)>);

impl Model {
    fn newest(&self) -> Option<Moment> {
        self.0.last().map(|(at, ..)| *at)
    }

    fn put(&mut self, at: Moment, kind: Kind, is_open: bool) {
        let place = self.0.partition_point(|(other, ..)| *other <= at);
        self.0.insert(place, (at, kind, is_open));
    }

    fn inside(&self, rule: &Rule, as_of: Moment) -> impl Iterator<Item = &(Moment, Kind, bool)> {
        let first = self.0.partition_point(|(at, ..)| *at + rule.window <= as_of);
        self.0[first..].iter().filter(|(_, kind, _)| rule.counts.includes(*kind))
    }

    fn check(&self, log: &Log, rules: &[Rule], now: Moment) {
        let as_of = self.newest().map_or(now, |newest| newest.max(now));
        // One that has left every window may have been forgotten for a newer one that was given back since.
        let counts = |at: &Moment| *at + WINDOW > as_of;
        assert_eq!(log.newest().filter(counts), self.newest().filter(counts));
        for rule in rules {
            let times: Vec<Moment> = self.inside(rule, as_of).map(|(at, ..)| *at).collect();
            let max = rule.max as usize;
            let wait = times.len().checked_sub(max).map(|older| (times[older] + rule.window).since(now));
            assert_eq!(log.full(rule, now), wait, "{rule:?}");
            assert_eq!(log.is_nearly_full(rule, now), times.len() >= rule.near as usize, "{rule:?}");
            let settled = self.inside(rule, as_of).filter(|(at, _, open)| !open || *at + UNSETTLED <= as_of);
            assert_eq!(log.is_full_of_settled(rule, now), settled.count() >= max, "{rule:?}");
            // More than any limit needs may have been forgotten.
            assert_eq!(log.used(rule, now).min(max), times.len().min(max), "{rule:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many codes, each so long after the one before, open or not; every so many is a resend.
    Codes {
        many: usize,
        apart: u64,
        open: bool,
        resend_each: usize,
    },
    /// Codes at one moment, so long before the newest.
    Late {
        many: usize,
        before: u64,
        kind: Kind,
    },
    /// Every so many of those that are open is given back, the others stay.
    Settle {
        given_back_each: usize,
    },
    Advance(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(Kind::Send), Just(Kind::Resend)];
    let apart = prop_oneof![Just(0), 1..2_000_000_u64, Just(20 * MINUTE)];
    let codes = (1..2_500_usize, apart, any::<bool>(), 1..9_usize);
    let step = prop_oneof![
        6 => codes.prop_map(|(many, apart, open, resend_each)| Step::Codes { many, apart, open, resend_each }),
        2 => (1..40_usize, 0..UNSETTLED.as_micros() as u64, kind)
            .prop_map(|(many, before, kind)| Step::Late { many, before, kind }),
        3 => (1..5_usize).prop_map(|given_back_each| Step::Settle { given_back_each }),
        1 => (0..30 * 60 * MINUTE).prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 1..16)
}

/// Takes the steps with a log and with a list of all charges, and compares what they say.
fn take(steps: &[Step], rules: &[Rule]) {
    let retention = retention_of(rules);
    let (mut log, mut model) = (Log::default(), Model::default());
    let mut now = Moment::from_micros(1_800_000_000_000_000);
    for step in steps {
        match *step {
            Step::Codes { many, apart, open, resend_each } => {
                for nth in 0..many {
                    now = now + Duration::from_micros(apart);
                    let kind = if nth % resend_each == 0 { Kind::Resend } else { Kind::Send };
                    let at = log.not_before(now);
                    log.take_as(at, kind, retention, open);
                    model.put(at, kind, open);
                }
            }
            Step::Late { many, before, kind } => {
                let at = model.newest().unwrap_or(now) - Duration::from_micros(before);
                for _ in 0..many {
                    log.take_as(at, kind, retention, false);
                    model.put(at, kind, false);
                }
            }
            Step::Settle { given_back_each } => {
                let young = model.0.partition_point(|(at, ..)| *at + UNSETTLED <= now);
                let open = model.0[young..].iter().filter(|(.., open)| *open).copied().collect::<Vec<_>>();
                for (nth, (at, kind, _)) in open.into_iter().enumerate() {
                    let place = model.0.iter().rposition(|charge| *charge == (at, kind, true)).unwrap();
                    if nth % given_back_each == 0 {
                        assert!(log.give_back(at, kind));
                        model.0.remove(place);
                    } else {
                        log.keep(at, kind);
                        model.0[place].2 = false;
                    }
                }
            }
            Step::Advance(micros) => now = now + Duration::from_micros(micros),
        }
        model.check(&log, rules, now);
    }
    let mut last = Moment::default();
    assert!(log.each().all(|(at, _)| std::mem::replace(&mut last, at) <= at), "they stand in their order");
}

#[test]
fn a_long_log_says_what_a_list_of_all_charges_says() {
    let mut runner = TestRunner::new(Config { cases: 128, failure_persistence: None, ..Config::default() });
    let both = prop_oneof![Just(OF_BOTH), Just(OF_ONE)];
    runner
        .run(&(steps(), both), |(steps, rules)| {
            take(&steps, rules);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

fn at(micros: u64) -> Moment {
    Moment::from_micros(1_800_000_000_000_000 + micros)
}

#[test]
fn what_a_block_knows_is_what_stands_in_it_whatever_was_done() {
    let charges: Vec<Charge> =
        (0..4_000).map(|nth| Charge::new(at(nth), [Kind::Send, Kind::Resend][nth as usize % 2])).collect();
    let mut log = LongLog::of(&charges);
    // From the middle, until blocks are small and become one.
    for charge in &charges[1_000..2_900] {
        assert!(log.give_back(*charge));
    }
    for nth in 0..600 {
        log.put(Charge::new(at(1_500 + nth % 3), Kind::Send).opened(), retention_of(OF_BOTH));
    }
    let mut before = log.blocks.front().unwrap().before;
    for block in &log.blocks {
        let anew = super::Block::of(block.charges.clone(), before);
        assert_eq!((block.before, block.own, block.open), (before, anew.own, anew.open));
        assert!((1..=BLOCK).contains(&block.charges.len()));
        before = block.end();
    }
    assert_eq!((log.open, log.len()), ([600, 0], 4_000 - 1_900 + 600));
    assert!(log.blocks.len() < 10, "{}", log.blocks.len());
}

#[test]
fn what_no_limit_needs_goes_bit_by_bit() {
    let one_kind =
        Retention { sends: Keep { charges: 10_000, window: WINDOW }, resends: Keep { charges: 100, window: HOUR } };
    let mut log = Log::default();
    let mut most = 0;
    for nth in 0..200_000_u64 {
        // A resend each third time, far over their limit.
        let kind = if nth % 3 == 0 { Kind::Resend } else { Kind::Send };
        log.take(at(nth * 100_000), kind, one_kind);
        if nth % 100 == 0 {
            most = most.max(log.each().count());
        }
    }
    // Those that are needed, those of the last six minutes, and a third of room.
    assert!(most < (10_000 + 100 + 3_600) * 4 / 3 + 4 * BLOCK, "{most}");
}
