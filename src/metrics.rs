//! What the gateway counts, in Prometheus' words.
//!
//! One registry per gateway, so that two fit in one process. Labels are closed sets: an operation, an outcome, a limit's name;
//! never a phone, an id or a key. The series that the request path touches are looked up once: when the gateway starts, when a
//! configuration is loaded ([`Series`]), or when they begin. A limit has none for what it can never say. `docs/metrics.md` tells of each, and a test holds it to that.

mod addresses;
mod caps;
mod codes;
mod journal;
mod keys;
mod ledger;
mod limits;
pub(crate) mod refused;
mod register;
mod reloads;
pub(crate) mod sample;
mod state;
mod upstream;

use std::time::Duration;

use prometheus::{Encoder, Histogram, IntCounter, Registry, TextEncoder};

use crate::api::Operation;
use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::Verification;
use crate::policy::tariff::Tariff;
use crate::policy::{Decision, Kind, Policy, Refusal, Subject};
pub(crate) use addresses::Unread;
pub(crate) use caps::{Capped, Late, TurnedAway};
pub(crate) use codes::Fate;
pub(crate) use journal::{Found as Restored, Saved};
pub(crate) use keys::{KeySizes, Unserved};
pub(crate) use ledger::Shared;
pub(crate) use limits::Series;
use refused::Refused;
use register::Register;
pub(crate) use reloads::ReloadResult;
pub(crate) use state::{Sizes, Swept};
pub(crate) use upstream::{Found, SettlementReason};

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
    /// There were as many requests, or connections to Sendly, as there may be.
    Overloaded,
    /// Something broke: Sendly, the way there, or the gateway.
    Failed,
    /// The client left before it could be told.
    Abandoned,
}

impl Outcome {
    /// Every outcome, in the order of its discriminants.
    pub const ALL: [Outcome; 10] = [
        Outcome::Passed,
        Outcome::Allowed,
        Outcome::Retry,
        Outcome::Refused,
        Outcome::Throttled,
        Outcome::Rejected,
        Outcome::NoRoom,
        Outcome::Overloaded,
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
            Outcome::Overloaded => "overloaded",
            Outcome::Failed => "failed",
            Outcome::Abandoned => "abandoned",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By operation, and each by outcome.
    requests: Vec<[IntCounter; Outcome::ALL.len()]>,
    took: Vec<Histogram>,
    limits: limits::Limits,
    codes: codes::Codes,
    upstream: upstream::UpstreamMetrics,
    state: state::StateMetrics,
    addresses: addresses::Addresses,
    caps: caps::OfCaps,
    ledger: ledger::OfLedger,
    keys: keys::OfKeys,
    reloads: reloads::Reloads,
    journal: journal::Journal,
    whom: Refused,
    changes: [IntCounter; Change::ALL.len()],
}

/// What was changed over the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The counts of a phone were cleared.
    ClearPhone,
    /// A phone was made exempt.
    Exempt,
    /// A phone is exempt no more.
    Unexempt,
    /// What is logged.
    LogFilter,
}

impl Change {
    const ALL: [Change; 4] = [Change::ClearPhone, Change::Exempt, Change::Unexempt, Change::LogFilter];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Change::ClearPhone => "clear_phone",
            Change::Exempt => "exempt",
            Change::Unexempt => "unexempt",
            Change::LogFilter => "log_filter",
        }
    }
}

/// From a hit in memory to the longest that an SDK waits, in seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];

/// One of something for each operation, in their order.
fn of_operations<T>(one: impl Fn(&str) -> T) -> Vec<T> {
    Operation::ALL.iter().map(|operation| one(operation.name())).collect()
}

impl Metrics {
    /// A fresh set of metrics, all at zero.
    ///
    /// # Errors
    /// Never for the names that are written here; a test registers them.
    pub fn new(started: Moment) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let register = Register(&registry);
        let requests = register.counters(
            "requests_total",
            "Requests, by operation and what became of them.",
            &["operation", "outcome"],
        )?;
        let took = register.histograms(
            "request_seconds",
            "Time from a request's header to its answer's end, by operation.",
            "operation",
            SECONDS,
        )?;
        let changes = register.counters("admin_changes_total", "What was changed over the admin API.", &["action"])?;
        let outcomes =
            |operation: &str| Outcome::ALL.map(|outcome| requests.with_label_values(&[operation, outcome.name()]));
        Ok(Self {
            requests: of_operations(outcomes),
            took: of_operations(|operation| took.with_label_values(&[operation])),
            limits: limits::Limits::new(register)?,
            codes: codes::Codes::new(register)?,
            upstream: upstream::UpstreamMetrics::new(register)?,
            state: state::StateMetrics::new(register)?,
            addresses: addresses::Addresses::new(register)?,
            caps: caps::OfCaps::new(register)?,
            ledger: ledger::OfLedger::new(register)?,
            keys: keys::OfKeys::new(register)?,
            reloads: reloads::Reloads::new(register, started)?,
            journal: journal::Journal::new()?,
            whom: Refused::default(),
            changes: Change::ALL.map(|change| changes.with_label_values(&[change.name()])),
            registry,
        })
    }

    /// The series of a configuration's limits, throttles and prices. New ones begin at zero.
    pub fn series<'n>(&self, policy: &Policy, throttles: impl Iterator<Item = &'n str>, tariff: Tariff) -> Series {
        self.limits.series(policy, throttles, tariff)
    }

    /// A reload of the configuration ended so.
    pub fn reloaded(&self, result: ReloadResult, now: Moment) {
        self.reloads.ended(result, now);
    }

    /// A request ended.
    pub fn request(&self, operation: Operation, outcome: Outcome, took: Duration) {
        if let Some(counter) = self.requests.get(operation as usize).and_then(|row| row.get(outcome as usize)) {
            counter.inc();
        }
        if let Some(histogram) = self.took.get(operation as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A code was judged, to a phone that is exempt or not. That took so long, unless it waited for others.
    pub fn decision(&self, series: &Series, decision: &Decision, is_exempt: bool, took: Option<Duration>) {
        self.limits.decision(series, decision, is_exempt, took);
    }

    /// Something was changed over the admin API.
    pub fn changed(&self, change: Change) {
        if let Some(counter) = self.changes.get(change as usize) {
            counter.inc();
        }
    }

    /// A code was refused by a limit, or by Sendly's hold.
    pub fn refused(&self, series: &Series, refusal: &Refusal, kind: Kind, subject: &Subject) {
        self.limits.refused(series, refusal);
        self.codes.ended(&series.tariff, Fate::Refused, kind, subject.phone);
        self.whom.note(refusal.by, series.per(refusal.by), subject);
    }

    /// Whom limits refused of late.
    pub fn whom(&self) -> &Refused {
        &self.whom
    }

    /// A charge was settled.
    pub(crate) fn settlement(&self, reason: SettlementReason) {
        self.upstream.settlement(reason);
    }

    /// A code whose charge was settled went to this phone, as far as that is known, or would have.
    pub fn code(&self, series: &Series, fate: Fate, kind: Kind, phone: Option<Phone>) {
        self.codes.ended(&series.tariff, fate, kind, phone);
    }

    /// A check confirmed a verification.
    pub fn confirmed(&self, verification: Option<Verification>, phone: Option<Phone>) {
        self.codes.confirmed(verification, phone);
    }

    /// An unknown id was looked up.
    pub fn lookup(&self, found: Found) {
        self.upstream.lookup(found);
    }

    /// Sendly answered.
    pub fn upstream(&self, operation: Operation, status: u16, took: Duration) {
        self.upstream.answered(operation, status, took);
    }

    /// A sweep ended.
    pub fn swept(&self, swept: Swept, took: Duration, ended: Moment) {
        self.state.swept(swept, took, ended);
    }

    /// The sizes of what is kept, as they are now.
    pub fn sizes(&self, sizes: Sizes) {
        self.state.sizes(sizes);
    }

    /// What has a cap, as it is now.
    pub fn capped(&self, capped: &Capped) {
        self.caps.set(capped);
    }

    /// State is kept that outlives the process, and this was found of it.
    pub fn restored(&self, found: Restored) {
        self.journal.begin(&self.registry, found);
    }

    /// How much of the state is on the disk now.
    pub fn saved(&self, saved: Saved) {
        self.journal.stands(saved);
    }

    /// How it stands with the ledger that gateways share, now.
    pub fn shared_ledger(&self, shared: &Shared<'_>) {
        self.ledger.set(shared);
    }

    /// How much is kept of API keys, now.
    pub fn keys(&self, sizes: KeySizes) {
        self.keys.set(sizes);
    }

    /// A request was turned away because of its key.
    pub fn unserved(&self, reason: Unserved) {
        self.keys.unserved(reason);
    }

    /// Sendly answered 401.
    pub fn key_failed(&self) {
        self.keys.failed();
    }

    /// The certificate that clients are shown expires then, in seconds since the Unix epoch.
    pub fn certificate_expires(&self, at: i64) {
        self.state.certificate_expires(&self.registry, at);
    }

    /// The text exposition format, version 0.0.4.
    pub fn expose(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be encoded");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::country::Country;
    use crate::policy::tariff::Tier;
    use crate::policy::{Counts, Limit, Mode, Obstacle, Per, RefusalCode};

    const STARTED: Moment = Moment::from_micros(1_795_424_300_250_000);

    fn limit(name: &str, max: u32, mode: Mode) -> Limit {
        let (per, window, counts, code) =
            (Per::Phone, Duration::from_secs(600), Counts::BOTH, RefusalCode::RateLimitExceeded);
        Limit { name: name.to_owned(), per, max, window, counts, mode, code }
    }

    fn country(code: &str) -> Country {
        code.parse().unwrap()
    }

    /// With a limit that is enforced, one that is a shadow, a throttle, and two tiers that have countries.
    fn metrics() -> (Metrics, Series) {
        let metrics = Metrics::new(STARTED).unwrap();
        let series = series(&metrics, [limit("five", 5, Mode::Enforce), limit("one", 1, Mode::Shadow)], 16);
        (metrics, series)
    }

    fn series(metrics: &Metrics, limits: impl Into<Vec<Limit>>, price: u32) -> Series {
        let tiers =
            [(Tier::Domestic, 2, vec![country("US"), country("CA")]), (Tier::Tier3, price, vec![country("DE")])];
        metrics.series(&Policy::new(limits.into()), ["slow"].into_iter(), Tariff::new(Tier::Tier3, &tiers))
    }

    fn exposed(metrics: &Metrics) -> String {
        String::from_utf8(metrics.expose()).unwrap()
    }

    #[track_caller]
    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|other| other == format!("sendly_gateway_{line}")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn operations_and_outcomes_stand_where_they_are_looked_up() {
        assert!(Operation::ALL.iter().enumerate().all(|(place, operation)| *operation as usize == place));
        assert!(Outcome::ALL.iter().enumerate().all(|(place, outcome)| *outcome as usize == place));
        assert!(Change::ALL.iter().enumerate().all(|(place, change)| *change as usize == place));
    }

    #[test]
    fn each_answer_counts_under_its_operation_and_status() {
        let (metrics, _) = metrics();
        for (operation, status) in
            [(Operation::Send, 201), (Operation::Send, 201), (Operation::Other, 599), (Operation::Get, 777)]
        {
            metrics.upstream(operation, status, Duration::from_millis(3));
        }
        let text = exposed(&metrics);
        has(
            &text,
            &[
                r#"upstream_responses_total{operation="send",status="201"} 2"#,
                r#"upstream_responses_total{operation="other",status="599"} 1"#,
                r#"upstream_responses_total{operation="get",status="0"} 1"#,
                r#"upstream_seconds_count{operation="send"} 2"#,
            ],
        );
        assert_eq!(text.matches("upstream_responses_total{").count(), 3, "what has not come has no series");
    }

    #[test]
    fn what_is_counted_is_exposed() {
        let (metrics, series) = metrics();
        metrics.request(Operation::Resend, Outcome::Refused, Duration::from_millis(3));
        metrics.settlement(SettlementReason::Success);
        series.throttled(0);
        metrics.lookup(Found::Nobody);
        let swept = Swept { keys: 4, verifications: 3, answers: 2, throttles: 1 };
        metrics.swept(swept, Duration::from_millis(2), Moment::from_micros(1_795_424_400_500_000));
        has(
            &exposed(&metrics),
            &[
                r#"requests_total{operation="resend",outcome="refused"} 1"#,
                r#"requests_total{operation="send",outcome="allowed"} 0"#,
                r#"settlements_total{reason="success",settlement="kept"} 1"#,
                r#"request_seconds_bucket{operation="resend",le="0.005"} 1"#,
                r#"throttled_total{throttle="slow"} 1"#,
                r#"lookups_total{result="not_found"} 1"#,
                r#"swept_total{what="keys"} 4"#,
                r#"swept_total{what="throttles"} 1"#,
                "sweep_seconds_count 1",
                "last_sweep_timestamp_seconds 1795424400.5",
            ],
        );
    }

    #[test]
    fn a_limit_tells_what_it_says_and_nothing_that_it_cannot() {
        let (metrics, series) = metrics();
        let refusal = Refusal { by: Obstacle::Limit(0), retry_after: Duration::from_millis(29_001) };
        let account = crate::policy::subject::HashKey::new([1; 16]).account(b"Bearer sk_1");
        metrics.refused(&series, &refusal, Kind::Send, &Subject { phone: None, verification: None, account });
        metrics.decision(&series, &Decision::default(), false, Some(Duration::from_nanos(180)));
        let text = exposed(&metrics);
        has(
            &text,
            &[
                r#"decisions_total{decision="deny",limit="five"} 0"#,
                r#"decisions_total{decision="shadow_deny",limit="one"} 0"#,
                r#"near_limit_total{limit="five"} 0"#,
                r#"refusal_wait_seconds_bucket{limit="five",le="10"} 0"#,
                r#"refusal_wait_seconds_bucket{limit="five",le="30"} 1"#,
                r#"refusal_wait_seconds_sum{limit="five"} 30"#,
                r#"decision_seconds_bucket{le="0.0000001"} 0"#,
                r#"decision_seconds_bucket{le="0.00000025"} 1"#,
            ],
        );
        for line in [r#"decision="deny",limit="one""#, r#"decision="shadow_deny",limit="five""#, r#"{limit="one"}"#] {
            assert!(!text.contains(line), "{line} can never move");
        }
    }

    #[test]
    fn a_limit_that_an_exempt_phone_has_reached_says_so_and_one_on_trial_says_what_it_would() {
        let (metrics, series) = metrics();
        let policy = Policy::new(vec![limit("five", 1, Mode::Enforce), limit("one", 1, Mode::Shadow)]);
        let mut log = crate::policy::window::Log::default();
        log.take(Moment::from_micros(9), Kind::Send, policy.retention(Per::Phone));
        let record = crate::policy::Record { per: Per::Phone, log: Some(&log), held_until: None };
        let decision = policy.lenient().judge([record], Kind::Send, Moment::from_micros(9));
        metrics.decision(&series, &decision, true, Some(Duration::ZERO));
        has(
            &exposed(&metrics),
            &[
                r#"decisions_total{decision="exempt",limit="five"} 1"#,
                r#"decisions_total{decision="deny",limit="five"} 0"#,
                r#"decisions_total{decision="shadow_deny",limit="one"} 1"#,
            ],
        );
    }

    #[test]
    fn a_sample_is_what_was_counted() {
        let (metrics, series) = metrics();
        metrics.request(Operation::Send, Outcome::Allowed, Duration::from_millis(3));
        metrics.request(Operation::Resend, Outcome::Allowed, Duration::from_millis(3));
        metrics.code(&series, Fate::Sent, Kind::Send, "+4915112345678".parse().ok());
        metrics.upstream(Operation::Send, 201, Duration::from_millis(3));
        metrics.upstream(Operation::Resend, 200, Duration::from_secs(90));
        metrics.upstream(Operation::Check, 200, Duration::from_millis(3));
        let sample = metrics.sample(&series);
        assert_eq!(sample.outcomes[Outcome::Allowed as usize], 2);
        assert_eq!((sample.codes, sample.credits), ([1, 0, 0], [16, 0, 0]));
        assert_eq!(sample.answered[..4], [0, 0, 0, 1], "3 ms are within 5");
        assert_eq!(sample.answered[SECONDS.len() - 1..], [1, 2], "and 90 s within nothing");
        assert_eq!(sample.limits.len(), 2);
    }

    #[test]
    fn codes_are_told_by_tier_and_by_country() {
        let (metrics, series) = metrics();
        let phone = |text: &str| text.parse::<Phone>().ok();
        let (us, german, nobody) = (phone("+12125550123"), phone("+4915112345678"), phone("+80012345678"));
        metrics.code(&series, Fate::Sent, Kind::Send, us);
        metrics.code(&series, Fate::Sent, Kind::Resend, us);
        metrics.code(&series, Fate::GivenBack, Kind::Send, german);
        metrics.code(&series, Fate::Sent, Kind::Send, nobody);
        metrics.confirmed(None, us);
        let text = exposed(&metrics);
        has(
            &text,
            &[
                r#"codes_total{outcome="sent",tier="domestic"} 2"#,
                r#"credits_total{outcome="sent",tier="domestic"} 4"#,
                r#"codes_total{outcome="given_back",tier="tier3"} 1"#,
                r#"credits_total{outcome="given_back",tier="tier3"} 16"#,
                r#"codes_sent_total{country="US",kind="send"} 1"#,
                r#"codes_sent_total{country="US",kind="resend"} 1"#,
                r#"codes_sent_total{country="none",kind="send"} 1"#,
                r#"verifications_confirmed_total{country="US"} 1"#,
                r#"verifications_confirmed_total{country="none"} 0"#,
            ],
        );
        assert!(!text.contains(r#"country="DE""#), "no code has gone there");
    }

    #[test]
    fn the_series_of_a_limit_outlive_the_configuration_that_named_it() {
        let (metrics, series_before) = metrics();
        let refusal = Refusal { by: Obstacle::Limit(0), retry_after: Duration::from_secs(9) };
        let account = crate::policy::subject::HashKey::new([1; 16]).account(b"Bearer sk_1");
        let german = Subject { phone: "+4915112345678".parse().ok(), verification: None, account };
        metrics.refused(&series_before, &refusal, Kind::Send, &german);
        let series_after = series(&metrics, [limit("new", 2, Mode::Enforce), limit("five", 9, Mode::Shadow)], 17);
        metrics.refused(&series_after, &refusal, Kind::Send, &german);
        // Of a request that began before.
        metrics.refused(&series_before, &refusal, Kind::Send, &german);
        has(
            &exposed(&metrics),
            &[
                r#"refusal_wait_seconds_count{limit="five"} 2"#,
                r#"refusal_wait_seconds_count{limit="new"} 1"#,
                r#"decisions_total{decision="shadow_deny",limit="five"} 0"#,
                r#"decisions_total{decision="shadow_deny",limit="one"} 0"#,
                r#"credits_total{outcome="refused",tier="tier3"} 49"#,
            ],
        );
    }

    #[test]
    fn reloads_are_told_with_their_results_and_the_start_is_a_success() {
        let (metrics, _) = metrics();
        let state = [
            "config_last_reload_successful 1",
            "config_last_reload_success_timestamp_seconds 1795424300.25",
            r#"config_reloads_total{result="applied"} 0"#,
            r#"config_reloads_total{result="rejected"} 0"#,
        ];
        has(&exposed(&metrics), &state);
        metrics.reloaded(ReloadResult::Rejected, STARTED + Duration::from_secs(1));
        let rejected = r#"config_reloads_total{result="rejected"} 1"#;
        has(&exposed(&metrics), &["config_last_reload_successful 0", state[1], state[2], rejected]);
        metrics.reloaded(ReloadResult::Partial, STARTED + Duration::from_secs(2));
        let later = "config_last_reload_success_timestamp_seconds 1795424302.25";
        has(&exposed(&metrics), &[state[0], later, state[2], r#"config_reloads_total{result="partial"} 1"#, rejected]);
    }

    #[test]
    fn a_certificate_is_told_of_once_there_is_one() {
        let (metrics, _) = metrics();
        assert!(!exposed(&metrics).contains("certificate"));
        metrics.certificate_expires(1_800_000_000);
        metrics.certificate_expires(1_900_000_000);
        has(&exposed(&metrics), &["certificate_expiry_timestamp_seconds 1900000000"]);
    }
}
