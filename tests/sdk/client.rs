//! One of Sendly's SDKs as a client of the gateway: the Rust one in this process, the others by remote control.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::rust_sdk;

/// A key of the kind for tests: on it, answers carry the code.
pub(crate) const API_KEY: &str = "sk_test_v1_c2VuZGx5LWdhdGV3YXk";

/// Far beyond any call of these tests: the longest takes four seconds.
const DRIVER_HANGS: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    Python,
    Node,
    Rust,
}

/// What an application sees of one call.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    /// The error's type, or the answer's.
    pub(crate) class: String,
    /// The error's code.
    #[serde(rename = "error")]
    pub(crate) code: Option<String>,
    pub(crate) http: Option<u16>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) remaining_attempts: Option<u64>,
    #[allow(dead_code, reason = "printed when an assertion fails")]
    pub(crate) message: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) phone: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) delivery_status: Option<String>,
    pub(crate) sandbox_code: Option<String>,
    /// How long the application waited, the SDK's own sleeps and retries included.
    pub(crate) elapsed_ms: u64,
}

impl Outcome {
    pub(crate) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_else(|| panic!("no id: {self:?}"))
    }
}

pub(crate) enum Client {
    Driver(Driver),
    Rust(Box<rust_sdk::Client>),
}

impl Client {
    /// With every default of the SDK but the timeout of one attempt.
    pub(crate) fn new(sdk: Sdk, base_url: &str, timeout: Duration) -> Self {
        match sdk {
            Sdk::Python => Client::Driver(Driver::start(
                Command::new(in_repository(".cache/sdk-python/bin/python"))
                    .arg(in_repository("tests/sdk/python/driver.py")),
                ".cache/sdk-python/installed",
                base_url,
                timeout,
            )),
            Sdk::Node => Client::Driver(Driver::start(
                Command::new("node").arg(in_repository("tests/sdk/node/driver.mjs")),
                "tests/sdk/node/node_modules/.installed",
                base_url,
                timeout,
            )),
            Sdk::Rust => Client::Rust(Box::new(rust_sdk::Client::new(API_KEY, base_url, timeout))),
        }
    }

    pub(crate) fn send(&mut self, to: &str) -> Outcome {
        match self {
            Client::Driver(driver) => driver.call(&json!({ "do": "send", "to": to })),
            Client::Rust(client) => client.send(to),
        }
    }

    pub(crate) fn resend(&mut self, id: &str) -> Outcome {
        match self {
            Client::Driver(driver) => driver.call(&json!({ "do": "resend", "id": id })),
            Client::Rust(client) => client.resend(id),
        }
    }

    pub(crate) fn check(&mut self, id: &str, code: &str) -> Outcome {
        match self {
            Client::Driver(driver) => driver.call(&json!({ "do": "check", "id": id, "code": code })),
            Client::Rust(client) => client.check(id, code),
        }
    }

    pub(crate) fn get(&mut self, id: &str) -> Outcome {
        match self {
            Client::Driver(driver) => driver.call(&json!({ "do": "get", "id": id })),
            Client::Rust(client) => client.get(id),
        }
    }
}

/// A process that runs an SDK: a line in, a line out (`README.md` beside this file).
pub(crate) struct Driver {
    process: Child,
    calls: ChildStdin,
    outcomes: Receiver<String>,
}

impl Driver {
    fn start(command: &mut Command, installed: &str, base_url: &str, timeout: Duration) -> Self {
        let help = "Sendly's SDKs are not installed: run tests/sdk/install (scripts/test does).";
        assert!(Path::new(&in_repository(installed)).exists(), "{help} {installed} is missing.");
        let mut process = command
            .args([base_url, API_KEY, &timeout.as_secs_f64().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{help} {command:?}: {error}"));
        let calls = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let (sender, outcomes) = mpsc::channel();
        std::thread::spawn(move || answers.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, calls, outcomes }
    }

    fn call(&mut self, call: &Value) -> Outcome {
        writeln!(self.calls, "{call}").unwrap_or_else(|error| panic!("the driver has ended: {error}"));
        let line = self.outcomes.recv_timeout(DRIVER_HANGS).unwrap_or_else(|error| panic!("{call}: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl fmt::Display for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

fn in_repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}
