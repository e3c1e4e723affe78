//! What the gateway counts, in Prometheus' words.
//!
//! One registry per gateway, so that two fit in one process. Labels are closed sets: an operation, an outcome, a limit's name;
//! never a phone, an id or a key. The series that the request path touches are looked up once, here.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::policy::{Decision, Mode, Obstacle, Policy};
use crate::sendly::Operation;

/// What became of a request, as operators ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Passed through; no code was at stake.
    #[default]
    Passed,
    /// A code was allowed, and Sendly was asked for it.
    Allowed,
    /// It was an SDK's retry, and got the answer of the exchange that it repeats.
    Retry,
    /// A limit, or Sendly's hold on a phone, refused it.
    Refused,
    /// A throttle refused it.
    Throttled,
    /// It could not be understood, or was no route.
    Rejected,
    /// There was no room to count it.
    NoRoom,
    /// Something broke: Sendly, the way there, or the gateway.
    Failed,
    /// The client left before it could be told.
    Abandoned,
}

impl Outcome {
    /// Every outcome, in the order of its discriminants.
    pub const ALL: [Outcome; 9] = [
        Outcome::Passed,
        Outcome::Allowed,
        Outcome::Retry,
        Outcome::Refused,
        Outcome::Throttled,
        Outcome::Rejected,
        Outcome::NoRoom,
        Outcome::Failed,
        Outcome::Abandoned,
    ];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Allowed => "allowed",
            Outcome::Retry => "retry",
            Outcome::Refused => "refused",
            Outcome::Throttled => "throttled",
            Outcome::Rejected => "rejected",
            Outcome::NoRoom => "no_room",
            Outcome::Failed => "failed",
            Outcome::Abandoned => "abandoned",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Vec<[IntCounter; Outcome::ALL.len()]>,
    /// In the policy's order, and each in the order of [`DECISIONS`].
    decisions: Vec<[IntCounter; DECISIONS.len()]>,
    held: IntCounter,
    /// In the order of [`SETTLEMENTS`].
    settlements: Vec<IntCounter>,
    lookups: IntCounterVec,
    throttled: IntCounterVec,
    upstream: Vec<Histogram>,
    upstream_status: IntCounterVec,
    /// The series of `upstream_status` that have begun, by operation and status.
    upstream_answers: Vec<OnceLock<IntCounter>>,
    request_time: Histogram,
    in_flight: IntGauge,
    tracked: IntGauge,
    capacity: IntGauge,
    uncounted: IntCounter,
    lines_dropped: IntCounter,
    verifications: IntGauge,
    kept_answers: IntGauge,
    unclaimed: IntGauge,
    swept: IntCounterVec,
}

/// From a hit in memory to the longest that an SDK waits, in seconds.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];

/// What a limit says to a code.
const DECISIONS: [&str; 3] = ["allow", "deny", "shadow_deny"];

/// Every status that an answer may have, and 0 for what is none.
const STATUSES: usize = 600;

/// How and why a charge may be settled.
const SETTLEMENTS: [(&str, &str); 10] = [
    ("kept", "success"),
    ("kept", "server_error"),
    ("kept", "timeout"),
    ("kept", "broken"),
    ("kept", "cut"),
    ("given_back", "not_sent"),
    ("given_back", "rejected"),
    ("given_back", "delivery_failed"),
    ("given_back", "replayed"),
    ("given_back", "sendly_limit"),
];

impl Metrics {
    /// A fresh set of metrics, all at zero.
    ///
    /// # Errors
    /// Never for the names that are written here; a test registers them.
    pub fn new(policy: &Policy) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(format!("sendly_gateway_{name}"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("sendly_gateway_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let requests =
            counter("requests_total", "Requests, by operation and what became of them.", &["operation", "outcome"])?;
        let requests = Operation::ALL
            .iter()
            .map(|operation| {
                Outcome::ALL.map(|outcome| requests.with_label_values(&[operation.name(), outcome.name()]))
            })
            .collect();
        let upstream = HistogramVec::new(
            HistogramOpts::new("sendly_gateway_upstream_seconds", "Time until Sendly's answer, by operation.")
                .buckets(BUCKETS.to_vec()),
            &["operation"],
        )?;
        registry.register(Box::new(upstream.clone()))?;
        let upstream = Operation::ALL.iter().map(|operation| upstream.with_label_values(&[operation.name()])).collect();
        let decisions = counter(
            "decisions_total",
            "Verdicts of each limit over codes; `hold` is Sendly's own refusal, remembered.",
            &["limit", "decision"],
        )?;
        let settlements = counter("settlements_total", "Charges settled, by how and why.", &["settlement", "reason"])?;
        let request_time = Histogram::with_opts(
            HistogramOpts::new("sendly_gateway_request_seconds", "Time from a request's header to its answer's end.")
                .buckets(BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(request_time.clone()))?;
        let total = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let total = IntCounter::new(format!("sendly_gateway_{name}"), help)?;
            registry.register(Box::new(total.clone()))?;
            Ok(total)
        };
        let build = IntGaugeVec::new(
            Opts::new("sendly_gateway_build_info", "Always 1; the build is in the labels."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;

        let metrics = Self {
            requests,
            decisions: policy
                .limits()
                .iter()
                .map(|limit| DECISIONS.map(|decision| decisions.with_label_values(&[limit.name.as_str(), decision])))
                .collect(),
            held: decisions.with_label_values(&["hold", "deny"]),
            settlements: SETTLEMENTS
                .map(|(settlement, reason)| settlements.with_label_values(&[settlement, reason]))
                .into(),
            lookups: counter("lookups_total", "Look-ups of a verification's phone at Sendly.", &["result"])?,
            throttled: counter("throttled_total", "Requests that a throttle refused.", &["throttle"])?,
            upstream,
            upstream_status: counter(
                "upstream_responses_total",
                "Sendly's answers, by operation and status.",
                &["operation", "status"],
            )?,
            upstream_answers: (0..Operation::ALL.len() * STATUSES).map(|_| OnceLock::new()).collect(),
            request_time,
            in_flight: gauge("in_flight", "Requests and exchanges with Sendly that are under way.")?,
            tracked: gauge("tracked_keys", "Phones, verifications and accounts that have a log.")?,
            capacity: gauge("tracked_keys_max", "How many there is room for.")?,
            uncounted: total(
                "uncounted_charges_total",
                "Charges that went uncounted per a key because there was no room for it.",
            )?,
            lines_dropped: total(
                "access_log_dropped_total",
                "Lines of the access log that standard error did not take.",
            )?,
            verifications: gauge("known_verifications", "Verifications whose phone is known.")?,
            kept_answers: gauge("kept_answers", "Answers that are kept for a retry.")?,
            unclaimed: gauge(
                "unclaimed_exchanges",
                "Exchanges in flight whose client has gone; a retry may adopt them.",
            )?,
            swept: counter("swept_total", "Entries dropped because nothing needs them any more.", &["what"])?,
            registry,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// A series that is absent until its first event cannot be alerted on.
    fn start_at_zero(&self) {
        for result in ["found", "not_found", "unavailable"] {
            self.lookups.with_label_values(&[result]);
        }
        for what in ["keys", "verifications", "answers", "throttles"] {
            self.swept.with_label_values(&[what]);
        }
    }

    /// A request ended.
    pub fn request(&self, operation: Operation, outcome: Outcome, took: Duration) {
        if let Some(counter) = self.requests.get(operation as usize).and_then(|row| row.get(outcome as usize)) {
            counter.inc();
        }
        self.request_time.observe(took.as_secs_f64());
    }

    /// A code was judged.
    pub fn decision(&self, policy: &Policy, decision: &Decision) {
        let limits = policy.limits().iter().zip(&self.decisions).enumerate();
        for (place, (limit, [allow, deny, shadow_deny])) in limits.filter(|(place, _)| decision.met.contains(*place)) {
            match (decision.reached.contains(place), limit.mode) {
                (false, _) => allow.inc(),
                (true, Mode::Enforce) => deny.inc(),
                (true, Mode::Shadow) => shadow_deny.inc(),
            }
        }
        if decision.refusal.is_some_and(|refusal| refusal.by == Obstacle::Hold) {
            self.held.inc();
        }
    }

    /// A charge was settled, in one of the ways and for one of the reasons that there are.
    pub fn settlement(&self, settlement: &'static str, reason: &'static str) {
        let place = SETTLEMENTS.iter().position(|known| *known == (settlement, reason));
        if let Some(counter) = place.and_then(|place| self.settlements.get(place)) {
            counter.inc();
        }
    }

    /// An unknown id was looked up.
    pub fn lookup(&self, result: &'static str) {
        self.lookups.with_label_values(&[result]).inc();
    }

    /// A throttle refused a request.
    pub fn throttled(&self, throttle: &str) {
        self.throttled.with_label_values(&[throttle]).inc();
    }

    /// Sendly answered.
    pub fn upstream(&self, operation: Operation, status: u16, took: Duration) {
        if let Some(histogram) = self.upstream.get(operation as usize) {
            histogram.observe(took.as_secs_f64());
        }
        let status = match status {
            100..=599 => status,
            _ => 0, // not a status: one label for whatever it was
        };
        if let Some(answers) = self.upstream_answers.get(operation as usize * STATUSES + usize::from(status)) {
            let begin = || self.upstream_status.with_label_values(&[operation.name(), status.to_string().as_str()]);
            answers.get_or_init(begin).inc();
        }
    }

    /// Entries were dropped.
    pub fn swept(&self, what: &'static str, how_many: usize) {
        self.swept.with_label_values(&[what]).inc_by(how_many as u64);
    }

    /// The sizes of what is kept, as they are now.
    pub fn sizes(&self, sizes: Sizes) {
        let set = |gauge: &IntGauge, size: usize| gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
        set(&self.in_flight, sizes.in_flight);
        set(&self.tracked, sizes.tracked);
        set(&self.capacity, sizes.capacity);
        let raise = |total: &IntCounter, to: u64| total.inc_by(to.saturating_sub(total.get()));
        raise(&self.uncounted, sizes.uncounted as u64);
        raise(&self.lines_dropped, sizes.lines_dropped);
        set(&self.verifications, sizes.verifications);
        set(&self.kept_answers, sizes.kept_answers);
        set(&self.unclaimed, sizes.unclaimed);
    }

    /// The text exposition format, version 0.0.4.
    pub fn expose(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be encoded");
        }
        text
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Requests and exchanges under way.
    pub in_flight: usize,
    /// Keys with a log.
    pub tracked: usize,
    /// Room for them.
    pub capacity: usize,
    /// Charges that found none.
    pub uncounted: usize,
    /// Verifications whose phone is known.
    pub verifications: usize,
    /// Answers kept for a retry.
    pub kept_answers: usize,
    /// Exchanges in flight whose client has gone.
    pub unclaimed: usize,
    /// Lines of the access log that were dropped.
    pub lines_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_outcomes_stand_where_they_are_looked_up() {
        assert!(Operation::ALL.iter().enumerate().all(|(place, operation)| *operation as usize == place));
        assert!(Outcome::ALL.iter().enumerate().all(|(place, outcome)| *outcome as usize == place));
    }

    #[test]
    fn each_answer_counts_under_its_operation_and_status() {
        let metrics = Metrics::new(&Policy::default()).unwrap();
        for (operation, status) in
            [(Operation::Send, 201), (Operation::Send, 201), (Operation::Other, 599), (Operation::Get, 777)]
        {
            metrics.upstream(operation, status, Duration::from_millis(3));
        }
        let text = String::from_utf8(metrics.expose()).unwrap();
        for line in [
            r#"sendly_gateway_upstream_responses_total{operation="send",status="201"} 2"#,
            r#"sendly_gateway_upstream_responses_total{operation="other",status="599"} 1"#,
            r#"sendly_gateway_upstream_responses_total{operation="get",status="0"} 1"#,
            r#"sendly_gateway_upstream_seconds_count{operation="send"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("upstream_responses_total{").count(), 3, "what has not come has no series");
    }

    #[test]
    fn what_is_counted_is_exposed() {
        let metrics = Metrics::new(&Policy::default()).unwrap();
        metrics.request(Operation::Resend, Outcome::Refused, Duration::from_millis(3));
        metrics.settlement("kept", "success");
        let text = String::from_utf8(metrics.expose()).unwrap();
        for line in [
            r#"sendly_gateway_requests_total{operation="resend",outcome="refused"} 1"#,
            r#"sendly_gateway_requests_total{operation="send",outcome="allowed"} 0"#,
            r#"sendly_gateway_settlements_total{reason="success",settlement="kept"} 1"#,
            r#"sendly_gateway_request_seconds_bucket{le="0.005"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
