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

#[path = "deploy/compose.rs"]
mod compose;
#[path = "deploy/docker.rs"]
mod docker;
#[path = "deploy/kubernetes.rs"]
mod kubernetes;
#[path = "deploy/notify.rs"]
mod notify;
#[path = "deploy/pages.rs"]
mod pages;
#[path = "deploy/program.rs"]
mod program;
#[path = "deploy/systemd.rs"]
mod systemd;
#[path = "deploy/workflows.rs"]
mod workflows;
#[path = "deploy/yaml.rs"]
mod yaml;
