//! Room for answers, and which of them may be forgotten for a new one.
//!
//! A place is taken before a click is charged, and given back once nothing of its exchange is kept. So there is room for every answer
//! whose loss could buy a second code, and none of those is ever forgotten. An answer whose loss buys nothing (it was delivered, or no
//! code went out) goes when its place is needed, the oldest first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::mapref::entry::{Entry, OccupiedEntry};
use parking_lot::Mutex;

use super::{Exchange, Retries};
use crate::clock::Moment;

/// How often a full table may be swept between the regular sweeps, in microseconds.
const SWEEP_AGAIN: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Places {
    taken: AtomicUsize,
    /// Answers that may be forgotten: the serials of their exchanges, and where those are found. Locked within a lock of the exchanges,
    /// never around one.
    forgettable: Mutex<BTreeMap<u64, u128>>,
    /// When a full table was swept last, in microseconds since the epoch.
    swept: AtomicU64,
}

impl Places {
    /// Takes a place, of at most so many. Returns whether there was one.
    pub(super) fn take(&self, most: usize) -> bool {
        let another = |taken: usize| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_ok()
    }

    /// Takes one that cannot be refused: another process had room for it.
    pub(super) fn take_from_predecessor(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn release(&self, many: usize) {
        self.taken.fetch_sub(many, Ordering::Relaxed);
    }

    pub(super) fn may_be_forgotten(&self, serial: u64, hash: u128) {
        self.forgettable.lock().insert(serial, hash);
    }

    /// A retry wants this answer, or it is there no more.
    pub(super) fn is_wanted(&self, serial: u64) {
        self.forgettable.lock().remove(&serial);
    }

    /// Takes out the oldest answer that may be forgotten.
    pub(super) fn oldest(&self) -> Option<(u64, u128)> {
        self.forgettable.lock().pop_first()
    }

    pub(super) fn may_sweep(&self, now: Moment) -> bool {
        let now = now.as_micros();
        let again = |swept: u64| (now.saturating_sub(swept) >= SWEEP_AGAIN).then_some(now);
        self.swept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, again).is_ok()
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.taken.load(Ordering::Relaxed), self.forgettable.lock().len())
    }
}

impl Retries {
    /// Drops the answers that have been kept long enough. Returns how many there were.
    pub(crate) fn sweep(&self) -> usize {
        let now = self.clock.now();
        let mut dropped = 0;
        self.exchanges.retain(|_, exchanges| {
            exchanges.retain(|exchange| {
                let stays = exchange.clients > 0 || self.kept_until(exchange, true).is_none_or(|until| until > now);
                if !stays {
                    dropped += 1;
                    self.places.is_wanted(exchange.serial);
                }
                stays
            });
            !exchanges.is_empty()
        });
        self.kept.fetch_sub(dropped, Ordering::Relaxed);
        self.places.release(dropped);
        dropped
    }

    /// Forgets the oldest answer that may be forgotten. Returns whether there was one.
    pub(super) fn forget_oldest(&self) -> bool {
        while let Some((serial, hash)) = self.places.oldest() {
            let Entry::Occupied(entry) = self.exchanges.entry(hash) else { continue };
            // A retry may have adopted it since.
            let is_it = |exchange: &Exchange| {
                exchange.serial == serial && exchange.is_kept() && !exchange.may_be_bought_twice()
            };
            if let Some(place) = entry.get().iter().position(is_it) {
                self.places.is_wanted(serial);
                self.kept.fetch_sub(1, Ordering::Relaxed);
                self.remove(entry, place);
                return true;
            }
        }
        false
    }

    /// Sweeps early, once a second at most: that looks at all of them. Returns whether it dropped any.
    pub(super) fn forget_expired(&self) -> bool {
        self.places.may_sweep(self.clock.now()) && self.sweep() > 0
    }

    pub(super) fn remove(&self, mut entry: OccupiedEntry<'_, u128, Vec<Exchange>>, place: usize) {
        entry.get_mut().swap_remove(place);
        if entry.get().is_empty() {
            entry.remove();
        }
        self.places.release(1);
    }
}
