//! Time as the decisions see it.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::nanos::Nanos;
use sendly_gateway::clock::{Clock, Moment};

/// When all of it begins.
pub(crate) const START: u64 = 1_795_424_400_000_000;

/// The machine's clock is read for each decision, since a real one has to; but what it says is left aside, so that hours can
/// pass between two codes to a phone, and the verdicts are the same in every run.
#[derive(Clone)]
pub(crate) struct Time {
    clock: Clock,
    now: Arc<AtomicU64>,
}

impl Time {
    pub(crate) fn new() -> Self {
        Self { clock: Clock::system(), now: Arc::new(AtomicU64::new(START)) }
    }

    pub(crate) fn now(&self) -> Moment {
        black_box(self.clock.now());
        Moment::from_micros(self.now.load(Ordering::Relaxed))
    }

    /// One thread moves it, so that it needs no atomic addition, which would be in every figure.
    pub(crate) fn pass(&self, micros: u64) {
        self.now.store(self.now.load(Ordering::Relaxed) + micros, Ordering::Relaxed);
    }
}

impl governor::clock::Clock for Time {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(Time::now(self).as_micros().saturating_mul(1000))
    }
}
