//! Which core works for whom: the last one for the proxy that is measured, the others for the load and the upstream.
//!
//! It is `taskset` that says so to the kernel: this crate forbids `unsafe` code, and what cannot be pinned is measured all the
//! same.

use std::fmt;
use std::io;
use std::process::{Command, Stdio};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Cores {
    /// A core for the proxy, and the list of the others; `None` where there is only one, or no `taskset`.
    split: Option<(usize, String)>,
}

impl Cores {
    /// Moves this process away from the core that the proxies are to have. To be called before it has threads.
    pub(crate) fn split() -> Self {
        Self { split: Self::try_split() }
    }

    fn try_split() -> Option<(usize, String)> {
        let mut cores = allowed()?;
        let proxy = cores.pop()?;
        let others = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        if others.is_empty() {
            return None;
        }
        let pid = std::process::id().to_string();
        let mut taskset = Command::new("taskset");
        let moved = taskset.args(["--cpu-list", "--pid", &others, &pid]).stdout(Stdio::null()).status();
        moved.is_ok_and(|status| status.success()).then_some((proxy, others))
    }

    /// The same command, on the proxy's core.
    pub(crate) fn pinned(&self, command: &Command) -> Command {
        let mut pinned = match &self.split {
            Some((core, _)) => {
                // It becomes the program, so that the child's id is the program's.
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", &core.to_string()]).arg(command.get_program());
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
            Some((proxy, others)) => write!(f, "the proxy on core {proxy}, load and upstream on {others}"),
            None => f.write_str("nothing pinned"),
        }
    }
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
