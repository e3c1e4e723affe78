//! The exact log: when the last codes went out, and whether one more may.
//!
//! A limit of *max* codes in any *window* is exact if and only if a code is let through exactly when the max-th newest one
//! before it has left the window `(now - window, now]`. So a log keeps the newest charges and looks at one of them: no
//! estimate, no bucket, no burst.
//!
//! There may be tens of millions of logs, and most hold one charge: that one stands in the log itself, which has 16 bytes. Only
//! the second one takes the log to the heap. A log of hundreds of charges becomes a long one (`window/long.rs`), whose length costs a decision nothing.

mod charge;
mod long;

use std::time::Duration;

use thin_vec::ThinVec;

use super::{Counts, Kind, Retention, Rule};
use crate::clock::Moment;
use charge::Charge;
use long::LongLog;

/// For how long a charge may yet be given back, and how far two readings of the clock may lie apart.
///
/// An exchange takes five minutes at most (`upstream.exchange_timeout`). Until then no charge makes an older one needless: it may
/// turn out never to have been. A charge that is older than this counts as settled, whatever became of its exchange. Were it given
/// back even later, shadow limits could miss a charge that was forgotten for it; a limit that is enforced could not, since what it
/// let through had left its window by then. `ledger.lua` has the same figure.
pub const UNSETTLED: Duration = Duration::from_secs(360);

/// How many charges stand on the heap without their number, and the rest is 0: with it they would take 64 bytes of the allocator's instead
/// of 48, and most logs that need the heap at all have no more.
const FEW: usize = 5;

/// A log of this many charges becomes long, and one of half as many is long no more.
const LONG: usize = long::BLOCK;

/// The codes that went to one key, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Log(Charges);

#[derive(Clone, Debug)]
enum Charges {
    /// At most one: 0 is none.
    One(u64),
    /// At least one: they themselves, then zeros.
    Few(Box<[u64; FEW]>),
    Many(ThinVec<u64>),
    Long(Box<LongLog>),
}

impl Default for Charges {
    fn default() -> Self {
        Charges::One(0)
    }
}

impl Log {
    /// How long until a limit lets one more code through; `None` if it does now.
    ///
    /// A `now` before the newest charge (another thread read its clock first, or time ran backwards) is judged as that
    /// charge's moment, but the wait is told from the `now` that was given.
    pub fn full(&self, rule: &Rule, now: Moment) -> Option<Duration> {
        let leaves = self.leaves(rule)?;
        (leaves > self.not_before(now)).then(|| leaves.since(now))
    }

    /// When the charge leaves the window of a limit that it waits for, if there are as many as that.
    pub fn leaves(&self, rule: &Rule) -> Option<Moment> {
        Some(self.nth_newest(rule.counts, rule.max)?.at() + rule.window)
    }

    /// Whether a limit is full of settled charges alone, so that it refuses whatever becomes of those that are not settled yet.
    pub fn is_full_of_settled(&self, rule: &Rule, now: Moment) -> bool {
        let (as_of, n) = (self.not_before(now), (rule.max as usize).max(1));
        let nth_settled = match &self.0 {
            Charges::Long(long) => long.nth_newest_settled(rule.counts, n, as_of),
            _ => {
                let newest_first = self.short().iter().rev().map(|word| Charge(*word));
                let settled = |charge: &Charge| rule.counts.includes(charge.kind()) && charge.is_settled(as_of);
                newest_first.filter(settled).nth(n - 1)
            }
        };
        nth_settled.is_some_and(|charge| charge.at() + rule.window > as_of)
    }

    /// Whether one more code takes a limit to 80 % of its max or more. As cheap as [`full`](Self::full): it looks at one charge.
    pub fn is_nearly_full(&self, rule: &Rule, now: Moment) -> bool {
        self.nth_newest(rule.counts, rule.near).is_some_and(|charge| charge.at() + rule.window > self.not_before(now))
    }

    /// How many of its codes a limit counts in its window that ends now.
    pub fn used(&self, rule: &Rule, now: Moment) -> usize {
        let now = self.not_before(now);
        self.count_from(rule.counts, |charge| charge.at() + rule.window > now)
    }

    /// How many of its codes some limit can still need.
    pub fn counted(&self, retention: Retention, now: Moment) -> usize {
        let needed = |counts, kind| self.count_from(counts, |charge| charge.at() + retention.of(kind).window > now);
        needed(Counts::SENDS, Kind::Send) + needed(Counts::RESENDS, Kind::Resend)
    }

    /// How many of those that are counted satisfy what no charge does that is older than one that does not.
    fn count_from(&self, counts: Counts, is_inside: impl Fn(Charge) -> bool) -> usize {
        match &self.0 {
            Charges::Long(long) => long.count_from(counts, is_inside),
            _ => {
                let is_counted = |charge: &Charge| counts.includes(charge.kind()) && is_inside(*charge);
                self.short().iter().map(|word| Charge(*word)).filter(is_counted).count()
            }
        }
    }

    /// Its charges, oldest first.
    pub fn each(&self) -> impl DoubleEndedIterator<Item = (Moment, Kind)> {
        self.each_open().map(|(at, kind, _)| (at, kind))
    }

    /// Its charges, oldest first, and whether each is still open.
    pub fn each_open(&self) -> impl DoubleEndedIterator<Item = (Moment, Kind, bool)> {
        self.charges().map(|charge| (charge.at(), charge.kind(), charge.is_open()))
    }

    /// When it was charged last.
    pub fn newest(&self) -> Option<Moment> {
        match &self.0 {
            Charges::Long(long) => Some(long.newest()?.at()),
            _ => self.short().last().map(|charge| Charge(*charge).at()),
        }
    }

    /// The time at which a charge can be taken: `now`, but never before the newest charge, so that the log stays in order.
    pub fn not_before(&self, now: Moment) -> Moment {
        self.newest().map_or(now, |newest| newest.max(now))
    }

    /// Takes a charge that is settled.
    pub fn take(&mut self, at: Moment, kind: Kind, retention: Retention) {
        self.take_as(at, kind, retention, false);
    }

    /// Takes a charge that is settled, or open: to be kept or given back.
    pub fn take_as(&mut self, at: Moment, kind: Kind, retention: Retention, is_open: bool) {
        let charge = Charge::new(at, kind);
        self.put(if is_open { charge.opened() } else { charge }, retention);
    }

    /// Settles a charge: it stays.
    pub fn keep(&mut self, at: Moment, kind: Kind) {
        let charge = Charge::new(at, kind);
        let words = match &mut self.0 {
            Charges::One(only) => std::slice::from_mut(only),
            Charges::Few(few) => few.as_mut_slice(),
            Charges::Many(many) => many.as_mut_slice(),
            Charges::Long(long) => return long.keep(charge),
        };
        if let Some(word) = words.iter_mut().rev().find(|word| **word == charge.opened().0) {
            *word = charge.0;
        }
    }

    /// Gives a charge back: it never was. Returns whether it was there. Of two that are alike, the one that is open goes.
    pub fn give_back(&mut self, at: Moment, kind: Kind) -> bool {
        let charge = Charge::new(at, kind);
        if let Charges::Long(long) = &mut self.0 {
            let was_there = long.give_back(charge);
            self.shorten();
            return was_there;
        }
        let charges = self.short();
        let find = |word: u64| charges.iter().rposition(|other| *other == word);
        let Some(place) = find(charge.opened().0).or_else(|| find(charge.0)) else { return false };
        match &mut self.0 {
            Charges::One(only) => *only = 0,
            Charges::Few(few) => {
                few.copy_within(place + 1.., place);
                few.last_mut().into_iter().for_each(|last| *last = 0);
            }
            Charges::Many(many) => drop(many.remove(place)),
            Charges::Long(_) => {}
        }
        if self.is_empty() {
            self.0 = Charges::default();
        }
        true
    }

    /// Takes over what another log holds.
    pub fn absorb(&mut self, other: &Log, retention: Retention) {
        other.charges().for_each(|charge| self.put(charge, retention));
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.newest().is_none()
    }

    /// Whether no limit can need it any more. It does not matter then what becomes of a charge that is still to be settled.
    pub fn is_spent(&self, retention: Retention, now: Moment) -> bool {
        let newest = |counts| self.nth_newest(counts, 1);
        let newest = [newest(Counts::SENDS), newest(Counts::RESENDS)];
        newest.into_iter().flatten().all(|charge| charge.leaves(retention) <= now)
    }

    fn charges(&self) -> impl DoubleEndedIterator<Item = Charge> {
        let long = if let Charges::Long(long) = &self.0 { Some(long) } else { None };
        let short = self.short().iter().map(|word| Charge(*word));
        short.chain(long.into_iter().flat_map(|long| long.charges()))
    }

    /// The charges of a log that is not long.
    fn short(&self) -> &[u64] {
        match &self.0 {
            Charges::One(0) | Charges::Long(_) => &[],
            Charges::One(charge) => std::slice::from_ref(charge),
            Charges::Few(few) => {
                // From its end: whoever is refused has had them all.
                let end = few.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
                few.get(..end).unwrap_or(&few[..])
            }
            Charges::Many(many) => many,
        }
    }

    fn put(&mut self, charge: Charge, retention: Retention) {
        match &mut self.0 {
            Charges::One(0) => self.0 = Charges::One(charge.0),
            Charges::One(only) => {
                let (older, newer) = in_order(Charge(*only), charge);
                self.0 = if is_needless(older, newer, retention) {
                    Charges::One(newer.0)
                } else {
                    Charges::Few(Box::new([older.0, newer.0, 0, 0, 0]))
                };
            }
            Charges::Few(few) if few.last() == Some(&0) => {
                let end = few.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
                let place = place_of(charge, few.get(..end).unwrap_or_default());
                few.copy_within(place..FEW - 1, place + 1);
                if let Some(word) = few.get_mut(place) {
                    *word = charge.0;
                }
            }
            Charges::Many(many) if many.len() < many.capacity() => match place_of(charge, many) {
                // Nearly always.
                place if place == many.len() => many.push(charge.0),
                place => many.insert(place, charge.0),
            },
            Charges::Few(_) | Charges::Many(_) => {
                self.make_room(charge, retention);
                self.put(charge, retention);
            }
            Charges::Long(long) => {
                long.put(charge, retention);
                self.shorten();
            }
        }
    }

    /// Forgets what no limit can need once `coming` is there, and moves to where there is room.
    fn make_room(&mut self, coming: Charge, retention: Retention) {
        let charges = self.short();
        let newest = self.not_before(coming.at());
        // Nothing settled is judged as of a time before this.
        let settled = newest - UNSETTLED;
        let spare = |kind| {
            let counted =
                charges.iter().map(|charge| Charge(*charge)).filter(|c| c.kind() == kind && c.at() <= settled);
            counted.count().saturating_sub(retention.of(kind).charges)
        };
        let (spare_sends, spare_resends) = (spare(Kind::Send), spare(Kind::Resend));
        let kept = || {
            let (mut sends, mut resends) = (spare_sends, spare_resends);
            charges.iter().map(|word| Charge(*word)).filter(move |charge| {
                let spare = if charge.kind() == Kind::Send { &mut sends } else { &mut resends };
                let beyond = *spare > 0;
                *spare = spare.saturating_sub(1);
                !beyond && charge.leaves(retention) > settled
            })
        };
        self.0 = match kept().count() {
            many @ ..LONG => with_room(kept(), many),
            _ => Charges::Long(Box::new(LongLog::of(&kept().collect::<Vec<_>>()))),
        };
    }

    /// Is long no more, if it has become short.
    fn shorten(&mut self) {
        if let Charges::Long(long) = &self.0
            && long.len() <= LONG / 2
        {
            self.0 = match long.len() {
                0 => Charges::default(),
                many => with_room(long.charges(), many),
            };
        }
    }

    fn nth_newest(&self, counts: Counts, n: u32) -> Option<Charge> {
        let n = n as usize;
        if let Charges::Long(long) = &self.0 {
            return long.nth_newest(counts, n);
        }
        let charges = self.short();
        if counts == Counts::BOTH {
            return charges.get(charges.len().checked_sub(n)?).copied().map(Charge);
        }
        let counted =
            charges.iter().rev().map(|charge| Charge(*charge)).filter(|charge| counts.includes(charge.kind()));
        { counted }.nth(n.checked_sub(1)?)
    }
}

/// The same charges, in whatever room.
impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.charges().eq(other.charges())
    }
}

impl Eq for Log {}

/// Whether no limit can need the older of two charges, whatever becomes of the newer one.
fn is_needless(older: Charge, newer: Charge, retention: Retention) -> bool {
    older.leaves(retention) + UNSETTLED <= newer.at()
}

fn in_order(one: Charge, other: Charge) -> (Charge, Charge) {
    if other.at() < one.at() { (other, one) } else { (one, other) }
}

/// Where a charge belongs: nearly always at the end.
fn place_of(charge: Charge, charges: &[u64]) -> usize {
    charges.len() - charges.iter().rev().take_while(|other| Charge(**other).at() > charge.at()).count()
}

/// So many charges, and room for at least one more.
fn with_room(charges: impl Iterator<Item = Charge>, many: usize) -> Charges {
    if many < FEW {
        let mut few = Box::new([0; FEW]);
        few.iter_mut().zip(charges).for_each(|(word, charge)| *word = charge.0);
        return Charges::Few(few);
    }
    // A quarter of room, so that what is moved is moved seldom. The allocator hands out memory in steps of 16 bytes, two words, and two more
    // words stand before these.
    let room = (many + 2).max(many * 5 / 4).next_multiple_of(2);
    let mut words = ThinVec::with_capacity(room);
    charges.for_each(|charge| words.push(charge.0));
    Charges::Many(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Keep;
    use Kind::{Resend, Send};

    /// Long beside what may yet be given back.
    const WINDOW: u64 = 1_000_000_000;
    const LATER: u64 = UNSETTLED.as_micros() as u64;

    /// Two codes in a window.
    fn two(counts: Counts) -> Rule {
        Rule { place: 0, max: 2, window: Duration::from_micros(WINDOW), counts, near: 1, enforced: true }
    }

    fn retention() -> Retention {
        let two = Keep { charges: 2, window: Duration::from_micros(WINDOW) };
        Retention { sends: two, resends: two }
    }

    fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    fn log_of(charges: impl IntoIterator<Item = (u64, Kind)>) -> Log {
        let mut log = Log::default();
        charges.into_iter().for_each(|(micros, kind)| log.take(at(micros), kind, retention()));
        log
    }

    fn wait(log: &Log, now: u64) -> Option<u64> {
        log.full(&two(Counts::BOTH), at(now)).map(|wait| u64::try_from(wait.as_micros()).unwrap())
    }

    #[test]
    fn a_log_of_one_code_has_sixteen_bytes_and_nothing_on_the_heap() {
        assert_eq!(size_of::<Log>(), 16);
        assert!(matches!(log_of([(100, Send)]).0, Charges::One(_)));
    }

    #[test]
    fn a_window_ends_now_and_excludes_its_beginning() {
        // At WINDOW + 99 the window is (99, WINDOW + 99] and holds both; a microsecond later the first has just left.
        let log = log_of([(100, Send), (103, Send)]);
        assert_eq!(wait(&log, 103), Some(WINDOW - 3), "the code of this very microsecond counts");
        assert_eq!(wait(&log, WINDOW + 99), Some(1));
        assert_eq!(wait(&log, WINDOW + 100), None);
        // One more: now 103 is the second newest.
        let log = log_of([(100, Send), (103, Send), (WINDOW + 100, Send)]);
        assert_eq!(wait(&log, WINDOW + 102), Some(1));
        assert_eq!(wait(&log, WINDOW + 103), None);
    }

    #[test]
    fn two_codes_of_one_microsecond_are_two() {
        let log = log_of([(100, Send), (100, Send)]);
        assert_eq!(wait(&log, 100), Some(WINDOW));
        assert_eq!(wait(&log, WINDOW + 100), None);
    }

    #[test]
    fn one_code_fewer_than_max_waits_for_nothing() {
        assert_eq!(wait(&Log::default(), 100), None);
        assert_eq!(wait(&log_of([(100, Send)]), 100), None);
    }

    #[test]
    fn a_limit_looks_only_at_the_kinds_that_it_counts() {
        let log = log_of([(100, Resend), (101, Send), (102, Resend), (103, Send)]);
        let wait = |counts| log.full(&two(counts), at(104)).unwrap().as_micros() as u64;
        assert_eq!(wait(Counts::BOTH), WINDOW - 2, "until 102 leaves");
        assert_eq!(wait(Counts::RESENDS), WINDOW - 4, "until 100 leaves");
        assert_eq!(wait(Counts { send: true, resend: false }), WINDOW - 3, "until 101 leaves");
    }

    #[test]
    fn a_clock_that_is_behind_is_judged_as_of_the_newest_charge_and_waits_from_where_it_stands() {
        let log = log_of([(100, Send), (103, Send)]);
        assert_eq!(wait(&log, 90), Some(WINDOW + 10));
        assert_eq!(log.not_before(at(90)), at(103));
        // 100 has left the window that ends at the newest, so it has left for every clock.
        assert_eq!(wait(&log_of([(100, Send), (WINDOW + 100, Send)]), 105), None);
    }

    #[test]
    fn charges_stand_in_their_order_however_they_come() {
        let log = log_of([(107, Send), (103, Send), (105, Resend), (101, Send), (109, Send)]);
        let times: Vec<_> = log.each().map(|(at, _)| at.as_micros()).collect();
        assert_eq!(times, [101, 103, 105, 107, 109]);
    }

    #[test]
    fn a_log_is_spent_when_its_newest_charge_leaves_the_window() {
        let log = log_of([(100, Send), (103, Send)]);
        assert!(!log.is_spent(retention(), at(WINDOW + 102)));
        assert!(log.is_spent(retention(), at(WINDOW + 103)));
        assert!(!log_of([(200, Send)]).is_spent(retention(), at(100)), "a charge in the future has not left");
    }

    #[test]
    fn what_may_be_given_back_makes_no_other_charge_needless() {
        let mut log = log_of([(100, Send), (103, Send)]);
        // As if a shadow limit let them through: far over max, and past the first's window.
        let late = (0..40).map(|nth| WINDOW + 90 + nth);
        late.clone().for_each(|micros| log.take(at(micros), Send, retention()));
        late.for_each(|micros| assert!(log.give_back(at(micros), Send)));
        assert_eq!(log, log_of([(100, Send), (103, Send)]));
    }

    #[test]
    fn what_was_given_back_is_not_given_back_twice() {
        let mut log = log_of([(100, Send), (100, Send), (100, Resend)]);
        assert!(log.give_back(at(100), Send) && log.give_back(at(100), Send));
        assert!(!log.give_back(at(100), Send));
        assert_eq!(log, log_of([(100, Resend)]));
        assert!(log.give_back(at(100), Resend) && log.is_empty());
    }

    #[test]
    fn a_log_keeps_no_more_than_some_limit_can_need() {
        // As under a shadow limit: one after the other, far over max.
        let mut log = Log::default();
        for nth in 0..10_000 {
            log.take(at(100 + nth * LATER / 10), Send, retention());
        }
        // Two that are settled, those of the last two minutes, and a quarter of room.
        assert!(log.each().count() <= (2 + 10) * 5 / 4 + 2, "{}", log.each().count());
        // One a window: nothing is ever on the heap.
        let log = log_of((0..100).map(|nth| (100 + nth * (WINDOW + LATER), Resend)));
        assert!(matches!(log.0, Charges::One(_)), "{log:?}");
    }

    #[test]
    fn what_is_open_refuses_nobody_for_good_until_it_is_kept() {
        let mut log = log_of([(100, Send)]);
        log.take_as(at(103), Send, retention(), true);
        let firm = |log: &Log, now| log.is_full_of_settled(&two(Counts::BOTH), at(now));
        assert_eq!(wait(&log, 104), Some(WINDOW - 4), "it is full");
        assert!(!firm(&log, 104), "and may turn out not to be");
        log.keep(at(103), Send);
        assert!(firm(&log, 104));
        assert_eq!(log, log_of([(100, Send), (103, Send)]));
        log.keep(at(103), Send);
        assert_eq!(log, log_of([(100, Send), (103, Send)]), "twice is once");
    }

    #[test]
    fn of_two_charges_alike_the_open_one_is_given_back() {
        let mut log = Log::default();
        log.take_as(at(100), Send, retention(), true);
        log.take(at(100), Send, retention());
        assert!(log.give_back(at(100), Send));
        assert_eq!(log, log_of([(100, Send)]));
    }

    #[test]
    fn what_is_open_for_longer_than_any_exchange_is_settled() {
        let mut log = log_of([(100, Send)]);
        log.take_as(at(103), Send, retention(), true);
        let firm = |now| log.is_full_of_settled(&two(Counts::BOTH), at(now));
        assert!(!firm(103 + LATER - 1) && firm(103 + LATER));
    }
}
