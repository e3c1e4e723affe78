//! Sendly, as seen from here, and how charges end by what it says.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::core::Metric as _;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::register::{Register, Result};
use super::{SECONDS, of_operations};
use crate::api::Operation;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct UpstreamMetrics {
    took: Vec<Histogram>,
    status: IntCounterVec,
    /// The series of `status` that have begun, by operation and status.
    answers: Vec<OnceLock<IntCounter>>,
    /// In the order of [`Found::ALL`].
    lookups: [IntCounter; Found::ALL.len()],
    /// In the order of [`SettlementReason::ALL`].
    settlements: [IntCounter; SettlementReason::ALL.len()],
}

/// What came of looking an unknown id up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its phone.
    Phone,
    /// Sendly does not know it.
    Nobody,
    /// It could not be found out.
    Unavailable,
}

impl Found {
    const ALL: [Found; 3] = [Found::Phone, Found::Nobody, Found::Unavailable];

    const fn name(self) -> &'static str {
        match self {
            Found::Phone => "found",
            Found::Nobody => "not_found",
            Found::Unavailable => "unavailable",
        }
    }
}

/// Every status that an answer may have, and 0 for what is none.
const STATUSES: usize = 600;

/// Why a charge was settled. Each reason says whether it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettlementReason {
    /// 2xx: the code went out.
    Success,
    /// Another 5xx than `delivery_failed`.
    ServerError,
    /// No answer within `upstream.exchange_timeout`.
    Timeout,
    /// The connection broke after the request may have left.
    Broken,
    /// The answer broke off, and its status leaves it open.
    Cut,
    /// No connection came about.
    NotSent,
    /// 3xx or 4xx.
    Rejected,
    /// 500 `delivery_failed`.
    DeliveryFailed,
    /// Sendly repeated an answer that it had recorded.
    Replayed,
    /// Sendly's own 429 `rate_limit_exceeded`.
    SendlyLimit,
    /// The key has still to be proven: the code is charged then.
    Unproven,
}

impl SettlementReason {
    /// All of them, in the order of their discriminants.
    const ALL: [SettlementReason; 11] = {
        use SettlementReason::*;
        [Success, ServerError, Timeout, Broken, Cut, NotSent, Rejected, DeliveryFailed, Replayed, SendlyLimit, Unproven]
    };

    /// Whether the charge is kept, because a code went out, or may have.
    pub(crate) const fn is_kept(self) -> bool {
        use SettlementReason::*;
        matches!(self, Success | ServerError | Timeout | Broken | Cut)
    }

    const fn labels(self) -> [&'static str; 2] {
        let reason = match self {
            SettlementReason::Success => "success",
            SettlementReason::ServerError => "server_error",
            SettlementReason::Timeout => "timeout",
            SettlementReason::Broken => "broken",
            SettlementReason::Cut => "cut",
            SettlementReason::NotSent => "not_sent",
            SettlementReason::Rejected => "rejected",
            SettlementReason::DeliveryFailed => "delivery_failed",
            SettlementReason::Replayed => "replayed",
            SettlementReason::SendlyLimit => "sendly_limit",
            SettlementReason::Unproven => "unproven",
        };
        [if self.is_kept() { "kept" } else { "given_back" }, reason]
    }
}

impl UpstreamMetrics {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let took = register.histograms(
            "upstream_seconds",
            "Time until Sendly's answer, by operation.",
            "operation",
            SECONDS,
        )?;
        let lookups =
            register.counters("lookups_total", "Look-ups of a verification's phone at Sendly.", &["result"])?;
        let settlements =
            register.counters("settlements_total", "Charges settled, by how and why.", &["settlement", "reason"])?;
        Ok(Self {
            took: of_operations(|operation| took.with_label_values(&[operation])),
            status: register.counters(
                "upstream_responses_total",
                "Sendly's answers, by operation and status.",
                &["operation", "status"],
            )?,
            answers: (0..Operation::ALL.len() * STATUSES).map(|_| OnceLock::new()).collect(),
            lookups: Found::ALL.map(|found| lookups.with_label_values(&[found.name()])),
            settlements: SettlementReason::ALL.map(|reason| settlements.with_label_values(&reason.labels())),
        })
    }

    pub(super) fn answered(&self, operation: Operation, status: u16, took: Duration) {
        if let Some(histogram) = self.took.get(operation as usize) {
            histogram.observe(took.as_secs_f64());
        }
        let status = match status {
            100..=599 => status,
            _ => 0, // not a status: one label for whatever it was
        };
        if let Some(answers) = self.answers.get(operation as usize * STATUSES + usize::from(status)) {
            let begin = || self.status.with_label_values(&[operation.name(), status.to_string().as_str()]);
            answers.get_or_init(begin).inc();
        }
    }

    /// How many sends and resends Sendly answered within each of [`SECONDS`], and last how many altogether.
    pub(super) fn answered_within(&self) -> [u64; SECONDS.len() + 1] {
        let mut within = [0; SECONDS.len() + 1];
        let codes = [Operation::Send, Operation::Resend];
        for histogram in codes.iter().filter_map(|operation| self.took.get(*operation as usize)) {
            let metric = histogram.metric();
            let buckets = metric.get_histogram().get_bucket().iter().map(|bucket| bucket.cumulative_count());
            let all = metric.get_histogram().get_sample_count();
            within.iter_mut().zip(buckets.chain([all])).for_each(|(sum, count)| *sum += count);
        }
        within
    }

    pub(super) fn lookup(&self, found: Found) {
        if let Some(counter) = self.lookups.get(found as usize) {
            counter.inc();
        }
    }

    pub(super) fn settlement(&self, reason: SettlementReason) {
        if let Some(counter) = self.settlements.get(reason as usize) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_stands_where_it_is_looked_up() {
        assert!(Found::ALL.iter().enumerate().all(|(place, found)| *found as usize == place));
        assert!(SettlementReason::ALL.iter().enumerate().all(|(place, reason)| *reason as usize == place));
    }
}
