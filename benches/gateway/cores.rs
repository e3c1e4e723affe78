//! Which core works for whom: the last ones for the proxy that is measured, one for each of its workers, the others for the load
//! and the upstream.
//!
//! It is `taskset` that says so to the kernel: this crate forbids `unsafe` code, and what cannot be pinned is measured all the
//! same.

use std::fmt;
use std::io;
use std::process::{Command, Stdio};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Cores {
    /// All cores, lowest first; `None` where there is only one, or no `taskset`.
    split: Option<Vec<usize>>,
}

impl Cores {
    /// Moves this process away from the cores that the proxies are to have, with at most so many workers. To be called before it
    /// has threads.
    pub(crate) fn split(workers: usize) -> Self {
        Self { split: Self::try_split(workers) }
    }

    fn try_split(workers: usize) -> Option<Vec<usize>> {
        let cores = allowed().filter(|cores| cores.len() > 1)?;
        let others = cores.len().saturating_sub(workers).max(1);
        let pid = std::process::id().to_string();
        let mut taskset = Command::new("taskset");
        taskset.args(["--cpu-list", "--pid", &list(cores.get(..others)?), &pid]);
        taskset.stdout(Stdio::null()).status().is_ok_and(|status| status.success()).then_some(cores)
    }

    /// Whether load and upstream have a core each, beside one for a proxy.
    pub(crate) fn are_many(&self) -> bool {
        self.split.as_ref().is_some_and(|cores| cores.len() > 2)
    }

    /// Whether a proxy with so many workers has to share a core with the load.
    pub(crate) fn are_too_few(&self, workers: usize) -> bool {
        self.split.as_ref().is_none_or(|cores| cores.len() <= workers)
    }

    /// The same command, on the cores of a proxy with so many workers.
    pub(crate) fn pinned(&self, command: &Command, workers: usize) -> Command {
        let mut pinned = match &self.split {
            Some(cores) => {
                // It becomes the program, so that the child's id is the program's.
                let mut taskset = Command::new("taskset");
                let own = cores.get(cores.len().saturating_sub(workers)..).unwrap_or_default();
                taskset.args(["--cpu-list", &list(own)]).arg(command.get_program());
                taskset
            }
            None => Command::new(command.get_program()),
        };
        pinned.args(command.get_args());
        // Nothing that is set around here configures a proxy.
        pinned.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        pinned.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        pinned
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.split {
            Some(cores) => {
                write!(f, "cores {}: the last for each proxy's worker, the first for load and upstream", list(cores))
            }
            None => f.write_str("nothing pinned"),
        }
    }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The cores that this process may use, lowest first.
fn allowed() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    Some(list.trim().split(',').filter_map(range).flatten().collect())
}

/// An error that says what was being done.
pub(crate) fn doing(what: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
