//! The SDKs that click: Sendly's own, by remote control (`tests/sdk/README.md`) or in this process, and those of which only the rules are here.

use parking_lot::Mutex;
use sendly::{SendVerificationRequest, Sendly, SendlyConfig};
use sendly_gateway::clock::ManualClock;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::rules::{self, Rules};
use crate::{Case, ID, KEY, PHONE, SCALE, SDKS_PATIENCE, scaled};

pub(crate) enum Sdk {
    Driver(String, Arc<Mutex<Driver>>),
    Rust,
    OlderRust,
    Rules(Rules),
}

pub(crate) struct Driver {
    process: Child,
    calls: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn in_repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

fn driver(name: &str, command: &mut Command) -> Sdk {
    let mut process = command
        .args(["http://127.0.0.1:1/api/v1", KEY, &scaled(SDKS_PATIENCE).as_secs_f64().to_string()])
        .env("SENDLY_SCALE", SCALE.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("Sendly's SDKs are not installed: run tests/sdk/install. {command:?}: {error}"));
    let (calls, outcomes) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
    Sdk::Driver(name.to_owned(), Arc::new(Mutex::new(Driver { process, calls, outcomes })))
}

pub(crate) fn all() -> Vec<Sdk> {
    let mut all = Vec::new();
    for version in ["3.37.1", "3.38.0", "4.2.0", "4.5.1"] {
        let mut python = Command::new(in_repository(".cache/sdk-python/bin/python"));
        python.arg(in_repository("tests/sdk/python/driver.py"));
        let older = in_repository(&format!(".cache/sdk-python/versions/{version}"));
        if version != "4.5.1" {
            assert!(
                Path::new(&older).exists(),
                "Sendly's SDKs are not installed: run tests/sdk/install. {older} is missing."
            );
            python.env("PYTHONPATH", older);
        }
        all.push(driver(&format!("Python {version}"), &mut python));
    }
    for (version, package) in [("3.30.0", "sendly-node-3.30"), ("3.31.0", "@sendly/node")] {
        let mut node = Command::new("node");
        node.arg(in_repository("tests/sdk/node/driver.mjs")).env("SENDLY_PACKAGE", package);
        all.push(driver(&format!("Node {version}"), &mut node));
    }
    all.extend([Sdk::OlderRust, Sdk::Rust]);
    all.extend(rules::ALL.into_iter().map(Sdk::Rules));
    all
}

impl Sdk {
    pub(crate) fn name(&self) -> String {
        match self {
            Sdk::Driver(name, _) => name.clone(),
            Sdk::Rust => "Rust 7.0.0".to_owned(),
            Sdk::OlderRust => "Rust 5.1.0".to_owned(),
            Sdk::Rules(rules) => rules.name.to_owned(),
        }
    }

    /// How fast time goes by itself. As fast as the pauses where it has to bring a window's end; slower elsewhere, so that a machine that
    /// is busy for a second is no fault.
    pub(crate) fn speed(&self, case: &Case) -> Option<u32> {
        match self {
            Sdk::Rules(_) => None,
            Sdk::Rust | Sdk::OlderRust => Some(1),
            Sdk::Driver(..) if case.is_refused() => Some(SCALE),
            Sdk::Driver(..) => Some(SCALE / 4),
        }
    }

    /// One click of an app; returns when the SDK has told it how it ended.
    pub(crate) async fn click(&self, url: &str, case: &Case, clock: &ManualClock) {
        let (base, resend, patience) = (format!("{url}/api/v1"), case.resend, case.timeout(SDKS_PATIENCE));
        match self {
            Sdk::Rules(rules) => rules.click(url, case, clock).await,
            Sdk::Rust => {
                let config = SendlyConfig::new().base_url(&base).timeout(patience);
                let sendly = Sendly::with_config(KEY, config);
                // How it ended is what Sendly counts.
                let _ = match resend {
                    true => sendly.verify().resend(ID).await,
                    false => sendly.verify().send(SendVerificationRequest::new(PHONE)).await,
                };
            }
            Sdk::OlderRust => {
                let config = sendly_older::SendlyConfig::new().base_url(&base).timeout(patience);
                let sendly = sendly_older::Sendly::with_config(KEY, config);
                let _ = match resend {
                    true => sendly.verify().resend(ID).await.map(drop),
                    false => sendly.verify().send(sendly_older::SendVerificationRequest::new(PHONE)).await.map(drop),
                };
            }
            Sdk::Driver(name, driver) => {
                let call = match resend {
                    true => json!({ "base_url": base, "timeout": patience.as_secs_f64(), "do": "resend", "id": ID }),
                    false => json!({ "base_url": base, "timeout": patience.as_secs_f64(), "do": "send", "to": PHONE }),
                };
                let (driver, name) = (Arc::clone(driver), name.clone());
                let called = tokio::task::spawn_blocking(move || {
                    let mut driver = driver.lock();
                    writeln!(driver.calls, "{call}").unwrap();
                    let mut outcome = String::new();
                    assert!(driver.outcomes.read_line(&mut outcome).unwrap() > 0, "{name} has ended");
                });
                tokio::time::timeout(Duration::from_secs(60), called).await.expect("an SDK hangs").unwrap();
            }
        }
    }
}
