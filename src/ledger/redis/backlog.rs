//! What Redis has not been told yet, in the order in which it happened; and what it was told last, in case that it has lost it.
//!
//! All of it can be told twice: a charge is known by its token.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::Token;
use crate::clock::Moment;
use crate::ledger::Charge;
use crate::phone::Phone;
use crate::policy::Key;
use crate::policy::subject::{Account, Verification};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BacklogEntry {
    /// A code was charged.
    Charge(Tokened),
    /// It was given back, or may have been charged where it never went out.
    GiveBack(Tokened),
    /// Sendly refuses a key until then.
    Hold(Key, Moment),
    /// An id is one of this phone's.
    Learn(Verification, Phone),
    /// Two ids are one verification.
    Join { asked: Verification, answered: Verification, phone: Phone },
    /// Two keys are one.
    Absorb { into: Key, from: Key },
    /// A key was cleared.
    Clear(Key),
    /// Sendly accepted an API key.
    Accept(Account),
    /// Sendly accepts an API key no more.
    Reject(Account),
}

/// A charge, and what tells it from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tokened {
    pub(super) token: Token,
    pub(super) charge: Charge,
}

impl BacklogEntry {
    /// Whether it may be told beside others, in any order.
    const fn is_independent(&self) -> bool {
        matches!(
            self,
            BacklogEntry::Charge(_) | BacklogEntry::GiveBack(_) | BacklogEntry::Hold(..) | BacklogEntry::Learn(..)
        )
    }
}

/// For how long what was told is remembered: a replica that takes over lacks the last second, and so does a disk.
const REMEMBERED: Duration = Duration::from_secs(15);

/// How much of it at most.
const MAX_REMEMBERED: usize = 65_536;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Backlog {
    waiting: VecDeque<BacklogEntry>,
    told: VecDeque<(Moment, BacklogEntry)>,
    /// How much was taken and is being told.
    in_hand: usize,
    most: usize,
    lost: u64,
}

impl Backlog {
    /// Nothing yet. At most so much waits.
    pub(super) const fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), told: VecDeque::new(), in_hand: 0, most, lost: 0 }
    }

    /// Queues an entry. At capacity it drops the oldest, which counts for the shortest time. Returns whether one was dropped.
    pub(super) fn push(&mut self, entry: BacklogEntry) -> bool {
        let is_full = self.waiting.len() >= self.most;
        if is_full {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(entry);
        is_full
    }

    /// Remembers what Redis has been told.
    pub(super) fn remember(&mut self, entry: BacklogEntry, now: Moment) {
        let is_over = |(at, _): &(Moment, BacklogEntry)| *at + REMEMBERED <= now;
        while self.told.len() >= MAX_REMEMBERED || self.told.front().is_some_and(is_over) {
            self.told.pop_front();
        }
        self.told.push_back((now, entry));
    }

    /// Has wait, before all else, what it was told in the last moments before it went away.
    pub(super) fn recall(&mut self, away_since: Moment) {
        for (at, entry) in std::mem::take(&mut self.told).into_iter().rev() {
            if at + REMEMBERED > away_since {
                self.waiting.push_front(entry);
            }
        }
    }

    /// Takes what is to be told next, all of which may be told at once. A charge that was given back is not told: only that it was.
    pub(super) fn take(&mut self, many: usize) -> Vec<BacklogEntry> {
        let first_alone = self.waiting.iter().take(many).position(|entry| !entry.is_independent());
        let many = first_alone.map_or(many, |place| place.max(1)).min(self.waiting.len());
        let mut taken: Vec<BacklogEntry> = self.waiting.drain(..many).collect();
        let back = |entry: &BacklogEntry| match entry {
            BacklogEntry::GiveBack(Tokened { token, .. }) => Some(token.number),
            _ => None,
        };
        let given_back: HashSet<u32> = taken.iter().filter_map(back).collect();
        taken.retain(
            |entry| !matches!(entry, BacklogEntry::Charge(tokened) if given_back.contains(&tokened.token.number)),
        );
        self.in_hand = taken.len();
        taken
    }

    /// What waits and has a time of the gateway's own, of before it knew the server's.
    pub(super) fn of_own_time(&self) -> HashSet<(Key, Moment)> {
        let own = self.waiting.iter().filter_map(|entry| match entry {
            BacklogEntry::Charge(Tokened { token, charge }) if token.is_local => Some(*charge),
            _ => None,
        });
        let keys = |Charge { phone, verification, account, .. }| {
            [phone.map(Key::Phone), verification.map(Key::Verification), account.map(Key::Account)]
        };
        own.flat_map(|charge| keys(charge).into_iter().flatten().map(move |key| (key, charge.at))).collect()
    }

    /// What was taken has been told.
    pub(super) const fn has_told(&mut self) {
        self.in_hand = 0;
    }

    /// What was taken could not be told.
    pub(super) fn put_back(&mut self, taken: Vec<BacklogEntry>) {
        self.in_hand = 0;
        taken.into_iter().rev().for_each(|entry| self.waiting.push_front(entry));
    }

    /// Something that was taken is lost.
    pub(super) const fn lose(&mut self) {
        self.lost += 1;
    }

    /// How much Redis does not know yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_hand
    }

    /// How much was lost.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Kind;

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);

    fn tokened(token: u32) -> Tokened {
        let charge = Charge { phone: None, verification: None, account: None, at: NOW, kind: Kind::Send };
        Tokened { token: Token { number: token, beside: None, is_local: false }, charge }
    }

    fn charge(token: u32) -> BacklogEntry {
        BacklogEntry::Charge(tokened(token))
    }

    fn key() -> Key {
        Key::Phone("+15550100123".parse().unwrap())
    }

    #[test]
    fn what_was_given_back_is_told_as_given_back_alone() {
        let mut backlog = Backlog::new(100);
        for entry in [charge(1), charge(2), BacklogEntry::GiveBack(tokened(1)), charge(3)] {
            backlog.push(entry);
        }
        assert_eq!(backlog.take(100), [charge(2), BacklogEntry::GiveBack(tokened(1)), charge(3)]);
        assert_eq!(backlog.len(), 3, "it is told, and has not been told yet");
        backlog.has_told();
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn what_depends_on_the_order_is_told_alone() {
        let mut backlog = Backlog::new(100);
        for entry in [charge(1), BacklogEntry::Clear(key()), charge(2), charge(3)] {
            backlog.push(entry);
        }
        let lengths: Vec<_> = std::iter::from_fn(|| Some(backlog.take(2)).filter(|taken| !taken.is_empty())).collect();
        assert_eq!(lengths, [vec![charge(1)], vec![BacklogEntry::Clear(key())], vec![charge(2), charge(3)]]);
    }

    #[test]
    fn the_oldest_is_lost_first_and_that_is_counted() {
        let mut backlog = Backlog::new(2);
        assert_eq!([1, 2, 3].map(|token| backlog.push(charge(token))), [false, false, true]);
        assert_eq!((backlog.lost(), backlog.take(9)), (1, vec![charge(2), charge(3)]));
    }

    #[test]
    fn the_last_moments_before_an_outage_are_told_again_and_nothing_older() {
        let mut backlog = Backlog::new(9);
        backlog.remember(charge(1), NOW);
        backlog.remember(charge(2), NOW + Duration::from_secs(10));
        backlog.push(charge(3));
        backlog.recall(NOW + Duration::from_secs(20));
        assert_eq!(backlog.take(9), [charge(2), charge(3)]);
        backlog.recall(NOW + Duration::from_secs(20));
        assert_eq!(backlog.take(9), []);
        for nth in 0..1000_u32 {
            backlog.remember(charge(nth), NOW + Duration::from_secs(nth.into()));
        }
        assert!(backlog.told.len() <= 16);
    }

    #[test]
    fn what_could_not_be_told_is_told_next() {
        let mut backlog = Backlog::new(9);
        [charge(1), charge(2), charge(3)].into_iter().for_each(|entry| assert!(!backlog.push(entry)));
        let taken = backlog.take(2);
        backlog.put_back(taken);
        assert_eq!(backlog.take(9), [charge(1), charge(2), charge(3)]);
    }
}
