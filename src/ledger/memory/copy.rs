//! What one ledger tells another: for one that goes on where the other cannot be asked.

use std::sync::atomic::Ordering;

use super::entries::OfVerification;
use super::shards::{self, Locked};
use super::{Memory, SHARDS};
use crate::clock::Moment;
use crate::ledger::Known;
use crate::policy::subject::Verification;
use crate::policy::window::Log;
use crate::policy::{Key, Kind, Policy};

/// What there is of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// Whose it is.
    pub key: Key,
    /// Its codes, oldest first.
    pub charges: Vec<(Moment, Kind)>,
    /// Until when Sendly itself refuses it.
    pub held_until: Option<Moment>,
}

impl Memory {
    /// Makes a key's log what another ledger says that it is (its charges, oldest first, and whether each is open), unless this one
    /// knows of a newer code. A longer hold stays.
    pub fn mirror(
        &self,
        policy: &Policy,
        key: Key,
        charges: impl Iterator<Item = (Moment, Kind, bool)> + Clone,
        held_until: Option<Moment>,
    ) {
        let retention = policy.retention(key.per());
        let mut keys = self.lock_one(key);
        for key in keys.each_mut() {
            let record = key.record();
            let newest = charges.clone().last().map(|(at, ..)| at);
            if record.log.and_then(Log::newest) > newest {
                continue;
            }
            let held_until = record.held_until.max(held_until);
            let (logged, held) = key.forget();
            self.tracked.fetch_sub(usize::from(logged) + usize::from(held), Ordering::Relaxed);
            if newest.is_some() && self.has_room() {
                for (at, kind, is_open) in charges.clone() {
                    key.charge(at, kind, retention, is_open);
                }
            }
            if let Some(until) = held_until.filter(|_| self.has_room()) {
                key.hold(until);
            }
        }
    }

    /// Learns what another ledger knows of an id.
    pub fn remember(&self, id: Verification, known: Known, now: Moment) {
        self.verifications.remember(id, known, now);
    }

    /// All that one shard of each kind holds, and whose ids are that are known there.
    pub fn copy_one(&self, shard: usize, now: Moment) -> (Vec<KeptKey>, Vec<(Verification, Known)>) {
        let (mut all, mut ids) = (Vec::new(), Vec::new());
        let mut keep = |key, log: &Log, held_until: Option<Moment>| {
            if !log.is_empty() || held_until.is_some() {
                all.push(KeptKey { key, charges: log.each().collect(), held_until });
            }
        };
        self.phones.each(shard, |phone, entry, held| keep(Key::Phone(phone), shards::Logged::log(entry), held));
        self.accounts.each(shard, |bits, entry, held| {
            keep(Key::Account(crate::policy::subject::Account::from_bits(bits)), shards::Logged::log(entry), held);
        });
        let mut found = Vec::new();
        self.verifications.shards.each(shard, |within, entry: &OfVerification, held| {
            let id = Verification { group: u8::try_from(shard % SHARDS).unwrap_or_default(), within };
            keep(Key::Verification(id), shards::Logged::log(entry), held);
            found.extend(entry.whose().map(|_| id));
        });
        ids.extend(found.into_iter().filter_map(|id| Some((id, self.whose(id, now)?))));
        (all, ids)
    }
}

impl super::verifications::Verifications {
    fn remember(&self, id: Verification, known: Known, now: Moment) {
        let mut locked: Locked<'_, OfVerification> = self.shards.lock_itself(id);
        self.put(&mut locked, known, id, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::memory::Bounds;
    use crate::phone::Phone;
    use crate::policy::subject::{HashKey, Subject};
    use crate::policy::{Counts, Limit, Mode, Per, RefusalCode, WhenFull};

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn memory() -> Memory {
        Memory::new(Bounds { keys: 100, when_full: WhenFull::Refuse, verifications: 100, remember: SECOND * 86_400 })
    }

    fn policy() -> Policy {
        let (window, counts) = (SECOND * 600, Counts::BOTH);
        let limit = |per: Per| {
            let (name, code) = (per.name().to_owned(), RefusalCode::RateLimitExceeded);
            Limit { name, per, max: 5, window, counts, mode: Mode::Enforce, code }
        };
        Policy::new(Per::ALL.map(limit).into())
    }

    fn subject() -> Subject {
        let hash_key = HashKey::new([1; 16]);
        let phone: Phone = "+15550100123".parse().unwrap();
        let (verification, account) = (hash_key.verification("ver_1"), hash_key.account(b"Bearer sk_1"));
        Subject { phone: Some(phone), verification: Some(verification), account }
    }

    fn settled(charges: &[(Moment, Kind)]) -> impl Iterator<Item = (Moment, Kind, bool)> + Clone {
        charges.iter().map(|(at, kind)| (*at, *kind, false))
    }

    fn all(memory: &Memory) -> (Vec<KeptKey>, Vec<(Verification, Known)>) {
        let (mut all, mut ids) = (Vec::new(), Vec::new());
        for shard in 0..memory.shards() {
            let (kept, known) = memory.copy_one(shard, NOW);
            all.extend(kept);
            ids.extend(known);
        }
        all.sort_by_key(|kept| kept.key);
        (all, ids)
    }

    #[test]
    fn a_copy_holds_all_that_there_is() {
        let (memory, subject, policy) = (memory(), subject(), policy());
        memory.reserve(&policy, &subject, Kind::Send, NOW);
        memory.reserve(&policy, &subject, Kind::Resend, NOW + SECOND);
        let phone = subject.phone.unwrap();
        memory.hold(Key::Phone(phone), NOW + SECOND * 9);
        let (root, answered) = (subject.verification.unwrap(), HashKey::new([1; 16]).verification("ver_2"));
        let known = memory.join(&policy, root, answered, phone, NOW);
        let (kept, mut ids) = all(&memory);
        let charges = vec![(NOW, Kind::Send), (NOW + SECOND, Kind::Resend)];
        assert_eq!(kept.iter().map(|kept| kept.key).collect::<Vec<_>>(), subject.keys().to_vec());
        assert!(kept.iter().all(|kept| kept.charges == charges));
        assert_eq!(kept.iter().filter_map(|kept| kept.held_until).collect::<Vec<_>>(), [NOW + SECOND * 9]);
        ids.sort_by_key(|(id, _)| *id != root);
        assert_eq!(ids, [(root, known), (answered, known)]);
    }

    #[test]
    fn a_mirror_shows_what_it_was_told_last_and_nothing_older_than_it_knows() {
        let (memory, policy) = (memory(), policy());
        let key = Key::Phone(subject().phone.unwrap());
        let told = [(NOW, Kind::Send), (NOW + SECOND, Kind::Send), (NOW + SECOND * 2, Kind::Resend)];
        memory.mirror(&policy, key, settled(&told), Some(NOW + SECOND * 9));
        assert_eq!(all(&memory).0, [KeptKey { key, charges: told.to_vec(), held_until: Some(NOW + SECOND * 9) }]);
        assert_eq!(memory.tracked(), 2);
        memory.mirror(&policy, key, settled(&told[..2]), None);
        assert_eq!(all(&memory).0[0].charges, told, "it came late");
        let other = [(NOW + SECOND, Kind::Send), (NOW + SECOND * 2, Kind::Resend)];
        memory.mirror(&policy, key, settled(&other), None);
        assert_eq!(all(&memory).0, [KeptKey { key, charges: other.to_vec(), held_until: Some(NOW + SECOND * 9) }]);
        assert_eq!(memory.tracked(), 2);
    }
}
