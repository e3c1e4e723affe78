//! A map that drops its oldest entry rather than grow past its capacity: whatever the network says, memory has an end.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map of at most `capacity` entries, in the order in which their keys came.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    capacity: usize,
    next: u64,
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    /// An empty one; it holds at least one entry.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), next: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// A key that is there already keeps its place.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some((_, there)) = self.entries.get_mut(&key) {
            *there = value;
            return;
        }
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(self.next, key.clone());
        self.entries.insert(key, (self.next, value));
        self.next += 1;
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (place, value) = self.entries.remove(key)?;
        self.order.remove(&place);
        Some(value)
    }

    /// Every value, in no order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|(_, value)| value)
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = &V> {
        self.order.values().rev().filter_map(|key| self.get(key))
    }
}

impl<K: Clone + Eq + Hash, V: Default> Bounded<K, V> {
    /// Changes the value at `key`, which starts as the default.
    pub(super) fn update<R>(&mut self, key: K, change: impl FnOnce(&mut V) -> R) -> R {
        if let Some(there) = self.get_mut(&key) {
            return change(there);
        }
        let mut value = V::default();
        let result = change(&mut value);
        self.insert(key, value);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut map = Bounded::new(2);
        for key in [1, 2, 1, 3] {
            map.insert(key, key * 10);
        }
        assert_eq!(map.newest_first().copied().collect::<Vec<_>>(), [30, 20]);
        assert_eq!(map.get(&1), None);
    }

    #[test]
    fn what_was_removed_takes_no_room() {
        let mut map = Bounded::new(2);
        map.insert(1, 10);
        assert_eq!((map.remove(&1), map.remove(&1)), (Some(10), None));
        map.insert(2, 20);
        map.insert(3, 30);
        assert_eq!(map.newest_first().copied().collect::<Vec<_>>(), [30, 20]);
    }
}
