//! What a request costs, end to end: proxies in processes of their own, in turn, before the same upstream and under the same
//! load. See `benches/README.md`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark reads the clock, prints a table, and may end"
)]

#[path = "gateway/bare.rs"]
mod bare;
#[path = "gateway/candidate.rs"]
mod candidate;
#[path = "gateway/contest.rs"]
mod contest;
#[path = "gateway/cores.rs"]
mod cores;
#[path = "gateway/drive.rs"]
mod drive;
#[path = "support/figures.rs"]
mod figures;
#[path = "gateway/growth.rs"]
mod growth;
#[path = "gateway/http.rs"]
mod http;
#[path = "gateway/latency.rs"]
mod latency;
#[path = "gateway/load.rs"]
mod load;
#[path = "support/machine.rs"]
mod machine;
#[path = "gateway/peers.rs"]
mod peers;
#[path = "gateway/plan.rs"]
mod plan;
#[path = "gateway/script.rs"]
mod script;
#[path = "support/svg.rs"]
mod svg;
#[path = "gateway/template.rs"]
mod template;
#[path = "gateway/upstream.rs"]
mod upstream;
#[path = "gateway/visit.rs"]
mod visit;

use std::error::Error;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use contest::Contest;
use cores::Cores;
use drive::Drive;
use plan::{Mode, Plan};
use visit::Visitor;

// The gateway's own: the bare proxy is this program.
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

fn run() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, listen, upstream, workers, pool] = given.as_slice()
        && argument == bare::ARGUMENT
    {
        bare::run(listen, upstream.parse()?, workers.parse()?, pool.parse()?);
        return Ok(());
    }
    let plan = Plan::read(&given)?;
    allow_files()?;
    // Before there are threads, so that all of them go with it.
    let cores = Cores::split(if plan.mode == Mode::Workers { 2 } else { 1 });
    println!("{}\n{cores}; {} rounds of {:?} visits", machine::describe(), plan.rounds, plan.visit);
    let (drive, upstream) = Drive::start(cores.are_many() || plan.mode == Mode::Start)?;
    let visitor = Visitor::new(drive, upstream, plan.visit);
    let mut contest = Contest { plan: &plan, cores: &cores, visitor };
    match plan.mode {
        Mode::Cost => contest.cost(),
        Mode::Latency => contest.latency(),
        Mode::Connections => contest.connections(),
        Mode::Bodies => contest.bodies(),
        Mode::Workers => contest.workers(),
        Mode::Start => contest.starts(),
        Mode::Limits => contest.limits(),
        Mode::State => contest.state(),
    }?;
    println!("\nload average {} at the end", machine::load());
    Ok(())
}

/// Lets this process, and with it the proxies, have files enough for thousands of connections at both ends of each proxy; or as many
/// as it may.
fn allow_files() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |files| setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files });
    match maximum {
        // Only root may have more than it was given.
        Some(files) if files < FILES => limit(Some(FILES)).or_else(|_| limit(maximum))?,
        _ => limit(maximum)?,
    }
    Ok(())
}

/// For 4,096 clients and as many connections to the upstream; where that has a thread of its own, as many from each of five proxies.
const FILES: u64 = 65_536;
