//! What people ask of one key, and the support desk's way to forget it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::Memory;
use super::shards::SHARDS;
use super::shards::telling::Part;
use crate::clock::Moment;
use crate::ledger::{Cleared, Look};
use crate::phone::Phone;
use crate::policy::subject::Verification;
use crate::policy::{Key, Per, Policy, Record};

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

    /// The spelling under which a phone is charged; and its verifications, under any of its spellings, that some limit still counts, or that
    /// are held. A shard at a time, and other tasks in between.
    pub(in crate::ledger) async fn charged_verifications(
        &self,
        policy: &Policy,
        phone: Phone,
        now: Moment,
    ) -> (Phone, BTreeSet<Verification>) {
        let retention = policy.retention(Per::Verification);
        let mut found = BTreeSet::new();
        let name = |phone| self.lock_one(Key::Phone(phone)).name();
        let charged_as = name(phone);
        for shard in 0..SHARDS {
            let mut of_phone = Vec::new();
            self.verifications.shards.visit(shard, |id, part| {
                if let Part::Entry(entry, root) = part
                    && let Some((known, _)) = self.verifications.told(id, entry, root, now)
                {
                    of_phone.push(known);
                }
            });
            // Not while the shard is locked: a phone's lock comes before a verification's.
            for known in of_phone {
                if known.phone == phone || name(known.phone) == charged_as {
                    found.insert(known.root);
                }
            }
            tokio::task::yield_now().await;
        }
        let is_charged = |id: &Verification| {
            let keys = self.lock_one(Key::Verification(*id));
            let counts = |record: Record<'_>| {
                let is_held = record.held_until.is_some_and(|until| until > now);
                is_held || record.log.is_some_and(|log| log.counted(retention, now) > 0)
            };
            keys.records().into_iter().flatten().any(counts)
        };
        let spelling = if let Some(Key::Phone(spelling)) = charged_as { spelling } else { phone };
        (spelling, found.into_iter().filter(is_charged).collect())
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
