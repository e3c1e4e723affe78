//! The logs of one kind of key, in shards with a lock each.

mod notes;
pub(super) mod telling;

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};

use super::table::{Entry, Table};
use crate::clock::Moment;
use crate::policy::window::Log;
use crate::policy::{Kind, Per, Record, Retention};
pub(super) use telling::Part;

/// More than any machine has cores: two requests rarely meet in one, and a sweep holds one up only briefly.
pub(super) const SHARDS: usize = 256;

/// How many slots a sweep looks at before it lets others in. Each may lead to a log on the heap, a cache miss away.
const AT_ONCE: usize = 4096;

/// An entry with a log.
pub(super) trait Logged: Entry<Key: Debug + Hash> {
    /// What the ledger's users know it by.
    type Id: Copy + Eq + Debug;

    /// Whom limits count it for.
    const PER: Per;

    /// One that says nothing.
    fn new(key: Self::Key) -> Self;

    /// The shard (below [`SHARDS`]), key and hash of an id.
    fn place(id: Self::Id, seeds: &RandomState) -> (usize, Self::Key, u64);

    /// What its users know a key in this shard by: the other way round.
    fn id(key: Self::Key, shard: usize) -> Self::Id;

    fn log(&self) -> &Log;

    fn log_mut(&mut self) -> &mut Log;

    /// Whether it may go once its log is empty.
    fn is_only_a_log(&self) -> bool {
        true
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Shards<E: Logged> {
    shards: Box<[CacheLine<E>]>,
    seeds: RandomState,
}

/// A line of cache to itself, so that neighbours do not slow each other down.
#[derive(Debug)]
#[repr(align(64))]
struct CacheLine<E: Logged>(Mutex<Shard<E>>);

#[derive(Debug)]
pub(super) struct Shard<E: Logged> {
    pub(super) table: Table<E>,
    rare: Option<Box<Rare<E>>>,
}

/// What few keys have.
#[derive(Debug)]
struct Rare<E: Logged> {
    /// Keys that turned out to be another's: which, and a time. A window after that the other key is looked at, and the note is kept for
    /// as long as that one has a charge that counts, or is held ([`Shards::renew`]). So both share one log, under whichever name, and a
    /// reservation of the old key is given back where its charge is.
    moved: HashMap<E::Key, (E::Id, Moment)>,
    /// Until when Sendly itself refuses a key.
    held: HashMap<E::Key, Moment>,
    /// What keys are rooted in, where that is another key.
    roots: HashMap<E::Key, E::Id>,
}

/// What a sweep dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Logs.
    pub(super) logs: usize,
    /// Holds, and notes of where keys went.
    pub(super) notes: usize,
}

impl<E: Logged> Shards<E> {
    pub(super) fn new() -> Self {
        let shard = || CacheLine(Mutex::new(Shard { table: Table::default(), rare: None }));
        Self { shards: std::iter::repeat_with(shard).take(SHARDS).collect(), seeds: RandomState::default() }
    }

    /// Locks the shard of a key, or of the key that it has become.
    pub(super) fn lock(&self, id: E::Id) -> Locked<'_, E> {
        let mut id = id;
        loop {
            let (shard, key, hash) = E::place(id, &self.seeds);
            let shard = self.shard(shard).lock();
            match shard.became(key) {
                Some(other) => id = other,
                None => {
                    let slot = shard.table.find(key, hash, &self.seeds);
                    return Locked { shard, seeds: &self.seeds, id, key, hash, slot };
                }
            }
        }
    }

    /// Locks the shard of a key itself, whatever it has become.
    pub(super) fn lock_itself(&self, id: E::Id) -> Locked<'_, E> {
        let (shard, key, hash) = E::place(id, &self.seeds);
        let shard = self.shard(shard).lock();
        let slot = shard.table.find(key, hash, &self.seeds);
        Locked { shard, seeds: &self.seeds, id, key, hash, slot }
    }

    /// Makes `from` and `into` one. `room` is told how many more keys that makes, and says whether there is room for them.
    pub(super) fn absorb(&self, into: E::Id, from: E::Id, retention: Retention, room: impl FnOnce(isize) -> bool) {
        let mut ids = (into, from);
        let (mut two, into, from) = loop {
            let places = (E::place(ids.0, &self.seeds), E::place(ids.1, &self.seeds));
            let two = self.lock_two(places.0.0, places.1.0);
            let became = (two.get(places.0.0).became(places.0.1), two.get(places.1.0).became(places.1.1));
            if became == (None, None) {
                break (two, places.0, places.1);
            }
            ids = (became.0.unwrap_or(ids.0), became.1.unwrap_or(ids.1));
        };
        if ids.0 == ids.1 {
            return;
        }
        let (source, target) = (two.get(from.0), two.get(into.0));
        let slot = source.table.find(from.1, from.2, &self.seeds);
        let log = slot.ok().and_then(|slot| source.table.get(slot)).map(E::log).filter(|log| !log.is_empty()).cloned();
        let held = source.held(from.1);
        if log.is_none() && held.is_none() {
            return;
        }
        let had_log = target.log(into.1, into.2, &self.seeds).is_some();
        // Two logs become one, two holds become one, and a note says where the key went.
        let merged =
            isize::from(log.is_some() && had_log) + isize::from(held.is_some() && target.held(into.1).is_some());
        if !room(1 - merged) {
            return;
        }
        let source = two.get_mut(from.0);
        if let (Some(_), Ok(slot)) = (&log, slot) {
            source.clear(slot, &self.seeds);
        }
        let rare = source.rare();
        rare.held.remove(&from.1);
        rare.moved.insert(from.1, (ids.0, log.as_ref().and_then(Log::newest).unwrap_or(Moment::from_micros(0))));
        let target = two.get_mut(into.0);
        if let Some(log) = log {
            let slot = target.table.find(into.1, into.2, &self.seeds);
            target.entry(slot, into.1, into.2, &self.seeds, |entry| entry.log_mut().absorb(&log, retention));
        }
        if let Some(until) = held {
            target.hold(into.1, until);
        }
    }

    /// Drops what no limit can need any more from one shard, a stretch at a time. `stays` is asked about entries that have
    /// no log, or none any more; `renewed` is told of each note that is kept for longer: of which key into which, and its time.
    pub(super) fn sweep(
        &self,
        number: usize,
        retention: Retention,
        now: Moment,
        mut stays: impl FnMut(&mut E) -> bool,
        renewed: impl FnMut(E::Id, E::Id, Moment),
    ) -> Swept {
        let (mut swept, mut from) = (Swept::default(), 0);
        loop {
            let mut shard = self.shard(number).lock();
            let Shard { table, rare } = &mut *shard;
            table.retain(from..from + AT_ONCE, &self.seeds, |entry| {
                if !entry.log().is_spent(retention, now) {
                    return true;
                }
                if !entry.log().is_empty() {
                    *entry.log_mut() = Log::default();
                    swept.logs += 1;
                }
                let stays = stays(entry);
                if let (false, Some(key), Some(rare)) = (stays, entry.key(), rare.as_mut()) {
                    rare.roots.remove(&key);
                }
                stays
            });
            from += AT_ONCE;
            if from < shard.table.slots() {
                continue;
            }
            swept.notes += shard.rare.as_mut().map_or(0, |rare| rare.sweep(now));
            shard.rare.take_if(|rare| rare.is_empty());
            shard.table.shrink(&self.seeds);
            break;
        }
        swept.notes += self.renew(number, retention, now, renewed);
        swept
    }

    /// Shows every entry of one shard, and until when it is held.
    pub(super) fn each(&self, shard: usize, mut see: impl FnMut(E::Key, &E, Option<Moment>)) {
        let shard = self.shard(shard).lock();
        for entry in (0..shard.table.slots()).filter_map(|slot| shard.table.get(slot)) {
            if let Some(key) = entry.key() {
                see(key, entry, shard.held(key));
            }
        }
        // One that is held and has no entry is no loss: Sendly says so again.
    }

    /// Entries in it, whatever they say.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().table.len()).sum()
    }

    fn shard(&self, shard: usize) -> &Mutex<Shard<E>> {
        #[allow(clippy::indexing_slicing, reason = "the remainder of a division by their number")]
        &self.shards[shard % SHARDS].0
    }

    /// Locks two shards in the order of their numbers.
    fn lock_two(&self, one: usize, other: usize) -> Two<'_, E> {
        let (low, high) = (one.min(other), one.max(other));
        let first = self.shard(low).lock();
        Two { low, first, second: (high != low).then(|| self.shard(high).lock()) }
    }
}

/// Two shards, or twice the same.
struct Two<'m, E: Logged> {
    low: usize,
    first: MutexGuard<'m, Shard<E>>,
    second: Option<MutexGuard<'m, Shard<E>>>,
}

impl<E: Logged> Two<'_, E> {
    fn get(&self, shard: usize) -> &Shard<E> {
        match &self.second {
            Some(second) if shard != self.low => second,
            _ => &self.first,
        }
    }

    fn get_mut(&mut self, shard: usize) -> &mut Shard<E> {
        match &mut self.second {
            Some(second) if shard != self.low => second,
            _ => &mut self.first,
        }
    }
}

impl<E: Logged> Shard<E> {
    fn held(&self, key: E::Key) -> Option<Moment> {
        self.rare.as_ref()?.held.get(&key).copied()
    }

    fn log(&self, key: E::Key, hash: u64, seeds: &RandomState) -> Option<&Log> {
        let slot = self.table.find(key, hash, seeds).ok()?;
        self.table.get(slot).map(E::log).filter(|log| !log.is_empty())
    }

    fn rare(&mut self) -> &mut Rare<E> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare { moved: HashMap::new(), held: HashMap::new(), roots: HashMap::new() })
        })
    }

    /// Holds a key; an earlier end changes nothing.
    fn hold(&mut self, key: E::Key, until: Moment) {
        let held = self.rare().held.entry(key).or_insert(until);
        *held = until.max(*held);
    }

    /// Empties the log in a slot, and frees the slot if nothing else stands in it.
    fn clear(&mut self, slot: usize, seeds: &RandomState) {
        if let Some(entry) = self.table.get_mut(slot) {
            *entry.log_mut() = Log::default();
            if entry.is_only_a_log() {
                self.table.remove(slot, seeds);
            }
        }
    }

    /// Changes the entry that a search found, or a new one where it found none. Returns where it stands.
    fn entry(
        &mut self,
        found: Result<usize, usize>,
        key: E::Key,
        hash: u64,
        seeds: &RandomState,
        change: impl FnOnce(&mut E),
    ) -> usize {
        let slot = found.unwrap_or_else(|slot| self.table.insert(E::new(key), slot, hash, seeds));
        self.table.get_mut(slot).map(change);
        slot
    }
}

impl<E: Logged> Rare<E> {
    fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.held.is_empty() && self.roots.is_empty()
    }

    fn sweep(&mut self, now: Moment) -> usize {
        let before = self.held.len();
        self.held.retain(|_, until| *until > now);
        before - self.held.len()
    }
}

/// A key, its shard locked.
pub(super) struct Locked<'m, E: Logged> {
    shard: MutexGuard<'m, Shard<E>>,
    seeds: &'m RandomState,
    id: E::Id,
    key: E::Key,
    hash: u64,
    slot: Result<usize, usize>,
}

/// What is done to a locked key, whatever its kind.
pub(super) trait Key {
    /// Whom it counts for.
    fn per(&self) -> Per;

    /// What it is judged by.
    fn record(&self) -> Record<'_>;

    /// Charges it: for good, or open, to be kept or given back later.
    fn charge(&mut self, at: Moment, kind: Kind, retention: Retention, is_open: bool);

    /// Keeps an open charge.
    fn keep(&mut self, at: Moment, kind: Kind);

    /// Gives a charge back. Returns whether its log is gone with it.
    fn give_back(&mut self, at: Moment, kind: Kind) -> bool;

    /// Holds it; an earlier end changes nothing.
    fn hold(&mut self, until: Moment);

    /// Forgets its log and its hold. Returns whether it had either.
    fn forget(&mut self) -> (bool, bool);
}

impl<E: Logged> Locked<'_, E> {
    /// What it has become, or always was.
    pub(super) const fn id(&self) -> E::Id {
        self.id
    }

    pub(super) fn entry(&self) -> Option<&E> {
        self.slot.ok().and_then(|slot| self.shard.table.get(slot))
    }

    /// Changes its entry; a new one, if it has none.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut E)) {
        let slot = self.shard.entry(self.slot, self.key, self.hash, self.seeds, change);
        self.slot = Ok(slot);
    }

    /// The key that this one is rooted in, if that is another.
    pub(super) fn root(&self) -> Option<E::Id> {
        self.shard.rare.as_ref()?.roots.get(&self.key).copied()
    }

    /// Roots it in another key, or in itself.
    pub(super) fn set_root(&mut self, root: Option<E::Id>) {
        match (root, self.shard.rare.as_mut()) {
            (Some(root), _) => drop(self.shard.rare().roots.insert(self.key, root)),
            (None, Some(rare)) => drop(rare.roots.remove(&self.key)),
            (None, None) => {}
        }
    }

    /// How many entries are in its shard.
    pub(super) fn neighbours(&self) -> usize {
        self.shard.table.len()
    }

    /// Removes the entry that is the oldest among a few around; `age` says which may go.
    pub(super) fn evict_one(&mut self, age: impl Fn(&E) -> Option<u64>) {
        const A_FEW: usize = 32;
        let Shard { table, rare } = &mut *self.shard;
        let from = self.slot.unwrap_or_else(|slot| slot);
        let around = (0..A_FEW.min(table.slots())).map(|nth| (from + nth) % table.slots());
        let aged = around.filter_map(|slot| table.get(slot).and_then(|entry| Some((age(entry)?, slot, entry.key()?))));
        let Some((_, slot, key)) = aged.max_by_key(|(age, ..)| *age) else { return };
        table.remove(slot, self.seeds);
        if let Some(rare) = rare {
            rare.roots.remove(&key);
        }
        self.slot = table.find(self.key, self.hash, self.seeds);
    }
}

impl<E: Logged> Key for Locked<'_, E> {
    fn per(&self) -> Per {
        E::PER
    }

    fn record(&self) -> Record<'_> {
        let log = self.entry().map(E::log).filter(|log| !log.is_empty());
        Record { per: E::PER, log, held_until: self.shard.held(self.key) }
    }

    fn charge(&mut self, at: Moment, kind: Kind, retention: Retention, is_open: bool) {
        self.change(|entry| entry.log_mut().take_as(at, kind, retention, is_open));
    }

    fn keep(&mut self, at: Moment, kind: Kind) {
        if let Some(entry) = self.slot.ok().and_then(|slot| self.shard.table.get_mut(slot)) {
            entry.log_mut().keep(at, kind);
        }
    }

    fn give_back(&mut self, at: Moment, kind: Kind) -> bool {
        let Ok(slot) = self.slot else { return false };
        let Some(entry) = self.shard.table.get_mut(slot) else { return false };
        let emptied = entry.log_mut().give_back(at, kind) && entry.log().is_empty();
        if emptied {
            self.shard.clear(slot, self.seeds);
            self.slot = Err(slot);
        }
        emptied
    }

    fn hold(&mut self, until: Moment) {
        self.shard.hold(self.key, until);
    }

    fn forget(&mut self) -> (bool, bool) {
        let held = self.shard.rare.as_mut().is_some_and(|rare| rare.held.remove(&self.key).is_some());
        let logged = self.slot.ok().filter(|_| self.record().log.is_some());
        if let Some(slot) = logged {
            self.shard.clear(slot, self.seeds);
            self.slot = self.shard.table.find(self.key, self.hash, self.seeds);
        }
        (logged.is_some(), held)
    }
}
