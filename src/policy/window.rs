//! The exact log: when the last codes went out, and whether one more may.
//!
//! A limit of *max* codes in any *window* is exact if and only if a code is let through exactly when the max-th newest one
//! before it has left the window `(now - window, now]`. So a log keeps the newest charges and looks at one of them: no
//! estimate, no bucket, no burst.
//!
//! There may be tens of millions of logs, and most hold one charge: that one stands in the log itself, which has 16 bytes. Only
//! the second one takes the log to the heap.

use std::time::Duration;

use super::{Counts, Kind, Retention, Rule};
use crate::clock::Moment;

/// For how long a charge may yet be given back, and how far two readings of the clock may lie apart.
///
/// An exchange takes five minutes at most (`upstream.exchange_timeout`). Until then no charge makes an older one needless: it may
/// turn out never to have been. A charge that is older than this counts as settled, whatever became of its exchange. Were it given
/// back even later, shadow limits could miss a charge that was forgotten for it; a limit that is enforced could not, since what it
/// let through had left its window by then. `ledger.lua` has the same figure.
pub const UNSETTLED: Duration = Duration::from_secs(360);

/// How many charges have room on the heap at first. They stand there without their number, and the rest is 0: with it they would take
/// 64 bytes of the allocator's instead of 48, and most logs that need the heap at all have no more.
const FEW: usize = 5;

/// The codes that went to one key, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Log(Charges);

#[derive(Clone, Debug)]
enum Charges {
    /// At most one: 0 is none.
    One(u64),
    /// In room for [`FEW`]: they themselves, then zeros. In any other: how many there are; they themselves; room for more.
    Many(Box<[u64]>),
}

impl Default for Charges {
    fn default() -> Self {
        Charges::One(0)
    }
}

/// When a code went out, of which kind, and whether it is settled, in one word. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charge(u64);

impl Charge {
    const RESEND: u64 = 1;
    /// The charge may turn out never to have been. Times reach this bit in 146,000 years.
    const OPEN: u64 = 1 << 63;

    fn new(at: Moment, kind: Kind) -> Self {
        // A moment of the epoch's very first microsecond is that of the second: 0 is no charge.
        let word = at.as_micros().max(1) << 1 | if kind == Kind::Resend { Self::RESEND } else { 0 };
        Self(word & !Self::OPEN)
    }

    const fn at(self) -> Moment {
        Moment::from_micros((self.0 & !Self::OPEN) >> 1)
    }

    const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    /// Whether it stays, whatever becomes of exchanges that are in flight.
    fn is_settled(self, as_of: Moment) -> bool {
        !self.is_open() || self.at() + UNSETTLED <= as_of
    }

    const fn kind(self) -> Kind {
        if self.0 & Self::RESEND == 0 { Kind::Send } else { Kind::Resend }
    }

    /// When it has left every window that counts it.
    fn leaves(self, retention: Retention) -> Moment {
        self.at() + retention.of(self.kind()).window
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
        let as_of = self.not_before(now);
        let inside = |charge: &Charge| charge.at() + rule.window > as_of && rule.counts.includes(charge.kind());
        let settled = |charge: &Charge| inside(charge) && charge.is_settled(as_of);
        let newest_first = self.charges().iter().rev().map(|charge| Charge(*charge));
        newest_first.filter(settled).nth((rule.max as usize).saturating_sub(1)).is_some()
    }

    /// Whether one more code takes a limit to 80 % of its max or more. As cheap as [`full`](Self::full): it looks at one charge.
    pub fn is_nearly_full(&self, rule: &Rule, now: Moment) -> bool {
        self.nth_newest(rule.counts, rule.near).is_some_and(|charge| charge.at() + rule.window > self.not_before(now))
    }

    /// How many of its codes a limit counts in its window that ends now.
    pub fn used(&self, rule: &Rule, now: Moment) -> usize {
        let now = self.not_before(now);
        let inside = |charge: &Charge| rule.counts.includes(charge.kind()) && charge.at() + rule.window > now;
        self.charges().iter().map(|charge| Charge(*charge)).filter(inside).count()
    }

    /// How many of its codes some limit can still need.
    pub fn counted(&self, retention: Retention, now: Moment) -> usize {
        self.charges().iter().filter(|charge| Charge(**charge).leaves(retention) > now).count()
    }

    /// Its charges, oldest first.
    pub fn each(&self) -> impl DoubleEndedIterator<Item = (Moment, Kind)> {
        self.charges().iter().map(|charge| (Charge(*charge).at(), Charge(*charge).kind()))
    }

    /// Its charges, oldest first, and whether each is still open.
    pub fn each_open(&self) -> impl DoubleEndedIterator<Item = (Moment, Kind, bool)> {
        self.charges().iter().map(|word| Charge(*word)).map(|charge| (charge.at(), charge.kind(), charge.is_open()))
    }

    /// When it was charged last.
    pub fn newest(&self) -> Option<Moment> {
        self.charges().last().map(|charge| Charge(*charge).at())
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
        let Charge(word) = Charge::new(at, kind);
        self.put(Charge(if is_open { word | Charge::OPEN } else { word }), retention);
    }

    /// Settles a charge: it stays.
    pub fn keep(&mut self, at: Moment, kind: Kind) {
        let open = Charge::new(at, kind).0 | Charge::OPEN;
        // What stands behind its end is left over from charges that were given back.
        let count = self.charges().len();
        let words = match &mut self.0 {
            Charges::One(only) => std::slice::from_mut(only),
            Charges::Many(words) => room(words).1,
        };
        if let Some(word) = words.iter_mut().take(count).rev().find(|word| **word == open) {
            *word &= !Charge::OPEN;
        }
    }

    fn put(&mut self, charge: Charge, retention: Retention) {
        match &self.0 {
            Charges::One(0) => self.0 = Charges::One(charge.0),
            Charges::One(only) => {
                let (older, newer) = in_order(Charge(*only), charge);
                self.0 = if is_needless(older, newer, retention) {
                    Charges::One(newer.0)
                } else {
                    Charges::Many(boxed(&[older.0, newer.0], FEW))
                };
            }
            Charges::Many(_) => self.insert(charge, retention),
        }
    }

    /// Gives a charge back: it never was. Returns whether it was there. Of two that are alike, the one that is open goes.
    pub fn give_back(&mut self, at: Moment, kind: Kind) -> bool {
        let charge = Charge::new(at, kind).0;
        let charges = self.charges();
        let find = |word: u64| charges.iter().rposition(|other| *other == word);
        let Some(place) = find(charge | Charge::OPEN).or_else(|| find(charge)) else { return false };
        match &mut self.0 {
            Charges::One(only) => *only = 0,
            Charges::Many(words) => {
                let end = there(words).len();
                let (count, charges) = room(words);
                charges.copy_within(place + 1..end, place);
                match (count, charges.get_mut(end - 1)) {
                    (Some(count), _) => *count -= 1,
                    (None, Some(last)) => *last = 0,
                    (None, None) => {}
                }
            }
        }
        if self.charges().is_empty() {
            self.0 = Charges::default();
        }
        true
    }

    /// Takes over what another log holds.
    pub fn absorb(&mut self, other: &Log, retention: Retention) {
        other.charges().iter().for_each(|charge| self.put(Charge(*charge), retention));
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.charges().is_empty()
    }

    /// Whether no limit can need it any more. It does not matter then what becomes of a charge that is still to be settled.
    pub fn is_spent(&self, retention: Retention, now: Moment) -> bool {
        self.charges().iter().rev().all(|charge| Charge(*charge).leaves(retention) <= now)
    }

    fn charges(&self) -> &[u64] {
        match &self.0 {
            Charges::One(0) => &[],
            Charges::One(charge) => std::slice::from_ref(charge),
            Charges::Many(words) => there(words),
        }
    }

    /// Puts a charge where it belongs: nearly always at the end.
    fn insert(&mut self, charge: Charge, retention: Retention) {
        if let Charges::Many(words) = &mut self.0 {
            let end = there(words).len();
            let (count, charges) = room(words);
            if end < charges.len() {
                let newer =
                    charges.iter().take(end).rev().take_while(|other| Charge(**other).at() > charge.at()).count();
                charges.copy_within(end - newer..end, end - newer + 1);
                if let Some(place) = charges.get_mut(end - newer) {
                    *place = charge.0;
                }
                if let Some(count) = count {
                    *count += 1;
                }
                return;
            }
        }
        self.make_room(charge, retention);
        self.insert(charge, retention);
    }

    /// Forgets what no limit can need once `coming` is there, and moves to where there is room, if that is not enough.
    fn make_room(&mut self, coming: Charge, retention: Retention) {
        let charges = self.charges();
        let newest = self.not_before(coming.at());
        // Nothing settled is judged as of a time before this.
        let settled = newest - UNSETTLED;
        let spare = |kind| {
            let counted =
                charges.iter().map(|charge| Charge(*charge)).filter(|c| c.kind() == kind && c.at() <= settled);
            counted.count().saturating_sub(retention.of(kind).charges)
        };
        let (mut sends, mut resends) = (spare(Kind::Send), spare(Kind::Resend));
        let kept: Vec<u64> = charges
            .iter()
            .copied()
            .filter(|charge| {
                let charge = Charge(*charge);
                let spare = if charge.kind() == Kind::Send { &mut sends } else { &mut resends };
                let beyond = *spare > 0;
                *spare = spare.saturating_sub(1);
                !beyond && charge.leaves(retention) > settled
            })
            .collect();
        // A quarter of room, so that what is moved is moved seldom.
        let room = (kept.len() + 2).max(kept.len() * 5 / 4);
        self.0 = Charges::Many(boxed(&kept, room));
    }

    fn nth_newest(&self, counts: Counts, n: u32) -> Option<Charge> {
        let (charges, n) = (self.charges(), n as usize);
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
        self.charges() == other.charges()
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

/// Charges on the heap, with room for so many or a few more.
fn boxed(charges: &[u64], room: usize) -> Box<[u64]> {
    // The allocator hands out memory in steps of 16 bytes; and what has `FEW` words has no number.
    let length = if room <= FEW { FEW } else { (room + 1).next_multiple_of(2).max(FEW + 3) };
    let mut words = Vec::with_capacity(length);
    if length != FEW {
        words.push(charges.len() as u64);
    }
    words.extend_from_slice(charges);
    words.resize(length, 0);
    words.into_boxed_slice()
}

/// The charges that are there.
fn there(words: &[u64]) -> &[u64] {
    if words.len() == FEW {
        // From its end: whoever is refused has had them all.
        let end = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        return words.get(..end).unwrap_or(words);
    }
    match words.split_first() {
        Some((count, charges)) => charges.get(..*count as usize).unwrap_or(charges),
        None => &[],
    }
}

/// Their number, where it stands there, and the room that they have.
fn room(words: &mut [u64]) -> (Option<&mut u64>, &mut [u64]) {
    if words.len() == FEW {
        return (None, words);
    }
    match words.split_first_mut() {
        Some((count, charges)) => (Some(count), charges),
        None => (None, &mut []),
    }
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
        let times: Vec<_> = log.charges().iter().map(|charge| Charge(*charge).at().as_micros()).collect();
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
        assert!(log.charges().len() <= (2 + 10) * 5 / 4 + 2, "{}", log.charges().len());
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
