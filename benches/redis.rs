//! The ledger in Redis: a decision beside a bare `SET` over as many connections, what a key takes of Redis' memory, and how much later a
//! client has its answer than from a gateway that counts in memory. See `benches/README.md`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark reads the clock, prints a table, and says what is wrong by panicking"
)]

#[path = "../tests/support/client.rs"]
#[allow(dead_code, reason = "it serves the tests")]
mod client;
#[path = "redis/decision.rs"]
mod decision;
#[path = "support/figures.rs"]
mod figures;
#[path = "redis/latency.rs"]
mod latency;
#[path = "support/machine.rs"]
#[allow(dead_code, reason = "not every benchmark watches the load")]
mod machine;
#[path = "redis/memory.rs"]
mod memory;
#[path = "../tests/support/redis.rs"]
#[allow(dead_code, reason = "it serves the tests")]
mod server;
#[path = "redis/shared.rs"]
mod shared;
#[path = "../tests/support/upstream.rs"]
#[allow(dead_code, reason = "it serves the tests")]
mod upstream;

// The gateway's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Decisions in a round.
    decisions: u64,
    /// Phones whose memory is weighed.
    phones: u64,
    /// For how many seconds a gateway is asked.
    seconds: u64,
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| given.iter().any(|word| word == wanted);
    // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants to know no more than whether it runs.
    let plan = match has("--bench") && !has("--quick") {
        true => Plan { rounds: 5, decisions: 40_000, phones: 20_000, seconds: 5 },
        false => Plan { rounds: 1, decisions: 400, phones: 200, seconds: 1 },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        println!("{}\n", machine::describe());
        // One of them, or all.
        let is_all = !["--decision", "--memory", "--latency"].into_iter().any(has);
        if is_all || has("--decision") {
            decision::table(&plan).await;
        }
        if is_all || has("--memory") {
            memory::table(&plan).await;
        }
        if is_all || has("--latency") {
            latency::table(&plan).await;
        }
    });
}
