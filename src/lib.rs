//! A reverse proxy in front of the Sendly API that lets no phone get more codes than its limits allow.
//!
//! The modules, lowest first; each may use those above it in this list that `tests/tidy.rs` says, and none below:
//!
//! - `clock`: the only place that reads the time. `phone`: a number in E.164. `country`: where it is. `work`: what is under way. `turn`: taking turns.
//!   `trust`: whom to trust.
//! - `http1`: the syntax of HTTP/1. `sendly`: the API as data. `policy`: the limits, the exact log, the decision.
//! - `ledger`: who has had how many codes, and whose an id is.
//! - `config`: what an operator may write. `telemetry`: log lines. `metrics`: what is counted. `throttle`: smoothed rates on attempts.
//! - `trace`: which trace a request belongs to, and its spans. `access`: a line for each request.
//! - `gateway`: the proxy. `admin`: the operators' listener: page, probes, API. `sandbox`: a Sendly for development.
//! - `handover`: one process takes over from another. `supervisor`: what systemd is told. `server`: the wiring. `reload`: another configuration, while it serves. `cli`: the command line.

pub mod access;
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod country;
pub mod gateway;
pub mod handover;
pub mod http1;
pub mod ledger;
pub mod metrics;
pub mod phone;
pub mod policy;
pub mod reload;
pub mod sandbox;
pub mod sendly;
pub mod server;
pub mod supervisor;
pub mod telemetry;
pub mod throttle;
pub mod trace;
pub mod trust;
pub mod turn;
pub mod work;
