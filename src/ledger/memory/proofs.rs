//! The API keys that Sendly has accepted.
//!
//! A key is kept as its account: the keyed hash of the key. The table is sharded and bounded; in a full shard the key that was unused for
//! the longest makes room.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::clock::Moment;
use crate::policy::subject::Account;

/// Keys that are kept at most.
pub const MAX_PROVEN: usize = 100_000;

/// A key in use is noted as used, and written down anew, no more often than this.
const REFRESH: Duration = Duration::from_secs(10 * 60);

const SHARDS: usize = 64;

/// The moment at which each was last noted as used, in microseconds.
type ProofShard = HashMap<u128, AtomicU64, BuildHasherDefault<AsItIs>>;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::ledger) struct Proofs {
    shards: [RwLock<ProofShard>; SHARDS],
    most_per_shard: usize,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Proof {
    /// Sendly has not accepted it, as far as this gateway knows.
    Missing,
    /// Sendly has accepted it.
    Held,
    /// The same, and that is to be written down anew: it was last written long ago.
    HeldAndDue,
}

/// An account is a keyed hash, whose bits are as good as random: it needs no other hash.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u128(&mut self, hash: u128) {
        self.0 = (hash >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Proofs {
    pub(in crate::ledger) fn new(most: usize) -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), most_per_shard: most.div_ceil(SHARDS).max(1) }
    }

    fn shard(&self, account: Account) -> Option<&RwLock<ProofShard>> {
        self.shards.get(account.bits().get() as usize % SHARDS)
    }

    /// What is known of this key, which is being used.
    pub(in crate::ledger) fn check(&self, account: Account, now: Moment) -> Proof {
        let Some(shard) = self.shard(account) else { return Proof::Missing };
        let shard = shard.read();
        let Some(used) = shard.get(&account.bits().get()) else { return Proof::Missing };
        let before = used.load(Ordering::Relaxed);
        if now.since(Moment::from_micros(before)) < REFRESH {
            return Proof::Held;
        }
        // Of several that come at once, one writes it down.
        let is_first = used.compare_exchange(before, now.as_micros(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first { Proof::HeldAndDue } else { Proof::Held }
    }

    /// Notes that Sendly accepted this key. Returns whether that is news.
    pub(in crate::ledger) fn insert(&self, account: Account, at: Moment) -> bool {
        let Some(shard) = self.shard(account) else { return false };
        let mut shard = shard.write();
        if let Some(used) = shard.get(&account.bits().get()) {
            used.fetch_max(at.as_micros(), Ordering::Relaxed);
            return false;
        }
        if shard.len() >= self.most_per_shard {
            let oldest = shard.iter().min_by_key(|(_, used)| used.load(Ordering::Relaxed)).map(|(account, _)| *account);
            if let Some(oldest) = oldest {
                shard.remove(&oldest);
            }
        }
        shard.insert(account.bits().get(), AtomicU64::new(at.as_micros()));
        true
    }

    /// Notes that Sendly accepts this key no more. Returns whether that is news.
    pub(in crate::ledger) fn remove(&self, account: Account) -> bool {
        self.shard(account).is_some_and(|shard| shard.write().remove(&account.bits().get()).is_some())
    }

    pub(in crate::ledger) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Every key, and when it was last noted as used.
    pub(in crate::ledger) fn each(&self, mut tell: impl FnMut(Account, Moment)) {
        for shard in &self.shards {
            for (bits, used) in shard.read().iter() {
                if let Some(bits) = std::num::NonZeroU128::new(*bits) {
                    tell(Account::from_bits(bits), Moment::from_micros(used.load(Ordering::Relaxed)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU128;

    use super::*;

    fn account(bits: u128) -> Account {
        Account::from_bits(NonZeroU128::new(bits).unwrap())
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(1_800_000_000_000_000) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_is_proven_until_it_is_disproved() {
        let proofs = Proofs::new(MAX_PROVEN);
        assert_eq!(proofs.check(account(1), at(0)), Proof::Missing);
        assert!(proofs.insert(account(1), at(0)) && !proofs.insert(account(1), at(1)), "news only once");
        assert_eq!((proofs.check(account(1), at(2)), proofs.check(account(2), at(2))), (Proof::Held, Proof::Missing));
        assert!(proofs.remove(account(1)) && !proofs.remove(account(1)));
        assert_eq!((proofs.check(account(1), at(3)), proofs.count()), (Proof::Missing, 0));
    }

    #[test]
    fn a_key_in_use_is_written_down_anew_once_in_a_while() {
        let proofs = Proofs::new(MAX_PROVEN);
        proofs.insert(account(1), at(0));
        assert_eq!(proofs.check(account(1), at(599)), Proof::Held);
        assert_eq!(proofs.check(account(1), at(600)), Proof::HeldAndDue);
        assert_eq!(proofs.check(account(1), at(601)), Proof::Held);
    }

    #[test]
    fn the_key_that_was_unused_for_the_longest_makes_room() {
        let proofs = Proofs::new(2 * SHARDS);
        let of_one_shard = |nth: u128| account(nth * SHARDS as u128 + 5);
        proofs.insert(of_one_shard(1), at(1));
        proofs.insert(of_one_shard(2), at(2));
        assert_eq!(proofs.check(of_one_shard(1), at(700)), Proof::HeldAndDue);
        proofs.insert(of_one_shard(3), at(701));
        let known = [1, 2, 3].map(|nth| proofs.check(of_one_shard(nth), at(702)));
        assert_eq!(known, [Proof::Held, Proof::Missing, Proof::Held]);
        for nth in 4..1000 {
            proofs.insert(of_one_shard(nth), at(1000));
        }
        assert_eq!(proofs.count(), 2);
    }
}
