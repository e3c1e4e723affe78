//! What people ask of one key, and the support desk's way to forget it.

use std::sync::atomic::Ordering;

use super::Memory;
use crate::clock::Moment;
use crate::ledger::{Cleared, Look};
use crate::policy::{Key, Policy};

impl Memory {
    /// See [`Ledger::look`](crate::ledger::Ledger::look).
    pub fn look(&self, policy: &Policy, key: Key, now: Moment) -> Look {
        let keys = self.lock_one(key);
        let asked = now;
        let now = asked.max(Moment::from_micros(self.swept.load(Ordering::Relaxed)));
        let mut look = Look { standings: Vec::new(), held_until: None };
        for record in keys.records().into_iter().flatten() {
            look.standings = policy.standing(&record, now);
            look.held_until = record.held_until.filter(|until| *until > now);
        }
        for wait in look.standings.iter_mut().filter_map(|standing| standing.wait.as_mut()) {
            // Told from the clock of whoever asked.
            *wait += now.since(asked);
        }
        look
    }

    /// See [`Ledger::clear`](crate::ledger::Ledger::clear).
    pub fn clear(&self, policy: &Policy, key: Key, now: Moment) -> Cleared {
        self.clear_named(policy, key, now).0
    }

    /// The same. Returns the key that was charged, too: what this one has become, if it has.
    pub(in crate::ledger) fn clear_named(&self, policy: &Policy, key: Key, now: Moment) -> (Cleared, Key) {
        let mut keys = self.lock_one(key);
        let name = keys.name().unwrap_or(key);
        let mut cleared = Cleared::default();
        for key in keys.each_mut() {
            let retention = policy.retention(key.per());
            let record = key.record();
            cleared.codes = record.log.map_or(0, |log| log.counted(retention, now));
            cleared.hold = record.held_until.is_some_and(|until| until > now);
            let (logged, held) = key.forget();
            self.tracked.fetch_sub(usize::from(logged) + usize::from(held), Ordering::Relaxed);
        }
        drop(keys);
        self.waiting.changed(key);
        if name != key {
            self.waiting.changed(name);
        }
        (cleared, name)
    }
}
