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
pub(super) struct Upstream {
    took: Vec<Histogram>,
    status: IntCounterVec,
    /// The series of `status` that have begun, by operation and status.
    answers: Vec<OnceLock<IntCounter>>,
    /// In the order of [`Found::ALL`].
    lookups: [IntCounter; Found::ALL.len()],
    /// In the order of [`SETTLEMENTS`].
    settlements: [IntCounter; SETTLEMENTS.len()],
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

/// How and why a charge may be settled.
const SETTLEMENTS: [(&str, &str); 11] = [
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
    ("given_back", "unproven"),
];

impl Upstream {
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
            settlements: SETTLEMENTS.map(|(how, why)| settlements.with_label_values(&[how, why])),
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

    pub(super) fn settlement(&self, settlement: &'static str, reason: &'static str) {
        let place = SETTLEMENTS.iter().position(|known| *known == (settlement, reason));
        if let Some(counter) = place.and_then(|place| self.settlements.get(place)) {
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
    }
}
