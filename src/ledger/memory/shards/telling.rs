//! What shards know, told to another process and taken over by it.

use super::{Logged, Shards};
use crate::clock::Moment;

/// Something that a shard knows of a key.
pub(in crate::ledger::memory) enum Part<'e, E: Logged> {
    /// Its entry, and what it is rooted in, where that is another.
    Entry(&'e E, Option<E::Id>),
    /// Sendly itself refuses it until then.
    Held(Moment),
}

impl<E: Logged> Shards<E> {
    /// Shows all that a shard knows but what keys have become, while nobody else uses it: its entries, then what few keys have.
    pub(in crate::ledger::memory) fn visit(&self, shard: usize, mut visit: impl FnMut(E::Id, Part<'_, E>)) {
        let locked = self.shard(shard).lock();
        let rare = locked.rare.as_deref();
        for entry in (0..locked.table.slots()).filter_map(|slot| locked.table.get(slot)) {
            if let Some(key) = entry.key() {
                let root = rare.and_then(|rare| rare.roots.get(&key)).copied();
                visit(E::id(key, shard), Part::Entry(entry, root));
            }
        }
        for (key, until) in rare.iter().flat_map(|rare| &rare.held) {
            visit(E::id(*key, shard), Part::Held(*until));
        }
    }
}
