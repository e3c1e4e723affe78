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

#[path = "e2e/admin.rs"]
mod admin;
#[path = "e2e/bodies.rs"]
mod bodies;
#[path = "e2e/caps.rs"]
mod caps;
#[path = "support/client.rs"]
mod client;
#[path = "e2e/clients.rs"]
mod clients;
#[path = "e2e/counting.rs"]
mod counting;
#[path = "e2e/deadlines.rs"]
mod deadlines;
#[path = "e2e/disguises.rs"]
mod disguises;
#[path = "support/frames.rs"]
mod frames;
#[path = "e2e/framing.rs"]
mod framing;
#[path = "e2e/front.rs"]
mod front;
#[path = "e2e/keys.rs"]
mod keys;
#[path = "e2e/limits.rs"]
mod limits;
#[path = "e2e/passing.rs"]
mod passing;
#[path = "support/raw.rs"]
mod raw;
#[path = "e2e/reload.rs"]
mod reload;
#[path = "e2e/retries.rs"]
mod retries;
#[path = "e2e/settlement.rs"]
mod settlement;
#[path = "support/start.rs"]
mod start;
#[path = "e2e/throttles.rs"]
mod throttles;
#[path = "e2e/tls.rs"]
mod tls;
#[path = "support/upstream.rs"]
mod upstream;
#[path = "e2e/waiting.rs"]
mod waiting;
