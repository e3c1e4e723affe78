//! The keys of a throttle: a bounded number of them, and of each when its bucket will be full again.
//!
//! A key falls into one group of 16 by its hash. Where its group is full, the key whose bucket is the fullest makes room for it: one whose
//! bucket is full loses nothing, and any other begins with a whole burst again. So whoever makes keys up, each of which has attempted little,
//! pushes out keys of that kind first, and the key that is throttled, which has attempted the most, last.

use std::hash::{BuildHasher, Hash, RandomState};

use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use parking_lot::Mutex;

/// Keys in a group, at most.
const WAYS: usize = 16;

const GROUPS: usize = 4096;

/// Keys of a throttle, at most.
pub(super) const MAX_KEYS: usize = WAYS * GROUPS;

/// Keys, and of each what governor keeps: when its bucket will be full, since the throttle began.
type Group<K> = Mutex<Vec<(K, Nanos)>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Keys<K> {
    groups: Box<[Group<K>]>,
    hasher: RandomState,
}

impl<K> Default for Keys<K> {
    fn default() -> Self {
        Self { groups: (0..GROUPS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone> StateStore for Keys<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let place = (self.hasher.hash_one(key) % GROUPS as u64) as usize;
        let Some(group) = self.groups.get(place) else { return decide(None).map(|(decision, _)| decision) };
        let mut group = group.lock();
        if let Some((_, state)) = group.iter_mut().find(|(other, _)| other == key) {
            let (decision, next) = decide(Some(*state))?;
            *state = next;
            return Ok(decision);
        }
        let (decision, state) = decide(None)?;
        if group.len() < WAYS {
            group.push((key.clone(), state));
        } else if let Some(fullest) = group.iter_mut().min_by_key(|(_, state)| *state) {
            *fullest = (key.clone(), state);
        }
        Ok(decision)
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Keys<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        for group in &self.groups {
            let mut group = group.lock();
            group.retain(|(_, state)| *state > drop_below);
            if group.is_empty() {
                *group = Vec::new();
            }
        }
    }

    fn len(&self) -> usize {
        self.groups.iter().map(|group| group.lock().len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.lock().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(keys: &Keys<u32>, key: u32, state: u64) -> Option<Nanos> {
        let seen = |before: Option<Nanos>| Ok::<_, ()>((before, Nanos::from(state)));
        keys.measure_and_replace(&key, seen).unwrap()
    }

    #[test]
    fn there_are_never_more_than_there_may_be_and_the_fullest_bucket_makes_room() {
        let keys = Keys::default();
        // The one that has attempted the most.
        assert_eq!(see(&keys, 0, u64::MAX), None);
        for key in 1..=240_000 {
            see(&keys, key, u64::from(key));
        }
        assert!(keys.len() <= MAX_KEYS, "{}", keys.len());
        assert!(keys.len() > MAX_KEYS * 9 / 10, "{}", keys.len());
        assert_eq!(see(&keys, 0, u64::MAX), Some(Nanos::from(u64::MAX)), "it is not forgotten");
        keys.retain_recent(Nanos::from(u64::MAX - 1));
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let keys = Keys::default();
        assert_eq!(keys.measure_and_replace(&1, |_| Err::<((), Nanos), _>("no")), Err("no"));
        assert!(keys.is_empty());
        see(&keys, 1, 7);
        assert!(keys.measure_and_replace(&1, |_| Err::<((), Nanos), _>("no")).is_err());
        assert_eq!(see(&keys, 1, 8), Some(Nanos::from(7)));
    }
}
