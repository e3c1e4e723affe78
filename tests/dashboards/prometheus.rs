//! A Prometheus of the test's own, and its tool.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::client::Wire;

/// What the repository ships for Prometheus.
pub(crate) const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // Debian's has these as defaults of its own where the environment is not ours.
    command.env_remove("PROMETHEUS_OPTS").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn missing(program: &str) -> impl Fn(std::io::Error) -> Child + '_ {
    move |error| panic!("{program}: {error} (scripts/setup test installs it)")
}

/// What `promtool` says, with this on its standard input.
#[track_caller]
pub(crate) fn promtool(arguments: &[&str], input: &[u8]) {
    let started = command("promtool").args(arguments).stdin(Stdio::piped()).spawn();
    let mut child = started.unwrap_or_else(missing("promtool"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "promtool {}: {status}\n{said}", arguments.join(" "));
}

/// A Prometheus that scrapes. Dropping it ends it.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    /// One that scrapes these gateways five times a second, and evaluates the rules that are shipped.
    pub(crate) fn start(targets: &[SocketAddr]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("prometheus-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let targets: Vec<String> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let config = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n  evaluation_interval: 1s\n\
             rule_files: [\"{SHIPPED}/rules.yml\"]\n\
             scrape_configs:\n  - job_name: sendly-gateway\n    static_configs:\n      - targets: [{}]\n",
            targets.join(", ")
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let started = command("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .spawn();
        let mut child = started.unwrap_or_else(missing("prometheus"));
        // It tells which port the system gave it, and when it has read its configuration.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        while !said.contains("Server is ready") {
            let Some(Ok(line)) = lines.next() else { panic!("prometheus ends:\n{said}") };
            said.push_str(&line);
            said.push('\n');
        }
        let address =
            said.split("msg=\"Listening on\" address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.unwrap_or_else(|| panic!("it does not say where it listens:\n{said}")).parse().unwrap();
        // Read on, so that it is never held up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, folder }
    }

    /// The `data` of an answer of its API, or what is wrong.
    async fn ask(&self, target: &str) -> Result<Value, String> {
        let mut wire = Wire::connect(self.address).await;
        wire.request("GET", target, &[], b"").await;
        let answer = wire.answer().await.expect("prometheus closes the connection").json();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// The numbers that a query finds now.
    pub(crate) async fn query(&self, query: &str) -> Result<Vec<f64>, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let data = self.ask(&format!("/api/v1/query?query={encoded}")).await?;
        let number = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        Ok(data["result"].as_array().unwrap().iter().map(number).collect())
    }

    /// The rules that it has read.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let groups = self.ask("/api/v1/rules").await.unwrap();
        let rules = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
        rules.cloned().collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
