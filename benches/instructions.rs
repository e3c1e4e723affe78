//! How many instructions things take, counted by callgrind and held against bounds: unlike time, that can be told on a busy machine,
//! so it is what CI watches. See `benches/README.md`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark waits for what it starts, and prints a table"
)]

#[path = "instructions/bounds.rs"]
mod bounds;
#[path = "instructions/callgrind.rs"]
mod callgrind;
#[path = "instructions/calls.rs"]
mod calls;
#[path = "gateway/drive.rs"]
#[allow(dead_code, reason = "an upstream that goes away is for those who measure connections")]
mod drive;
#[path = "support/figures.rs"]
#[allow(dead_code, reason = "ratios are for those who measure time")]
mod figures;
#[path = "gateway/http.rs"]
mod http;
#[path = "gateway/load.rs"]
#[allow(dead_code, reason = "timetables are for those who measure time")]
mod load;
#[path = "instructions/requests.rs"]
mod requests;
#[path = "gateway/script.rs"]
mod script;
#[path = "gateway/template.rs"]
mod template;
#[path = "gateway/upstream.rs"]
#[allow(dead_code, reason = "as in drive")]
mod upstream;

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};

use bounds::{Bounds, Verdict};
use callgrind::Profile;
use figures::Figures;
use requests::Path;

// The gateway's own: the calls are made in this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The lines of a profile that are told.
const TOP: usize = 25;

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
    if given.first().is_some_and(|argument| argument == calls::ARGUMENT) {
        return calls::run();
    }
    let plan = Plan::read(&given)?;
    if !is_there("valgrind") {
        let absent = "valgrind is not there, so no instructions are counted";
        if std::env::var_os("CI").is_some() {
            return Err(absent.into());
        }
        println!("{absent}.");
        return Ok(());
    }
    if let Some(path) = plan.profile {
        let (before, after) = requests::profiles(path)?;
        print_profile(path, &before, &after);
        return Ok(());
    }
    let mut rows: Vec<(&str, Figures)> = calls::ALL.iter().map(|(name, _)| (*name, Figures::default())).collect();
    rows.extend(Path::ALL.map(|path| (path.name(), Figures::default())));
    for _ in 0..plan.rounds {
        let mut counts = calls::count()?;
        counts.extend(requests::count()?);
        for ((_, figures), count) in rows.iter_mut().zip(counts) {
            figures.push(count);
        }
    }
    tell(&rows, plan.accept)
}

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What is asked for.
struct Plan {
    rounds: usize,
    accept: bool,
    profile: Option<Path>,
}

impl Plan {
    fn read(given: &[String]) -> Result<Self, String> {
        let mut plan = Self { rounds: 3, accept: false, profile: None };
        let mut words = given.iter();
        while let Some(word) = words.next() {
            match (word.as_str(), words.as_slice().first()) {
                ("--bench", _) => {}
                ("--accept", _) => plan.accept = true,
                ("--rounds", Some(count)) => {
                    plan.rounds = count.parse().map_err(|_| format!("--rounds {count} is no number"))?;
                    words.next();
                }
                ("--profile", Some(name)) => {
                    let path = Path::ALL.into_iter().find(|path| path.name().replace(' ', "-") == **name);
                    plan.profile = Some(path.ok_or_else(|| format!("there is no path {name}"))?);
                    words.next();
                }
                _ => {
                    return Err(format!(
                        "{word}? There are --accept, --rounds N and --profile PATH (such as send-allowed)."
                    ));
                }
            }
        }
        Ok(plan)
    }
}

/// Prints what was counted, and what the bounds say to it; or makes bounds of it.
fn tell(rows: &[(&str, Figures)], accept: bool) -> Result<(), Box<dyn Error>> {
    let bounds = Bounds::read()?;
    println!("| | instructions, median (least–most) | accepted | |\n|---|---|---|---|");
    let mut over = Vec::new();
    for (name, figures) in rows {
        let accepted = bounds.accepted(name);
        let verdict = bounds.judge(name, figures.median());
        let accepted = accepted.map_or("–".to_owned(), |accepted| accepted.to_string());
        println!("| {name} | {figures:.0} | {accepted} | {verdict} |");
        if verdict == Verdict::Over {
            over.push(*name);
        }
    }
    println!("\n{}", bounds.described());
    if accept {
        Bounds::accept(rows.iter().map(|(name, figures)| (*name, figures.median())))?;
        println!("These are the bounds now.");
        return Ok(());
    }
    match over.as_slice() {
        [] => Ok(()),
        over => Err(format!("more instructions than accepted: {}", over.join(", ")).into()),
    }
}

/// Where the instructions of one request go, by crate and by function.
fn print_profile(path: Path, before: &Profile, after: &Profile) {
    let own = after.more_than(before, requests::MORE);
    let all: f64 = own.iter().map(|(_, count)| count).sum();
    println!("{}: {all:.0} instructions a request\n", path.name());
    let mut families: Vec<(&str, f64)> = Vec::new();
    for (function, count) in &own {
        let family = callgrind::family(function);
        match families.iter_mut().find(|(name, _)| *name == family) {
            Some((_, sum)) => *sum += count,
            None => families.push((family, *count)),
        }
    }
    families.sort_by(|one, other| other.1.total_cmp(&one.1));
    let lines = |title: &str, rows: &[(&str, f64)]| {
        println!("| {title} | instructions | % |\n|---|---|---|");
        for (name, count) in rows.iter().take(TOP).filter(|(_, count)| *count >= 1.0) {
            println!("| {} | {count:.0} | {:.1} |", name.replace('|', "\\|"), 100.0 * count / all);
        }
        println!();
    };
    lines("crate", &families);
    lines("function, without those that it calls", &own);
    lines("copies, fills and compares memory", &after.more_memory_than(before, requests::MORE));
}
