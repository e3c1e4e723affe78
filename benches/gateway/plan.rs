//! What is to be measured, as the command line says it.

use std::path::PathBuf;
use std::time::Duration;

use crate::candidate::{self, Candidate};
use crate::visit::Path;

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What a request costs, on each path.
    Cost,
    /// How late an answer is at a steady rate.
    Latency,
    /// What many connections cost.
    Connections,
    /// What long bodies cost.
    Bodies,
    /// What a second worker brings.
    Workers,
    /// How long it takes to start.
    Start,
    /// What each limit costs.
    Limits,
    /// What it costs that state outlives the process.
    State,
}

const MODES: [(&str, Mode); 7] = [
    ("--latency", Mode::Latency),
    ("--connections", Mode::Connections),
    ("--bodies", Mode::Bodies),
    ("--workers", Mode::Workers),
    ("--start", Mode::Start),
    ("--limits", Mode::Limits),
    ("--state", Mode::State),
];

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// Whether only that it runs is to be seen.
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) visit: Duration,
    /// `None` for those that the mode is about.
    pub(crate) only: Option<Path>,
    pub(crate) candidates: Vec<&'static Candidate>,
    /// Whether peers write an access log too.
    pub(crate) logged: bool,
    /// Where plots go.
    pub(crate) svg: Option<PathBuf>,
}

const USAGE: &str = "There are --latency, --connections, --bodies, --workers, --start, --limits and --state (one at a time; without, the cost of \
                     a request), and --quick, --rounds N, --only PATH (such as send-allowed), --with NAMES (such as haproxy,nginx), \
                     --logged and --svg FOLDER.";

impl Plan {
    pub(crate) fn read(given: &[String]) -> Result<Self, String> {
        // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants to know no more than whether it runs, on any
        // machine.
        let smoke = !given.iter().any(|word| word == "--bench");
        let mut plan = Self {
            mode: Mode::Cost,
            quick: smoke,
            rounds: 0,
            visit: Duration::ZERO,
            only: None,
            candidates: candidate::ALL
                .iter()
                .filter(|it| !smoke || [candidate::BARE, candidate::GATEWAY].contains(&it.name))
                .collect(),
            logged: false,
            svg: None,
        };
        let mut words = given.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} what? {USAGE}"));
            match word {
                "--bench" => {}
                "--quick" => plan.quick = true,
                "--logged" => plan.logged = true,
                "--rounds" => plan.rounds = value()?.parse().map_err(|_| "--rounds takes a number")?,
                "--only" => plan.only = Some(path(value()?)?),
                "--with" => plan.candidates = candidates(value()?)?,
                "--svg" => plan.svg = Some(value()?.into()),
                _ => match MODES.iter().find(|(name, _)| *name == word) {
                    Some((_, mode)) => plan.mode = *mode,
                    None => return Err(format!("{word}? {USAGE}")),
                },
            }
        }
        let (rounds, millis) = match (plan.mode, plan.quick) {
            (Mode::Start, true) => (2, 0),
            (_, true) => (1, 100),
            (Mode::Cost | Mode::State, _) => (9, 1500),
            (Mode::Latency, _) => (7, 3000),
            (Mode::Start, _) => (20, 0),
            (Mode::Connections | Mode::Bodies | Mode::Workers | Mode::Limits, _) => (5, 1000),
        };
        if plan.rounds == 0 {
            plan.rounds = rounds;
        }
        plan.visit = Duration::from_millis(millis);
        Ok(plan)
    }

    /// The paths to measure, out of those that the mode is about.
    pub(crate) fn paths(&self, about: &[Path]) -> Vec<Path> {
        self.only.map_or_else(|| about.to_vec(), |only| vec![only])
    }
}

fn path(name: &str) -> Result<Path, String> {
    let path = Path::ALL.into_iter().find(|path| path.name().replace(' ', "-") == name);
    path.ok_or_else(|| format!("there is no path {name}. {USAGE}"))
}

/// Those whose names begin so, in the order of their list.
fn candidates(names: &str) -> Result<Vec<&'static Candidate>, String> {
    let is = |candidate: &Candidate, name: &str| candidate.name.to_lowercase().starts_with(&name.to_lowercase());
    if let Some(name) = names.split(',').find(|name| !candidate::ALL.iter().any(|candidate| is(candidate, name))) {
        return Err(format!("there is no {name}. {USAGE}"));
    }
    Ok(candidate::ALL.iter().filter(|candidate| names.split(',').any(|name| is(candidate, name))).collect())
}
