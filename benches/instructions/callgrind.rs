//! callgrind: a command under it, and what it found.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The same command, counted. What is found will be in the file.
pub(crate) fn counted(command: &Command, into: &Path) -> Command {
    let mut counted = Command::new("valgrind");
    counted.args(["--tool=callgrind", "--quiet", "--fair-sched=try"]);
    counted.arg(format!("--callgrind-out-file={}", into.display()));
    counted.arg(command.get_program()).args(command.get_args());
    // Nothing that is set around here configures what is counted.
    counted.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    counted.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    counted
}

/// A file that callgrind may write.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.callgrind", std::process::id()))
}

/// What callgrind found.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// The instructions of all threads.
    pub(crate) total: u64,
    /// Those of each function, without those that it called.
    own: HashMap<String, u64>,
    /// Those of each function that was called, with those that it called.
    called: HashMap<String, u64>,
    /// Those that the C library took to copy, fill and compare memory, by who called it.
    memory: HashMap<String, u64>,
}

impl Profile {
    /// Reads a file of callgrind's, and removes it. Its format: valgrind.org/docs/manual/cl-format.html
    pub(crate) fn take(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        fs::remove_file(file)?;
        let profile = Self::read(&text);
        if profile.total == 0 {
            return Err(io::Error::other(format!("callgrind counted nothing: {}", file.display())));
        }
        Ok(profile)
    }

    fn read(text: &str) -> Self {
        let mut profile = Self::default();
        let mut names: HashMap<&str, &str> = HashMap::new();
        let (mut function, mut callee, mut is_call) = ("", "", false);
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=').filter(|(key, _)| matches!(*key, "fn" | "cfn")) {
                // A name stands with its number once, and later the number stands for it.
                let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                let name = if name.is_empty() { names.get(number).copied().unwrap_or(number) } else { name };
                names.insert(number, name);
                *(if key == "fn" { &mut function } else { &mut callee }) = name;
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some(total) = line.strip_prefix("totals: ") {
                profile.total = total.trim().parse().unwrap_or_default();
            } else if line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*')) {
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
                let (sums, name) = if is_call { (&mut profile.called, callee) } else { (&mut profile.own, function) };
                add(sums, name, cost);
                if is_call && callee.starts_with("__mem") {
                    add(&mut profile.memory, function, cost);
                }
                is_call = false;
            }
        }
        profile
    }

    /// The instructions of the one function that is called so, with those that it called.
    pub(crate) fn called(&self, name: &str) -> Option<u64> {
        let is_it = |function: &str| function.split("::h").next().is_some_and(|function| function.ends_with(name));
        self.called.iter().find(|(function, _)| is_it(function)).map(|(_, count)| *count)
    }

    /// What each function has more than in another profile, most first, as a share of so many requests.
    pub(crate) fn more_than<'p>(&'p self, before: &Profile, requests: u64) -> Vec<(&'p str, f64)> {
        more(&self.own, &before.own, requests)
    }

    /// The same of what each function had the C library copy, fill and compare.
    pub(crate) fn more_memory_than<'p>(&'p self, before: &Profile, requests: u64) -> Vec<(&'p str, f64)> {
        more(&self.memory, &before.memory, requests)
    }
}

fn add(sums: &mut HashMap<String, u64>, name: &str, cost: u64) {
    match sums.get_mut(name) {
        Some(sum) => *sum += cost,
        None => drop(sums.insert(name.to_owned(), cost)),
    }
}

fn more<'p>(after: &'p HashMap<String, u64>, before: &HashMap<String, u64>, requests: u64) -> Vec<(&'p str, f64)> {
    let share = |name: &String, count: &u64| {
        (*count as f64 - before.get(name).copied().unwrap_or_default() as f64) / requests as f64
    };
    let mut more: Vec<(&str, f64)> = after.iter().map(|(name, count)| (name.as_str(), share(name, count))).collect();
    more.sort_by(|one, other| other.1.total_cmp(&one.1));
    more
}

/// The crate that a function is of, as far as its name tells it.
pub(crate) fn family(function: &str) -> &str {
    if function.starts_with("mi_") || function.starts_with("_mi_") {
        return "mimalloc";
    }
    let path = function.trim_start_matches(['<', '&', '*', '(', '[', ' ']);
    let path = ["dyn ", "mut ", "const "].into_iter().fold(path, |path, word| path.trim_start_matches(word));
    match path.split_once("::") {
        Some((family, _)) if family.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => family,
        Some(_) => "other",
        None => "the system's C library, and the kernel's vDSO",
    }
}
