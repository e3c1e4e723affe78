//! API keys: those that Sendly has accepted, and what becomes of requests with others.

use prometheus::{IntCounter, IntGauge};

use super::register::{Register, Result};

/// Why a request was turned away because of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The configuration does not list the key.
    NotAllowed,
    /// Sendly refused the key a short while ago.
    Refused,
    /// As many 401s as may be were caused, or Sendly has locked the address.
    Locked,
    /// It waited too long for the proof of its key, or too many wait.
    Busy,
    /// Sendly was asked, and said nothing of the key.
    Unproved,
}

impl Unserved {
    const ALL: [Unserved; 5] =
        [Unserved::NotAllowed, Unserved::Refused, Unserved::Locked, Unserved::Busy, Unserved::Unproved];

    const fn name(self) -> &'static str {
        match self {
            Unserved::NotAllowed => "not_allowed",
            Unserved::Refused => "refused",
            Unserved::Locked => "locked",
            Unserved::Busy => "busy",
            Unserved::Unproved => "unproved",
        }
    }
}

/// How much is kept of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySizes {
    /// Keys that Sendly has accepted.
    pub proven: usize,
    /// Room for them.
    pub proven_max: usize,
    /// 401s in the last five minutes.
    pub failures: usize,
    /// How many of those may be.
    pub failures_max: usize,
    /// Unproven requests at Sendly.
    pub in_flight: usize,
    /// Requests that wait for the proof of their key, or for a slot.
    pub waiting: usize,
    /// Refused keys that are remembered.
    pub refused: usize,
    /// Codes of unproven keys whose outcome is not known.
    pub open: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OfKeys {
    /// In the order of [`Unserved::ALL`].
    unserved: [IntCounter; Unserved::ALL.len()],
    failed: IntCounter,
    proven: IntGauge,
    proven_max: IntGauge,
    failures: IntGauge,
    failures_max: IntGauge,
    in_flight: IntGauge,
    waiting: IntGauge,
    refused: IntGauge,
    open: IntGauge,
}

impl OfKeys {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let unserved =
            register.counters("key_refusals_total", "Requests turned away because of their API key.", &["reason"])?;
        Ok(Self {
            unserved: Unserved::ALL.map(|reason| unserved.with_label_values(&[reason.name()])),
            failed: register.counter("failed_keys_total", "401s of Sendly's to requests of the gateway.")?,
            proven: register.gauge("proven_keys", "API keys that Sendly is known to have accepted.")?,
            proven_max: register.gauge("proven_keys_max", "How many there is room for.")?,
            failures: register.gauge("failed_keys_recent", "401s of Sendly's in the last five minutes.")?,
            failures_max: register.gauge("failed_keys_recent_max", "How many of those the gateway causes at most.")?,
            in_flight: register.gauge("unproven_in_flight", "Requests with unproven API keys that are at Sendly.")?,
            waiting: register.gauge("unproven_waiting", "Requests that wait for the proof of their API key.")?,
            refused: register.gauge("refused_keys", "API keys that are remembered as refused.")?,
            open: register.gauge("unproven_codes", "Codes of unproven API keys whose outcome is not known.")?,
        })
    }

    pub(super) fn unserved(&self, reason: Unserved) {
        if let Some(counter) = self.unserved.get(reason as usize) {
            counter.inc();
        }
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }

    pub(super) fn set(&self, sizes: KeySizes) {
        let KeySizes { proven, proven_max, failures, failures_max, in_flight, waiting, refused, open } = sizes;
        let gauges = [
            (&self.proven, proven),
            (&self.proven_max, proven_max),
            (&self.failures, failures),
            (&self.failures_max, failures_max),
            (&self.in_flight, in_flight),
            (&self.waiting, waiting),
            (&self.refused, refused),
            (&self.open, open),
        ];
        for (gauge, size) in gauges {
            gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_where_they_are_looked_up() {
        assert!(Unserved::ALL.iter().enumerate().all(|(place, reason)| *reason as usize == place));
    }
}
