//! Which accounts have been shown which ids by Sendly.
//!
//! The table has a fixed size: a new pair takes the place of an old one. What was forgotten costs one more look-up at Sendly.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::subject::{Account, Verification};

/// Pairs that are kept: a power of two.
const SHOWN: usize = 1 << 16;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ShownTo {
    pairs: Box<[AtomicU64]>,
}

impl ShownTo {
    pub(crate) fn new() -> Self {
        Self { pairs: (0..SHOWN).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Both are keyed hashes, so their combination is as good as one.
    fn place(&self, id: Verification, account: Account) -> (Option<&AtomicU64>, u64) {
        let pair = (id.within.get() ^ account.bits().get() as u64).max(1);
        (self.pairs.get(pair as usize % SHOWN), pair)
    }

    pub(crate) fn insert(&self, id: Verification, account: Account) {
        let (place, pair) = self.place(id, account);
        if let Some(place) = place {
            place.store(pair, Ordering::Relaxed);
        }
    }

    pub(crate) fn contains(&self, id: Verification, account: Account) -> bool {
        let (place, pair) = self.place(id, account);
        place.is_some_and(|place| place.load(Ordering::Relaxed) == pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::HashKey;

    #[test]
    fn an_id_is_shown_to_an_account_and_to_no_other() {
        let (hash_key, shown) = (HashKey::new([1; 16]), ShownTo::new());
        let (id, one, other) =
            (hash_key.verification("ver_1"), hash_key.account(b"Bearer one"), hash_key.account(b"Bearer other"));
        shown.insert(id, one);
        assert!(shown.contains(id, one) && !shown.contains(id, other));
        assert!(!shown.contains(hash_key.verification("ver_2"), one));
    }
}
