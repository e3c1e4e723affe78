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

#[path = "support/client.rs"]
mod client;
#[path = "redis/clocks.rs"]
mod clocks;
#[path = "redis/fleet.rs"]
mod fleet;
#[path = "redis/outages.rs"]
mod outages;
#[path = "redis/proxy.rs"]
mod proxy;
#[path = "redis/script.rs"]
mod script;
#[path = "support/redis.rs"]
mod server;
#[path = "redis/shared.rs"]
mod shared;
#[path = "support/start.rs"]
mod start;
#[path = "redis/topologies.rs"]
mod topologies;
#[path = "support/upstream.rs"]
mod upstream;
