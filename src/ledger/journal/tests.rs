//! A disk that refuses: at any byte, with any error, in pieces of any size.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ledger::Charge;
use crate::phone::Phone;
use crate::policy::{Key, Kind};

const HORIZON: Duration = Duration::from_secs(60 * 60);

/// A folder of its own, gone with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sendly-journal-{}-{nth}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// The records in its files, in their order.
    fn records(&self) -> Vec<Record> {
        let records = Mutex::new(Vec::new());
        Journal::open(&self.0, [0; 16], None)
            .unwrap()
            .restore(Moment::from_micros(u64::MAX), |found, _| records.lock().extend_from_slice(found));
        records.into_inner()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn moment(nth: u64) -> Moment {
    Moment::from_micros(1_000_000 + nth)
}

fn record(nth: u64) -> Record {
    Record::Charged(Charge::of(Key::Phone(Phone::from_digits(15_550_100_123).unwrap()), Kind::Send, moment(nth)))
}

fn records(many: u64) -> Vec<Record> {
    (0..many).map(record).collect()
}

fn opened(folder: &Folder) -> Journal {
    let journal = Journal::open(&folder.0, [0; 16], None).unwrap();
    journal.tend(moment(0), HORIZON).unwrap();
    journal
}

/// Writes batches of these sizes on a disk that takes `room` bytes and then refuses for a while. Returns what stands in the folder.
fn written_on_a_failing_disk(
    batches: &[u64],
    room: usize,
    most: usize,
    error: io::ErrorKind,
    is_tended: bool,
) -> Vec<Record> {
    let folder = Folder::new();
    let journal = opened(&folder);
    journal.faults.most.store(most, Ordering::Relaxed);
    *journal.faults.fails.lock() = Some((room, error));
    let mut nth = 0;
    for size in batches {
        for _ in 0..*size {
            journal.take(&record(nth));
            nth += 1;
        }
        journal.hand_over(&mut journal.open.lock());
        if is_tended {
            // It may fail: the disk still does.
            let _ = journal.tend(moment(nth), HORIZON);
        }
    }
    *journal.faults.fails.lock() = None;
    journal.tend(moment(nth), HORIZON).unwrap();
    let standing = journal.standing();
    assert_eq!((standing.written, standing.waiting, standing.lost), (nth, 0, 0));
    drop(journal);
    folder.records()
}

#[test]
fn a_disk_that_fails_at_any_byte_has_no_record_twice_and_none_is_missing() {
    const BATCHES: [u64; 2] = [2, 1];
    let all = records(BATCHES.iter().sum());
    for room in 0..=all.len() * SIZE {
        for (error, most, is_tended) in [
            (io::ErrorKind::StorageFull, 0, false),
            (io::ErrorKind::Other, 0, true),
            (io::ErrorKind::StorageFull, 7, true),
            (io::ErrorKind::Other, 7, false),
        ] {
            let found = written_on_a_failing_disk(&BATCHES, room, most, error, is_tended);
            assert_eq!(found, all, "{error:?} after {room} bytes, {most} at a time");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_disk_takes_each_record_stands_there_once(
        batches in prop::collection::vec(1..20_u64, 1..10),
        room in 0..10_000_usize,
        most in 0..200_usize,
        is_tended in any::<bool>(),
    ) {
        let found = written_on_a_failing_disk(&batches, room, most, io::ErrorKind::StorageFull, is_tended);
        prop_assert_eq!(found, records(batches.iter().sum()));
    }
}

#[test]
fn a_process_that_dies_before_it_serves_leaves_no_file_in_the_way_and_no_record_twice() {
    let folder = Folder::new();
    let old = opened(&folder);
    old.write(&record(0));
    old.finish(moment(1), HORIZON).unwrap();
    // It has the folder, begins a file of the next number, and writes what the old one tells it of an exchange that ends there.
    let new = Journal::open(&folder.0, [0; 16], None).unwrap();
    new.leave_as_it_is(moment(1));
    new.tend(moment(1), HORIZON).unwrap();
    old.write(&record(1));
    new.write(&record(1));
    old.resume();
    assert!(old.tend(moment(2), HORIZON).is_err(), "the other process still has the folder");
    old.write(&record(2));
    drop(new);
    old.tend(moment(2), HORIZON).unwrap();
    old.write(&record(3));
    drop(old);
    assert_eq!(folder.records(), records(4));
}

#[test]
fn a_number_that_is_taken_is_passed_over() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.0, [0; 16], None).unwrap();
    for number in [1, 2] {
        fs::write(folder.0.join(segment::name(number)), b"").unwrap();
    }
    journal.tend(moment(0), HORIZON).unwrap();
    journal.write(&record(0));
    drop(journal);
    assert_eq!(folder.records(), records(1));
}

#[test]
fn what_a_kill_leaves_of_a_file_that_is_written_anew_is_deleted() {
    let folder = Folder::new();
    drop(opened(&folder));
    let left = folder.0.join(format!("new-{}", segment::name(1)));
    fs::write(&left, b"half of it").unwrap();
    drop(opened(&folder));
    assert!(!left.exists());
}

#[test]
fn a_pipe_or_a_device_in_the_folder_is_refused_by_name_and_not_waited_for() {
    for name in ["lock", "journal-00000001"] {
        let folder = Folder::new();
        make(&folder.0).unwrap();
        let path = folder.0.join(name);
        let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(status.success());
        let refused = Journal::open(&folder.0, [0; 16], None).map(drop);
        assert_eq!(refused, Err(format!("{}: not a file", path.display())));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let refused = Journal::open(&folder.0, [0; 16], None).map(drop);
        assert_eq!(refused, Err(format!("{}: not a file", path.display())));
    }
}

#[test]
fn the_lock_is_for_its_owner_alone_also_where_an_older_version_made_it() {
    let folder = Folder::new();
    let mode = || fs::metadata(folder.0.join("lock")).unwrap().permissions().mode() & 0o777;
    drop(Journal::open(&folder.0, [0; 16], None).unwrap());
    assert_eq!(mode(), 0o600);
    fs::set_permissions(folder.0.join("lock"), fs::Permissions::from_mode(0o644)).unwrap();
    drop(Journal::open(&folder.0, [0; 16], None).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn what_is_of_a_time_that_is_yet_to_come_counts_as_of_the_first_start_and_of_no_later_one() {
    let folder = Folder::new();
    let until = moment(5) + Duration::from_secs(60);
    let key = Key::Phone(Phone::from_digits(15_550_100_123).unwrap());
    let journal = opened(&folder);
    for record in [record(5), Record::Held { key, at: moment(5), until }, record(1)] {
        journal.write(&record);
    }
    journal.finish(moment(5), HORIZON).unwrap();
    let found = |now| {
        let found = Mutex::new(Vec::new());
        let restored = Journal::open(&folder.0, [0; 16], None).unwrap().restore(now, |records, _| {
            found.lock().extend_from_slice(records);
        });
        (restored.of_the_future, found.into_inner())
    };
    let held = Record::Held { key, at: moment(3), until: moment(3) + Duration::from_secs(60) };
    let clamped = vec![record(3), held, record(1)];
    assert_eq!(found(moment(3)), (2, clamped.clone()));
    assert_eq!(found(moment(4)), (0, clamped), "it was written down");
}

#[test]
fn within_a_boot_records_are_told_by_the_clock_of_whoever_reads_them() {
    let folder = Folder::new();
    let anchor = |moment: Moment, since_boot| Some(Anchor { moment, boot: 7, since_boot });
    let open = |clock| Journal::open(&folder.0, [0; 16], clock).unwrap();
    let journal = open(anchor(moment(0), 1_000));
    journal.tend(moment(0), HORIZON).unwrap();
    journal.write(&record(50));
    journal.finish(moment(60), HORIZON).unwrap();
    let found = |clock, now| {
        let found = Mutex::new(Vec::new());
        let restored = open(clock).restore(now, |records, _| found.lock().extend_from_slice(records));
        (found.into_inner(), restored.set_by.as_micros(), restored.is_of_another_boot, restored.of_the_future)
    };
    // 100 µs later the wall clock says 1000 µs more than it should; or 30 less.
    assert_eq!(found(anchor(moment(1_100), 1_100), moment(1_200)), (vec![record(1_050)], 1_000, false, 0));
    assert_eq!(found(anchor(moment(70), 1_100), moment(75)), (vec![record(20)], 30, false, 0));
    let another = Some(Anchor { moment: moment(1_100), boot: 8, since_boot: 5 });
    assert_eq!(found(another, moment(1_200)), (vec![record(50)], 0, true, 0));
    assert_eq!(found(None, moment(1_200)), (vec![record(50)], 0, true, 0));
}

#[test]
fn a_file_under_another_key_stays_under_that_key_when_what_is_of_the_future_is_written_anew() {
    let folder = Folder::new();
    let journal = opened(&folder);
    journal.write(&record(5));
    journal.finish(moment(5), HORIZON).unwrap();
    let found = |key| {
        let restored = Journal::open(&folder.0, key, None).unwrap().restore(moment(3), |_, _| ());
        (restored.of_the_future, restored.is_of_another_key)
    };
    assert_eq!(found([1; 16]), (1, true));
    assert_eq!(found([1; 16]), (0, true), "its ids and accounts still mean nothing under this one");
    assert_eq!(found([0; 16]), (0, false));
}
