//! The gateway's own HTTP/1.1 client, held against hyper's on the same bytes; and what it does with its connections.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]

mod connections;
mod verdicts;

use sendly_gateway::clock::Clock;
use sendly_gateway::config::Config;
use sendly_gateway::upstream::Sendly;
use tokio::net::TcpListener;

/// A client for whoever listens there.
fn sendly(listener: &TcpListener, config: &str, clock: Clock) -> Sendly {
    let url = format!("http://{}", listener.local_addr().unwrap());
    let environment = [("SENDLY_GATEWAY_UPSTREAM_URL".to_owned(), url)];
    let config = Config::parse(config, "test", environment.into_iter()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Sendly::new(&config.upstream, clock).unwrap()
}
