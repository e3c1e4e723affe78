//! Gateways that share a Redis, before one upstream that counts what they send.

use std::collections::HashMap;
use std::time::Duration;

use sendly_gateway::clock::Clock;
use sendly_gateway::server::Running;

use crate::client::{Answer, KEY, Wire};
use crate::start::serve;
use crate::upstream::Upstream;

/// Long enough for a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A ledger that waits for Redis however busy the machine is: for tests in which it is never away.
pub(crate) const PATIENT: &str = "timeout = \"5s\"\nconnect_timeout = \"10s\"\n";

/// One that does not.
pub(crate) const HASTY: &str = "timeout = \"150ms\"\nconnect_timeout = \"500ms\"\n";

pub(crate) struct Fleet {
    pub(crate) gateways: Vec<Running>,
    pub(crate) upstream: Upstream,
}

/// The configuration of a gateway whose ledger is there, with these keys besides, and these limits.
pub(crate) fn config(url: &str, ledger: &str, rest: &str) -> String {
    format!(
        "hash_key = \"0123456789abcdef\"\n{rest}\n[ledger]\nbackend = \"redis\"\nurl = \"{url}\"\n{ledger}\n\
         [clients]\ntrusted_proxies = []\n"
    )
}

impl Fleet {
    /// So many gateways on one Redis, with the default limits.
    pub(crate) async fn of(many: usize, url: &str, ledger: &str) -> Self {
        let configs = vec![config(url, ledger, ""); many];
        Self::with(&configs).await
    }

    pub(crate) async fn with(configs: &[String]) -> Self {
        let upstream = Upstream::start().await;
        let mut gateways = Vec::new();
        for config in configs {
            gateways.push(serve(config, &upstream.url(), Clock::system()).await);
        }
        Self { gateways, upstream }
    }

    pub(crate) async fn ask(&self, nth: usize, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut wire = Wire::connect(self.gateways[nth].address).await;
        wire.request("POST", target, headers, body.as_bytes()).await;
        wire.answer().await.expect("the connection ends without an answer")
    }

    pub(crate) async fn send(&self, nth: usize, phone: &str) -> Answer {
        self.ask(nth, "/api/v1/verify", &[], &format!("{{\"to\":\"{phone}\"}}")).await
    }

    /// Sends a code that has to pass, and returns its id.
    pub(crate) async fn send_ok(&self, nth: usize, phone: &str) -> String {
        let answer = self.send(nth, phone).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn resend(&self, nth: usize, id: &str) -> Answer {
        self.ask(nth, &format!("/api/v1/verify/{id}/resend"), &[], "").await
    }

    /// How many more codes this phone may have.
    pub(crate) async fn codes_left(&self, nth: usize, phone: &str) -> usize {
        let key = [("authorization", "Bearer sk_test_v1_asks_what_is_left")];
        let body = format!("{{\"to\":\"{phone}\",\"app_name\":\"what is left\"}}");
        let mut left = 0;
        loop {
            match self.ask(nth, "/api/v1/verify", &key, &body).await.status.as_u16() {
                201 => left += 1,
                429 => return left,
                status => panic!("{status} while counting what is left"),
            }
        }
    }

    /// Sends to these phones from all gateways at once, so many each, and returns how each was answered.
    pub(crate) async fn storm(&self, phones: &[&str], each: usize) -> HashMap<u16, usize> {
        let mut answers = HashMap::new();
        let mut tasks = tokio::task::JoinSet::new();
        for (nth, gateway) in self.gateways.iter().enumerate() {
            for lane in 0..4 {
                let (address, phones) = (gateway.address, phones.iter().map(|phone| (*phone).to_owned()));
                let phones: Vec<String> = phones.collect();
                tasks.spawn(async move {
                    let mut wire = Wire::connect(address).await;
                    let mut statuses = Vec::new();
                    for round in 0..each.div_ceil(4) {
                        for place in 0..phones.len() {
                            // No two in the same order.
                            let phone = &phones[(place + nth + lane + round) % phones.len()];
                            let body = format!("{{\"to\":\"{phone}\"}}");
                            wire.request("POST", "/api/v1/verify", &[("authorization", KEY)], body.as_bytes()).await;
                            statuses.push(wire.answer().await.unwrap().status.as_u16());
                        }
                    }
                    statuses
                });
            }
        }
        for status in tasks.join_all().await.into_iter().flatten() {
            *answers.entry(status).or_insert(0) += 1;
        }
        answers
    }

    pub(crate) async fn admin(&self, nth: usize, path: &str) -> String {
        let mut wire = Wire::connect(self.gateways[nth].admin_address).await;
        wire.request("GET", path, &[], b"").await;
        String::from_utf8(wire.answer().await.unwrap().body).unwrap()
    }

    pub(crate) async fn metric(&self, nth: usize, series: &str) -> u64 {
        let text = self.admin(nth, "/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix("sendly_gateway_")?.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).trim().parse().unwrap()
    }

    /// How often Redis went away for this reason.
    pub(crate) async fn outages(&self, nth: usize, reason: &str) -> u64 {
        self.metric(nth, &format!("ledger_outages_total{{reason=\"{reason}\"}}")).await
    }

    /// Waits until a gateway asks Redis, or does not.
    pub(crate) async fn is_up(&self, nth: usize, up: bool) {
        let waiting = async { while self.metric(nth, "ledger_up").await != u64::from(up) {} };
        let state = self.gateways[nth].gateway().shared_ledger();
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("up: {up} does not come: {state:?}"));
    }

    /// Waits until it has told Redis all.
    pub(crate) async fn has_told_all(&self, nth: usize) {
        let waiting = async { while self.metric(nth, "ledger_backlog").await != 0 {} };
        tokio::time::timeout(PATIENCE, waiting).await.expect("something stays to be told");
    }
}
