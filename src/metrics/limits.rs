//! What limits and throttles say, how long that takes, and how long those who are refused are told to wait.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::register::{Register, Result};
use super::sample::Verdicts;
use crate::policy::tariff::Tariff;
use crate::policy::{Decision, Limit, Mode, Obstacle, Per, Policy, Refusal};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Limits {
    decisions: IntCounterVec,
    near: IntCounterVec,
    wait: HistogramVec,
    throttled: IntCounterVec,
    held: IntCounter,
    hold_wait: Histogram,
    took: Histogram,
}

/// What is counted under the names that one configuration gives, and at its prices.
///
/// A limit or throttle that another configuration names too goes on counting in its series. What none names any more keeps its series as
/// they are, until the process ends: what it counted did happen.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the policy's order.
    limits: Vec<OfLimit>,
    /// In the config's order.
    throttled: Vec<IntCounter>,
    pub(super) tariff: Tariff,
}

/// What one limit says. What it can never say has no series.
#[derive(Clone, Debug)]
struct OfLimit {
    name: Arc<str>,
    per: Per,
    allow: IntCounter,
    /// `deny`, or `shadow_deny` of one that is not enforced.
    deny: IntCounter,
    /// Of one that is enforced: it would have refused, and the phone is exempt.
    exempt: Option<IntCounter>,
    /// Of one that can be near: of two codes or more.
    near: Option<IntCounter>,
    /// Of one that is enforced.
    wait: Option<Histogram>,
}

/// From a look at one log to a shared ledger that is too slow, in seconds.
const DECISION: &[f64] = &[
    100e-9, 250e-9, 500e-9, 1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3,
    25e-3, 50e-3, 100e-3,
];

/// From the shortest wait that is told to a day.
const WAIT: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0];

impl Limits {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let decisions = register.counters(
            "decisions_total",
            "Verdicts of each limit over codes; `hold` is Sendly's own refusal, remembered.",
            &["limit", "decision"],
        )?;
        let near = register.counters(
            "near_limit_total",
            "Codes that were let through and took a limit to 80 % of its max or more.",
            &["limit"],
        )?;
        let wait = register.histograms(
            "refusal_wait_seconds",
            "Seconds that refused clients were told to wait, by the limit that spoke.",
            "limit",
            WAIT,
        )?;
        let throttled = register.counters("throttled_total", "Requests that a throttle refused.", &["throttle"])?;
        Ok(Self {
            held: decisions.with_label_values(&["hold", "deny"]),
            hold_wait: wait.with_label_values(&["hold"]),
            took: register.histogram(
                "decision_seconds",
                "Time that the ledger took to judge and charge a code.",
                DECISION,
            )?,
            decisions,
            near,
            wait,
            throttled,
        })
    }

    pub(super) fn series<'n>(
        &self,
        policy: &Policy,
        throttles: impl Iterator<Item = &'n str>,
        tariff: Tariff,
    ) -> Series {
        let of_limit = |limit: &Limit| {
            let (name, is_enforced) = (limit.name.as_str(), limit.mode == Mode::Enforce);
            OfLimit {
                name: name.into(),
                per: limit.per,
                allow: self.decisions.with_label_values(&[name, "allow"]),
                deny: self.decisions.with_label_values(&[name, if is_enforced { "deny" } else { "shadow_deny" }]),
                // What an exempt phone is not charged to, it does not meet.
                exempt: (is_enforced && limit.per != Per::Account)
                    .then(|| self.decisions.with_label_values(&[name, "exempt"])),
                near: (limit.max > 1).then(|| self.near.with_label_values(&[name])),
                wait: is_enforced.then(|| self.wait.with_label_values(&[name])),
            }
        };
        Series {
            limits: policy.limits().iter().map(of_limit).collect(),
            throttled: throttles.map(|name| self.throttled.with_label_values(&[name])).collect(),
            tariff,
        }
    }

    pub(super) fn decision(&self, series: &Series, decision: &Decision, is_exempt: bool, took: Option<Duration>) {
        if let Some(took) = took {
            self.took.observe(took.as_secs_f64());
        }
        let is_allowed = decision.refusal.is_none();
        for (place, limit) in series.limits.iter().enumerate().filter(|(place, _)| decision.met.contains(*place)) {
            let reached = || limit.exempt.as_ref().filter(|_| is_exempt).unwrap_or(&limit.deny);
            let verdict = if decision.reached.contains(place) { reached() } else { &limit.allow };
            verdict.inc();
            if let Some(near) = limit.near.as_ref().filter(|_| is_allowed && decision.near.contains(place)) {
                near.inc();
            }
        }
        if decision.refusal.is_some_and(|refusal| matches!(refusal.by, Obstacle::Hold | Obstacle::AccountHold)) {
            self.held.inc();
        }
    }

    pub(super) fn refused(&self, series: &Series, refusal: &Refusal) {
        let wait = match refusal.by {
            Obstacle::Hold | Obstacle::AccountHold => Some(&self.hold_wait),
            Obstacle::Limit(place) | Obstacle::Unsettled(place) => {
                series.limits.get(place).and_then(|limit| limit.wait.as_ref())
            }
        };
        if let Some(wait) = wait {
            wait.observe(refusal.retry_after.as_secs_f64().ceil());
        }
    }

    /// What each limit has said so far, in the policy's order; and how often Sendly's hold refused.
    pub(super) fn verdicts(&self, series: &Series) -> (Vec<(Arc<str>, Verdicts)>, u64) {
        let verdicts = |limit: &OfLimit| {
            let exempt = limit.exempt.as_ref().map_or(0, IntCounter::get);
            (Arc::clone(&limit.name), Verdicts { allow: limit.allow.get(), deny: limit.deny.get(), exempt })
        };
        (series.limits.iter().map(verdicts).collect(), self.held.get())
    }
}

impl Series {
    /// Whom what stands in the way counts for. Sendly's hold is on a phone.
    pub(super) fn per(&self, obstacle: Obstacle) -> Per {
        match obstacle {
            Obstacle::Hold | Obstacle::AccountHold => Per::Phone,
            Obstacle::Limit(place) | Obstacle::Unsettled(place) => {
                self.limits.get(place).map_or(Per::Phone, |limit| limit.per)
            }
        }
    }

    /// A throttle refused a request: the one at this place of the configuration.
    pub fn throttled(&self, place: usize) {
        if let Some(counter) = self.throttled.get(place) {
            counter.inc();
        }
    }
}
