//! The ledger in memory, and whoever is told what happens to it: a journal, so that no end of the process, however sudden, loses a charge
//! that was taken or an id that was learned; and an successor, another process that takes over.
//!
//! Each verb does its work in memory first and tells it next, before it returns: so before Sendly is asked for the code, and before
//! a client sees the id. What a sudden end cuts off in between has had no consequence yet.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::journal::record::Record;
use super::journal::{self, Journal, Restored};
use super::memory::{Dropped, Joined, Memory, Of, Proof, Verdict};
use super::{Charge, Cleared, Known, Settlement};
use crate::clock::{Clock, Moment};
use crate::phone::Phone;
use crate::policy::subject::{Account, HashKey, Verification};
use crate::policy::{Decision, Key, Kind, Policy, Subject};

/// The file that holds the key under which ids and accounts are hashed, where the configuration has none.
const KEY_FILE: &str = "hash_key";

/// See the module's documentation.
#[derive(Debug)]
pub struct Durable {
    memory: Arc<Memory>,
    journal: OnceLock<Journal>,
    successor: RecordStream,
}

/// Another process that is told what happens, while there is one.
#[derive(Default)]
struct RecordStream {
    is_there: AtomicBool,
    told: RwLock<Option<Box<Tell>>>,
}

type Tell = dyn Fn(&Record) + Send + Sync;

impl fmt::Debug for RecordStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Successor").field("is_there", &self.is_there).finish_non_exhaustive()
    }
}

impl Durable {
    /// A ledger in this memory, of which nobody is told yet.
    pub fn new(memory: Arc<Memory>) -> Self {
        Self { memory, journal: OnceLock::new(), successor: RecordStream::default() }
    }

    /// Writes what happens from now on into a folder, and knows what that tells already.
    ///
    /// # Errors
    /// The folder cannot be made or listed, or another process has it. Whatever else may be wrong with it is told, and stops nothing.
    pub fn restore(&self, dir: &Path, hash_key: &HashKey, policy: &Policy, clock: &Clock) -> Result<Restored, String> {
        let now = clock.now();
        let journal = Journal::open(dir, key_check(hash_key), clock.anchor())?;
        // Phones, and what has to do with ids and accounts: neither needs the other, and each is in its order.
        let restored = journal.restore(now, |records, same_key| {
            let restore = |of: Of| {
                let settled = records.iter().filter_map(Record::settled);
                settled.for_each(|record| self.memory.restore(policy, &record, of, now));
            };
            std::thread::scope(|scope| {
                scope.spawn(|| restore(Of::Phones));
                if same_key {
                    restore(Of::Others);
                }
            });
        });
        // It is the first: nobody else opens one.
        let _ = self.journal.set(journal);
        Ok(restored)
    }

    /// Writes what happens from now on into a folder. `is_its_own`: the process that this one takes over from has written there all that it
    /// tells ([`take`](Self::take)). Otherwise all of that is written here, in place of what is there
    /// ([`Journal::discard_earlier`]).
    ///
    /// # Errors
    /// As of [`restore`](Self::restore).
    pub fn take_folder(&self, dir: &Path, hash_key: &HashKey, is_its_own: bool, clock: &Clock) -> Result<(), String> {
        let journal = Journal::open(dir, key_check(hash_key), clock.anchor())?;
        if is_its_own {
            journal.leave_as_it_is(clock.now());
        } else {
            journal.supersede();
        }
        let _ = self.journal.set(journal);
        Ok(())
    }

    /// Takes over a record of another process.
    pub fn take(&self, policy: &Policy, record: &Record, same_key: bool, now: Moment) {
        self.memory.restore(policy, record, Of::Phones, now);
        if same_key {
            self.memory.restore(policy, record, Of::Others, now);
        }
    }

    /// The same, and writes it down: it stands in no folder yet.
    pub fn take_and_write(&self, policy: &Policy, record: &Record, same_key: bool, now: Moment) {
        self.take(policy, record, same_key, now);
        if let (Some(journal), Some(record)) = (self.journal.get(), record.settled()) {
            journal.write(&record);
        }
    }

    /// Tells an successor all that is known, and from now on whatever happens. What happens meanwhile may be told twice: nothing that
    /// charges may, so nobody is to reserve anything before this returns.
    pub fn stream_to(&self, now: Moment, successor: impl Fn(&Record) + Send + Sync + 'static) {
        let mut told = self.successor.told.write();
        *told = Some(Box::new(successor));
        self.successor.is_there.store(true, Ordering::Release);
        drop(told);
        if let Some(successor) = &*self.successor.told.read() {
            self.memory.tell_all(now, successor);
        }
    }

    /// The successor does not take over after all.
    pub fn end_stream(&self) {
        self.successor.is_there.store(false, Ordering::Release);
        *self.successor.told.write() = None;
    }

    /// What is counted.
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// What is written, if anything is.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Sweeps one shard of the memory ([`Memory::sweep_one`]). That two keys are one, for as long as either counts, is told anew before what
    /// told it last is deleted.
    pub fn sweep_one(&self, shard: usize, policy: &Policy, now: Moment) -> Dropped {
        self.memory.sweep_and_tell(shard, policy, now, |record| self.tell(record))
    }

    fn tell(&self, record: &Record) {
        if let Some(journal) = self.journal.get() {
            journal.write(record);
        }
        self.tell_successor(record);
    }

    /// The same; and may let others tell theirs first, so that all of it is written at once.
    async fn tell_with_others(&self, record: &Record) {
        self.tell_successor(record);
        if let Some(journal) = self.journal.get() {
            journal.written(journal.take(record)).await;
        }
    }

    fn tell_successor(&self, record: &Record) {
        if self.successor.is_there.load(Ordering::Acquire)
            && let Some(successor) = &*self.successor.told.read()
        {
            successor(record);
        }
    }

    /// See [`Ledger::reserve`](super::Ledger::reserve).
    pub(super) async fn reserve(
        &self,
        policy: &Policy,
        subject: &Subject,
        kind: Kind,
        now: Moment,
    ) -> (Decision, Verdict) {
        let (decision, verdict) = self.memory.reserve(policy, subject, kind, now);
        if let Verdict::Charged(charge) = &verdict {
            self.tell_with_others(&Record::Charged(*charge)).await;
        }
        (decision, verdict)
    }

    pub(super) fn settle(&self, charge: &Charge, settlement: Settlement) {
        self.memory.settle(charge, settlement);
        match settlement {
            Settlement::GiveBack => self.tell(&Record::GivenBack(*charge)),
            // The journal's charges are settled: a process that reads them has none in flight.
            Settlement::Keep => self.tell_successor(&Record::Kept(*charge)),
        }
    }

    /// See [`Ledger::record`](super::Ledger::record).
    pub(super) fn record(&self, policy: &Policy, key: Key, kind: Kind, at: Moment) {
        if policy.counts(key.per(), kind) {
            let charged = self.memory.record(policy, key, kind, at);
            self.tell(&Record::Charged(Charge::of(charged, kind, at)));
        }
    }

    /// See [`Ledger::absorb`](super::Ledger::absorb).
    pub(super) fn absorb(&self, policy: &Policy, into: Key, from: Key, at: Moment) {
        self.memory.absorb(policy, into, from);
        self.tell(&Record::Absorbed { into, from, at });
    }

    /// See [`Ledger::hold`](super::Ledger::hold).
    pub(super) fn hold(&self, key: Key, until: Moment, at: Moment) {
        let held = self.memory.hold(key, until);
        self.tell(&Record::Held { key: held, at, until });
    }

    /// Sendly refuses this account this phone, or this verification, until then. Returns until when it is to be held for everybody, if it
    /// is: two accounts have been told so.
    pub fn hold_for(&self, key: Key, account: Account, until: Moment, at: Moment) -> Option<Moment> {
        let all = self.memory.holds.add(key, account, until, at);
        self.tell(&Record::HeldFor { key, account, at, until });
        all
    }

    /// See [`Ledger::clear`](super::Ledger::clear).
    pub(super) fn clear(&self, policy: &Policy, key: Key, now: Moment) -> Cleared {
        let (cleared, charged) = self.memory.clear_named(policy, key, now);
        // By the name under which it was charged: that the two are one is forgotten once nothing counts, and the file that tells it may go
        // before those that tell what was charged.
        self.tell(&Record::Cleared { key: charged, at: now });
        if charged != key {
            // What Sendly refuses to some account was told under the name that was asked for.
            self.tell(&Record::Cleared { key, at: now });
        }
        cleared
    }

    /// See [`Ledger::is_proven`](super::Ledger::is_proven).
    pub(super) fn is_proven(&self, account: Account, now: Moment) -> bool {
        let proof = self.memory.proofs.check(account, now);
        if proof == Proof::HeldAndDue {
            self.tell(&Record::Accepted { account, at: now });
        }
        proof != Proof::Missing
    }

    /// See [`Ledger::accept_key`](super::Ledger::accept_key).
    pub(super) fn accept_key(&self, account: Account, at: Moment) {
        if self.memory.proofs.insert(account, at) {
            self.tell(&Record::Accepted { account, at });
        }
    }

    /// See [`Ledger::reject_key`](super::Ledger::reject_key).
    pub(super) fn reject_key(&self, account: Account, at: Moment) {
        if self.memory.proofs.remove(account) {
            self.tell(&Record::Rejected { account, at });
        }
    }

    /// See [`Ledger::learn`](super::Ledger::learn).
    pub(super) async fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        let (known, is_news) = self.memory.learn_anew(id, phone, now);
        if is_news {
            self.tell_with_others(&Record::Learned { id, known, at: now }).await;
        }
        known
    }

    /// See [`Ledger::learn_at_once`](super::Ledger::learn_at_once).
    pub(super) fn learn_at_once(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        let (known, is_news) = self.memory.learn_anew(id, phone, now);
        if is_news {
            self.tell(&Record::Learned { id, known, at: now });
        }
        known
    }

    /// See [`Ledger::join`](super::Ledger::join).
    pub(super) async fn join(
        &self,
        policy: &Policy,
        asked: Verification,
        answered: Verification,
        phone: Phone,
        now: Moment,
    ) -> Known {
        let Joined { known, moved, news } = self.memory.join_anew(policy, asked, answered, phone, now);
        for (id, is_news) in [asked, answered].into_iter().zip(news) {
            if is_news {
                self.tell_with_others(&Record::Learned { id, known, at: now }).await;
            }
        }
        if let Some(from) = moved.map(Key::Verification) {
            self.tell(&Record::Absorbed { into: Key::Verification(known.root), from, at: now });
        }
        known
    }
}

/// Tells whether two keys are the same, and nothing else of them.
pub fn key_check(hash_key: &HashKey) -> journal::KeyCheck {
    hash_key.hash(b"journal", []).to_le_bytes()
}

/// The key that a folder keeps, so that ids and accounts mean the same to the next process; where it keeps none yet, the one that was
/// drawn.
///
/// # Errors
/// It is there, and cannot be read or is none; or it is not there, and cannot be written.
pub fn hash_key(dir: &Path, drawn: [u8; 16]) -> Result<HashKey, String> {
    let path = dir.join(KEY_FILE);
    journal::make(dir)?;
    journal::is_file_or_absent(&path)?;
    let wrong = |error: io::Error| format!("{}: {error}", path.display());
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_key(dir, &path, drawn).map_err(wrong)?;
            // Of two processes that start at once the first one's stands there, and both go on with that.
            fs::read_to_string(&path).map_err(wrong)?
        }
        read => read.map_err(wrong)?,
    };
    let is_key = |digits: &&str| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = Some(text.trim_end()).filter(is_key).and_then(|digits| u128::from_str_radix(digits, 16).ok());
    let bits = bits.ok_or_else(|| format!("{}: not 32 hexadecimal digits", path.display()))?;
    Ok(HashKey::drawn(bits.to_le_bytes()))
}

/// Puts a key in its file, whole or not at all (half a key would be another one), unless there is one.
fn write_key(dir: &Path, path: &Path, drawn: [u8; 16]) -> io::Result<()> {
    let (temporary, mut file) = begin_key(dir)?;
    file.write_all(format!("{:032x}\n", u128::from_le_bytes(drawn)).as_bytes())?;
    file.sync_all()?;
    match fs::hard_link(&temporary, path) {
        Ok(()) => fs::remove_file(&temporary),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&temporary),
        // A file system that has no links.
        Err(_) => fs::rename(&temporary, path),
    }
}

/// A file of a name that no other process uses, which may start at the same time.
fn begin_key(dir: &Path) -> io::Result<(PathBuf, File)> {
    let mut nth = 0_u32;
    loop {
        let temporary = dir.join(format!("new-{KEY_FILE}-{}-{nth}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => nth += 1,
            begun => return begun.map(|file| (temporary, file)),
        }
    }
}
