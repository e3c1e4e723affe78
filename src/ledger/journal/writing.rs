//! Records on their way into the kernel's hands, and whose the folder is.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::record::{Found, Record, Records, SIZE};
use super::{Journal, Lock, Open, ROOM, Told, lock, segment};
use crate::clock::Moment;
use crate::yielding::yield_to_ready_tasks;

impl Journal {
    /// Writes a record, behind all that came before. It cannot fail: see the module's documentation.
    pub fn write(&self, record: &Record) {
        let mut open = self.open.lock();
        open.take(record);
        self.hand_over(&mut open);
    }

    /// Takes a record that is to be written, behind all that came before. Returns its number, for [`written`](Self::written).
    pub fn take(&self, record: &Record) -> u64 {
        let mut open = self.open.lock();
        open.take(record);
        open.taken
    }

    /// Waits until the record of this number is written: by somebody else, who came a little later, or by this one.
    pub async fn written(&self, number: u64) {
        if self.handed.load(Ordering::Acquire) >= number {
            return;
        }
        yield_to_ready_tasks().await;
        if self.handed.load(Ordering::Acquire) < number {
            self.hand_over(&mut self.open.lock());
        }
    }

    /// Writes all that is to be written, in one call.
    pub(super) fn hand_over(&self, open: &mut Open) {
        if !open.pending.is_empty() {
            let (done, written) = match &open.segment {
                Some(segment) => self.put(&segment.file, &open.pending),
                None => (0, Err(io::ErrorKind::NotFound.into())),
            };
            open.written += (done / SIZE) as u64;
            if written.is_err() {
                self.failures.fetch_add(1, Ordering::Relaxed);
                // Only what was not written whole is written again, in another file: a record that stands there twice would be counted twice.
                // Nothing waits before it: as long as anything waits, nothing is taken to be written at once.
                open.waiting = open.pending.get(done..).unwrap_or_default().to_vec();
                if let Some(segment) = &mut open.segment {
                    segment.told.forget(&open.waiting);
                }
                open.retire();
            }
            open.pending.clear();
        }
        self.handed.store(open.taken, Ordering::Release);
    }

    /// Writes records to a file. Returns how many bytes of whole ones were written, and why no more.
    pub(super) fn put(&self, file: &File, records: &[u8]) -> (usize, io::Result<()>) {
        #[cfg(test)]
        let file = &self.faults.before(file);
        write_whole(file, records)
    }

    /// The end: everything once more, and the folder is another process'. What comes afterwards waits, in case that process does not
    /// take over after all ([`resume`](Self::resume)).
    ///
    /// # Errors
    /// What the disk refused.
    pub fn finish(&self, now: Moment, horizon: Duration) -> Result<(), String> {
        let tended = self.tend(now, horizon);
        let mut open = self.open.lock();
        self.hand_over(&mut open);
        open.is_over = true;
        open.retire();
        drop(open);
        *self.lock.lock() = Lock::Left;
        tended
    }

    /// The folder is this process' again, if it was left to another. What came in between has waited, and is written by the next
    /// [`tend`](Self::tend), once the other process has ended. Returns whether it was left.
    pub fn resume(&self) -> bool {
        std::mem::take(&mut self.open.lock().is_over)
    }

    /// Takes the folder back, where it was left to another process.
    ///
    /// # Errors
    /// The other process still has it.
    pub(super) fn take_back(&self) -> Result<(), String> {
        let mut held = self.lock.lock();
        if !matches!(*held, Lock::Left) {
            return Ok(());
        }
        *held = lock(&self.dir)?;
        // The other process had begun files, and never served: they hold only what this one told it, which waits here too. Read after the
        // next start they would count it twice.
        let own = self.open.lock().next;
        for number in segment::numbers(&self.dir).into_iter().flatten().filter(|number| *number >= own) {
            let removed = segment::remove(&self.dir, number);
            removed.map_err(|error| format!("{}, of a process that did not serve: {error}", segment::name(number)))?;
        }
        Ok(())
    }
}

impl Open {
    fn take(&mut self, record: &Record) {
        self.taken += 1;
        match &mut self.segment {
            Some(segment) if !self.is_behind => {
                segment.told.note(record);
                segment.since.get_or_insert(record.at());
                self.pending.extend_from_slice(&record.encode());
            }
            _ if self.waiting.len() < ROOM => self.waiting.extend_from_slice(&record.encode()),
            _ => self.lost += 1,
        }
    }

    /// Writes no more into the file that is there.
    pub(super) fn retire(&mut self) {
        self.retired.extend(self.segment.take());
        self.is_behind = true;
    }
}

impl Told {
    /// These records, which were noted, are not in the file after all.
    fn forget(&mut self, records: &[u8]) {
        self.bytes -= records.len() as u64;
        for found in Records::of(records) {
            self.records -= 1;
            self.given_back -= u64::from(matches!(found, Found::Record(Record::GivenBack(_))));
        }
    }
}

/// Writes records. Returns how many bytes of whole ones were written, and why no more.
pub(super) fn write_whole(mut file: impl Write, records: &[u8]) -> (usize, io::Result<()>) {
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

/// What a test has the disk refuse.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// How many more bytes it takes, and the error that it answers the next one with; none: it takes all.
    pub(super) fails: parking_lot::Mutex<Option<(usize, io::ErrorKind)>>,
    /// The most that it takes at a time; 0: any number.
    pub(super) most: std::sync::atomic::AtomicUsize,
}

/// A file on such a disk.
#[cfg(test)]
pub(super) struct Faulty<'f> {
    file: &'f File,
    faults: &'f Faults,
}

#[cfg(test)]
impl Faults {
    const fn before<'f>(&'f self, file: &'f File) -> Faulty<'f> {
        Faulty { file, faults: self }
    }
}

#[cfg(test)]
impl Write for &Faulty<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut most = match self.faults.most.load(Ordering::Relaxed) {
            0 => bytes.len(),
            most => most.min(bytes.len()),
        };
        if let Some((left, error)) = &mut *self.faults.fails.lock() {
            if *left == 0 {
                return Err((*error).into());
            }
            most = most.min(*left);
            *left -= most;
        }
        let mut file = self.file;
        file.write(&bytes[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
