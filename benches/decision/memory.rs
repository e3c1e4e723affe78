//! What is remembered, in bytes. Each figure is a process of its own, so that none is made of memory that another gave back.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sendly_gateway::clock::Moment;
use sendly_gateway::policy::{Key, Kind};

use crate::keys::{self, Keys};
use crate::svg::{Chart, Shape};
use crate::time::{START, Time};

/// The argument that makes this program the one that is weighed.
pub(crate) const ARGUMENT: &str = "weigh";

const WHAT: [(&str, &str); 5] = [
    ("phones", "a phone with one code"),
    ("five", "a phone with five codes"),
    ("verifications", "a verification, learned and resent"),
    ("learned", "a verification, learned"),
    ("governor", "governor's key (one number)"),
];

/// Fills a store of its own, and prints by how many bytes that made this process grow.
pub(crate) fn weigh(what: &str, phones: u64) -> Result<(), Box<dyn Error>> {
    let (keys, policy, time) = (Keys::new(phones)?, keys::defaults()?, Time::new());
    let before = resident();
    let memory = keys::empty();
    match what {
        "phones" | "five" => {
            for code in 0..if what == "five" { 5 } else { 1 } {
                for (phone, nth) in keys.phones.iter().zip(0..) {
                    // Within a window of ten minutes; no account, which would be in the figure.
                    let at = Moment::from_micros(START + code * 60_000_000 + nth);
                    memory.record(&policy, Key::Phone(*phone), Kind::Send, at);
                }
            }
        }
        "verifications" | "learned" => {
            keys::learn(&memory, &keys);
            for id in keys.verifications.iter().filter(|_| what == "verifications") {
                memory.record(&policy, Key::Verification(*id), Kind::Resend, Moment::from_micros(START));
            }
        }
        "governor" => drop(black_box(Box::leak(Box::new(keys::governor(&keys, &time, keys.step(), 1))))),
        _ => return Err(format!("{what} cannot be weighed").into()),
    }
    // The allocator gives back what it needs no more a second later, when something else is freed: as in a gateway, where
    // something always is.
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(50));
        drop(black_box(vec![0_u8; 2 << 20]));
    }
    println!("{}", resident().saturating_sub(before));
    black_box((memory, keys));
    Ok(())
}

/// Prints how many bytes each thing takes, for so many of them; and draws it into a folder.
pub(crate) fn table(counts: &[u64], svg: Option<&Path>) -> Result<(), Box<dyn Error>> {
    println!("bytes of resident memory for each, of");
    println!("| | {} |", counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(counts.len()));
    let mut series = Vec::new();
    for (what, name) in WHAT {
        let (mut cells, mut figures) = (Vec::new(), Vec::new());
        for count in counts {
            let output = Command::new(std::env::current_exe()?).args([ARGUMENT, what, &count.to_string()]).output()?;
            let grown: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
            cells.push(format!("{:.1}", grown / *count as f64));
            figures.push(Some(grown / *count as f64));
        }
        series.push((name.to_owned(), figures));
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
    let Some(folder) = svg else { return Ok(()) };
    let millions = |count: &u64| format!("{} million", *count as f64 / 1e6);
    let chart = Chart {
        title: "Resident memory of each, over how many there are: less is better".to_owned(),
        unit: "bytes".to_owned(),
        shape: Shape::Lines,
        labels: counts.iter().map(millions).collect(),
        series,
    };
    Ok(chart.write(folder, "memory")?)
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
