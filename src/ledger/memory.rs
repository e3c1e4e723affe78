//! The ledger in memory: sharded tables from key to log, one of them for each kind of key.
//!
//! A request's keys lie in up to three shards. Their locks are taken together, the phone's first, then the verification's, then the
//! account's, so that no two requests can wait for each other; they are held for a few hundred nanoseconds and never across an
//! await.

pub mod copy;
mod entries;
mod holds;
mod look;
mod proofs;
mod restore;
mod shards;
mod table;
mod verifications;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::journal::record;
use super::waiting::Waiting;
use super::{Charge, Known, Settlement};
use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::{Account, Verification};
use crate::policy::{Decision, Key, Kind, Per, Policy, Record, Refusal, Subject, WhenFull};
use entries::{OfAccount, OfPhone, OfVerification};
pub use holds::Holds;
pub use proofs::MAX_PROVEN;
pub(super) use proofs::Proof;
use proofs::Proofs;
pub(super) use restore::Of;
use shards::{Locked, SHARDS, Shards, Swept};
pub(super) use verifications::Joined;
use verifications::Verifications;

/// How much is remembered at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Logs, holds, and notes of which key became which.
    pub keys: usize,
    /// What becomes of a code whose key is one too many.
    pub when_full: WhenFull,
    /// Ids whose phone is known. An old one makes room for a new one.
    pub verifications: usize,
    /// For how long an id is known, after it was learned or seen again.
    pub remember: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Memory {
    phones: Shards<OfPhone>,
    verifications: Verifications,
    accounts: Shards<OfAccount>,
    pub(super) proofs: Proofs,
    pub(super) holds: Holds,
    /// The time of the last sweep, in microseconds. A log that was dropped can testify no more, so nothing is judged as of an
    /// earlier time. It is set before a shard is swept: whoever locks that shard afterwards sees it.
    swept: AtomicU64,
    tracked: AtomicUsize,
    /// How often a key found no room, and something went uncounted per it.
    uncounted: AtomicUsize,
    max_keys: AtomicUsize,
    /// Whether a key that is one too many is refused ([`WhenFull::Refuse`]).
    refuses: AtomicBool,
    waiting: Arc<Waiting>,
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

/// What a sweep dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Logs, holds, and notes of which key became which.
    pub keys: usize,
    /// Ids whose phone was known.
    pub verifications: usize,
}

/// The keys of a request, locked.
struct LockedKeys<'m> {
    phone: Option<Locked<'m, OfPhone>>,
    verification: Option<Locked<'m, OfVerification>>,
    account: Option<Locked<'m, OfAccount>>,
}

impl<'m> LockedKeys<'m> {
    fn each_mut(&mut self) -> impl Iterator<Item = &mut (dyn shards::Key + 'm)> {
        let phone = self.phone.as_mut().map(|key| key as &mut (dyn shards::Key + 'm));
        let verification = self.verification.as_mut().map(|key| key as &mut (dyn shards::Key + 'm));
        let account = self.account.as_mut().map(|key| key as &mut (dyn shards::Key + 'm));
        [phone, verification, account].into_iter().flatten()
    }

    /// The first of them, by the name under which it is charged: what it has become, where it has become another.
    fn name(&self) -> Option<Key> {
        let Self { phone, verification, account } = self;
        let phone = phone.as_ref().map(|key| Key::Phone(key.id()));
        let verification = || verification.as_ref().map(|key| Key::Verification(key.id()));
        phone.or_else(verification).or_else(|| account.as_ref().map(|key| Key::Account(key.id())))
    }

    /// What each is judged by: the phone, the verification and the account, those that there are.
    fn records(&self) -> [Option<Record<'_>>; Subject::MAX_KEYS] {
        let Self { phone, verification, account } = self;
        [
            phone.as_ref().map(shards::Key::record),
            verification.as_ref().map(shards::Key::record),
            account.as_ref().map(shards::Key::record),
        ]
    }

    /// Lets go of those that are not to be charged, in the order of their records.
    fn retain(&mut self, [phone, verification, account]: [bool; Subject::MAX_KEYS]) {
        self.phone.take_if(|_| !phone);
        self.verification.take_if(|_| !verification);
        self.account.take_if(|_| !account);
    }
}

impl Memory {
    /// An empty ledger.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            phones: Shards::new(),
            verifications: Verifications::new(bounds.verifications, bounds.remember),
            accounts: Shards::new(),
            proofs: Proofs::new(MAX_PROVEN),
            holds: Holds::default(),
            swept: AtomicU64::new(0),
            tracked: AtomicUsize::new(0),
            uncounted: AtomicUsize::new(0),
            max_keys: bounds.keys.into(),
            refuses: (bounds.when_full == WhenFull::Refuse).into(),
            waiting: Arc::default(),
        }
    }

    /// Has other bounds from now on. Nothing is dropped because of them: where there is more than they allow, nothing new is taken until
    /// there is not, and ids become fewer as new ones come.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.max_keys.store(bounds.keys, Ordering::Relaxed);
        self.refuses.store(bounds.when_full == WhenFull::Refuse, Ordering::Relaxed);
        self.verifications.set_bounds(bounds.verifications, bounds.remember);
    }

    /// What Sendly itself refuses to some account.
    pub const fn holds(&self) -> &Holds {
        &self.holds
    }

    /// API keys that Sendly has accepted.
    pub fn proven_keys(&self) -> usize {
        self.proofs.count()
    }

    /// Keys that are counted, held, or known to have become another's.
    pub fn tracked(&self) -> usize {
        self.tracked.load(Ordering::Relaxed)
    }

    /// How many keys there is room for.
    pub fn max_keys(&self) -> usize {
        self.max_keys.load(Ordering::Relaxed)
    }

    /// How often something went uncounted per a key because there was no room for it: under [`WhenFull::Allow`]; under
    /// [`WhenFull::Refuse`] what only shadow limits count, and what was learned after the code went out.
    pub fn uncounted(&self) -> usize {
        self.uncounted.load(Ordering::Relaxed)
    }

    /// Verifications that are remembered.
    pub fn verifications(&self) -> usize {
        self.verifications.shards.len()
    }

    /// See [`Ledger::reserve`](super::Ledger::reserve).
    pub fn reserve(&self, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> (Decision, Verdict) {
        let mut keys = self.lock(subject.phone, subject.verification, policy.account_of(subject));
        let asked = now;
        let now = asked.max(Moment::from_micros(self.swept.load(Ordering::Relaxed)));
        let records = keys.records();
        let each = || records.iter().flatten();
        let mut decision = policy.judge(each().copied(), kind, now);
        if let Some(refusal) = &mut decision.refusal {
            // Told from the clock of whoever asked, though it was judged as of a sweep that came after that was read.
            refusal.retry_after += now.since(asked);
            let refusal = *refusal;
            return (decision, Verdict::Refused(refusal));
        }
        // One time for all of them, so that settling needs to know only one.
        let at = each().filter_map(|key| key.log).fold(now, |at, log| log.not_before(at));

        // A key that only shadow limits count must not refuse anything for want of room either: it takes what is left.
        let refuses = self.refuses.load(Ordering::Relaxed);
        let needed = |per| refuses && policy.enforces(per);
        let is_new = |key: &Record<'_>| key.log.is_none() && policy.counts(key.per, kind);
        if !self.make_room(each().filter(|key| is_new(key) && needed(key.per)).count()) {
            return (decision, Verdict::NoRoom);
        }
        let charged = records.map(|key| {
            key.is_some_and(|key| {
                policy.counts(key.per, kind) && (key.log.is_some() || needed(key.per) || self.has_room())
            })
        });
        keys.retain(charged);
        keys.each_mut().for_each(|key| key.charge(at, kind, policy.retention(key.per()), true));
        let LockedKeys { phone, verification, account } = &keys;
        let charge = Charge {
            phone: phone.as_ref().map(Locked::id),
            verification: verification.as_ref().map(Locked::id),
            account: account.as_ref().map(Locked::id),
            at,
            kind,
        };
        (decision, Verdict::Charged(charge))
    }

    /// Settles a charge, and lets those who wait for that know. To be called at most once for each.
    pub fn settle(&self, charge: &Charge, settlement: Settlement) {
        // What was swept meanwhile no limit needs any more.
        let mut keys = self.lock(charge.phone, charge.verification, charge.account);
        match settlement {
            Settlement::Keep => keys.each_mut().for_each(|key| key.keep(charge.at, charge.kind)),
            Settlement::GiveBack => {
                let is_gone = |key: &mut (dyn shards::Key + '_)| key.give_back(charge.at, charge.kind);
                let gone = keys.each_mut().filter_map(|key| is_gone(key).then_some(())).count();
                self.tracked.fetch_sub(gone, Ordering::Relaxed);
            }
        }
        drop(keys);
        self.waiting.settled(charge);
    }

    /// Requests that wait for charges to be settled.
    pub const fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// See [`Ledger::record`](super::Ledger::record). Returns the key that is charged: what this one has become, if it has.
    pub fn record(&self, policy: &Policy, key: Key, kind: Kind, at: Moment) -> Key {
        self.record_as(policy, key, kind, at, false)
    }

    /// The same; the charge may be open: then it is settled later.
    pub(super) fn record_as(&self, policy: &Policy, key: Key, kind: Kind, at: Moment, is_open: bool) -> Key {
        if !policy.counts(key.per(), kind) {
            return key;
        }
        let mut keys = self.lock_one(key);
        for key in keys.each_mut() {
            if key.record().log.is_some() || self.has_room() {
                key.charge(at, kind, policy.retention(key.per()), is_open);
            }
        }
        keys.name().unwrap_or(key)
    }

    /// See [`Ledger::absorb`](super::Ledger::absorb).
    pub fn absorb(&self, policy: &Policy, into: Key, from: Key) {
        let retention = policy.retention(into.per());
        let room = |more: isize| match usize::try_from(more) {
            Ok(0) => true,
            Ok(_) => self.has_room(),
            Err(_) => {
                self.tracked.fetch_sub(more.unsigned_abs(), Ordering::Relaxed);
                true
            }
        };
        match (into, from) {
            (Key::Phone(into), Key::Phone(from)) => self.phones.absorb(into, from, retention, room),
            (Key::Verification(into), Key::Verification(from)) => {
                self.verifications.shards.absorb(into, from, retention, room);
            }
            (Key::Account(into), Key::Account(from)) => self.accounts.absorb(into, from, retention, room),
            // Nothing is both.
            _ => {}
        }
    }

    /// See [`Ledger::hold`](super::Ledger::hold). Returns the key that is held: what this one has become, if it has.
    pub fn hold(&self, key: Key, until: Moment) -> Key {
        let mut keys = self.lock_one(key);
        for key in keys.each_mut() {
            if key.record().held_until.is_some() || self.has_room() {
                key.hold(until);
            }
        }
        keys.name().unwrap_or(key)
    }

    /// See [`Ledger::whose`](super::Ledger::whose).
    pub fn whose(&self, id: Verification, now: Moment) -> Option<Known> {
        self.verifications.find(id, now)
    }

    /// See [`Ledger::learn`](super::Ledger::learn).
    pub fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        self.learn_anew(id, phone, now).0
    }

    /// The same; and whether that is news.
    pub(super) fn learn_anew(&self, id: Verification, phone: Phone, now: Moment) -> (Known, bool) {
        self.verifications.learn(id, phone, now)
    }

    /// See [`Ledger::join`](super::Ledger::join).
    pub fn join(
        &self,
        policy: &Policy,
        asked: Verification,
        answered: Verification,
        phone: Phone,
        now: Moment,
    ) -> Known {
        self.join_anew(policy, asked, answered, phone, now).known
    }

    /// The same; and what is news of it.
    pub(super) fn join_anew(
        &self,
        policy: &Policy,
        asked: Verification,
        answered: Verification,
        phone: Phone,
        now: Moment,
    ) -> Joined {
        let joined = self.verifications.join(asked, answered, phone, now);
        if let Some(other) = joined.moved {
            self.absorb(policy, Key::Verification(joined.known.root), Key::Verification(other));
        }
        joined
    }

    /// Drops whatever no limit can need any more, a shard at a time, and calls `between` after each. Returns how much that was.
    ///
    /// From then on nothing is judged as of an earlier time: a `now` that lies in the future refuses codes until it has come.
    pub fn sweep(&self, policy: &Policy, now: Moment, mut between: impl FnMut()) -> Dropped {
        let mut all = Dropped::default();
        for shard in 0..self.shards() {
            let dropped = self.sweep_one(shard, policy, now);
            all.keys += dropped.keys;
            all.verifications += dropped.verifications;
            between();
        }
        all
    }

    /// How many shards [`sweep_one`](Self::sweep_one) knows.
    pub const fn shards(&self) -> usize {
        SHARDS
    }

    /// Sweeps one shard of each kind. Returns what was dropped.
    pub fn sweep_one(&self, shard: usize, policy: &Policy, now: Moment) -> Dropped {
        self.sweep_and_tell(shard, policy, now, |_| ())
    }

    /// The same. `renewed` is told, as of its absorption, of each key that is still another's and whose time was over.
    pub(super) fn sweep_and_tell(
        &self,
        shard: usize,
        policy: &Policy,
        now: Moment,
        renewed: impl Fn(&record::Record),
    ) -> Dropped {
        let now = now.max(Moment::from_micros(self.swept.fetch_max(now.as_micros(), Ordering::Relaxed)));
        let mut verifications = 0;
        let stays = |entry: &mut OfVerification| {
            let was_known = entry.whose().is_some();
            let stays = self.verifications.is_remembered(entry, now);
            verifications += usize::from(was_known && !stays);
            stays
        };
        let told = |into, from, at| renewed(&record::Record::Absorbed { into, from, at });
        let swept = [
            self.phones.sweep(
                shard,
                policy.retention(Per::Phone),
                now,
                |_| false,
                |from, into, at| {
                    told(Key::Phone(into), Key::Phone(from), at);
                },
            ),
            self.verifications.shards.sweep(
                shard,
                policy.retention(Per::Verification),
                now,
                stays,
                |from, into, at| told(Key::Verification(into), Key::Verification(from), at),
            ),
            self.accounts.sweep(
                shard,
                policy.retention(Per::Account),
                now,
                |_| false,
                |from, into, at| {
                    told(Key::Account(into), Key::Account(from), at);
                },
            ),
        ];
        let keys = swept.iter().map(|Swept { logs, notes }| logs + notes).sum();
        self.tracked.fetch_sub(keys, Ordering::Relaxed);
        Dropped { keys, verifications }
    }

    fn lock(
        &self,
        phone: Option<Phone>,
        verification: Option<Verification>,
        account: Option<Account>,
    ) -> LockedKeys<'_> {
        // Always in this order.
        let phone = phone.map(|phone| self.phones.lock(phone));
        let verification = verification.map(|verification| self.verifications.shards.lock(verification));
        let account = account.map(|account| self.accounts.lock(account));
        LockedKeys { phone, verification, account }
    }

    fn lock_one(&self, key: Key) -> LockedKeys<'_> {
        match key {
            Key::Phone(phone) => self.lock(Some(phone), None, None),
            Key::Verification(verification) => self.lock(None, Some(verification), None),
            Key::Account(account) => self.lock(None, None, Some(account)),
        }
    }

    /// Counts `new` more keys, if there is room for all of them.
    fn make_room(&self, new: usize) -> bool {
        let most = self.max_keys();
        let more = |tracked: usize| tracked.checked_add(new).filter(|sum| *sum <= most);
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
}
