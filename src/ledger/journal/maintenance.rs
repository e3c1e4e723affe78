//! What is done for a journal from time to time, by somebody who may wait for the disk.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::record::{self, Found, Record};
use super::{Journal, Segment, Told, segment, squeeze};
use crate::clock::{Moment, Shift};

/// A file takes no more than about so many bytes: what is read at a time, and deleted at a time.
const SEGMENT: u64 = 32 << 20;

/// Nor does it span more than this part of the time for which its records count, so that little is kept in vain.
const SPANS: u32 = 8;

/// One file in so many of whose records a code is given back is worth being written anew without them.
const WORTH_SQUEEZING: u64 = 8;

/// By how much a wall clock may be corrected without a word: it is slewed all the time.
const SET: Duration = Duration::from_secs(1);

/// What the disk refused to do.
type DiskError = (&'static str, io::Error);

impl Journal {
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
        self.take_back()?;
        let tended = self.try_to_tend(&mut closed, now, horizon);
        self.closed_bytes.store(closed.iter().map(|told| told.bytes).sum(), Ordering::Relaxed);
        tended.map_err(|(what, error)| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            format!("{}: {what}: {error}", self.dir.display())
        })
    }

    /// The wall clock is ahead by so much of the one by which records are told. It is written down if that is news. Returns whether it is.
    pub fn note_wall_clock(&self, now: Moment, ahead: Shift) -> bool {
        let mut noted = self.ahead.lock();
        let is_news =
            noted.as_micros().abs_diff(ahead.as_micros()) > u64::try_from(SET.as_micros()).unwrap_or(u64::MAX);
        if is_news {
            *noted = ahead;
            drop(noted);
            self.write(&Record::WallClock { at: now, ahead });
        }
        is_news
    }

    fn try_to_tend(&self, closed: &mut Vec<Told>, now: Moment, horizon: Duration) -> Result<(), DiskError> {
        let wants_another = |segment: &Segment| segment.is_full() || segment.is_old(now, horizon);
        if self.open.lock().segment.as_ref().is_none_or(wants_another) {
            self.begin(closed, now)?;
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

    /// Begins another file. What is to be written belongs into the one before it.
    fn begin(&self, closed: &mut Vec<Told>, now: Moment) -> Result<(), DiskError> {
        // Whoever tends the journal is alone.
        let mut number = self.open.lock().next;
        let ahead = *self.ahead.lock();
        let was_set = (ahead != Shift::NONE).then_some(Record::WallClock { at: now, ahead });
        let clock: Vec<Record> = self.clock.map(Record::Clock).into_iter().chain(was_set).collect();
        let begun = loop {
            match segment::create(&self.dir, number, self.key, &clock) {
                // Somebody else put it there. It stays as long as if it had been written now, and the next number is as good.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let bytes = segment::size(&self.dir, number).unwrap_or_default();
                    closed.push(Told { number, bytes, newest: now, ..Told::default() });
                    number += 1;
                    self.open.lock().next = number;
                }
                begun => break begun,
            }
        };
        let (file, bytes) = begun.map_err(|error| ("a file cannot be begun", error))?;
        let (file, told) = (Arc::new(file), Told { number, bytes, ..Told::default() });
        let mut open = self.open.lock();
        self.hand_over(&mut open);
        open.next = number + 1;
        open.retire();
        open.segment = Some(Segment { file, told, since: None, synced: 0 });
        Ok(())
    }

    /// Writes what waits, and lets those that come next be written at once.
    fn catch_up(&self) -> Result<(), DiskError> {
        loop {
            let (batch, file) = {
                let mut open = self.open.lock();
                open.is_behind = !open.waiting.is_empty();
                let Some(segment) = open.segment.as_ref().filter(|_| open.is_behind) else { return Ok(()) };
                let file = Arc::clone(&segment.file);
                (std::mem::take(&mut open.waiting), file)
            };
            let (done, written) = self.put(&file, &batch);
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
    fn sync(&self, closed: &mut Vec<Told>) -> Result<(), DiskError> {
        let (retired, current) = {
            let mut open = self.open.lock();
            self.hand_over(&mut open);
            (std::mem::take(&mut open.retired), open.segment.clone())
        };
        let is_new = current.as_ref().is_some_and(|segment| segment.synced == 0 && segment.told.records > 0);
        let is_another = is_new || !retired.is_empty();
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

impl Segment {
    fn is_full(&self) -> bool {
        self.told.bytes >= SEGMENT
    }

    fn is_old(&self, now: Moment, horizon: Duration) -> bool {
        self.since.is_some_and(|since| since + horizon / SPANS <= now)
    }
}
