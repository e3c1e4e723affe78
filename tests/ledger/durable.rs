//! What outlives the process: everything that was charged and learned, whatever ended it and whatever became of its files.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use sendly_gateway::clock::{Clock, ManualClock, Moment};
use sendly_gateway::ledger::durable::{self, Durable};
use sendly_gateway::ledger::journal::record::SIZE;
use sendly_gateway::ledger::journal::{Journal, Restored};
use sendly_gateway::ledger::memory::{Bounds, Memory};
use sendly_gateway::ledger::{Ledger, Settlement};
use sendly_gateway::policy::subject::HashKey;
use sendly_gateway::policy::{Key, Kind, Per, Policy, WhenFull};

use super::spellings;
use super::world::*;
use Kind::{Resend, Send};

const KEY: HashKey = HashKey::new([1; 16]);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder of its own, gone with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{}-{nth}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// Its journal's files, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-")).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a process has: the ledger, and what it found.
struct Process {
    ledger: Ledger,
    durable: Arc<Durable>,
    memory: Arc<Memory>,
    found: Restored,
}

impl Process {
    fn start(folder: &Folder, policy: &Policy, now: Moment) -> Self {
        Self::start_with(folder, &KEY, policy, now)
    }

    fn start_with(folder: &Folder, key: &HashKey, policy: &Policy, now: Moment) -> Self {
        let bounds = Bounds { keys: 1_000_000, when_full: WhenFull::Refuse, verifications: 1_000_000, remember: DAY };
        let memory = Arc::new(Memory::new(bounds));
        let durable = Arc::new(Durable::new(Arc::clone(&memory)));
        let found = durable.restore(&folder.0, key, policy, &Clock::from(ManualClock::new(now))).unwrap();
        let _ = durable.journal().unwrap().tend(now, DAY * 2);
        Self { ledger: Ledger::Durable(Arc::clone(&durable)), durable, memory, found }
    }

    fn sweep(&self, policy: &Policy, now: Moment) {
        for shard in 0..self.memory.shards() {
            let _ = self.durable.sweep_one(shard, policy, now);
        }
    }

    fn journal(&self) -> &Journal {
        self.durable.journal().unwrap()
    }
}

/// An empty ledger, on files that are gone when it is.
pub fn unlinked() -> Ledger {
    let folder = Folder::new();
    Process::start(&folder, &policy([]), START).ledger
}

fn five_in_an_hour() -> Policy {
    policy([limit(Per::Phone, 5, HOUR)])
}

fn to(nth: usize) -> sendly_gateway::policy::Subject {
    only(Key::Phone(phone(nth)))
}

#[test]
fn whenever_the_process_ends_its_successor_knows_what_it_knew() {
    let moments = prop::collection::vec(prop::bool::weighted(0.2), 80);
    prove((policies(), sequences(anything()), moments), |(limits, events, ends)| {
        let folder = Folder::new();
        let first = Process::start(&folder, &Policy::new(limits.clone()), START);
        let mut world = World::new(first.ledger.clone(), limits);
        drop(first);
        for (event, ends) in events.iter().zip(ends) {
            // A clock that was put back between two processes has its own test.
            if matches!(event, Event::StepBack(_)) {
                continue;
            }
            if ends {
                // Whatever is in flight is never settled: as if it were killed.
                world.close();
                world.ledger = unlinked();
                let next = Process::start(&folder, &world.policy, world.now);
                prop_assert_eq!(next.found.damaged, 0);
                world.ledger = next.ledger.clone();
            }
            if let Some(answer) = world.step(event) {
                prop_assert_eq!(&answer.ledger, &answer.model, "at {}", world.now.as_micros());
                prop_assert_eq!(answer.charged, answer.expected);
            }
        }
        Ok(())
    });
}

#[test]
fn ids_that_were_learned_are_known_to_the_next_process_with_their_roots_and_cooldowns() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Verification, 1, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    wait(process.ledger.learn(verification(0), phone(0), START));
    buy(&process.ledger, &policy, &only(Key::Verification(verification(0))), Resend, START);
    let joined = wait(process.ledger.join(&policy, verification(0), verification(1), phone(0), START));
    assert_eq!(joined.root, verification(0));
    drop(process);
    let next = Process::start(&folder, &policy, START + MINUTE);
    for nth in [0, 1] {
        assert_eq!(wait(next.ledger.whose(verification(nth), START + MINUTE)), Some(joined));
    }
    let asked = only(Key::Verification(joined.root));
    assert_eq!(wait_of(&next.ledger, &policy, &asked, Resend, START + MINUTE), Some(HOUR - MINUTE));
    drop(next);
    let late = START + DAY + HOUR;
    assert_eq!(wait(Process::start(&folder, &policy, late).ledger.whose(verification(0), late)), None);
}

#[test]
fn what_exempt_phones_had_is_charged_to_no_account_by_the_next_process_either() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 9, HOUR), limit(Per::Account, 9, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    buy(&process.ledger, &policy.for_exempt_phones(), &subject(0, 0, 0), Send, START);
    wait(
        take(&process.ledger, &policy.for_exempt_phones(), &subject(0, 0, 0), Send, START).settle(Settlement::GiveBack),
    );
    buy(&process.ledger, &policy, &subject(1, 1, 0), Send, START + SECOND);
    drop(process);
    let next = Process::start(&folder, &policy, START + MINUTE);
    let sends = |key| contents(&next.ledger, key, START + MINUTE).0;
    assert_eq!(sends(Key::Phone(phone(0))), [START]);
    assert_eq!(sends(Key::Account(account(0))), [START + SECOND]);
}

#[test]
fn learning_again_what_is_known_writes_nothing() {
    let (folder, policy) = (Folder::new(), policy([]));
    let process = Process::start(&folder, &policy, START);
    let written = || process.journal().standing().written;
    wait(process.ledger.learn(verification(0), phone(0), START));
    assert_eq!(written(), 1);
    for _ in 0..100 {
        wait(process.ledger.learn(verification(0), phone(0), START));
        wait(process.ledger.join(&policy, verification(0), verification(0), phone(0), START));
    }
    assert_eq!(written(), 1);
    wait(process.ledger.learn(verification(0), phone(0), START + HOUR));
    assert_eq!(written(), 2, "how fresh it is, is news after a while");
}

#[test]
fn those_who_write_at_once_are_written_together_and_each_is_written_when_it_goes_on() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 1000, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    let file = folder.files().pop().unwrap();
    let on_disk = || fs::metadata(&file).unwrap().len() as usize / SIZE - 1;
    let subject = to(0);
    let mut all: Vec<_> = (0..20).map(|_| Box::pin(process.ledger.reserve(&policy, &subject, Send, START))).collect();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for one in &mut all {
        assert!(one.as_mut().poll(&mut context).is_pending(), "it lets the others add theirs");
    }
    assert_eq!(on_disk(), 0);
    assert!(all[7].as_mut().poll(&mut context).is_ready());
    assert_eq!(on_disk(), 20, "whoever goes on first writes for all");
    drop(all);
    let late = take(&process.ledger, &policy, &to(0), Send, START);
    assert_eq!(on_disk(), 21);
    wait(late.settle(Settlement::GiveBack));
    assert_eq!(on_disk(), 22);
}

#[test]
fn a_refusal_writes_nothing() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let process = Process::start(&folder, &policy, START);
    (0..5).for_each(|_| buy(&process.ledger, &policy, &to(0), Send, START));
    let before = process.journal().standing().written;
    (0..50).for_each(|_| drop(ask(&process.ledger, &policy, &to(0), Send, START)));
    assert_eq!((before, process.journal().standing().written), (5, 5));
}

#[test]
fn a_file_that_is_torn_off_anywhere_loses_the_last_charge_at_most() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let process = Process::start(&folder, &policy, START);
    (0..3).for_each(|nth| buy(&process.ledger, &policy, &to(nth), Send, START));
    drop(process);
    let file = folder.files().pop().unwrap();
    let whole = fs::read(&file).unwrap();
    for cut in 1..SIZE {
        fs::write(&file, &whole[..whole.len() - cut]).unwrap();
        let next = Process::start(&folder, &policy, START);
        assert_eq!((next.found.records, next.found.damaged), (2, (SIZE - cut) as u64));
        assert_eq!(next.memory.tracked(), 2);
    }
}

#[test]
fn damage_costs_what_it_covers_and_is_told() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let process = Process::start(&folder, &policy, START);
    (0..100).for_each(|nth| buy(&process.ledger, &policy, &to(nth), Send, START));
    drop(process);
    let file = folder.files().pop().unwrap();
    let whole = fs::read(&file).unwrap();
    // The fourth is overwritten in part, the tenth is missing in its middle, the twentieth has eleven bytes too many.
    let at = |nth: usize| SIZE + nth * SIZE;
    let damaged = [
        &whole[..at(3) + 7],
        &[0xff; 9],
        &whole[at(3) + 16..at(9) + 20],
        &whole[at(9) + 30..at(19) + 5],
        &[0; 11],
        &whole[at(19) + 5..],
    ]
    .concat();
    fs::write(&file, damaged).unwrap();
    let next = Process::start(&folder, &policy, START);
    let expected = (97, 3 * SIZE as u64 - 10 + 11);
    assert_eq!((next.found.records, next.found.damaged, next.memory.tracked()), (expected.0, expected.1, 97));
}

#[test]
fn a_beginning_that_is_damaged_costs_no_record() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let process = Process::start(&folder, &policy, START);
    (0..3).for_each(|nth| buy(&process.ledger, &policy, &to(nth), Send, START));
    drop(process);
    let file = folder.files().pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[..20].fill(b'x');
    fs::write(&file, bytes).unwrap();
    let next = Process::start(&folder, &policy, START);
    assert_eq!((next.found.records, next.found.damaged, next.memory.tracked()), (3, SIZE as u64, 3));
}

#[test]
fn two_processes_never_share_a_folder() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let process = Process::start(&folder, &policy, START);
    let open = || Journal::open(&folder.0, [0; 16], None);
    assert!(open().unwrap_err().ends_with("another process has this folder"));
    process.journal().finish(START, DAY).unwrap();
    assert!(open().is_ok(), "it was left to others");
}

#[test]
fn whoever_reads_the_folder_has_to_be_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    durable::hash_key(&folder.0, [3; 16]).unwrap();
    let process = Process::start(&folder, &five_in_an_hour(), START);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.0), 0o700);
    for file in folder.files().into_iter().chain([folder.0.join("hash_key")]) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(process);
}

#[test]
fn the_key_that_was_drawn_is_the_key_of_the_next_process() {
    let folder = Folder::new();
    let key = durable::hash_key(&folder.0, [3; 16]).unwrap();
    assert_eq!(key, HashKey::drawn([3; 16]));
    assert_eq!(durable::hash_key(&folder.0, [4; 16]), Ok(key));
    fs::write(folder.0.join("hash_key"), "0123").unwrap();
    assert!(durable::hash_key(&folder.0, [3; 16]).unwrap_err().ends_with("not 32 hexadecimal digits"));
}

#[test]
fn of_processes_that_start_at_once_in_an_empty_folder_all_have_the_key_that_is_kept_there() {
    for _ in 0..50 {
        let folder = Folder::new();
        let barrier = std::sync::Barrier::new(4);
        let keys: Vec<HashKey> = std::thread::scope(|scope| {
            let start = |nth| {
                let (folder, barrier) = (&folder, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    durable::hash_key(&folder.0, [nth; 16]).unwrap()
                })
            };
            let all: Vec<_> = (1..=4).map(start).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let kept = durable::hash_key(&folder.0, [9; 16]).unwrap();
        assert!(keys.iter().all(|key| *key == kept));
        let names: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["hash_key"]);
    }
}

#[test]
fn under_another_key_phones_are_known_and_nothing_is_taken_for_what_it_is_not() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 1, HOUR), limit(Per::Account, 1, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    buy(&process.ledger, &policy, &subject(0, 0, 0), Send, START);
    wait(process.ledger.learn(verification(0), phone(0), START));
    drop(process);
    let next = Process::start_with(&folder, &HashKey::new([2; 16]), &policy, START);
    assert!(next.found.is_of_another_key);
    assert_eq!((next.memory.tracked(), next.memory.verifications()), (1, 0));
    assert_eq!(wait_of(&next.ledger, &policy, &to(0), Send, START), Some(HOUR));
}

#[test]
fn a_clock_that_was_put_back_between_two_processes_refuses_nobody_for_longer_than_a_window() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 2, HOUR)]));
    let process = Process::start(&folder, &policy, START + DAY);
    let late = START + DAY;
    buy(&process.ledger, &policy, &to(0), Send, late);
    let given_back = take(&process.ledger, &policy, &to(0), Send, late + SECOND);
    wait(given_back.settle(Settlement::GiveBack));
    buy(&process.ledger, &policy, &to(0), Send, late + MINUTE);
    wait(process.ledger.hold(Key::Phone(phone(1)), late + MINUTE, late));
    wait(process.ledger.learn(verification(0), phone(0), late));
    drop(process);
    let next = Process::start(&folder, &policy, START);
    assert_eq!(wait_of(&next.ledger, &policy, &to(0), Send, START), Some(HOUR), "both count, as of now");
    assert_eq!(wait_of(&next.ledger, &policy, &to(1), Send, START), Some(MINUTE), "as long as Sendly said");
    assert!(wait(next.ledger.whose(verification(0), START)).is_some());
}

#[test]
fn files_are_deleted_once_nothing_in_them_counts_and_no_sooner() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let process = Process::start(&folder, &policy, START);
    let tend = |now| process.journal().tend(now, HOUR * 8).unwrap();
    buy(&process.ledger, &policy, &to(0), Send, START);
    tend(START + HOUR);
    assert_eq!(folder.files().len(), 2, "a file takes an eighth of that time");
    wait(process.ledger.hold(Key::Phone(phone(1)), START + HOUR * 3, START + HOUR));
    tend(START + HOUR * 2);
    assert_eq!(folder.files().len(), 3);
    tend(START + HOUR * 8 - MICRO);
    assert_eq!(folder.files().len(), 3);
    tend(START + HOUR * 8);
    assert_eq!(folder.files().len(), 2, "the first charge counts no more");
    tend(START + HOUR * 11);
    assert_eq!(folder.files().len(), 1, "and the hold is long over");
    assert_eq!(process.journal().standing().bytes, SIZE as u64);
}

#[test]
fn codes_that_are_given_back_take_no_room_for_long_and_those_that_stay_do() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 50, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    let moment = |nth: u64| START + Duration::from_secs(nth);
    for nth in 0..300 {
        let reservation = take(&process.ledger, &policy, &to(0), Send, moment(nth));
        wait(reservation.settle(if nth % 30 == 0 { Settlement::Keep } else { Settlement::GiveBack }));
        wait(process.ledger.learn(verification(0), phone(0), START + HOUR * nth as u32));
    }
    // One whose charge is in this file, and which is given back in the next.
    let late = take(&process.ledger, &policy, &to(0), Send, moment(300));
    let before = process.journal().standing().bytes;
    process.journal().tend(moment(600), HOUR).unwrap();
    let after = process.journal().standing().bytes;
    assert!(before > 800 * SIZE as u64 && after < 20 * SIZE as u64, "{before} bytes became {after}");
    wait(late.settle(Settlement::GiveBack));
    let expected = contents(&process.ledger, Key::Phone(phone(0)), moment(600));
    assert_eq!(expected.0.len(), 10);
    drop(process);
    let next = Process::start(&folder, &policy, moment(600));
    assert_eq!(contents(&next.ledger, Key::Phone(phone(0)), moment(600)), expected);
}

#[test]
fn what_no_disk_takes_waits_in_its_order_and_is_written_once_one_does() {
    let (folder, policy) = (Folder::new(), five_in_an_hour());
    let elsewhere = folder.0.with_extension("away");
    let process = Process::start(&folder, &policy, START);
    buy(&process.ledger, &policy, &to(0), Send, START);
    // The file that is open is old enough for another, and the folder is not there.
    fs::rename(&folder.0, &elsewhere).unwrap();
    let tend = |now| process.journal().tend(now, HOUR);
    for nth in 0..3 {
        assert!(tend(START + HOUR).unwrap_err().contains("a file cannot be begun"));
        buy(&process.ledger, &policy, &to(0), Send, START + HOUR + SECOND * nth);
    }
    let standing = process.journal().standing();
    assert_eq!((standing.failures, standing.lost), (3, 0));
    assert_eq!(standing.saved, START, "since then nothing is known to be on the disk");
    fs::rename(&elsewhere, &folder.0).unwrap();
    tend(START + HOUR * 2).unwrap();
    let standing = process.journal().standing();
    assert_eq!((standing.waiting, standing.written, standing.saved), (0, 4, START + HOUR * 2));
    drop(process);
    let next = Process::start(&folder, &policy, START + HOUR + MINUTE);
    assert_eq!((next.found.records, next.found.damaged), (4, 0));
    let (sends, ..) = contents(&next.ledger, Key::Phone(phone(0)), START + HOUR + MINUTE);
    assert_eq!(sends.len(), 3, "the first one counts no more");
}

#[test]
fn many_threads_write_whole_records_and_each_gives_back_after_it_charged() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 1_000_000, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ledger, policy, journal) = (&process.ledger, &policy, process.journal());
            scope.spawn(move || {
                for nth in 0..500_u64 {
                    let now = START + Duration::from_micros(nth);
                    let reservation = take(ledger, policy, &to(thread % 2), Send, now);
                    wait(reservation.settle(if nth % 2 == 0 { Settlement::Keep } else { Settlement::GiveBack }));
                    if nth % 50 == 0 {
                        journal.tend(now + HOUR * (nth as u32), DAY * 30).unwrap();
                    }
                }
            });
        }
    });
    let kept = |memory: &Memory, nth| memory.look(&policy, Key::Phone(phone(nth)), START + MINUTE).standings[0].used;
    assert_eq!([kept(&process.memory, 0), kept(&process.memory, 1)], [500, 500]);
    drop(process);
    let next = Process::start(&folder, &policy, START + MINUTE);
    assert_eq!(next.found.damaged, 0);
    assert_eq!([kept(&next.memory, 0), kept(&next.memory, 1)], [500, 500]);
}

#[test]
fn a_code_in_flight_at_the_old_process_is_waited_for_in_the_new_one_until_the_old_one_says_how_it_ended() {
    for settlement in [Settlement::Keep, Settlement::GiveBack] {
        let policy = Arc::new(policy([limit(Per::Phone, 1, HOUR)]));
        let folders = [Folder::new(), Folder::new()];
        let [old, new] = folders.each_ref().map(|folder| Process::start(folder, &policy, START));
        let in_flight = take(&old.ledger, &policy, &to(1), Send, START);
        let (successor, limits) = (Arc::clone(&new.durable), Arc::clone(&policy));
        old.durable.stream_to(START, move |record| successor.take_and_write(&limits, record, true, START));
        let is_unsettled = || ask(&new.ledger, &policy, &to(1), Send, START).0.is_unsettled;
        assert!(is_unsettled());
        wait(in_flight.settle(settlement));
        assert!(!is_unsettled());
        // The one that was let through just now is kept.
        assert_eq!(wait_of(&new.ledger, &policy, &to(1), Send, START + SECOND), Some(HOUR - SECOND));
        drop((old, new));
        // What stands in the journal is settled: no exchange of it is in flight.
        let read = Process::start(&folders[1], &policy, START);
        let (decision, _) = ask(&read.ledger, &policy, &to(1), Send, START);
        assert!(decision.refusal.is_some() && !decision.is_unsettled, "{settlement:?}");
    }
}

#[test]
fn whatever_a_phone_is_called_it_has_one_log_after_any_end_and_any_hand_over() {
    prove((spellings::steps(), any::<bool>()), |(steps, is_prompt)| {
        let policy = Arc::new(spellings::five_in_four_seconds());
        let folders = RefCell::new(vec![Folder::new()]);
        let process = RefCell::new(Process::start(&folders.borrow()[0], &policy, START));
        let ledger = Cell::new(Some(process.borrow().ledger.clone()));
        let sweep = |now| {
            let process = process.borrow();
            process.sweep(&policy, now);
            // Files are deleted as soon as that may be.
            let horizon = spellings::WINDOW + SECOND;
            process.journal().tend(now, if is_prompt { horizon } else { DAY }).unwrap();
        };
        let end = |what: u8, now| {
            drop(ledger.take());
            let next = if what.is_multiple_of(2) {
                process.replace(nowhere());
                Process::start(folders.borrow().last().unwrap(), &policy, now)
            } else {
                folders.borrow_mut().push(Folder::new());
                let next = Process::start(folders.borrow().last().unwrap(), &policy, now);
                let (successor, limits) = (Arc::clone(&next.durable), Arc::clone(&policy));
                let tell = move |record: &_| successor.take_and_write(&limits, record, true, now);
                process.borrow().durable.stream_to(now, tell);
                next
            };
            ledger.set(Some(next.ledger.clone()));
            process.replace(next);
            if is_prompt {
                sweep(now);
            }
        };
        // Files go only where a sweep has come first, and it comes each second.
        let steps = steps.into_iter().flat_map(|step| match step {
            spellings::Step::Advance(_) if is_prompt => vec![spellings::Step::Advance(900), spellings::Step::Sweep],
            step => vec![step],
        });
        spellings::check(&ledger, &steps.collect::<Vec<_>>(), |_, now| sweep(now), end)
    });
}

/// In the place of a process that is to end.
fn nowhere() -> Process {
    let folder = Folder::new();
    Process::start(&folder, &spellings::five_in_four_seconds(), START)
}

#[test]
fn a_phone_that_was_cleared_under_another_spelling_is_cleared_after_a_restart_too() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 5, HOUR)]));
    let (process, mut now) = (Process::start(&folder, &policy, START), START);
    let sweep = |now| {
        process.sweep(&policy, now);
        process.journal().tend(now, HOUR + MINUTE).unwrap();
    };
    buy(&process.ledger, &policy, &to(1), Send, now);
    wait(process.ledger.absorb(&policy, Key::Phone(phone(0)), Key::Phone(phone(1)), now));
    // Into another file than that which tells that the two are one.
    let first = folder.files();
    sweep(now + 13 * MINUTE);
    for _ in 0..4 {
        now = now + 14 * MINUTE;
        buy(&process.ledger, &policy, &to(0), Send, now);
        sweep(now);
    }
    assert_eq!(wait(process.ledger.clear(&policy, Key::Phone(phone(1)), now)).codes, 5);
    // Nothing counts any more, so nobody tells again that the two are one.
    for _ in 0..3 {
        now = now + 3 * MINUTE;
        sweep(now);
    }
    assert!(!folder.files().contains(first.last().unwrap()), "the file that told it has gone");
    drop(process);
    let process = Process::start(&folder, &policy, now);
    for spelling in 0..2 {
        assert_eq!(wait_of(&process.ledger, &policy, &to(spelling), Send, now), None, "{spelling}");
        let look = wait(process.ledger.look(&policy, Key::Phone(phone(spelling)), now));
        assert_eq!(look.standings[0].used, 0, "{spelling}");
    }
}

#[test]
fn cooldowns_that_were_cleared_with_their_phone_are_over_after_a_restart_too() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 9, HOUR), limit(Per::Verification, 1, HOUR)]));
    let process = Process::start(&folder, &policy, START);
    wait(process.ledger.learn(verification(0), phone(0), START));
    let resend = subject(0, 0, 0);
    buy(&process.ledger, &policy, &resend, Resend, START);
    assert_eq!(wait_of(&process.ledger, &policy, &resend, Resend, START), Some(HOUR));
    assert_eq!(wait(process.ledger.clear_phone(&policy, phone(0), START)).cooldowns, 1);
    drop(process);
    let process = Process::start(&folder, &policy, START);
    assert_eq!(wait_of(&process.ledger, &policy, &resend, Resend, START), None);
}

#[test]
fn that_two_phones_are_one_is_written_again_before_the_file_that_tells_it_goes() {
    let (folder, policy) = (Folder::new(), policy([limit(Per::Phone, 1, HOUR)]));
    let mut process = Process::start(&folder, &policy, START);
    buy(&process.ledger, &policy, &to(1), Send, START);
    wait(process.ledger.absorb(&policy, Key::Phone(phone(0)), Key::Phone(phone(1)), START));
    let mut now = START;
    for nth in 0..20 {
        now = now + HOUR;
        buy(&process.ledger, &policy, &to(0), Send, now);
        // The one that a killed process had no time to sweep is known as well.
        if nth % 3 == 0 {
            drop(process);
            process = Process::start(&folder, &policy, now);
        }
        assert_eq!(wait_of(&process.ledger, &policy, &to(1), Send, now), Some(HOUR), "after {nth} hours");
        process.sweep(&policy, now);
        process.journal().tend(now, HOUR + MINUTE).unwrap();
        assert!(folder.files().len() < 5, "files go");
    }
}
