//! One click, one SMS: what one click of an app costs with each SDK, version and fault of Sendly's, without the gateway and with it.
//!
//! Python's, Node's and Rust's SDKs are run. For those whose packages cannot be had, a client follows their documented rules
//! (`clicks/rules.rs`). All pauses are a twentieth of what they are, but Rust's, which cannot be shortened. Timeouts are shorter only
//! where something waits for them, and so that more than a real second lies between an answer and the end of an SDK's patience.
//! `cargo test --test clicks -- --nocapture` prints the table that `docs/sendly.md` shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test says what is wrong by panicking, and this one prints a table"
)]

#[path = "../support/client.rs"]
#[allow(dead_code, reason = "other suites need the rest")]
mod client;
mod rules;
mod sdks;
#[path = "sendly.rs"]
mod sendly_with_faults;
#[path = "../support/start.rs"]
#[allow(dead_code, reason = "other suites need the rest")]
mod start;
#[path = "../support/upstream.rs"]
#[allow(dead_code, reason = "other suites need the rest")]
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use sendly_gateway::clock::{Clock, ManualClock};
use sendly_gateway::server::Running;
use tokio::task::JoinHandle;

use sdks::Sdk;
use sendly_with_faults::{Fault, Sendly};

const PHONE: &str = "+15550100123";
const KEY: &str = "sk_test_v1_c2VuZGx5LWdhdGV3YXk";
const ID: &str = "ver_00000000000000000000000000000001";

/// How much shorter pauses are.
const SCALE: u32 = 20;

/// How long an SDK waits for an answer, in seconds.
const SDKS_PATIENCE: u64 = 30;

fn scaled(seconds: u64) -> Duration {
    Duration::from_secs(seconds) / SCALE
}

/// What goes wrong with a click.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    fault: Fault,
    /// A limit of the gateway's that refuses it. Sendly has none such.
    limit: Option<&'static str>,
    resend: bool,
    /// How much shorter its timeouts are: those that something waits for.
    scale: u32,
}

const fn fails(name: &'static str, fault: Fault) -> Case {
    Case { name, fault, limit: None, resend: false, scale: 1 }
}

/// An answer comes so many seconds late. Where it comes shortly before or after a timeout, both are less short.
const fn late(name: &'static str, seconds: u64, scale: u32) -> Case {
    Case { scale, ..fails(name, Fault::After(seconds)) }
}

const fn refused(name: &'static str, limit: &'static str, resend: bool) -> Case {
    Case { name, fault: Fault::None, limit: Some(limit), resend, scale: 1 }
}

const CASES: [Case; 12] = [
    fails("500", Fault::Status(500)),
    fails("503", Fault::Status(503)),
    fails("closed, no head", Fault::NoHead),
    fails("closed after the head", Fault::HeadAlone),
    fails("cut body", Fault::CutBody),
    late("answer after 22 s", 22, 4),
    late("after 45 s", 45, 10),
    refused("window, 40 s", "per = \"phone\"\nwindow = \"40s\"", false),
    refused("window, 100 s", "per = \"phone\"\nwindow = \"100s\"", false),
    refused("cooldown, 40 s", "per = \"verification\"\nwindow = \"40s\"", true),
    fails("Sendly's 429, 40 s", Fault::Limit(40)),
    fails("Sendly's 429, 100 s", Fault::Limit(100)),
];

impl Case {
    fn is_refused(&self) -> bool {
        self.limit.is_some() || matches!(self.fault, Fault::Limit(_))
    }

    /// A timeout of so many seconds.
    fn timeout(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds) / self.scale
    }
}

/// The time of the gateway's and Sendly's limits. It goes by itself, or an SDK that is only rules moves it by its pauses.
struct Time {
    clock: ManualClock,
    going: Option<JoinHandle<()>>,
}

impl Time {
    fn start(speed: Option<u32>) -> Self {
        let clock = ManualClock::new(start::START);
        let going = speed.map(|speed| {
            let clock = clock.clone();
            tokio::spawn(async move {
                let real = Clock::system();
                let mut before = real.now();
                loop {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let now = real.now();
                    clock.advance(now.since(before) * speed);
                    before = now;
                }
            })
        });
        Self { clock, going }
    }
}

impl Drop for Time {
    fn drop(&mut self) {
        if let Some(going) = &self.going {
            going.abort();
        }
    }
}

async fn gateway(case: &Case, upstream: &str, clock: &ManualClock) -> Running {
    let limit = match case.limit {
        Some(limit) => format!("[[limits]]\nname = \"a\"\nmax = 1\n{limit}\n"),
        None => "limits = []\n".to_owned(),
    };
    let (answer, exchange) = match case.fault {
        Fault::After(_) => (case.timeout(20), case.timeout(60)),
        // Nothing is late but a machine that is busy.
        _ => (Duration::from_secs(15), Duration::from_secs(20)),
    };
    let (answer, exchange) = (answer.as_millis(), exchange.as_millis());
    let times = format!(
        "[upstream]\nanswer_within = \"{answer}ms\"\nexchange_timeout = \"{exchange}ms\"\nconnect_timeout = \"1s\"\n"
    );
    start::serve(&format!("{limit}{times}"), upstream, clock.clone().into()).await
}

/// How many SMS one click buys: without the gateway, where the case is Sendly's, and with it.
async fn cell(sdk: &Arc<Sdk>, case: Case) -> (Option<usize>, usize) {
    let direct = match case.limit {
        Some(_) => None,
        None => {
            let time = Time::start(sdk.speed(&case));
            let sendly = Sendly::start(&case, time.clock.clone()).await;
            sdk.click(&sendly.url(), &case, &time.clock).await;
            Some(sendly.bought())
        }
    };
    let time = Time::start(sdk.speed(&case));
    let sendly = Sendly::start(&case, time.clock.clone()).await;
    let running = gateway(&case, &sendly.url(), &time.clock).await;
    let mut before = 0;
    if case.limit.is_some() {
        // The code that fills the limit, with another body.
        let mut wire = client::Wire::connect(running.address).await;
        let (target, body) = match case.resend {
            true => (format!("/api/v1/verify/{ID}/resend"), String::new()),
            false => ("/api/v1/verify".to_owned(), format!("{{\"to\":\"{PHONE}\",\"app_name\":\"first\"}}")),
        };
        let key = format!("Bearer {KEY}");
        wire.request("POST", &target, &[("authorization", &key)], body.as_bytes()).await;
        assert!(wire.answer().await.unwrap().status.is_success());
        before = sendly.bought();
    }
    sdk.click(&format!("http://{}", running.address), &case, &time.clock).await;
    // Where the client gave up first, the exchange goes on.
    running.gateway().work().close();
    tokio::time::timeout(Duration::from_secs(20), running.gateway().work().wait()).await.unwrap();
    (direct, sendly.bought() - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_click_buys_one_sms_with_every_version_of_every_sdk() {
    let mut rows = Vec::new();
    for sdk in sdks::all() {
        let sdk = Arc::new(sdk);
        rows.push(tokio::spawn(async move {
            let mut cells = Vec::new();
            for case in CASES {
                cells.push(cell(&sdk, case).await);
            }
            (sdk.name(), cells)
        }));
    }
    let mut table =
        format!("| SDK | {} |\n|---|{}\n", CASES.map(|case| case.name).join(" | "), "---|".repeat(CASES.len()));
    let mut wrong = Vec::new();
    for row in rows {
        let (name, cells) = row.await.unwrap();
        let mut line = format!("| {name} |");
        for (case, (direct, through)) in CASES.iter().zip(cells) {
            let right = usize::from(!case.is_refused());
            if through != right {
                wrong.push(format!("{name}: {}: {through} SMS through the gateway", case.name));
            }
            line += &direct.map_or_else(|| format!(" {through} |"), |direct| format!(" {direct} → {through} |"));
        }
        table += &format!("{line}\n");
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sendly.md")).unwrap();
    let rows = |text: &str| {
        let is_row = |line: &&str| line.starts_with("| ") && line.contains(" → ") || line.starts_with("| SDK | 500 |");
        text.lines().filter(is_row).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rows(&documented), rows(&table), "docs/sendly.md shows another table");
    for rules in rules::ALL {
        let row = format!("| {} | {} |", rules.name, rules.source);
        assert!(documented.contains(&row), "docs/sendly.md does not say where this was read: {row}");
    }
}
