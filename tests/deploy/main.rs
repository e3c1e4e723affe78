//! What an operator runs the gateway with: the image, the compose file, the unit, the manifests. Each is held against its format's schema,
//! against the others, and against the program that they start. `tests/deploy/install` installs what reads and validates YAML.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what is wrong by panicking, and waits for programs that it started"
)]

mod compose;
mod docker;
mod kubernetes;
mod notify;
mod pages;
mod program;
mod systemd;
mod workflows;
mod yaml;
