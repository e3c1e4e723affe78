//! The exact log: when the last codes went out, and whether one more may.
//!
//! A limit of *max* codes in any *window* is exact if and only if a code is let through exactly when the max-th newest one
//! before it has left the window `(now - window, now]`. So a log keeps the newest charges and looks at one of them: no
//! estimate, no bucket, no burst.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Counts, Kind, Limit, Retention};
use crate::clock::Moment;

/// The codes that went to one key, oldest first, and until when Sendly itself refuses it more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    charges: VecDeque<Charge>,
    held_until: Option<Moment>,
}

/// When a code went out, of which kind, and whether it may yet be given back, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charge(u64);

impl Charge {
    const PENDING: u64 = 0b10;
    const RESEND: u64 = 0b01;

    fn settled(at: Moment, kind: Kind) -> Self {
        Self(at.as_micros() << 2 | if kind == Kind::Resend { Self::RESEND } else { 0 })
    }

    fn pending(at: Moment, kind: Kind) -> Self {
        Self(Self::settled(at, kind).0 | Self::PENDING)
    }

    fn at(self) -> Moment {
        Moment::from_micros(self.0 >> 2)
    }

    fn kind(self) -> Kind {
        if self.0 & Self::RESEND == 0 { Kind::Send } else { Kind::Resend }
    }

    /// When it has left every window that counts it.
    fn leaves(self, retention: Retention) -> Moment {
        self.at() + retention.of(self.kind()).window
    }

    fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }
}

impl Log {
    /// How long until `limit` lets one more code through; `None` if it does now.
    ///
    /// A `now` before the newest charge (another thread read its clock first, or time ran backwards) is judged as that
    /// charge's moment, but the wait is told from the `now` that was given.
    pub fn full(&self, limit: &Limit, now: Moment) -> Option<Duration> {
        let leaves = self.nth_newest(limit.counts, limit.max)?.at() + limit.window;
        (leaves > self.not_before(now)).then(|| leaves.since(now))
    }

    /// How long Sendly's own refusal still holds this key.
    pub fn held(&self, now: Moment) -> Option<Duration> {
        self.held_until.filter(|until| *until > now).map(|until| until.since(now))
    }

    /// When it was charged last.
    pub fn newest(&self) -> Option<Moment> {
        self.charges.back().map(|charge| charge.at())
    }

    /// The time at which a charge can be taken: `now`, but never before the newest charge, so that the log stays in order.
    pub fn not_before(&self, now: Moment) -> Moment {
        self.newest().map_or(now, |newest| newest.max(now))
    }

    /// Takes a charge that is still to be settled.
    pub fn take(&mut self, at: Moment, kind: Kind, retention: Retention) {
        self.insert(Charge::pending(at, kind), retention);
    }

    /// Takes a charge that is settled already.
    pub fn record(&mut self, at: Moment, kind: Kind, retention: Retention) {
        self.insert(Charge::settled(at, kind), retention);
    }

    /// Settles a charge taken earlier: it stays.
    pub fn keep(&mut self, at: Moment, kind: Kind) {
        if let Some(charge) = self.find_pending(at, kind).and_then(|place| self.charges.get_mut(place)) {
            *charge = Charge::settled(at, kind);
        }
    }

    /// Settles a charge taken earlier: it never was.
    pub fn give_back(&mut self, at: Moment, kind: Kind) {
        if let Some(place) = self.find_pending(at, kind) {
            self.charges.remove(place);
        }
    }

    /// Takes over what another log holds.
    pub fn absorb(&mut self, other: Log, retention: Retention) {
        other.charges.into_iter().for_each(|charge| self.insert(charge, retention));
        self.held_until = self.held_until.max(other.held_until);
    }

    /// Lets nothing through until then; an earlier end changes nothing.
    pub fn hold(&mut self, until: Moment) {
        self.held_until = self.held_until.max(Some(until));
    }

    /// Whether it says nothing: no charge, and no hold.
    pub fn is_empty(&self) -> bool {
        self.charges.is_empty() && self.held_until.is_none()
    }

    /// Whether no limit can need it any more. It does not matter then what becomes of a charge that is still to be settled.
    pub fn is_spent(&self, retention: Retention, now: Moment) -> bool {
        self.held(now).is_none() && self.charges.iter().rev().all(|charge| charge.leaves(retention) <= now)
    }

    fn insert(&mut self, charge: Charge, retention: Retention) {
        let place = self.charges.partition_point(|other| other.at() <= charge.at());
        self.charges.insert(place, charge);
        self.forget(charge.kind(), retention);
        // Most keys never have more than a few charges, and there are many keys.
        if self.charges.capacity() > 2 * self.charges.len().max(2) {
            self.charges.shrink_to(self.charges.len());
        }
    }

    /// Forgets what no limit can need, whatever becomes of the charges that are still to be settled: so only those that are
    /// settled can make another one needless.
    fn forget(&mut self, kind: Kind, retention: Retention) {
        let settled = |charge: &&Charge| !charge.is_pending();
        // No request is judged as of a time before the newest charge that stays.
        if let Some(newest) = self.charges.iter().rev().find(settled).map(|charge| charge.at()) {
            while self.charges.front().is_some_and(|oldest| oldest.leaves(retention) <= newest) {
                self.charges.pop_front();
            }
        }
        let most = retention.of(kind).charges;
        if self.charges.len() > most {
            let needless = |charge: &Charge| settled(&charge) && charge.kind() == kind;
            let count = self.charges.iter().filter(|charge| needless(charge)).count();
            for _ in most..count {
                let oldest = self.charges.iter().position(needless);
                oldest.and_then(|place| self.charges.remove(place));
            }
        }
    }

    fn find_pending(&self, at: Moment, kind: Kind) -> Option<usize> {
        self.charges.iter().rposition(|charge| *charge == Charge::pending(at, kind))
    }

    fn nth_newest(&self, counts: Counts, n: u32) -> Option<Charge> {
        let n = n as usize;
        if counts == Counts::BOTH {
            return self.charges.len().checked_sub(n).and_then(|place| self.charges.get(place)).copied();
        }
        self.charges.iter().rev().filter(|charge| counts.includes(charge.kind())).nth(n.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Keep, Mode, Per, RefusalCode};
    use Kind::{Resend, Send};

    /// Two codes in ten microseconds.
    fn two_in_ten(counts: Counts) -> Limit {
        let window = Duration::from_micros(10);
        let code = RefusalCode::RateLimitExceeded;
        Limit { name: "two".into(), per: Per::Phone, max: 2, window, counts, mode: Mode::Enforce, code }
    }

    fn retention() -> Retention {
        let two_for_ten = Keep { charges: 2, window: Duration::from_micros(10) };
        Retention { sends: two_for_ten, resends: two_for_ten }
    }

    fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    fn log_of(charges: impl IntoIterator<Item = (u64, Kind)>) -> Log {
        let mut log = Log::default();
        charges.into_iter().for_each(|(micros, kind)| log.record(at(micros), kind, retention()));
        log
    }

    fn wait(log: &Log, now: u64) -> Option<u64> {
        log.full(&two_in_ten(Counts::BOTH), at(now)).map(|wait| u64::try_from(wait.as_micros()).unwrap())
    }

    #[test]
    fn a_window_ends_now_and_excludes_its_beginning() {
        // Codes at 100 and 103, two in ten microseconds. At 109 the window is (99, 109] and holds both; at 110 it is
        // (100, 110], and the first has just left.
        let log = log_of([(100, Send), (103, Send)]);
        assert_eq!(wait(&log, 103), Some(7), "the code of this very microsecond counts");
        assert_eq!(wait(&log, 109), Some(1));
        assert_eq!(wait(&log, 110), None);
        // One at 110: now 103 is the second newest, and leaves at 113.
        let log = log_of([(100, Send), (103, Send), (110, Send)]);
        assert_eq!(wait(&log, 112), Some(1));
        assert_eq!(wait(&log, 113), None);
    }

    #[test]
    fn two_codes_of_one_microsecond_are_two() {
        let log = log_of([(100, Send), (100, Send)]);
        assert_eq!(wait(&log, 100), Some(10));
        assert_eq!(wait(&log, 110), None);
    }

    #[test]
    fn one_code_fewer_than_max_waits_for_nothing() {
        assert_eq!(wait(&Log::default(), 100), None);
        assert_eq!(wait(&log_of([(100, Send)]), 100), None);
    }

    #[test]
    fn a_limit_looks_only_at_the_kinds_that_it_counts() {
        let log = log_of([(100, Resend), (101, Send), (102, Resend), (103, Send)]);
        let wait = |counts| log.full(&two_in_ten(counts), at(104));
        assert_eq!(wait(Counts::BOTH), Some(Duration::from_micros(8)), "until 102 leaves");
        assert_eq!(wait(Counts::RESENDS), Some(Duration::from_micros(6)), "until 100 leaves");
        assert_eq!(wait(Counts { send: true, resend: false }), Some(Duration::from_micros(7)), "until 101 leaves");
    }

    #[test]
    fn a_clock_that_is_behind_is_judged_as_of_the_newest_charge_and_waits_from_where_it_stands() {
        let log = log_of([(100, Send), (103, Send)]);
        assert_eq!(wait(&log, 90), Some(20), "until 110");
        assert_eq!(log.not_before(at(90)), at(103));
        // 100 has left the window that ends at the newest, so it has left for every clock.
        assert_eq!(wait(&log_of([(100, Send), (110, Send)]), 105), None);
    }

    #[test]
    fn a_hold_is_over_at_its_end() {
        let mut log = Log::default();
        log.hold(at(100));
        log.hold(at(50));
        assert_eq!(log.held(at(99)), Some(Duration::from_micros(1)));
        assert_eq!(log.held(at(100)), None);
        assert!(!log.is_spent(retention(), at(99)) && log.is_spent(retention(), at(100)));
    }

    #[test]
    fn a_log_is_spent_when_its_newest_charge_leaves_the_window() {
        let log = log_of([(100, Send), (103, Send)]);
        assert!(!log.is_spent(retention(), at(112)));
        assert!(log.is_spent(retention(), at(113)));
        assert!(!log_of([(200, Send)]).is_spent(retention(), at(100)), "a charge in the future has not left");
    }

    #[test]
    fn what_may_be_given_back_makes_no_other_charge_needless() {
        let mut log = log_of([(100, Send), (103, Send)]);
        // As if a shadow limit let them through: far over max, and past the first's window.
        for micros in 104..124 {
            log.take(at(micros), Send, retention());
        }
        for micros in 104..124 {
            log.give_back(at(micros), Send);
        }
        assert_eq!(wait(&log, 109), Some(1), "100 and 103 are still there");
    }

    #[test]
    fn a_log_stays_small_however_much_was_pending_at_once() {
        let mut log = Log::default();
        for _ in 0..100 {
            log.take(at(100), Send, retention());
        }
        assert_eq!(log.charges.len(), 100);
        (0..100).for_each(|_| log.keep(at(100), Send));
        log.record(at(100), Send, retention());
        log.record(at(100), Resend, retention());
        assert_eq!(log.charges.len(), 3, "two sends, which is all that a limit looks at, and the resend");
        assert!(log.charges.capacity() <= 2 * 3);
        log.record(at(110), Send, retention());
        assert_eq!(log.charges.len(), 1);
    }

    #[test]
    fn a_charge_is_settled_once() {
        let mut log = Log::default();
        log.take(at(100), Send, retention());
        log.keep(at(100), Send);
        log.give_back(at(100), Send);
        assert_eq!(log, log_of([(100, Send)]), "what was kept cannot be given back");
    }
}
