//! A gateway in this process, on ports that the system chooses, with a clock that the test moves.

use std::time::Duration;

use sendly_gateway::clock::{Clock, ManualClock, Moment};
use sendly_gateway::config::Config;
use sendly_gateway::handover::snapshot;
use sendly_gateway::ledger::journal::record::Record;
use sendly_gateway::server::{self, Applied, Running, Sockets};

use crate::client::{Answer, KEY, Wire};
use crate::upstream::Upstream;

/// Somewhere in 2026; a test that cares moves it.
pub(crate) const START: Moment = Moment::from_micros(1_795_424_400_000_000);

/// A gateway before a scripted upstream.
pub(crate) struct Gateway {
    pub(crate) running: Running,
    pub(crate) upstream: Upstream,
    pub(crate) clock: ManualClock,
}

/// A gateway with the default configuration.
pub(crate) async fn gateway() -> Gateway {
    gateway_with("").await
}

/// A gateway with the default configuration, but for this TOML. Where it listens and whom it asks is up to the test suite.
pub(crate) async fn gateway_with(config: &str) -> Gateway {
    let upstream = Upstream::start().await;
    let clock = ManualClock::new(START);
    let running = serve(config, &upstream.url(), clock.clone().into()).await;
    Gateway { running, upstream, clock }
}

/// A configuration of this TOML. Where it listens and whom it asks is up to the test suite.
pub(crate) fn parse(config: &str, upstream: &str) -> Config {
    let given =
        [("LISTEN", "127.0.0.1:0"), ("ADMIN_LISTEN", "127.0.0.1:0"), ("UPSTREAM_URL", upstream), ("WORKERS", "2")];
    let environment = given.map(|(key, value)| (format!("SENDLY_GATEWAY_{key}"), value.to_owned()));
    Config::parse(config, "test", environment.into_iter()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

pub(crate) async fn serve(config: &str, upstream: &str, clock: Clock) -> Running {
    let config = parse(config, upstream);
    let sockets = Sockets::bind(&config).unwrap();
    let running = server::start(config, sockets, clock).await.unwrap();
    prove_keys(&running);
    running
}

/// Has a gateway know that Sendly accepts the keys of the tests, as it does after the first answer: so that tests which are not about
/// that do not each begin with it.
fn prove_keys(running: &Running) {
    let gateway = running.gateway();
    let hash_key = gateway.config().hash_key;
    for key in [KEY, OTHER_KEY, COUNTING_KEY] {
        let record = Record::Accepted { account: hash_key.account(key.as_bytes()), at: gateway.now() };
        snapshot::take_records(gateway, &record.encode(), &mut snapshot::Sender::new(true), false).unwrap();
    }
}

/// Another key that Sendly accepts.
pub(crate) const OTHER_KEY: &str = "Bearer sk_test_v1_other";

/// The key on which it is counted how many codes are left.
const COUNTING_KEY: &str = "Bearer sk_test_v1_asks_what_is_left";

/// Gives a gateway another configuration, as a program does that was told to load it.
pub(crate) async fn reload(running: &Running, config: &str, upstream: &str) -> Result<Applied, Vec<String>> {
    match running.reload().prepare(parse(config, upstream)).await {
        Ok(prepared) => Ok(prepared.apply()),
        Err(mistakes) => {
            running.reload().reject();
            Err(mistakes)
        }
    }
}

impl Gateway {
    pub(crate) async fn connect(&self) -> Wire {
        Wire::connect(self.running.address).await
    }

    /// One request on a connection of its own, and its answer.
    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.request(method, target, headers, body.as_bytes()).await;
        wire.answer().await.expect("the connection ends without an answer")
    }

    pub(crate) async fn send(&self, phone: &str) -> Answer {
        self.ask("POST", "/api/v1/verify", &[], &send_body(phone)).await
    }

    pub(crate) async fn resend(&self, id: &str) -> Answer {
        self.ask("POST", &format!("/api/v1/verify/{id}/resend"), &[], "").await
    }

    /// Sends a code that has to pass, and returns its id.
    pub(crate) async fn send_ok(&self, phone: &str) -> String {
        let answer = self.send(phone).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Gives it another configuration, before the same upstream.
    pub(crate) async fn reload(&self, config: &str) -> Applied {
        reload(&self.running, config, &self.upstream.url()).await.unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    }

    pub(crate) fn wait(&self, span: Duration) {
        self.clock.advance(span);
    }

    /// What `/metrics` says.
    pub(crate) async fn metrics(&self) -> String {
        let mut wire = Wire::connect(self.running.admin_address).await;
        wire.request("GET", "/metrics", &[], b"").await;
        String::from_utf8(wire.answer().await.unwrap().body).unwrap()
    }

    /// How many charges were settled so.
    pub(crate) async fn settled(&self, settlement: &str, reason: &str) -> u64 {
        let labels = format!("reason=\"{reason}\",settlement=\"{settlement}\"");
        self.metric(&format!("sendly_gateway_settlements_total{{{labels}}}")).await
    }

    /// What `decisions_total` says of a limit.
    pub(crate) async fn decided(&self, limit: &str, decision: &str) -> u64 {
        let labels = format!("{{decision=\"{decision}\",limit=\"{limit}\"}}");
        self.metric(&format!("sendly_gateway_decisions_total{labels}")).await
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn is_idle(&self) {
        let work = self.running.gateway().work();
        work.close();
        tokio::time::timeout(Duration::from_secs(20), work.wait()).await.expect("something stays in flight");
    }

    /// Waits until a gauge says so.
    pub(crate) async fn shows(&self, series: &str, value: u64) {
        let shown = async { while self.metric(series).await != value {} };
        tokio::time::timeout(Duration::from_secs(20), shown).await.expect(series);
    }

    /// How many more codes this phone may have. Asked for on a key and in a body of their own, so that no answer of before
    /// speaks for them.
    pub(crate) async fn codes_left(&self, phone: &str) -> usize {
        let key = [("authorization", COUNTING_KEY)];
        let body = format!("{{\"to\":\"{phone}\",\"app_name\":\"what is left\"}}");
        self.upstream.behave();
        let mut left = 0;
        loop {
            match self.ask("POST", "/api/v1/verify", &key, &body).await.status.as_u16() {
                201 => left += 1,
                429 => return left,
                status => panic!("{status} while counting what is left"),
            }
        }
    }

    /// The value of one series.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
    }
}

pub(crate) fn send_body(phone: &str) -> String {
    format!("{{\"to\":\"{phone}\"}}")
}
