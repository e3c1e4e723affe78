//! The only place that reads the time.
//!
//! Everything else is told the time, as a [`Moment`]. That is what lets a test hold a window open to the microsecond, run
//! time backwards, and never sleep.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time: whole microseconds since the Unix epoch.
///
/// It is read from a clock that never goes back while the process lives, and that starts at the wall clock's time, so that
/// moments written to disk by one process mean the same to the next.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The same moment as the wall clock's type, for printing.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0)
    }
}

/// Saturating: the far future is as far as it goes.
impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(micros(span)))
    }
}

/// Saturating at the epoch.
impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, span: Duration) -> Moment {
        Moment(self.0.saturating_sub(micros(span)))
    }
}

/// RFC 3339 in UTC with milliseconds, the form that Sendly uses (`2026-11-23T09:00:00.000Z`).
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.to_system_time()).fmt(f)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// A reading of the clock to the nanosecond, for what takes less than a microsecond: how long a decision takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading(u64);

impl Reading {
    /// The moment that it is.
    pub const fn moment(self) -> Moment {
        Moment(self.0 / 1000)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Reading) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where moments come from. Cheap to clone; clones agree.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's monotonic clock, anchored once to its wall clock. Setting the wall clock later changes nothing.
    System(Anchor),
    /// A clock that stands still until a test moves it.
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the place that reads it")]
        let (instant, wall) = (Instant::now(), SystemTime::now());
        let moment = Moment(micros(wall.duration_since(UNIX_EPOCH).unwrap_or_default()));
        Clock::System(Anchor { instant, moment })
    }

    /// The machine's clock, set to another time.
    pub fn set_to(moment: Moment) -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is the place that reads it")]
        let instant = Instant::now();
        Clock::System(Anchor { instant, moment })
    }

    /// The time now.
    pub fn now(&self) -> Moment {
        match self {
            Clock::System(anchor) => anchor.moment + anchor.instant.elapsed(),
            Clock::Manual(manual) => manual.now(),
        }
    }

    /// The time now, to the nanosecond. Its moment is what [`now`](Self::now) would have said.
    pub fn read(&self) -> Reading {
        let nanos = |moment: Moment| moment.0.saturating_mul(1000);
        match self {
            Clock::System(anchor) => {
                let since = u64::try_from(anchor.instant.elapsed().as_nanos()).unwrap_or(u64::MAX);
                Reading(nanos(anchor.moment).saturating_add(since))
            }
            Clock::Manual(manual) => Reading(nanos(manual.now())),
        }
    }
}

/// One reading of the wall clock and the monotonic clock, taken together.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    instant: Instant,
    moment: Moment,
}

/// A clock that a test owns.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Moment) -> Self {
        Self(Arc::new(AtomicU64::new(start.0)))
    }

    /// Where it stands.
    pub fn now(&self) -> Moment {
        Moment(self.0.load(Ordering::SeqCst))
    }

    /// Moves it on.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(micros(span), Ordering::SeqCst);
    }

    /// Puts it anywhere, the past included.
    pub fn set(&self, moment: Moment) {
        self.0.store(moment.0, Ordering::SeqCst);
    }
}

impl From<ManualClock> for Clock {
    fn from(manual: ManualClock) -> Self {
        Clock::Manual(manual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_prints_as_sendly_writes_times() {
        let moment = Moment::from_micros(1_795_424_400_123_999);
        assert_eq!(moment.to_string(), "2026-11-23T09:00:00.123Z");
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let start = Moment::from_micros(5);
        assert_eq!(start - Duration::from_secs(1), Moment::from_micros(0));
        assert_eq!(start + Duration::MAX, Moment::from_micros(u64::MAX));
        assert_eq!(start.since(start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = Clock::system();
        let readings: Vec<_> = (0..1000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted());
    }

    #[test]
    fn a_reading_is_a_moment_and_more() {
        let clock = Clock::system();
        let (before, reading, after) = (clock.now(), clock.read(), clock.now());
        assert!(before <= reading.moment() && reading.moment() <= after);
        let manual = ManualClock::new(Moment::from_micros(5));
        let clock = Clock::from(manual.clone());
        let first = clock.read();
        manual.advance(Duration::from_micros(3));
        assert_eq!((first.moment(), clock.read().since(first)), (Moment::from_micros(5), Duration::from_micros(3)));
        assert_eq!(first.since(clock.read()), Duration::ZERO);
    }
}
