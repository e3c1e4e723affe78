//! The promises, end to end: real sockets, a gateway in this process, an upstream that is scripted, a clock that stands still
//! until it is moved.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]
#![allow(dead_code, reason = "the support modules serve several suites")]

mod admin;
mod bodies;
mod caps;
#[path = "../support/client.rs"]
mod client;
mod clients;
mod counting;
mod deadlines;
mod disguises;
#[path = "../support/frames.rs"]
mod frames;
mod framing;
mod front;
mod keys;
mod limits;
mod passing;
#[path = "../support/raw.rs"]
mod raw;
mod reload;
mod retries;
mod settlement;
#[path = "../support/start.rs"]
mod start;
mod throttles;
mod tls;
#[path = "../support/upstream.rs"]
mod upstream;
mod waiting;
