//! Notes of which key turned out to be another's, and for how long they are kept.

use super::{Logged, Shard, Shards};
use crate::clock::Moment;
use crate::policy::Retention;
use crate::policy::window::Log;

impl<E: Logged> Shards<E> {
    /// Looks at the notes of a shard whose time is over: those are kept whose key has become one that still has a charge that counts, or
    /// that is held; `renewed` is told of them. Returns how many are dropped.
    pub(in crate::ledger::memory) fn renew(
        &self,
        number: usize,
        retention: Retention,
        now: Moment,
        mut renewed: impl FnMut(E::Id, E::Id, Moment),
    ) -> usize {
        let shard = self.shard(number).lock();
        let notes = shard.rare.iter().flat_map(|rare| &rare.moved);
        let due: Vec<E::Id> = notes
            .filter(|(_, (_, newest))| *newest + retention.longest() <= now)
            .map(|(key, _)| E::id(*key, number))
            .collect();
        // The other key may be in a shard that is to be locked before this one.
        drop(shard);
        let mut dropped = 0;
        for from in due {
            match self.renew_one(from, retention, now) {
                Some((into, Some(newest))) => renewed(from, into, newest),
                Some((_, None)) => dropped += 1,
                None => {}
            }
        }
        dropped
    }

    /// What one key has become, if it has, and the time of its note, unless that is dropped.
    fn renew_one(&self, from: E::Id, retention: Retention, now: Moment) -> Option<(E::Id, Option<Moment>)> {
        loop {
            let into = self.lock(from).id();
            if into == from {
                return None;
            }
            let ((source, from, _), (target, key, hash)) = (E::place(from, &self.seeds), E::place(into, &self.seeds));
            let mut two = self.lock_two(source, target);
            if two.get(source).became(from).is_none() || two.get(target).became(key).is_some() {
                // It has changed in between.
                continue;
            }
            let log = two.get(target).log(key, hash, &self.seeds).filter(|log| !log.is_spent(retention, now));
            let charged = log.and_then(Log::newest);
            let held = two.get(target).held(key).filter(|until| *until > now).map(|until| until - retention.longest());
            let newest = charged.max(held);
            let rare = two.get_mut(source).rare();
            match newest {
                Some(newest) => drop(rare.moved.insert(from, (into, newest))),
                None => drop(rare.moved.remove(&from)),
            }
            two.get_mut(source).rare.take_if(|rare| rare.is_empty());
            return Some((into, newest));
        }
    }

    /// Notes that `from`, of which nothing is known, is `into`, if there is room for the note. A note that is there is kept for longer.
    pub(in crate::ledger::memory) fn note(
        &self,
        into: E::Id,
        from: E::Id,
        newest: Moment,
        room: impl FnOnce() -> bool,
    ) {
        let into = self.lock(into).id();
        let mut from = self.lock_itself(from);
        let key = from.key;
        let noted = from.shard.rare.as_mut().and_then(|rare| rare.moved.get_mut(&key));
        match noted {
            Some((_, before)) => *before = newest.max(*before),
            None if into != from.id && room() => drop(from.shard.rare().moved.insert(key, (into, newest))),
            None => {}
        }
    }

    /// Shows what keys of a shard have become, while nobody else uses it.
    pub(in crate::ledger::memory) fn each_note(&self, number: usize, mut see: impl FnMut(E::Id, E::Id)) {
        let shard = self.shard(number).lock();
        for (key, (into, _)) in shard.rare.iter().flat_map(|rare| &rare.moved) {
            see(E::id(*key, number), *into);
        }
    }
}

impl<E: Logged> Shard<E> {
    /// What a key has become, if that is another.
    pub(super) fn became(&self, key: E::Key) -> Option<E::Id> {
        self.rare.as_ref()?.moved.get(&key).map(|(into, _)| *into)
    }
}
