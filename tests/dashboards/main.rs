//! What operators watch: the metrics, the dashboard, the rules, and the pages about them, held against a gateway that runs and
//! a Prometheus that scrapes it. `scripts/setup test` installs Prometheus.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what is wrong by panicking, and waits for programs that it started"
)]
#![allow(dead_code, reason = "the support modules serve several suites")]

#[path = "../support/client.rs"]
mod client;
mod documented;
mod load;
#[path = "../support/process.rs"]
mod process;
mod prometheus;
mod queries;
mod rules;
