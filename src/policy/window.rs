//! The exact log: when the last codes went out, and whether one more may.
//!
//! A limit of *max* codes in any *window* is exact if and only if a code is let through exactly when the max-th newest one
//! before it has left the window `(now - window, now]`. So a log keeps the newest charges and looks at one of them: no
//! estimate, no bucket, no burst.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Counts, Kind, Limit, Retention};
use crate::clock::Moment;

/// The codes that went to one key, oldest first, and what is still open about it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    charges: VecDeque<Charge>,
    /// Charges that may yet be given back.
    pending: u32,
    held_until: Option<Moment>,
}

/// When a code went out and of which kind, in one word: the kind is the lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Charge(u64);

impl Charge {
    fn new(at: Moment, kind: Kind) -> Self {
        Self(at.as_micros() << 1 | u64::from(kind == Kind::Resend))
    }

    fn at(self) -> Moment {
        Moment::from_micros(self.0 >> 1)
    }

    fn kind(self) -> Kind {
        if self.0 & 1 == 1 { Kind::Resend } else { Kind::Send }
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

    /// The time at which a charge can be taken: `now`, but never before the newest charge, so that the log stays in order.
    pub fn not_before(&self, now: Moment) -> Moment {
        self.charges.back().map_or(now, |newest| newest.at().max(now))
    }

    /// Takes a charge that is still to be settled.
    pub fn take(&mut self, at: Moment, kind: Kind, retention: Retention) {
        self.pending += 1;
        self.insert(Charge::new(at, kind), retention);
    }

    /// Takes a charge that is settled already.
    pub fn record(&mut self, at: Moment, kind: Kind, retention: Retention) {
        self.insert(Charge::new(at, kind), retention);
    }

    /// Settles a charge taken earlier: it stays.
    pub fn keep(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// Settles a charge taken earlier: it never was.
    pub fn give_back(&mut self, at: Moment, kind: Kind) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(place) = self.charges.iter().rposition(|charge| *charge == Charge::new(at, kind)) {
            self.charges.remove(place);
        }
    }

    /// Takes over what another log holds: from now on both are one.
    pub fn absorb(&mut self, other: &Log, retention: Retention) {
        let missing: Vec<Charge> =
            other.charges.iter().filter(|charge| !self.charges.contains(charge)).copied().collect();
        missing.into_iter().for_each(|charge| self.insert(charge, retention));
        self.held_until = self.held_until.max(other.held_until);
    }

    /// Lets nothing through until then; an earlier end changes nothing.
    pub fn hold(&mut self, until: Moment) {
        self.held_until = self.held_until.max(Some(until));
    }

    /// Whether it says nothing: no charge, and no hold.
    pub fn is_empty(&self) -> bool {
        self.charges.is_empty() && self.pending == 0 && self.held_until.is_none()
    }

    /// Whether no limit can need it any more.
    pub fn is_spent(&self, retention: Retention, now: Moment) -> bool {
        let over = |charge: &Charge| charge.at() + retention.window <= now;
        self.pending == 0 && self.held(now).is_none() && self.charges.back().is_none_or(over)
    }

    fn insert(&mut self, charge: Charge, retention: Retention) {
        let place = self.charges.partition_point(|other| *other <= charge);
        self.charges.insert(place, charge);
        let newest = self.charges.back().map_or(charge.at(), |newest| newest.at());
        while self.charges.front().is_some_and(|oldest| oldest.at() + retention.window <= newest) {
            self.charges.pop_front();
        }
        // Of each kind, since a limit may count one alone. As many as may yet be given back are kept on top, so that the
        // max-th newest is still there if all of them are.
        let most = retention.charges + self.pending as usize;
        let same_kind = |other: &&Charge| other.kind() == charge.kind();
        if self.charges.len() > most && self.charges.iter().filter(same_kind).count() > most {
            let oldest = self.charges.iter().position(|other| other.kind() == charge.kind());
            oldest.and_then(|place| self.charges.remove(place));
        }
        // Most keys never have more than a few charges, and there are many keys.
        if self.charges.capacity() > 2 * self.charges.len().max(2) {
            self.charges.shrink_to(self.charges.len());
        }
    }

    fn nth_newest(&self, counts: Counts, n: u32) -> Option<Charge> {
        let n = n as usize;
        if counts == Counts::BOTH {
            return self.charges.len().checked_sub(n).and_then(|place| self.charges.get(place)).copied();
        }
        self.charges.iter().rev().filter(|charge| counts.includes(charge.kind())).nth(n.checked_sub(1)?).copied()
    }
}
