//! How reloads of the configuration end. The start is none, but it is the first time that one was loaded.

use prometheus::{Gauge, IntCounter, IntGauge};

use super::register::{Register, Result};
use crate::clock::Moment;

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// All of it is in force.
    Applied,
    /// It is in force, but for keys that take a restart.
    Partial,
    /// It has mistakes, and nothing of it is in force.
    Rejected,
}

impl ReloadResult {
    const ALL: [ReloadResult; 3] = [ReloadResult::Applied, ReloadResult::Partial, ReloadResult::Rejected];

    const fn name(self) -> &'static str {
        match self {
            ReloadResult::Applied => "applied",
            ReloadResult::Partial => "partial",
            ReloadResult::Rejected => "rejected",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Reloads {
    /// In the order of [`ReloadResult::ALL`].
    total: [IntCounter; ReloadResult::ALL.len()],
    last_was_successful: IntGauge,
    last_success: Gauge,
}

impl Reloads {
    pub(super) fn new(register: Register<'_>, started: Moment) -> Result<Self> {
        let total = register.counters(
            "config_reloads_total",
            "Reloads of the configuration after the start, by what came of them.",
            &["result"],
        )?;
        let new = Self {
            total: ReloadResult::ALL.map(|result| total.with_label_values(&[result.name()])),
            last_was_successful: register.gauge(
                "config_last_reload_successful",
                "Whether the configuration was taken when it was loaded last.",
            )?,
            last_success: register.float_gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration that is in force was loaded.",
            )?,
        };
        new.succeeded(started);
        Ok(new)
    }

    pub(super) fn ended(&self, result: ReloadResult, now: Moment) {
        if let Some(counter) = self.total.get(result as usize) {
            counter.inc();
        }
        match result {
            ReloadResult::Applied | ReloadResult::Partial => self.succeeded(now),
            ReloadResult::Rejected => self.last_was_successful.set(0),
        }
    }

    fn succeeded(&self, now: Moment) {
        self.last_was_successful.set(1);
        self.last_success.set(now.as_micros() as f64 / 1e6);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_where_they_are_looked_up() {
        assert!(ReloadResult::ALL.iter().enumerate().all(|(place, result)| *result as usize == place));
    }
}
