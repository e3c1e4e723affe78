//! The program that the files start.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sendly-gateway");

/// A file of the repository.
#[track_caller]
pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A folder of a test's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// What `check` finds wrong with a configuration under these variables; nothing, if it is valid.
pub(crate) fn check(config: &str, variables: &[(String, String)]) -> Option<String> {
    let file = scratch("check").join("gateway.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(PROGRAM);
    let output = command.args(["check", "--config"]).arg(&file).envs(variables.iter().cloned()).output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A key of a configuration that is written as plainly as ours are: `key` in the lines of its section.
pub(crate) fn value(config: &str, section: &str, key: &str) -> Option<String> {
    let mut within = String::new();
    for line in config.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            within = name.to_owned();
        } else if let Some((name, value)) = line.split_once(" = ")
            && within == section
            && name == key
        {
            return Some(value.trim_matches('"').to_owned());
        }
    }
    None
}

/// The ports that clients and operators connect to.
pub(crate) fn ports(config: &str) -> [u64; 2] {
    ["", "admin"].map(|section| {
        let address: std::net::SocketAddr = value(config, section, "listen").unwrap().parse().unwrap();
        assert!(address.ip().is_unspecified(), "in a container, nobody reaches {address}");
        u64::from(address.port())
    })
}

/// Seconds, as `30s` has them.
pub(crate) fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').unwrap().parse().unwrap()
}

/// How long, in seconds, what stops a gateway with this configuration has to wait for it: the delay, the drain, and time to start and to
/// end them.
pub(crate) fn takes_to_stop(config: &str) -> u64 {
    // The defaults stand in the shipped file; of a key that is unset by default, behind a #.
    let shipped = read("config/gateway.toml").replace("#drain_timeout", "drain_timeout");
    let takes = |key| seconds(&value(config, "", key).or_else(|| value(&shipped, "", key)).unwrap());
    takes("drain_delay") + takes("drain_timeout") + 10
}
