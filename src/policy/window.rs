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
#[derive(Clone, Debug, Default)]
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
