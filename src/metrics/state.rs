//! What the gateway keeps, and how it is cleared; what it runs as, and until when its certificate is good.

use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{Register, Result};
use crate::clock::Moment;

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
    /// How many there may be.
    pub max_kept_answers: usize,
    /// Exchanges in flight whose client has gone.
    pub unclaimed: usize,
    /// Lines of the access log that were dropped.
    pub access_lines_dropped: u64,
    /// Other lines of the log that were dropped.
    pub lines_dropped: u64,
    /// Phones that Sendly refuses one account or two.
    pub account_holds: usize,
    /// Requests that wait for charges to be settled.
    pub waiting: usize,
    /// How many such waits have ended so.
    pub waits: [(&'static str, u64); 4],
    /// Spans that a collector took, that it did not take, and that were dropped.
    pub spans: [u64; 3],
}

/// What a sweep dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Logs, holds, and notes of which key became which.
    pub keys: usize,
    /// Ids whose phone was known.
    pub verifications: usize,
    /// Answers that waited for a retry.
    pub answers: usize,
    /// Keys of throttles.
    pub throttles: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StateMetrics {
    in_flight: IntGauge,
    tracked: IntGauge,
    capacity: IntGauge,
    uncounted: IntCounter,
    access_lines_dropped: IntCounter,
    lines_dropped: IntCounter,
    /// In the order of [`Sizes::spans`].
    spans: [IntCounter; 3],
    account_holds: IntGauge,
    waiting: IntGauge,
    waits: IntCounterVec,
    verifications: IntGauge,
    kept_answers: IntGauge,
    max_kept_answers: IntGauge,
    unclaimed: IntGauge,
    /// In the order of [`Swept`]'s fields.
    swept: [IntCounter; 4],
    sweep_took: Histogram,
    last_sweep: Gauge,
    certificate_expiry: IntGauge,
}

/// From an empty table to one of tens of millions of keys, in seconds.
const SWEEP: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Which commit it was built from, where whoever built it has said so.
const REVISION: &str = match option_env!("SENDLY_GATEWAY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

impl StateMetrics {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION), ("arch", std::env::consts::ARCH)];
        register.info("build_info", "Always 1; the build is in the labels.", &labels)?;
        register.0.register(Box::new(ProcessCollector::for_self()))?;
        let swept =
            register.counters("swept_total", "Entries dropped because nothing needs them any more.", &["what"])?;
        let spans =
            register.counters("trace_spans_total", "Spans of recorded traces, by what became of them.", &["result"])?;
        let waits = register.counters(
            "limit_waits_total",
            "Requests that waited for charges that were not settled yet, by how that ended.",
            &["result"],
        )?;
        Ok(Self {
            account_holds: register
                .gauge("account_holds", "Phones that Sendly itself refuses to some account for a while.")?,
            waiting: register.gauge("limit_waiting", "Requests that wait for charges that are not settled yet.")?,
            waits,
            in_flight: register.gauge("in_flight", "Requests and exchanges with Sendly that are under way.")?,
            tracked: register.gauge("tracked_keys", "Phones, verifications and accounts that have a log.")?,
            capacity: register.gauge("tracked_keys_max", "How many there is room for.")?,
            uncounted: register.counter(
                "uncounted_charges_total",
                "Charges that went uncounted per a key because there was no room for it.",
            )?,
            access_lines_dropped: register
                .counter("access_log_dropped_total", "Lines of the access log that standard error did not take.")?,
            lines_dropped: register
                .counter("log_dropped_total", "Other lines of the log that standard error did not take.")?,
            spans: ["exported", "failed", "dropped"].map(|result| spans.with_label_values(&[result])),
            verifications: register.gauge("known_verifications", "Verifications whose phone is known.")?,
            kept_answers: register.gauge("kept_answers", "Answers that are kept for a retry.")?,
            max_kept_answers: register.gauge("kept_answers_max", "How many there is room for.")?,
            unclaimed: register
                .gauge("unclaimed_exchanges", "Exchanges in flight whose client has gone; a retry may adopt them.")?,
            swept: ["keys", "verifications", "answers", "throttles"].map(|what| swept.with_label_values(&[what])),
            sweep_took: register.histogram(
                "sweep_seconds",
                "Time that a sweep took from its start to its end, the turns of others in between included.",
                SWEEP,
            )?,
            last_sweep: register.float_gauge("last_sweep_timestamp_seconds", "When the last sweep ended.")?,
            // Registered once there is a certificate.
            certificate_expiry: IntGauge::new(
                "sendly_gateway_certificate_expiry_timestamp_seconds",
                "When the certificate that clients are shown expires.",
            )?,
        })
    }

    pub(super) fn sizes(&self, sizes: Sizes) {
        let set = |gauge: &IntGauge, size: usize| gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
        set(&self.in_flight, sizes.in_flight);
        set(&self.tracked, sizes.tracked);
        set(&self.capacity, sizes.capacity);
        let raise = |total: &IntCounter, to: u64| total.inc_by(to.saturating_sub(total.get()));
        raise(&self.uncounted, sizes.uncounted as u64);
        raise(&self.access_lines_dropped, sizes.access_lines_dropped);
        raise(&self.lines_dropped, sizes.lines_dropped);
        self.spans.iter().zip(sizes.spans).for_each(|(total, to)| raise(total, to));
        set(&self.account_holds, sizes.account_holds);
        set(&self.waiting, sizes.waiting);
        for (result, to) in sizes.waits.iter().filter(|(result, _)| !result.is_empty()) {
            raise(&self.waits.with_label_values(&[result]), *to);
        }
        set(&self.verifications, sizes.verifications);
        set(&self.kept_answers, sizes.kept_answers);
        set(&self.max_kept_answers, sizes.max_kept_answers);
        set(&self.unclaimed, sizes.unclaimed);
    }

    pub(super) fn swept(&self, swept: Swept, took: Duration, ended: Moment) {
        let Swept { keys, verifications, answers, throttles } = swept;
        for (counter, many) in self.swept.iter().zip([keys, verifications, answers, throttles]) {
            counter.inc_by(many as u64);
        }
        self.sweep_took.observe(took.as_secs_f64());
        self.last_sweep.set(ended.as_micros() as f64 / 1e6);
    }

    pub(super) fn certificate_expires(&self, registry: &Registry, at: i64) {
        self.certificate_expiry.set(at);
        // It is registered already where this is not the first certificate.
        let _ = registry.register(Box::new(self.certificate_expiry.clone()));
    }
}
