//! A hash table for tens of millions of small entries.
//!
//! It is an array with gaps, in the order of the entries' hashes (linear probing, kept sorted). An entry stands at its home, the
//! place that its hash maps to, or behind it, where its home is taken. So one that is there is found within a line of cache or
//! two; a search for one that is not ends at the first that is greater; none leaves a tombstone; and since homes are not a power
//! of two, the table grows by an eighth, in one pass over memory, and is never less than 3/4 full.

use foldhash::quality::RandomState;

/// What stands in a slot.
pub(super) trait Entry: Default {
    /// What it is found by.
    type Key: Copy + Eq;

    /// Its key; `None` where the slot is free.
    fn key(&self) -> Option<Self::Key>;

    /// All 64 bits matter: keys come in the order of their hashes.
    fn hash(key: Self::Key, seeds: &RandomState) -> u64;
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Table<E> {
    slots: Vec<E>,
    /// How many slots are some hash's home. The slots behind are for those whose homes were taken.
    homes: usize,
    entries: usize,
}

/// Slots that stand behind the last home.
const TAIL: usize = 16;

impl<E> Default for Table<E> {
    fn default() -> Self {
        Self { slots: Vec::new(), homes: 0, entries: 0 }
    }
}

impl<E: Entry> Table<E> {
    /// Entries in it.
    pub(super) const fn len(&self) -> usize {
        self.entries
    }

    /// Slots in it, free ones included.
    pub(super) const fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, slot: usize) -> Option<&E> {
        self.slots.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut E> {
        self.slots.get_mut(slot)
    }

    /// The slot of a key; or the one that it would have.
    pub(super) fn find(&self, key: E::Key, hash: u64, seeds: &RandomState) -> Result<usize, usize> {
        let home = self.home(hash);
        let behind = self.slots.get(home..).unwrap_or_default();
        for (slot, entry) in (home..).zip(behind) {
            match entry.key() {
                Some(other) if other == key => return Ok(slot),
                Some(other) if E::hash(other, seeds) <= hash => {}
                _ => return Err(slot),
            }
        }
        Err(home.max(self.slots.len()))
    }

    /// Puts an entry where [`find`](Self::find) did not find its key. Returns where it stands now.
    pub(super) fn insert(&mut self, entry: E, slot: usize, hash: u64, seeds: &RandomState) -> usize {
        let mut slot = slot;
        if (self.entries + 1) * 20 > self.homes * 17 {
            self.resize(self.homes * 9 / 8 + 4, seeds);
            if let Some(key) = entry.key() {
                slot = self.find(key, hash, seeds).unwrap_or_else(|slot| slot);
            }
        }
        let taken = self.slots.iter().skip(slot).take_while(|entry| entry.key().is_some()).count();
        let gap = slot + taken;
        while self.slots.len() <= gap {
            push(&mut self.slots, E::default());
        }
        if let Some(run) = self.slots.get_mut(slot..=gap) {
            run.rotate_right(1);
            if let Some(first) = run.first_mut() {
                *first = entry;
            }
            self.entries += 1;
        }
        slot
    }

    /// Removes what stands in a slot. What stands behind it because of it moves up.
    pub(super) fn remove(&mut self, slot: usize, seeds: &RandomState) {
        let behind = self.slots.get(slot + 1..).unwrap_or_default();
        let follows =
            |(place, entry): &(usize, &E)| entry.key().is_some_and(|key| self.home(E::hash(key, seeds)) < *place);
        let followers = (slot + 1..).zip(behind).take_while(follows).count();
        if let Some(run) = self.slots.get_mut(slot..=slot + followers) {
            run.rotate_left(1);
            if let Some(last) = run.last_mut() {
                *last = E::default();
                self.entries -= 1;
            }
        }
    }

    /// Removes those of `slots` that are not to stay.
    pub(super) fn retain(
        &mut self,
        slots: std::ops::Range<usize>,
        seeds: &RandomState,
        mut stays: impl FnMut(&mut E) -> bool,
    ) {
        let mut slot = slots.start;
        while slot < slots.end {
            let Some(entry) = self.slots.get_mut(slot) else { return };
            if entry.key().is_none() || stays(entry) {
                slot += 1;
            } else {
                // Its follower has taken its place.
                self.remove(slot, seeds);
            }
        }
    }

    /// Gives memory back, if most of it is free.
    pub(super) fn shrink(&mut self, seeds: &RandomState) {
        if self.homes > 64 && self.entries * 2 < self.homes {
            self.resize(self.entries * 5 / 4 + 4, seeds);
        }
    }

    fn resize(&mut self, homes: usize, seeds: &RandomState) {
        let entries = std::mem::take(&mut self.slots);
        self.homes = homes;
        let mut slots = Vec::with_capacity(homes + TAIL);
        // They come in the order of their hashes, and so of their homes.
        for entry in entries {
            let Some(key) = entry.key() else { continue };
            let home = self.home(E::hash(key, seeds));
            while slots.len() < home {
                push(&mut slots, E::default());
            }
            push(&mut slots, entry);
        }
        let all = slots.len().max(homes + TAIL);
        slots.reserve_exact(all - slots.len());
        slots.resize_with(all, E::default);
        self.slots = slots;
    }

    fn home(&self, hash: u64) -> usize {
        // The hash as a fraction of one, times the homes: below their number.
        ((u128::from(hash) * self.homes as u128) >> 64) as usize
    }
}

/// A vector that must grow doubles, unless it is told otherwise.
fn push<E>(slots: &mut Vec<E>, entry: E) {
    if slots.len() == slots.capacity() {
        slots.reserve_exact(TAIL);
    }
    slots.push(entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::num::NonZeroU64;

    /// Its hash is its key's upper half: tests choose who collides.
    #[derive(Debug, Default)]
    struct Pair {
        key: Option<NonZeroU64>,
        value: u64,
    }

    impl Entry for Pair {
        type Key = NonZeroU64;

        fn key(&self) -> Option<NonZeroU64> {
            self.key
        }

        fn hash(key: NonZeroU64, _: &RandomState) -> u64 {
            key.get() >> 8 << 8
        }
    }

    fn put(table: &mut Table<Pair>, seeds: &RandomState, key: NonZeroU64, value: u64) {
        let hash = Pair::hash(key, seeds);
        let slot = match table.find(key, hash, seeds) {
            Ok(slot) => slot,
            Err(slot) => table.insert(Pair { key: Some(key), value: 0 }, slot, hash, seeds),
        };
        table.get_mut(slot).unwrap().value = value;
    }

    fn contents(table: &Table<Pair>) -> BTreeMap<NonZeroU64, u64> {
        table.slots.iter().filter_map(|pair| Some((pair.key?, pair.value))).collect()
    }

    /// Sorted by hash, each at its home or behind it, and no gap in between.
    fn is_in_order(table: &Table<Pair>, seeds: &RandomState) -> bool {
        let mut greatest = 0;
        table.slots.iter().enumerate().all(|(slot, pair)| {
            let Some(key) = pair.key else { return true };
            let hash = Pair::hash(key, seeds);
            let home = table.home(hash);
            let sorted = std::mem::replace(&mut greatest, hash) <= hash;
            sorted && home <= slot && table.slots[home..slot].iter().all(|before| before.key.is_some())
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u64, u64),
        Remove(u64),
        Retain(u64, std::ops::Range<usize>),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few different hashes, at both ends and in between, and keys that share them.
        let parts = (prop_oneof![Just(0_u64), Just(u64::MAX >> 8), 0..u64::MAX >> 8, 0..40_u64], 1..4_u64);
        let key = parts.prop_map(|(hash, low)| hash << 8 | low);
        let keys = prop::collection::vec(key, 1..60);
        keys.prop_flat_map(|keys| {
            let key = prop::sample::select(keys);
            let step = prop_oneof![
                6 => (key.clone(), any::<u64>()).prop_map(|(key, value)| Step::Put(key, value)),
                3 => key.prop_map(Step::Remove),
                1 => (1..4_u64, 0..200_usize, 0..200_usize).prop_map(|(of, from, to)| Step::Retain(of, from..to)),
                1 => Just(Step::Shrink),
            ];
            prop::collection::vec(step, 1..300)
        })
    }

    proptest! {
        #[test]
        fn a_table_is_a_map_whatever_is_done_to_it(steps in steps()) {
            let (mut table, mut model, seeds) = (Table::default(), BTreeMap::new(), RandomState::default());
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        let key = NonZeroU64::new(key).unwrap();
                        put(&mut table, &seeds, key, value);
                        model.insert(key, value);
                    }
                    Step::Remove(key) => {
                        let key = NonZeroU64::new(key).unwrap();
                        let found = table.find(key, Pair::hash(key, &seeds), &seeds);
                        prop_assert_eq!(found.is_ok(), model.remove(&key).is_some());
                        if let Ok(slot) = found {
                            table.remove(slot, &seeds);
                        }
                    }
                    Step::Retain(of, slots) => {
                        let mut gone = Vec::new();
                        table.retain(slots, &seeds, |pair| {
                            let stays = pair.value % 4 != of;
                            gone.extend(pair.key.filter(|_| !stays));
                            stays
                        });
                        for key in gone {
                            prop_assert!(model.remove(&key).is_some_and(|value| value % 4 == of));
                        }
                    }
                    Step::Shrink => table.shrink(&seeds),
                }
                prop_assert_eq!(contents(&table), model.clone());
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(is_in_order(&table, &seeds));
            }
        }
    }

    #[test]
    fn a_sweep_of_all_slots_misses_nobody() {
        let (mut table, seeds) = (Table::default(), RandomState::default());
        for nth in 1..=5_000_u64 {
            let key = NonZeroU64::new(seeds_free_hash(nth)).unwrap();
            put(&mut table, &seeds, key, nth);
        }
        let slots = table.slots();
        for from in (0..slots).step_by(64) {
            table.retain(from..from + 64, &seeds, |pair| pair.value % 2 == 0);
        }
        assert_eq!(table.len(), 2_500);
        assert!(is_in_order(&table, &seeds));
    }

    #[test]
    fn a_table_that_grows_is_never_less_than_three_quarters_full() {
        let (mut table, seeds) = (Table::default(), RandomState::default());
        for nth in 1..=20_000_u64 {
            put(&mut table, &seeds, NonZeroU64::new(seeds_free_hash(nth)).unwrap(), nth);
            let room = table.slots.capacity() as f64;
            assert!(nth < 2_000 || nth as f64 / room > 0.74, "{nth} in {room}");
        }
        table.retain(0..usize::MAX, &seeds, |pair| pair.value <= 100);
        table.shrink(&seeds);
        assert!(table.slots.capacity() < 200);
        assert!(is_in_order(&table, &seeds) && table.len() == 100);
    }

    /// Numbers that spread over all hashes (the multiplier is odd).
    fn seeds_free_hash(nth: u64) -> u64 {
        nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
