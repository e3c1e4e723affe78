//! Who waits for a sweep: one thread sweeps all shards, as the gateway does, while another asks for codes and notes how long each
//! decision took.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sendly_gateway::clock::Moment;
use sendly_gateway::ledger::memory::Verdict;
use sendly_gateway::policy::{Kind, Subject};

use crate::keys::{self, Keys};

/// Sweeps that find nothing to drop, and one that drops all.
pub(crate) fn table(phones: u64) -> Result<(), Box<dyn Error>> {
    let (keys, policy) = (Arc::new(Keys::new(phones)?), Arc::new(keys::defaults()?));
    let memory = keys::full(&keys, &policy);
    println!("{phones} phones with five codes each, swept while one thread asks\n");
    println!("| sweep | took | longest shard | longest decision | 99.99th percentile |");
    println!("|---|---|---|---|---|");
    let start = crate::time::START;
    let day = 24 * 60 * 60 * 1_000_000;
    for (name, now) in [("no sweep", None), ("of nothing", Some(start)), ("of all", Some(start + day))] {
        let (going, asking) = (Arc::new(AtomicBool::new(true)), Arc::clone(&memory));
        let (flag, keys, limits) = (Arc::clone(&going), Arc::clone(&keys), Arc::clone(&policy));
        let asker = std::thread::spawn(move || {
            let mut waits = Vec::with_capacity(1 << 22);
            let mut nth = 0;
            while flag.load(Ordering::Relaxed) && waits.len() < waits.capacity() {
                nth = (nth + 618_033_989) % keys.phones.len();
                let subject = Subject { verification: None, ..keys.send(nth) };
                let began = Instant::now();
                let (_, verdict) = asking.reserve(&limits, &subject, Kind::Send, Moment::from_micros(start));
                waits.push(began.elapsed());
                std::hint::black_box(matches!(verdict, Verdict::Refused(_)));
            }
            waits.sort_unstable();
            waits
        });
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        match now {
            None => std::thread::sleep(Duration::from_millis(500)),
            Some(now) => {
                let mut shard = Instant::now();
                memory.sweep(&policy, Moment::from_micros(now), || {
                    longest = longest.max(shard.elapsed());
                    shard = Instant::now();
                });
            }
        }
        let took = began.elapsed();
        going.store(false, Ordering::Relaxed);
        let waits = asker.join().map_err(|_| "the asking thread failed")?;
        let at = |part: f64| waits[(waits.len() as f64 * part) as usize % waits.len()];
        println!("| {name} | {took:.0?} | {longest:.0?} | {:.0?} | {:.1?} |", waits[waits.len() - 1], at(0.9999));
    }
    println!();
    Ok(())
}
