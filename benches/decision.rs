//! The decision alone: the ledger's verbs beside governor's `check_key`, what they remember, and who waits for a sweep. See
//! `benches/README.md`.
//!
//! governor is what a Rust program would reach for, and does less: it knows one limit, remembers one number per key and lets a
//! burst through that an exact window refuses. The question is what exactness, four limits and settlement cost on top.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints a table"
)]
#![allow(clippy::indexing_slicing, reason = "a benchmark says what is wrong by panicking")]

#[path = "support/figures.rs"]
mod figures;
#[path = "decision/keys.rs"]
mod keys;
#[path = "support/machine.rs"]
mod machine;
#[path = "decision/memory.rs"]
mod memory;
#[path = "decision/race.rs"]
mod race;
#[path = "decision/state.rs"]
mod state;
#[path = "support/svg.rs"]
#[allow(dead_code, reason = "the other benchmark draws bars with it")]
mod svg;
#[path = "decision/sweep.rs"]
mod sweep;
#[path = "decision/time.rs"]
mod time;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

// The gateway's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Phones, and decisions in a round.
    sizes: Vec<(u64, u64)>,
    /// Phones, of which is told what each takes.
    weighed: Vec<u64>,
    /// Phones, of which nobody is to wait for a sweep.
    swept: u64,
}

impl Plan {
    fn read(given: &[String]) -> Self {
        let has = |wanted: &str| given.iter().any(|word| word == wanted);
        // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants to know no more than whether it runs.
        if has("--quick") || !has("--bench") {
            return Self { rounds: 2, sizes: vec![(1_000, 20_000)], weighed: vec![50_000], swept: 50_000 };
        }
        let mut plan = Self {
            rounds: 9,
            sizes: vec![(1_000, 400_000), (1_000_000, 200_000)],
            weighed: vec![100_000, 1_000_000],
            swept: 1_000_000,
        };
        if has("--full") {
            plan.sizes.push((10_000_000, 200_000));
            plan.weighed.extend([2_000_000, 3_000_000, 5_000_000, 7_000_000, 10_000_000]);
            plan.swept = 10_000_000;
        }
        plan
    }
}

/// Phones, over which memory is drawn.
const MANY: [u64; 6] = [500_000, 1_000_000, 2_000_000, 3_000_000, 5_000_000, 10_000_000];

fn run() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, what, phones] = given.as_slice()
        && argument == memory::ARGUMENT
    {
        return memory::weigh(what, phones.parse()?);
    }
    let plan = Plan::read(&given);
    let svg = given.iter().skip_while(|word| *word != "--svg").nth(1).map(Path::new);
    if given.iter().any(|word| word == "--memory") {
        println!("{}\n", machine::describe());
        return memory::table(&MANY, svg);
    }
    if given.iter().any(|word| word == "--state") {
        println!("{}\n", machine::describe());
        return state::table(plan.swept);
    }
    println!("{}\n", machine::describe());
    memory::table(&plan.weighed, svg)?;
    for (phones, decisions) in &plan.sizes {
        race::table(*phones, *decisions, plan.rounds)?;
    }
    let (phones, decisions) = plan.sizes[plan.sizes.len().min(2) - 1];
    race::limits(phones, decisions, plan.rounds)?;
    race::threads(phones, decisions, plan.rounds)?;
    sweep::table(plan.swept)?;
    state::table(plan.swept.min(1_000_000))?;
    println!("load average {} at the end", machine::load());
    Ok(())
}
