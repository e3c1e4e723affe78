//! What happened to the ledger, on disk, as it happened.
//!
//! Before Sendly is asked for a code its charge is written here, and before a client sees an answer what was learned from it is. A write
//! is one system call that hands 48 bytes to the kernel; from then on it outlives the process, however that ends. Once a second
//! ([`Journal::tend`]) what was written is also made to outlive the machine.
//!
//! The journal is all there is: no snapshot stands beside it. What it tells of is over within a window's length, so a file whose newest
//! record is older than that is deleted whole, and what is left is about as large as a snapshot would be. Nothing has ever to be
//! copied out of a ledger that is in use, so nobody has to wait for that.
//!
//! A disk that is full, read-only or broken stops nobody: what cannot be written waits in memory, in its order, and is written once
//! it can be. What finds no room there is lost from the journal, and counted; the ledger itself knows it all the same.

pub mod record;
mod segment;
mod squeeze;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Moment;
use record::{Found, Record, SIZE};
pub use segment::KeyCheck;

/// A file takes no more than about so many bytes: what is read at a time, and deleted at a time.
const SEGMENT: u64 = 32 << 20;

/// Nor does it span more than this part of the time for which its records count, so that little is kept in vain.
const SPANS: u32 = 8;

/// What waits for a disk that takes nothing, in bytes: a million records.
const ROOM: usize = SIZE << 20;

/// One file in so many of whose records a code is given back is worth being written anew without them.
const WORTH_SQUEEZING: u64 = 8;

/// See the module's documentation.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    key: KeyCheck,
    open: Mutex<Open>,
    /// Files that are written no more, oldest first. Who holds it tends the journal.
    closed: Mutex<Vec<Told>>,
    closed_bytes: AtomicU64,
    /// When all that had been written was last known to be on the disk, in microseconds.
    saved: AtomicU64,
    failures: AtomicU64,
    /// Held for as long as the folder is this process'.
    lock: Mutex<Option<File>>,
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
    /// Whether records wait: then newer ones wait behind them.
    is_behind: bool,
    /// Those that do, in their order.
    waiting: Vec<u8>,
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
}

/// What the disk refused to do.
type Refused = (&'static str, io::Error);

impl Journal {
    /// Opens the journal in a folder, which is made if it is not there; only its owner may enter it then. Nothing is read or
    /// written yet: what is appended waits for the first [`tend`](Self::tend).
    ///
    /// # Errors
    /// The folder cannot be made or listed, or another process has it.
    pub fn open(dir: &Path, key: KeyCheck) -> Result<Self, String> {
        let wrong = |error: io::Error| format!("{}: {error}", dir.display());
        make(dir)?;
        let lock = lock(dir)?;
        let numbers = segment::numbers(dir).map_err(wrong)?;
        let next = numbers.last().map_or(1, |last| last + 1);
        let closed = numbers.into_iter().map(|number| Told { number, ..Told::default() }).collect();
        let open = Open {
            segment: None,
            retired: Vec::new(),
            next,
            is_behind: true,
            waiting: Vec::new(),
            written: 0,
            lost: 0,
            is_over: false,
        };
        Ok(Self {
            dir: dir.to_owned(),
            key,
            open: Mutex::new(open),
            closed: Mutex::new(closed),
            closed_bytes: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            lock: Mutex::new(lock),
        })
    }

    /// Reads all that is there, oldest first. `take` is told each record, and whether ids and accounts in it mean the same here.
    pub fn restore(&self, mut take: impl FnMut(&Record, bool)) -> Restored {
        let mut restored = Restored::default();
        for told in self.closed.lock().iter_mut() {
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
            for found in contents.found() {
                match found {
                    Found::Record(record) => {
                        told.note(&record);
                        take(&record, contents.same_key);
                    }
                    Found::Damage(range) => restored.damaged += range.len() as u64,
                }
            }
            told.bytes = contents.len();
            restored.records += told.records;
        }
        restored
    }

    /// Reads nothing of what is there, which is known already. It is kept for as long as if it had been written now.
    pub fn leave_as_it_is(&self, now: Moment) {
        for told in self.closed.lock().iter_mut() {
            told.newest = now;
            told.bytes = segment::size(&self.dir, told.number).unwrap_or_default();
        }
    }

    /// Writes a record behind all that were written before. It cannot fail: see the module's documentation.
    pub fn append(&self, record: &Record) {
        let bytes = record.encode();
        let mut open = self.open.lock();
        if open.is_over {
            return;
        }
        if !open.is_behind
            && let Some(segment) = &mut open.segment
        {
            // In one call: what is there of it after a failure is torn, and no longer written behind.
            if (&*segment.file).write_all(&bytes).is_ok() {
                segment.told.note(record);
                segment.since.get_or_insert(record.at());
                open.written += 1;
                return;
            }
            self.failures.fetch_add(1, Ordering::Relaxed);
            open.retire();
        }
        open.is_behind = true;
        if open.waiting.len() < ROOM {
            open.waiting.extend_from_slice(&bytes);
        } else {
            open.lost += 1;
        }
    }

    /// What is to be done once a second or so: has what was written outlive the machine, begins a new file where there is none, or the
    /// last one is large or old enough, and deletes those that tell only of what was over before `horizon`. It waits for the disk.
    ///
    /// # Errors
    /// What the disk refused. It is tried again the next time.
    pub fn tend(&self, now: Moment, horizon: Duration) -> Result<(), String> {
        let mut closed = self.closed.lock();
        if self.open.lock().is_over {
            return Ok(());
        }
        let tended = self.try_to_tend(&mut closed, now, horizon);
        self.closed_bytes.store(closed.iter().map(|told| told.bytes).sum(), Ordering::Relaxed);
        tended.map_err(|(what, error)| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            format!("{}: {what}: {error}", self.dir.display())
        })
    }

    /// The end: the same once more, and the folder is another process'. What comes afterwards is not written.
    ///
    /// # Errors
    /// What the disk refused.
    pub fn finish(&self, now: Moment, horizon: Duration) -> Result<(), String> {
        let tended = self.tend(now, horizon);
        let mut open = self.open.lock();
        open.is_over = true;
        open.retire();
        drop(open);
        *self.lock.lock() = None;
        tended
    }

    /// The folder is this process' again: the other one has not made it its own. What came meanwhile is not in it.
    ///
    /// # Errors
    /// Another process has it.
    pub fn resume(&self) -> Result<(), String> {
        let mut held = self.lock.lock();
        if held.is_none() {
            *held = lock(&self.dir)?;
        }
        self.open.lock().is_over = false;
        Ok(())
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

    fn try_to_tend(&self, closed: &mut Vec<Told>, now: Moment, horizon: Duration) -> Result<(), Refused> {
        let wants_another = |segment: &Segment| segment.is_full() || segment.is_old(now, horizon);
        if self.open.lock().segment.as_ref().is_none_or(wants_another) {
            self.begin()?;
        }
        self.catch_up()?;
        self.sync(closed)?;
        // Only now: what waited may have been written behind it, and all of that is on the disk.
        if !self.open.lock().is_behind {
            self.saved.store(now.as_micros(), Ordering::Relaxed);
        }
        let (gone, kept): (Vec<Told>, Vec<Told>) = closed.iter().partition(|told| told.newest + horizon <= now);
        *closed = kept;
        for told in gone {
            if let Err(error) = segment::remove(&self.dir, told.number)
                && error.kind() != io::ErrorKind::NotFound
            {
                closed.push(told);
                return Err(("an old file cannot be deleted", error));
            }
        }
        Ok(())
    }

    /// Begins another file.
    fn begin(&self) -> Result<(), Refused> {
        // Whoever tends the journal is alone.
        let number = self.open.lock().next;
        let begun = segment::create(&self.dir, number, self.key);
        let file = Arc::new(begun.map_err(|error| ("a file cannot be begun", error))?);
        let told = Told { number, bytes: SIZE as u64, ..Told::default() };
        let mut open = self.open.lock();
        open.next = number + 1;
        open.retire();
        open.segment = Some(Segment { file, told, since: None, synced: 0 });
        Ok(())
    }

    /// Writes what waits, and lets those that come next be written at once.
    fn catch_up(&self) -> Result<(), Refused> {
        loop {
            let (batch, file) = {
                let mut open = self.open.lock();
                open.is_behind = !open.waiting.is_empty();
                let Some(segment) = open.segment.as_ref().filter(|_| open.is_behind) else { return Ok(()) };
                let file = Arc::clone(&segment.file);
                (std::mem::take(&mut open.waiting), file)
            };
            let (done, written) = write(&file, &batch);
            let mut open = self.open.lock();
            for record in batch.get(..done).into_iter().flat_map(record::Records::of) {
                let (Found::Record(record), Some(segment)) = (record, open.segment.as_mut()) else { continue };
                segment.told.note(&record);
                segment.since.get_or_insert(record.at());
                open.written += 1;
            }
            if let Err(error) = written {
                // The rest, before what has come meanwhile.
                let mut rest = batch.get(done..).unwrap_or_default().to_vec();
                rest.append(&mut open.waiting);
                open.waiting = rest;
                open.retire();
                return Err(("records cannot be written", error));
            }
        }
    }

    /// Has all that was written outlive the machine, and takes leave of files that are written no more.
    fn sync(&self, closed: &mut Vec<Told>) -> Result<(), Refused> {
        let (retired, current) = {
            let mut open = self.open.lock();
            (std::mem::take(&mut open.retired), open.segment.clone())
        };
        let is_another = !retired.is_empty();
        let mut all = Ok(());
        for segment in retired.iter().chain(&current).filter(|segment| segment.synced < segment.told.records) {
            all = all.and(segment.file.sync_data());
        }
        for Segment { told, .. } in retired {
            closed.push(Told { bytes: self.squeezed(&told).unwrap_or(told.bytes), ..told });
        }
        all.map_err(|error| ("the disk does not confirm what was written", error))?;
        if is_another {
            // That a file is there is written in its folder.
            let folder = File::open(&self.dir).and_then(|dir| dir.sync_all());
            folder.map_err(|error| ("the disk does not confirm a file", error))?;
        }
        if let (Some(before), Some(now)) = (current, &mut self.open.lock().segment) {
            now.synced = before.told.records;
        }
        Ok(())
    }

    /// Writes a file anew without what it tells in vain, where that is much. Returns how large it is then.
    fn squeezed(&self, told: &Told) -> Option<u64> {
        if told.given_back * WORTH_SQUEEZING < told.records.max(1) {
            return None;
        }
        let contents = segment::read(&self.dir, told.number, self.key).ok()?;
        let records = squeeze::squeeze(contents.found());
        // If it fails the file is as it was, and as good.
        segment::replace(&self.dir, told.number, self.key, &records).ok()
    }
}

impl Open {
    /// Writes no more into the file that is there.
    fn retire(&mut self) {
        self.retired.extend(self.segment.take());
        self.is_behind = true;
    }
}

impl Segment {
    fn is_full(&self) -> bool {
        self.told.bytes >= SEGMENT
    }

    fn is_old(&self, now: Moment, horizon: Duration) -> bool {
        self.since.is_some_and(|since| since + horizon / SPANS <= now)
    }
}

impl Told {
    fn note(&mut self, record: &Record) {
        self.records += 1;
        self.bytes += SIZE as u64;
        self.newest = self.newest.max(match record {
            Record::Held { until, .. } => *until,
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

/// Writes records. Returns how many bytes of whole ones were written, and why no more.
fn write(mut file: &File, records: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while let Some(rest) = records.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (done - done % SIZE, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done - done % SIZE, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Makes a folder this process' own for as long as the file is open.
fn lock(dir: &Path) -> Result<Option<File>, String> {
    let file = File::options().create(true).append(true).open(dir.join("lock"));
    // What cannot be written needs no lock.
    let Ok(file) = file else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(format!("{}: another process has this folder", dir.display())),
        // A file system without locks.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
