//! The program as an operator meets it: its arguments and exit codes, what it says, how it stops, what it never says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]
#![allow(dead_code, reason = "the support modules serve several suites")]

mod access;
mod admin;
mod arguments;
mod clicks_over_upgrade;
#[path = "../support/client.rs"]
mod client;
mod clocks;
mod hand_over;
mod hand_over_faults;
mod older_release;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/redis.rs"]
mod redis;
mod reload;
mod secrets;
mod spans;
mod state;
mod stopping;
mod strangers;
mod trace;
mod upgrade;
#[path = "../support/upstream.rs"]
mod upstream;
mod verbs;
#[path = "../support/wall_clock.rs"]
mod wall_clock;
