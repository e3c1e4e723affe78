//! A reverse proxy in front of the Sendly API that lets no phone get more codes than its limits allow.
//!
//! The modules, lowest first; each may use those above it in this list that `tests/tidy/main.rs` says, and none below:
//!
//! - `clock`: the only place that reads the time. `phone`: a number in E.164. `country`: the country of a number.
//!   `yielding`: yielding to other tasks. `tls_roots`: trusted certificate authorities. `systemd`: messages to the service manager.
//! - `http1`: the syntax of HTTP/1. `api`: Sendly's API as data. `policy`: the limits, the exact log, the decision.
//! - `ledger`: the codes that each key was charged for, and the phone of each verification.
//! - `config`: the configuration. `metrics`: counters and gauges. `throttle`: smoothed rates on attempts.
//! - `trace`: trace contexts and spans. `upstream`: calls to Sendly. `log`: log lines, the access log among them.
//! - `gateway`: the life of a limited request. `listener`: the clients' connections, and what streams through. `admin`: the operators' listener: page, probes, API. `sandbox`: a stand-in for Sendly.
//! - `handover`: one process takes over from another. `server`: the wiring. `reload`: another configuration, without a restart.
//!   `cli`: the command line.

pub(crate) mod admin;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub(crate) mod country;
pub mod gateway;
pub mod handover;
pub(crate) mod http1;
pub mod ledger;
pub(crate) mod listener;
pub mod log;
pub(crate) mod metrics;
pub mod phone;
pub mod policy;
pub(crate) mod reload;
pub mod sandbox;
pub mod server;
pub(crate) mod systemd;
pub(crate) mod throttle;
pub(crate) mod tls_roots;
pub(crate) mod trace;
pub mod upstream;
pub(crate) mod yielding;
