//! How the state that outlives the process is doing. There are none of these where no state is kept.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntGauge, Opts, Registry};

use super::register::Result;
use crate::clock::Moment;

/// How much of it is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The size of its files, in bytes.
    pub bytes: u64,
    /// Records written.
    pub written: u64,
    /// Records that wait for a disk that takes them.
    pub waiting: u64,
    /// Records that found no room to wait.
    pub lost: u64,
    /// How often the disk refused something.
    pub failures: u64,
    /// When all of it was on the disk.
    pub at: Moment,
}

/// What the process found when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Records that were read.
    pub records: u64,
    /// Bytes that were none, or could not be read.
    pub damaged: u64,
    /// How long reading them took.
    pub took: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Journal {
    bytes: IntGauge,
    written: IntCounter,
    waiting: IntGauge,
    lost: IntCounter,
    failures: IntCounter,
    saved: Gauge,
    restored: IntGauge,
    damaged: IntGauge,
    restore_took: Gauge,
}

impl Journal {
    pub(super) fn new() -> Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(format!("sendly_gateway_state_{name}"), help);
        let gauge = |name: &str, help: &str| IntGauge::with_opts(opts(name, help));
        let float = |name: &str, help: &str| Gauge::with_opts(opts(name, help));
        let counter = |name: &str, help: &str| IntCounter::with_opts(opts(name, help));
        Ok(Self {
            bytes: gauge("bytes", "The size of the state's files.")?,
            written: counter("records_total", "Records of what was charged and learned that were written.")?,
            waiting: gauge("waiting_records", "Records that wait for a disk that takes them.")?,
            lost: counter("lost_records_total", "Records that found no room to wait: a restart would not know them.")?,
            failures: counter("failures_total", "How often the disk refused to write, confirm or delete something.")?,
            saved: float("saved_timestamp_seconds", "When all of the state was last known to be on the disk.")?,
            restored: gauge("restored_records", "Records that were read at the start.")?,
            damaged: gauge("damaged_bytes", "Bytes that were found damaged at the start.")?,
            restore_took: float("restore_seconds", "How long reading them took.")?,
        })
    }

    /// State is kept: its series are there from now on, and tell what was found.
    pub(super) fn begin(&self, registry: &Registry, found: Found) {
        let set = |gauge: &IntGauge, to: u64| gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
        set(&self.restored, found.records);
        set(&self.damaged, found.damaged);
        self.restore_took.set(found.took.as_secs_f64());
        let all: [Box<dyn Collector>; 9] = [
            Box::new(self.bytes.clone()),
            Box::new(self.written.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.lost.clone()),
            Box::new(self.failures.clone()),
            Box::new(self.saved.clone()),
            Box::new(self.restored.clone()),
            Box::new(self.damaged.clone()),
            Box::new(self.restore_took.clone()),
        ];
        for collector in all {
            // They are registered already where this is not the first time.
            let _ = registry.register(collector);
        }
    }

    pub(super) fn stands(&self, saved: Saved) {
        let set = |gauge: &IntGauge, to: u64| gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
        let raise = |total: &IntCounter, to: u64| total.inc_by(to.saturating_sub(total.get()));
        set(&self.bytes, saved.bytes);
        set(&self.waiting, saved.waiting);
        raise(&self.written, saved.written);
        raise(&self.lost, saved.lost);
        raise(&self.failures, saved.failures);
        self.saved.set(saved.at.as_micros() as f64 / 1e6);
    }
}
