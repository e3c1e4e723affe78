//! What happened to the ledger, on disk, as it happened.
//!
//! Before Sendly is asked for a code its charge is written here, and before a client sees an answer what was learned from it is. What is
//! written is in the kernel's hands: from then on it outlives the process, however that ends. Once a second ([`Journal::tend`]) it is
//! also made to outlive the machine.
//!
//! A write is a system call, which costs as much as a few decisions. So who has something to write lets others who are ready add theirs
//! first ([`Journal::written`]), and one call takes it all: at sixty clients at a time that is one call for a dozen records.
//!
//! The journal is all there is: no snapshot stands beside it. What it tells of is over within a window's length, so a file whose newest
//! record is older than that is deleted whole, and what is left is about as large as a snapshot would be. Nothing has ever to be
//! copied out of a ledger that is in use, so nobody has to wait for that.
//!
//! A disk that is full, read-only or broken stops nobody: what cannot be written waits in memory, in its order, and is written once
//! it can be. What finds no room there is lost from the journal, and counted; the ledger itself knows it all the same.

mod maintenance;
pub mod record;
mod segment;
mod squeeze;
#[cfg(test)]
mod tests;
mod writing;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Anchor, Moment, Shift};
use record::{Found, Record, SIZE};
pub use segment::KeyCheck;

/// What waits for a disk that takes nothing, in bytes: a million records.
const ROOM: usize = SIZE << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    key: KeyCheck,
    /// By which its records are told.
    clock: Option<Anchor>,
    /// By how much the wall clock is ahead of that, as was written last.
    ahead: Mutex<Shift>,
    open: Mutex<Open>,
    /// Files that are written no more, oldest first. Who holds it tends the journal.
    closed: Mutex<Vec<Told>>,
    /// Files that count until this process serves, and not afterwards.
    superseded: Mutex<Vec<Told>>,
    closed_bytes: AtomicU64,
    /// The number of the last record that is in the kernel's hands, or waits for a disk.
    handed: AtomicU64,
    /// When all that had been written was last known to be on the disk, in microseconds.
    saved: AtomicU64,
    failures: AtomicU64,
    lock: Mutex<Lock>,
    /// What a test has the disk refuse.
    #[cfg(test)]
    faults: writing::Faults,
}

/// Whose the folder is.
#[derive(Debug)]
enum Lock {
    /// This process', for as long as the file is open.
    Held(#[allow(dead_code, reason = "it is held, and nothing else")] File),
    /// Nobody's: it cannot be written, or its file system knows no locks.
    Needless,
    /// Another one's, or it was.
    Left,
}

/// Where records go.
#[derive(Debug)]
struct Open {
    /// None while there is no file that takes any.
    segment: Option<Segment>,
    /// Files that are written no more, and may not be on the disk yet.
    retired: Vec<Segment>,
    /// The number of the next one.
    next: u64,
    /// Records that are to be written next, in their order.
    pending: Vec<u8>,
    /// Whether records wait: then newer ones wait behind them.
    is_behind: bool,
    /// Those that do, in their order.
    waiting: Vec<u8>,
    /// How many have come so far: the number of the last.
    taken: u64,
    written: u64,
    lost: u64,
    /// The folder is another process'.
    is_over: bool,
}

/// A file that is written.
#[derive(Clone, Debug)]
struct Segment {
    file: Arc<File>,
    told: Told,
    /// When the first of its records was written.
    since: Option<Moment>,
    /// How many of its records are on the disk.
    synced: u64,
}

/// What a file tells.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    number: u64,
    bytes: u64,
    records: u64,
    given_back: u64,
    newest: Moment,
}

/// How the journal stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The size of its files, in bytes.
    pub bytes: u64,
    /// Records written since the process began.
    pub written: u64,
    /// Records that wait for a disk that takes them.
    pub waiting: u64,
    /// Records that found no room to wait.
    pub lost: u64,
    /// How often the disk refused something.
    pub failures: u64,
    /// When all of it was on the disk.
    pub saved: Moment,
}

/// What was found in the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Records that were read.
    pub records: u64,
    /// Bytes that were none.
    pub damaged: u64,
    /// Whether some file was written under another key: ids and accounts in it mean nothing.
    pub is_of_another_key: bool,
    /// What could not be read at all, and why.
    pub unreadable: Vec<String>,
    /// By how much the wall clock was set since, at most, as far as the machine was not booted anew.
    pub set_by: Duration,
    /// Whether some of it is of another boot of the machine, so that its wall clock is believed; or does not say of which.
    pub is_of_another_boot: bool,
    /// Records of a time that is yet to come. They count as of now, and are written down so.
    pub of_the_future: u64,
}

impl Journal {
    /// Opens the journal in a folder, which is made if it is not there; only its owner may enter it then. Nothing is read or
    /// written yet: what is appended waits for the first [`tend`](Self::tend).
    ///
    /// # Errors
    /// The folder cannot be made or listed, or another process has it.
    pub fn open(dir: &Path, key: KeyCheck, clock: Option<Anchor>) -> Result<Self, String> {
        let wrong = |error: io::Error| format!("{}: {error}", dir.display());
        make(dir)?;
        let lock = lock(dir)?;
        // A process that was killed while it wrote a file anew left half of it.
        segment::remove_unfinished(dir);
        let numbers = segment::numbers(dir).map_err(wrong)?;
        numbers.iter().try_for_each(|number| is_file_or_absent(&segment::path(dir, *number)))?;
        let next = numbers.last().map_or(1, |last| last + 1);
        let closed = numbers.into_iter().map(|number| Told { number, ..Told::default() }).collect();
        let open = Open {
            segment: None,
            retired: Vec::new(),
            next,
            pending: Vec::new(),
            is_behind: true,
            waiting: Vec::new(),
            taken: 0,
            written: 0,
            lost: 0,
            is_over: false,
        };
        Ok(Self {
            dir: dir.to_owned(),
            key,
            clock,
            ahead: Mutex::default(),
            open: Mutex::new(open),
            closed: Mutex::new(closed),
            superseded: Mutex::default(),
            closed_bytes: AtomicU64::new(0),
            handed: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            lock: Mutex::new(lock),
            #[cfg(test)]
            faults: writing::Faults::default(),
        })
    }

    /// Reads all that is there, oldest first: `take` is told the records of one file after the other, by this process' clock, and whether
    /// ids and accounts in them mean the same here. Nothing is of a time after `now`.
    pub fn restore(&self, now: Moment, take: impl Fn(&[Record], bool)) -> Restored {
        let mut restored = Restored::default();
        let mut closed = self.closed.lock();
        let set = self.wall_clocks_set(&closed);
        for told in closed.iter_mut() {
            let contents = match segment::read(&self.dir, told.number, self.key) {
                Ok(contents) => contents,
                Err(error) => {
                    restored.unreadable.push(format!("{}: {error}", segment::name(told.number)));
                    // Not to be deleted before somebody has looked at it.
                    told.newest = Moment::from_micros(u64::MAX);
                    continue;
                }
            };
            restored.is_of_another_key |= !contents.same_key;
            let mut records = Vec::with_capacity(contents.len() as usize / SIZE);
            let (mut shift, mut ahead, mut of_the_future) = (None, Shift::NONE, 0);
            for found in contents.found() {
                match found {
                    Found::Record(Record::Clock(teller)) => {
                        shift = self.clock.and_then(|clock| clock.ahead_of(&teller));
                        restored.set_by = restored.set_by.max(shift.unwrap_or_default().span());
                        ahead = set.iter().find(|(clock, _)| *clock == teller).map_or(Shift::NONE, |(_, ahead)| *ahead);
                    }
                    Found::Record(Record::WallClock { .. }) => {}
                    Found::Record(record) => {
                        let mut record = record.on(shift.unwrap_or(ahead));
                        if record.at() > now {
                            of_the_future += 1;
                            record = record.on(Shift::between(record.at(), now));
                        }
                        told.note(&record);
                        records.push(record);
                    }
                    Found::Damage(range) => restored.damaged += range.len() as u64,
                }
            }
            take(&records, contents.same_key);
            restored.is_of_another_boot |= shift.is_none() && !records.is_empty();
            told.bytes = contents.len();
            if of_the_future > 0 {
                restored.of_the_future += of_the_future;
                // Or they would count as of the start at each start. If it fails they do.
                let clock = self.clock.map(Record::Clock);
                let anew: Vec<Record> = clock.into_iter().chain(records).collect();
                told.bytes = segment::replace(&self.dir, told.number, contents.key, &anew).unwrap_or(told.bytes);
            }
            restored.records += told.records;
        }
        restored
    }

    /// The clocks of other boots by which files are told, and by how much the wall clock was ahead of each in the end.
    fn wall_clocks_set(&self, files: &[Told]) -> Vec<(Anchor, Shift)> {
        let mut set: Vec<(Anchor, Shift)> = Vec::new();
        // What the last file of a process says last.
        for told in files.iter().rev() {
            let is_of_this_boot = |clock: &Anchor| self.clock.is_some_and(|own| own.ahead_of(clock).is_some());
            let Some(clock) = segment::clock(&self.dir, told.number).filter(|clock| !is_of_this_boot(clock)) else {
                continue;
            };
            if set.iter().any(|(other, _)| *other == clock) {
                continue;
            }
            let Ok(contents) = segment::read(&self.dir, told.number, self.key) else { continue };
            let ahead = contents.found().filter_map(|found| match found {
                Found::Record(Record::WallClock { ahead, .. }) => Some(ahead),
                _ => None,
            });
            set.push((clock, ahead.last().unwrap_or_default()));
        }
        set
    }

    /// Reads nothing of what is there, which is known already. It is kept for as long as if it had been written now.
    pub fn leave_as_it_is(&self, now: Moment) {
        for told in self.closed.lock().iter_mut() {
            told.newest = now;
            told.bytes = segment::size(&self.dir, told.number).unwrap_or_default();
        }
    }

    /// Reads nothing of what is there, which is to be deleted once what is written now counts instead
    /// ([`discard_earlier`](Self::discard_earlier)).
    pub fn supersede(&self) {
        *self.superseded.lock() = std::mem::take(&mut *self.closed.lock());
    }

    /// Deletes the files that what was written since stands in place of, if there are any. Returns their names. It waits for the disk.
    ///
    /// # Errors
    /// One of them, and why it cannot be deleted.
    pub fn discard_earlier(&self) -> Result<Vec<String>, String> {
        let mut discarded = Vec::new();
        for Told { number, .. } in std::mem::take(&mut *self.superseded.lock()) {
            let file = segment::name(number);
            segment::remove(&self.dir, number).map_err(|error| format!("{file}: {error}"))?;
            discarded.push(file);
        }
        Ok(discarded)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let open = self.open.lock();
        Standing {
            bytes: self.closed_bytes.load(Ordering::Relaxed) + open.segment.as_ref().map_or(0, |one| one.told.bytes),
            written: open.written,
            waiting: (open.waiting.len() / SIZE) as u64,
            lost: open.lost,
            failures: self.failures.load(Ordering::Relaxed),
            saved: Moment::from_micros(self.saved.load(Ordering::Relaxed)),
        }
    }
}

impl Told {
    fn note(&mut self, record: &Record) {
        self.records += 1;
        self.bytes += SIZE as u64;
        self.newest = self.newest.max(match record {
            Record::Held { until, .. } | Record::HeldFor { until, .. } => *until,
            other => other.at(),
        });
        self.given_back += u64::from(matches!(record, Record::GivenBack(_)));
    }
}

/// Makes a folder, if it is not there. Only its owner may enter it then.
///
/// # Errors
/// It cannot be made.
pub fn make(dir: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| format!("{}: {error}", dir.display()))
}

/// Refuses what is there and no file: to open a pipe is to wait for somebody at its other end, and a device has no end.
///
/// # Errors
/// It is none; or that cannot be seen.
pub fn is_file_or_absent(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(format!("{}: not a file", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Makes a folder this process' own.
fn lock(dir: &Path) -> Result<Lock, String> {
    let path = dir.join("lock");
    is_file_or_absent(&path)?;
    let file = File::options().create(true).append(true).mode(0o600).open(path);
    let Ok(file) = file else { return Ok(Lock::Needless) };
    // One that an older version made; what cannot be changed is not the lock's to refuse.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    match file.try_lock() {
        Ok(()) => Ok(Lock::Held(file)),
        Err(TryLockError::WouldBlock) => Err(format!("{}: another process has this folder", dir.display())),
        Err(TryLockError::Error(_)) => Ok(Lock::Needless),
    }
}
