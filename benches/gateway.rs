//! What a request costs, end to end: proxies in processes of their own, in turn, before the same upstream and under the same
//! load. See `benches/README.md`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints a table"
)]

#[path = "gateway/bare.rs"]
mod bare;
#[path = "gateway/candidate.rs"]
mod candidate;
#[path = "gateway/cores.rs"]
mod cores;
#[path = "support/figures.rs"]
mod figures;
#[path = "gateway/http.rs"]
mod http;
#[path = "gateway/load.rs"]
mod load;
#[path = "support/machine.rs"]
mod machine;
#[path = "gateway/upstream.rs"]
mod upstream;
#[path = "gateway/visit.rs"]
mod visit;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use candidate::Running;
use cores::Cores;
use figures::Figures;
use upstream::Upstream;
use visit::{Path, Visitor};

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
    if let [argument, listen, upstream] = given.as_slice()
        && argument == bare::ARGUMENT
    {
        bare::run(listen, upstream.parse()?);
        return Ok(());
    }
    let plan = Plan::read(&given)?;
    // Before there are threads, so that all of them go with it.
    let cores = Cores::split();
    println!("{}\n{cores}; {} rounds of {:?} visits\n", machine::describe(), plan.rounds, plan.visit);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&plan, &cores))?;
    println!("\nload average {} at the end", machine::load());
    Ok(())
}

/// How much is measured.
struct Plan {
    rounds: usize,
    visit: Duration,
    paths: Vec<Path>,
}

impl Plan {
    fn read(given: &[String]) -> Result<Self, String> {
        let mut plan = Self { rounds: 9, visit: Duration::from_millis(1500), paths: Path::ALL.to_vec() };
        let smoke = |plan: &mut Plan| (plan.rounds, plan.visit) = (1, Duration::from_millis(200));
        // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants to know no more than whether it runs.
        if !given.iter().any(|word| word == "--bench") {
            smoke(&mut plan);
        }
        let mut words = given.iter();
        while let Some(word) = words.next() {
            match (word.as_str(), words.as_slice().first()) {
                ("--bench", _) => {}
                ("--quick", _) => smoke(&mut plan),
                ("--rounds", Some(count)) => {
                    plan.rounds = count.parse().map_err(|_| format!("--rounds {count} is no number"))?;
                    words.next();
                }
                ("--only", Some(name)) => {
                    let path = Path::ALL.into_iter().find(|path| path.name().replace(' ', "-") == **name);
                    plan.paths = vec![path.ok_or_else(|| format!("there is no path {name}"))?];
                    words.next();
                }
                _ => {
                    return Err(format!(
                        "{word}? There are --quick, --rounds N and --only PATH (such as send-allowed)."
                    ));
                }
            }
        }
        Ok(plan)
    }
}

/// What was measured of one proxy on one path.
#[derive(Default)]
struct Row {
    cpu: Figures,
    rate: Figures,
    busy: Figures,
}

async fn measure(plan: &Plan, cores: &Cores) -> Result<(), Box<dyn Error>> {
    let upstream = Upstream::start().await?;
    let mut proxies = Vec::new();
    for candidate in &candidate::ALL {
        let running = Running::start(candidate, upstream.address, cores).await?;
        println!("{}: process {}", candidate.name, running.pid());
        proxies.push(running);
    }
    println!("\n| path | proxy | CPU µs per request | × {} | requests/s | busy |", candidate::ALL[0].name);
    println!("|---|---|---|---|---|---|");
    let mut visitor = Visitor::new(upstream, plan.visit);
    for path in &plan.paths {
        let mut rows: Vec<Row> = proxies.iter().map(|_| Row::default()).collect();
        for _ in 0..plan.rounds {
            for (proxy, row) in proxies.iter().zip(&mut rows) {
                let visit = visitor.visit(proxy, *path).await.map_err(cores::doing(proxy.candidate.name))?;
                row.cpu.push(visit.cpu.as_secs_f64() * 1e6 / visit.answered as f64);
                row.rate.push(visit.answered as f64 / visit.took.as_secs_f64());
                row.busy.push(100.0 * visit.cpu.as_secs_f64() / visit.took.as_secs_f64());
            }
        }
        let Some(first) = rows.first() else { continue };
        for (proxy, row) in proxies.iter().zip(&rows) {
            let (name, ratio) = (proxy.candidate.name, row.cpu.over(&first.cpu));
            let Row { cpu, rate, busy } = row;
            println!("| {} | {name} | {cpu:.1} | {ratio:.2} | {rate:.0} | {:.0} % |", path.name(), busy.median());
        }
    }
    Ok(())
}
