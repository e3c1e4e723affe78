//! The ledger in memory: sharded maps from key to log.
//!
//! A request's keys lie in up to three shards. Their locks are taken together, in the order of the shards, so that no two
//! requests can wait for each other; they are held for a few hundred nanoseconds and never across an await.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};

use super::{Charge, Settlement};
use crate::clock::Moment;
use crate::policy::window::Log;
use crate::policy::{Decision, Key, Kind, Policy, Refusal, Retention, Subject, WhenFull};

/// More shards than any machine has cores: two requests rarely meet in one, and a sweep holds one up only briefly.
const SHARDS: usize = 256;

type Logs = HashMap<Key, Log, RandomState>;

#[derive(Debug)]
struct Shard {
    logs: Logs,
    /// Keys that turned out to be another's: which, and the time of the last charge that went there with it. Remembered for
    /// as long as that charge counts, so that a reservation of the old key settles where its charge is.
    moved: HashMap<Key, (Key, Moment), RandomState>,
    /// The time of its last sweep. A log that was dropped can testify no more, so nothing is judged as of an earlier time.
    swept: Moment,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    tracked: AtomicUsize,
    /// How often a key found no room, and something went uncounted per it.
    uncounted: AtomicUsize,
    max_keys: usize,
    when_full: WhenFull,
}

/// What came of asking for a code.
#[derive(Debug)]
pub enum Verdict {
    /// It was charged.
    Charged(Charge),
    /// A limit refuses.
    Refused(Refusal),
    /// There is no room for a new key.
    NoRoom,
}

impl Memory {
    /// An empty ledger that tracks at most `max_keys` keys.
    pub fn new(max_keys: usize, when_full: WhenFull) -> Self {
        let hasher = RandomState::new();
        let shard = || {
            let (logs, moved) = (Logs::with_hasher(hasher.clone()), HashMap::with_hasher(hasher.clone()));
            Mutex::new(Shard { logs, moved, swept: Moment::from_micros(0) })
        };
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher,
            tracked: AtomicUsize::new(0),
            uncounted: AtomicUsize::new(0),
            max_keys,
            when_full,
        }
    }

    /// Keys that are remembered: those that have a log, and those whose log became another's.
    pub fn tracked(&self) -> usize {
        self.tracked.load(Ordering::Relaxed)
    }

    /// How many keys there is room for.
    pub fn max_keys(&self) -> usize {
        self.max_keys
    }

    /// How often something went uncounted per a key because there was no room for it: under [`WhenFull::Allow`]; under
    /// [`WhenFull::Refuse`] what only shadow limits count, and what was learned after the code went out.
    pub fn uncounted(&self) -> usize {
        self.uncounted.load(Ordering::Relaxed)
    }

    /// See [`Ledger::reserve`](super::Ledger::reserve).
    pub fn reserve(&self, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> (Decision, Verdict) {
        let mut held = self.lock(&subject.keys());
        let keys = held.keys.clone();
        let nothing = Log::default();
        let logs = || keys.iter().map(|key| (key.per(), held.get(key).unwrap_or(&nothing)));

        let asked = now;
        let now = asked.max(held.swept());
        let mut decision = policy.judge(logs(), kind, now);
        if let Some(refusal) = &mut decision.refusal {
            // Told from the clock of whoever asked, though it was judged as of a sweep that came after that was read.
            refusal.retry_after += now.since(asked);
            let refusal = *refusal;
            return (decision, Verdict::Refused(refusal));
        }
        // One time for all of them, so that settling needs to know only one.
        let at = logs().fold(now, |at, (_, log)| log.not_before(at));

        let mut counted: ArrayVec<Key, { Subject::MAX_KEYS }> =
            keys.iter().copied().filter(|key| policy.counts(key.per(), kind)).collect();
        // A key that only shadow limits count must not refuse anything for want of room either: it takes what is left.
        let known = |key: &Key| held.get(key).is_some();
        let needed = |key: &Key| self.when_full == WhenFull::Refuse && policy.enforces(key.per());
        if !self.make_room(counted.iter().filter(|key| !known(key) && needed(key)).count()) {
            return (decision, Verdict::NoRoom);
        }
        counted.retain(|key| known(key) || needed(key) || self.has_room());
        for key in &counted {
            held.entry(*key).take(at, kind, policy.retention(key.per()));
        }
        (decision, Verdict::Charged(Charge { keys: counted, at, kind }))
    }

    /// See [`Ledger::record`](super::Ledger::record).
    pub fn record(&self, policy: &Policy, key: Key, kind: Kind, at: Moment) {
        if policy.counts(key.per(), kind) {
            self.with_log(key, |log| log.record(at, kind, policy.retention(key.per())));
        }
    }

    /// See [`Ledger::absorb`](super::Ledger::absorb).
    pub fn absorb(&self, policy: &Policy, into: Key, from: Key) {
        let mut held = self.lock(&[into, from]);
        let &[into, from] = held.keys.as_slice() else { return };
        if into == from || held.get(&from).is_none() || (held.get(&into).is_none() && !self.has_room()) {
            return;
        }
        let Some(shard) = held.shard_mut(&from) else { return };
        let log = shard.logs.remove(&from).unwrap_or_default();
        shard.moved.insert(from, (into, log.newest().unwrap_or(Moment::from_micros(0))));
        held.entry(into).absorb(log, policy.retention(into.per()));
    }

    /// See [`Ledger::hold`](super::Ledger::hold).
    pub fn hold(&self, key: Key, until: Moment) {
        self.with_log(key, |log| log.hold(until));
    }

    /// Settles a charge. To be called once for each.
    pub fn settle(&self, charge: &Charge, settlement: Settlement) {
        let mut held = self.lock(&charge.keys);
        for key in held.keys.clone() {
            // If it was swept meanwhile, no limit needs to know any more.
            let Some(log) = held.get_mut(&key) else { continue };
            match settlement {
                Settlement::Keep => log.keep(charge.at, charge.kind),
                Settlement::GiveBack => log.give_back(charge.at, charge.kind),
            }
            if log.is_empty() && held.remove(&key).is_some() {
                self.tracked.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Drops every log that no limit can need any more, one shard at a time, and calls `between` after each shard. Returns how
    /// many there were.
    ///
    /// From then on nothing is judged as of an earlier time: a `now` that lies in the future refuses codes until it has come.
    pub fn sweep(&self, policy: &Policy, now: Moment, mut between: impl FnMut()) -> usize {
        let mut dropped = 0;
        for shard in &self.shards {
            dropped += self.sweep_shard(shard, policy, now);
            between();
        }
        dropped
    }

    /// How many shards [`sweep_one`](Self::sweep_one) knows.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Sweeps one shard. Returns how many logs were dropped.
    pub fn sweep_one(&self, shard: usize, policy: &Policy, now: Moment) -> usize {
        self.shards.get(shard).map_or(0, |shard| self.sweep_shard(shard, policy, now))
    }

    fn sweep_shard(&self, shard: &Mutex<Shard>, policy: &Policy, now: Moment) -> usize {
        use crate::policy::Per;
        let retention = |per| policy.retention(per);
        let (phone, verification, account) =
            (retention(Per::Phone), retention(Per::Verification), retention(Per::Account));
        let of = |key: &Key| -> Retention {
            match key.per() {
                Per::Phone => phone,
                Per::Verification => verification,
                Per::Account => account,
            }
        };
        let mut shard = shard.lock();
        let Shard { logs, moved, swept } = &mut *shard;
        *swept = now.max(*swept);
        let now = *swept;
        let before = logs.len() + moved.len();
        logs.retain(|key, log| !log.is_spent(of(key), now));
        moved.retain(|key, (_, newest)| *newest + of(key).longest() > now);
        let dropped = before - logs.len() - moved.len();
        if logs.capacity() > 4 * logs.len().max(16) {
            logs.shrink_to_fit();
        }
        self.tracked.fetch_sub(dropped, Ordering::Relaxed);
        dropped
    }

    /// Counts `new` more keys, if there is room for all of them.
    fn make_room(&self, new: usize) -> bool {
        let more = |tracked: usize| tracked.checked_add(new).filter(|sum| *sum <= self.max_keys);
        new == 0 || self.tracked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one more key if there is room for it, and what goes uncounted if there is none.
    fn has_room(&self) -> bool {
        let room = self.make_room(1);
        if !room {
            self.uncounted.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    fn with_log(&self, key: Key, change: impl FnOnce(&mut Log)) {
        let mut held = self.lock(&[key]);
        let &[key] = held.keys.as_slice() else { return };
        if held.get(&key).is_some() || self.has_room() {
            change(held.entry(key));
        }
    }

    /// Locks the shards of these keys, or of the keys that they have become.
    fn lock(&self, keys: &[Key]) -> Locked<'_> {
        let mut keys: ArrayVec<Key, { Subject::MAX_KEYS }> = keys.iter().copied().take(Subject::MAX_KEYS).collect();
        loop {
            let held = Locked { memory: self, guards: self.lock_shards(&keys), keys };
            if held.guards.iter().all(|(_, shard)| shard.moved.is_empty()) {
                return held;
            }
            let became =
                |key: &Key| held.shard(key).and_then(|shard| shard.moved.get(key)).map_or(*key, |(into, _)| *into);
            keys = held.keys.iter().map(became).collect();
            if keys == held.keys {
                return held;
            }
        }
    }

    fn lock_shards(&self, keys: &[Key]) -> Guards<'_> {
        let mut shards: ArrayVec<usize, { Subject::MAX_KEYS }> = keys.iter().map(|key| self.shard_of(key)).collect();
        shards.sort_unstable();
        let mut guards = Guards::new();
        for shard in shards {
            if guards.last().is_none_or(|(last, _)| *last != shard)
                && let Some(logs) = self.shards.get(shard)
            {
                guards.push((shard, logs.lock()));
            }
        }
        guards
    }

    fn shard_of(&self, key: &Key) -> usize {
        // The map below uses the lowest and the highest bits of the same hash.
        (self.hasher.hash_one(key) >> 24) as usize % SHARDS
    }
}

/// Locked shards, each once, in their order.
type Guards<'m> = ArrayVec<(usize, MutexGuard<'m, Shard>), { Subject::MAX_KEYS }>;

/// The logs of a few keys, locked.
struct Locked<'m> {
    memory: &'m Memory,
    /// The keys that were asked for, each as what it has become.
    keys: ArrayVec<Key, { Subject::MAX_KEYS }>,
    guards: Guards<'m>,
}

impl Locked<'_> {
    fn shard(&self, key: &Key) -> Option<&Shard> {
        let place = self.memory.shard_of(key);
        self.guards.iter().find(|(held, _)| *held == place).map(|(_, shard)| &**shard)
    }

    fn shard_mut(&mut self, key: &Key) -> Option<&mut Shard> {
        let place = self.memory.shard_of(key);
        self.guards.iter_mut().find(|(held, _)| *held == place).map(|(_, shard)| &mut **shard)
    }

    /// When the last of the shards was swept.
    fn swept(&self) -> Moment {
        self.guards.iter().map(|(_, shard)| shard.swept).fold(Moment::from_micros(0), Moment::max)
    }

    fn get(&self, key: &Key) -> Option<&Log> {
        self.shard(key)?.logs.get(key)
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut Log> {
        self.shard_mut(key)?.logs.get_mut(key)
    }

    /// The key's log; a new one, for which room was made, if it has none.
    fn entry(&mut self, key: Key) -> &mut Log {
        #[allow(
            clippy::expect_used,
            reason = "only keys whose shards were locked are asked for, three lines from the lock"
        )]
        self.shard_mut(&key).expect("the key's shard is locked").logs.entry(key).or_default()
    }

    fn remove(&mut self, key: &Key) -> Option<Log> {
        self.shard_mut(key)?.logs.remove(key)
    }
}
