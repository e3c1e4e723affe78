//! The bounds: what was accepted, in a file of its own, and a little more.

use std::fmt;
use std::fs;
use std::io;
use std::process::Command;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/accepted.txt");

/// What may come and go without being told, as a share of what was accepted.
const SLACK: f64 = 0.03;

/// Counts are of one way to build. `scripts/instructions` says so to cargo, and cargo builds anew when it changes.
const IS_THAT_BUILD: bool = matches!(
    (option_env!("CARGO_PROFILE_RELEASE_LTO"), option_env!("CARGO_PROFILE_RELEASE_CODEGEN_UNITS")),
    (Some(lto), Some(units)) if is(lto, "off") && is(units, "16")
) && !cfg!(debug_assertions);

const fn is(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([first, rest @ ..], [expected, more @ ..]) = (one, other) {
        if *first != *expected {
            return false;
        }
        (one, other) = (rest, more);
    }
    one.is_empty() && other.is_empty()
}

/// See the module's documentation.
pub(crate) struct Bounds {
    /// On what they were counted.
    machine: String,
    accepted: Vec<(String, u64)>,
}

/// What the bounds say to a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Within,
    Over,
    Under,
    /// There is no bound for it here.
    Free,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Within => "",
            Verdict::Over => "**over**",
            Verdict::Under => "less: accept it (scripts/instructions --accept), so that it stays so",
            Verdict::Free => "no bound",
        })
    }
}

impl Bounds {
    pub(crate) fn read() -> io::Result<Self> {
        let text = fs::read_to_string(FILE)?;
        let machine = text.lines().find_map(|line| line.strip_prefix("# counted with ")).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let accepted = lines.filter_map(|line| {
            let (count, name) = line.trim().split_once(' ')?;
            Some((name.trim().to_owned(), count.parse().ok()?))
        });
        Ok(Self { machine: machine.to_owned(), accepted: accepted.collect() })
    }

    /// What was accepted.
    pub(crate) fn accepted(&self, name: &str) -> Option<u64> {
        self.accepted.iter().find(|(other, _)| other == name).map(|(_, count)| *count)
    }

    pub(crate) fn judge(&self, name: &str, count: f64) -> Verdict {
        let holds = IS_THAT_BUILD && self.machine.ends_with(std::env::consts::ARCH);
        let Some(accepted) = self.accepted(name).filter(|_| holds) else { return Verdict::Free };
        match count / accepted as f64 - 1.0 {
            share if share > SLACK => Verdict::Over,
            share if share < -SLACK => Verdict::Under,
            _ => Verdict::Within,
        }
    }

    /// What they hold for, and what this is.
    pub(crate) fn described(&self) -> String {
        let build =
            if IS_THAT_BUILD { "the build that they are of" } else { "another build, for which they mean nothing" };
        let share = SLACK * 100.0;
        format!("Accepted with {}, and {share} % more; this is {}, {build}.", self.machine, machine())
    }

    /// Makes bounds of these counts.
    pub(crate) fn accept<'n>(counts: impl Iterator<Item = (&'n str, f64)>) -> io::Result<()> {
        if !IS_THAT_BUILD {
            return Err(io::Error::other("bounds are of one build: accept them with scripts/instructions --accept"));
        }
        let mut text = format!(
            "# Instructions in user space, per call or request. Written by scripts/instructions --accept.\n\
             # counted with {}\n",
            machine()
        );
        for (name, count) in counts {
            text.push_str(&format!("{count:>7.0} {name}\n"));
        }
        fs::write(FILE, text)
    }
}

/// The toolchain and the architecture.
fn machine() -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let version = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    format!("{version}, {}", std::env::consts::ARCH)
}
