//! A reverse proxy in front of the Sendly API that lets no phone get more codes than its limits allow.
//!
//! The modules, lowest first; a module may use those above it in this list and never those below (`tests/tidy.rs` holds it):
#![doc = "`clock`, `phone` · `sendly`, `policy` · `ledger`, `verifications` · `metrics`, `config` · `gateway`, `admin`, `sandbox` · `server` · `cli`."]

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gateway;
pub mod ledger;
pub mod metrics;
pub mod phone;
pub mod policy;
pub mod sandbox;
pub mod sendly;
pub mod server;
pub mod telemetry;
pub mod throttle;
pub mod verifications;
pub mod work;
