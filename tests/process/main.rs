//! The program as an operator meets it: its arguments and exit codes, what it says, how it stops, what it never says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]
#![allow(dead_code, reason = "the support modules serve several suites")]

#[path = "process/access.rs"]
mod access;
#[path = "process/admin.rs"]
mod admin;
#[path = "process/arguments.rs"]
mod arguments;
#[path = "process/clicks_over_upgrade.rs"]
mod clicks_over_upgrade;
#[path = "support/client.rs"]
mod client;
#[path = "process/clocks.rs"]
mod clocks;
#[path = "process/hand_over.rs"]
mod hand_over;
#[path = "process/hand_over_faults.rs"]
mod hand_over_faults;
#[path = "process/older_release.rs"]
mod older_release;
#[path = "support/process.rs"]
mod process;
#[path = "support/redis.rs"]
mod redis;
#[path = "process/reload.rs"]
mod reload;
#[path = "process/secrets.rs"]
mod secrets;
#[path = "process/spans.rs"]
mod spans;
#[path = "process/state.rs"]
mod state;
#[path = "process/stopping.rs"]
mod stopping;
#[path = "process/strangers.rs"]
mod strangers;
#[path = "process/trace.rs"]
mod trace;
#[path = "process/upgrade.rs"]
mod upgrade;
#[path = "support/upstream.rs"]
mod upstream;
#[path = "process/verbs.rs"]
mod verbs;
#[path = "support/wall_clock.rs"]
mod wall_clock;
