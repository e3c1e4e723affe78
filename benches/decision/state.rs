//! What it costs that state outlives the process: to write it, to read it again, and whether anybody waits for the disk.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sendly_gateway::clock::{Clock, ManualClock, Moment};

use sendly_gateway::ledger::durable::Durable;
use sendly_gateway::ledger::journal::record::{Found, Records};
use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::policy::Kind;
use sendly_gateway::policy::subject::HashKey;

use crate::keys::{self, Keys};
use crate::time::START;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder of its own, gone with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is below `target`.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// So many phones, each with one code and one learned verification, written and read again.
pub(crate) fn table(phones: u64) -> Result<(), Box<dyn Error>> {
    let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-state-{}", std::process::id())));
    let _ = fs::remove_dir_all(&folder.0);
    let (keys, policy, key) = (Keys::new(phones)?, keys::defaults()?, HashKey::new([1; 16]));
    let durable = Arc::new(Durable::new(Arc::new(keys::empty())));
    durable.restore(&folder.0, &key, &policy, &standing_at(START))?;
    let journal = durable.journal().ok_or("there is no journal")?;
    journal.tend(Moment::from_micros(START), DAY)?;
    let ledger = Ledger::Durable(Arc::clone(&durable));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;

    // As the gateway does, another thread has the disk confirm what was written while requests write more.
    let is_over = AtomicBool::new(false);
    let (mut waits, mut confirmed) = (Vec::with_capacity(phones as usize), Vec::new());
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let tending = scope.spawn(|| {
            let mut took = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let tended = journal.tend(Moment::from_micros(START), DAY);
                took.push((began.elapsed(), tended));
                // Far more often than once a second, as the gateway does it.
                std::thread::sleep(Duration::from_millis(50));
            }
            took
        });
        let written = runtime.block_on(async {
            for nth in 0..phones as usize {
                let now = Moment::from_micros(START + nth as u64 * keys.step());
                let subject = keys.send(nth);
                let began = Instant::now();
                let (_, verdict) = ledger.reserve(&policy, &subject, Kind::Send, now).await;
                let Verdict::Reserved(reservation) = verdict else { return Err("a code was refused") };
                reservation.settle(Settlement::Keep).await;
                ledger.learn(keys.verifications[nth], keys.phones[nth], now).await;
                waits.push(began.elapsed());
            }
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        confirmed = tending.join().map_err(|_| "the thread that tends the journal failed")?;
        Ok(written?)
    })?;
    let bytes = journal.standing().bytes;
    journal.finish(Moment::from_micros(START), DAY)?;
    let mut slowest_disk = Duration::ZERO;
    for (took, tended) in confirmed {
        tended?;
        slowest_disk = slowest_disk.max(took);
    }
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    let total: Duration = waits.iter().sum();

    // As in an upgrade, but for the socket; two processes do these at the same time.
    let (began, told) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let successor = Arc::clone(&told);
    durable.stream_to(Moment::from_micros(START + phones * keys.step()), move |record| {
        successor.lock().extend_from_slice(&record.encode());
    });
    let telling = began.elapsed();
    durable.end_stream();
    let (began, successor) = (Instant::now(), Durable::new(Arc::new(keys::empty())));
    for found in Records::of(&told.lock()) {
        let Found::Record(record) = found else { return Err("a record was damaged".into()) };
        successor.take(&policy, &record, true, Moment::from_micros(START + phones * keys.step()));
    }
    let taking = began.elapsed();
    if successor.memory().verifications() as u64 != phones {
        return Err("it was not all handed over".into());
    }

    let mut loads = Vec::new();
    for _ in 0..5 {
        let again = Durable::new(Arc::new(keys::empty()));
        let began = Instant::now();
        let restored = again.restore(&folder.0, &key, &policy, &standing_at(START + phones * keys.step()))?;
        loads.push(began.elapsed());
        if restored.records < 2 * phones || again.memory().verifications() as u64 != phones {
            return Err(format!("it was not all restored: {restored:?}").into());
        }
        again.journal().ok_or("there is no journal")?.finish(Moment::from_micros(START), DAY)?;
    }
    loads.sort_unstable();
    println!("state on disk: {phones} phones with one code and one learned verification each\n");
    println!("| | |\n|---|---|");
    println!("| reserved, kept, learned and written (two records) | {:.0?} each |", total / phones as u32);
    println!("| the slowest of all; 99.99th percentile | {:.1?}; {:.1?} |", at(1.0), at(0.9999));
    println!("| the disk's slowest confirmation meanwhile | {slowest_disk:.0?} |");
    println!("| on disk | {:.0} bytes each |", bytes as f64 / phones as f64);
    println!("| told to another process; taken over by it | {telling:.0?}; {taking:.0?} |");
    println!("| read again | {:.0?} ({:.0?}–{:.0?}) |\n", loads[2], loads[0], loads[4]);
    Ok(())
}

/// A clock that stands still.
fn standing_at(micros: u64) -> Clock {
    ManualClock::new(Moment::from_micros(micros)).into()
}
