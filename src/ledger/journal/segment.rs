//! The files of a journal: `journal-00000001` and so on, each for a stretch of time.
//!
//! A file begins with one block of the size of a record: what it is, and under which key its ids and accounts were hashed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::record::{Found, Record, Records, SIZE};
use crate::clock::Anchor;

/// What a file begins with: name and version of the format.
const MAGIC: &[u8; 16] = b"sendly-journal-1";

const PREFIX: &str = "journal-";

/// What the name of a file that is written anew begins with, until it is whole.
const UNFINISHED: &str = "new-";

/// Which key the ids and accounts in a file were hashed under: a hash itself, which does not tell the key.
pub type KeyCheck = [u8; 16];

/// What a file turned out to hold.
#[derive(Debug)]
pub(super) struct Contents {
    bytes: Vec<u8>,
    records_from: usize,
    /// Under which key it was written. Where its beginning is damaged, under this process'.
    pub(super) key: KeyCheck,
    /// Whether ids and accounts in it mean the same here. Not known where its beginning is damaged; then they are taken to.
    pub(super) same_key: bool,
}

/// A new file, which must not be there yet, and its size. Only its owner may read it: phones stand in it. It begins with the clock by which
/// its records are told, where that is known.
///
/// # Errors
/// Those of the system.
pub(super) fn create(dir: &Path, number: u64, key: KeyCheck, clock: &[Record]) -> io::Result<(File, u64)> {
    let mut file = private().append(true).create_new(true).open(path(dir, number))?;
    let bytes: Vec<u8> = header(key).into_iter().chain(clock.iter().flat_map(Record::encode)).collect();
    match file.write_all(&bytes) {
        Ok(()) => Ok((file, bytes.len() as u64)),
        Err(error) => {
            // Without its beginning it is of no use, and its number is wanted again.
            let _ = fs::remove_file(path(dir, number));
            Err(error)
        }
    }
}

/// The numbers of the files that are there, in order.
///
/// # Errors
/// Those of the system.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Deletes what a process that was killed has left of files that it wrote anew: the ones that they were to replace are there.
pub(super) fn remove_unfinished(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.strip_prefix(UNFINISHED)).is_some_and(|name| name.starts_with(PREFIX)) {
            // It is in nobody's way: the next process tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Reads a whole file.
///
/// # Errors
/// Those of the system.
pub(super) fn read(dir: &Path, number: u64, key: KeyCheck) -> io::Result<Contents> {
    let bytes = fs::read(path(dir, number))?;
    let is_header = bytes.starts_with(MAGIC);
    Ok(Contents {
        records_from: if is_header { SIZE.min(bytes.len()) } else { 0 },
        same_key: !is_header || bytes.get(MAGIC.len()..SIZE).is_some_and(|rest| rest.starts_with(&key)),
        key: bytes.get(MAGIC.len()..).filter(|_| is_header).and_then(|rest| rest.first_chunk()).copied().unwrap_or(key),
        bytes,
    })
}

/// The clock by which the records of a file are told, if it says so.
pub(super) fn clock(dir: &Path, number: u64) -> Option<Anchor> {
    let mut beginning = [0; 2 * SIZE];
    File::open(path(dir, number)).ok()?.read_exact(&mut beginning).ok()?;
    match Records::of(beginning.get(SIZE..)?).next()? {
        Found::Record(Record::Clock(anchor)) => Some(anchor),
        _ => None,
    }
}

/// Puts other records in the place of those of a file, in one step: whoever reads it finds all of one or all of the other.
///
/// # Errors
/// Those of the system. The file is as it was then.
pub(super) fn replace(dir: &Path, number: u64, key: KeyCheck, records: &[Record]) -> io::Result<u64> {
    let temporary = dir.join(format!("{UNFINISHED}{}", name(number)));
    let bytes: Vec<u8> = { header(key) }.into_iter().chain(records.iter().flat_map(Record::encode)).collect();
    let written = (|| {
        let mut file = private().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path(dir, number))
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| bytes.len() as u64)
}

/// How large a file is, in bytes.
///
/// # Errors
/// Those of the system.
pub(super) fn size(dir: &Path, number: u64) -> io::Result<u64> {
    Ok(fs::metadata(path(dir, number))?.len())
}

/// Deletes a file.
///
/// # Errors
/// Those of the system.
pub(super) fn remove(dir: &Path, number: u64) -> io::Result<()> {
    fs::remove_file(path(dir, number))
}

impl Contents {
    /// What stands in it, one after the other.
    pub(super) fn found(&self) -> impl Iterator<Item = Found> {
        Records::of(self.bytes.get(self.records_from..).unwrap_or_default())
    }

    /// How many bytes it has.
    pub(super) const fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// What a file is called.
pub(super) fn name(number: u64) -> String {
    format!("{PREFIX}{number:08}")
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(name(number))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn header(key: KeyCheck) -> [u8; SIZE] {
    let mut header = [0; SIZE];
    for (place, byte) in header.iter_mut().zip(MAGIC.iter().chain(&key)) {
        *place = *byte;
    }
    header
}
