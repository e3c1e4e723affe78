//! Several gateways and one Redis, which is a real one: what they promise together, and what each promises while Redis is away. What
//! is promised is counted at the upstream.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]
#![allow(dead_code, reason = "the support modules serve several suites")]

#[path = "../support/client.rs"]
mod client;
mod clocks;
mod fleet;
mod outages;
mod proxy;
mod script;
#[path = "../support/redis.rs"]
mod server;
mod shared;
#[path = "../support/start.rs"]
mod start;
mod topologies;
#[path = "../support/upstream.rs"]
mod upstream;
