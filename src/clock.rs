//! The only place that reads the time.
//!
//! Everything else is told the time, as a [`Moment`]. That is what lets a test hold a window open to the microsecond, run
//! time backwards, and never sleep.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: whole microseconds since the Unix epoch.
///
/// It is read from a clock that never goes back while the process lives, and that starts at the wall clock's time. The wall clock may be
/// set in between: what one process tells another, or writes down, goes with its [`Anchor`], by which the other one translates it.
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

    /// The same moment as another clock has it.
    pub const fn on(self, Shift(micros): Shift) -> Moment {
        Moment(self.0.saturating_add_signed(micros))
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
    /// The time since the machine was booted, anchored once to its wall clock. Setting the wall clock later changes nothing.
    System(Anchor),
    /// A clock that stands still until a test moves it.
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Clock::System(set_for_a_test(Anchor::at(wall_clock())))
    }

    /// The machine's clock, set to another time.
    pub fn set_to(moment: Moment) -> Self {
        Clock::System(Anchor::at(moment))
    }

    /// The time now.
    pub fn now(&self) -> Moment {
        match self {
            Clock::System(anchor) => anchor.moment + anchor.elapsed(),
            Clock::Manual(manual) => manual.now(),
        }
    }

    /// The time now, to the nanosecond. Its moment is what [`now`](Self::now) would have said.
    pub fn read(&self) -> Reading {
        let nanos = |moment: Moment| moment.0.saturating_mul(1000);
        match self {
            Clock::System(anchor) => {
                let since = u64::try_from(anchor.elapsed().as_nanos()).unwrap_or(u64::MAX);
                Reading(nanos(anchor.moment).saturating_add(since))
            }
            Clock::Manual(manual) => Reading(nanos(manual.now())),
        }
    }

    /// By how much the wall clock is ahead of its moments now: somebody has set it since the process began. `None` of a clock that a test
    /// moves.
    pub fn wall_clock_ahead(&self) -> Option<Shift> {
        match self {
            Clock::System(anchor) => {
                // Where a test has set the wall clock from the start, it is set now, too.
                let wall = set_for_a_test(Anchor { moment: wall_clock(), ..*anchor }).moment;
                Some(Shift::between(self.now(), wall))
            }
            Clock::Manual(_) => None,
        }
    }

    /// How its moments relate to the time since the machine was booted, where that is known. It is the same for as long as the process
    /// lives.
    pub fn anchor(&self) -> Option<Anchor> {
        match self {
            Clock::System(anchor) => Some(*anchor).filter(|anchor| anchor.boot != 0),
            Clock::Manual(manual) => manual.anchor,
        }
    }
}

/// One reading of the wall clock and of the time since the machine was booted, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// What the wall clock said.
    pub moment: Moment,
    /// Which boot of the machine that was: an id that the kernel draws. 0: it is not known.
    pub boot: u128,
    /// How long the machine had been up then, asleep or awake, in microseconds (`CLOCK_BOOTTIME`).
    pub since_boot: u64,
}

/// By how much one clock is ahead of another, in microseconds; less than zero: it is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift(i64);

impl Shift {
    /// From one clock to the same.
    pub const NONE: Self = Self(0);

    /// Of so many microseconds.
    pub const fn of_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// In microseconds.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// How far it is, whichever way.
    pub const fn span(self) -> Duration {
        Duration::from_micros(self.0.unsigned_abs())
    }

    /// By how much `later` is after `earlier`.
    pub const fn between(earlier: Moment, later: Moment) -> Self {
        Self(later.0.wrapping_sub(earlier.0).cast_signed())
    }
}

impl Anchor {
    fn at(moment: Moment) -> Self {
        Self { moment, boot: boot_id().unwrap_or_default(), since_boot: micros(since_boot()) }
    }

    /// What moments of the clock that is anchored at `other` have to be moved by to be those of this one. `None` if they are of different
    /// boots: then both are believed to have been right.
    pub fn ahead_of(&self, other: &Anchor) -> Option<Shift> {
        let offset = |anchor: &Anchor| i128::from(anchor.moment.0) - i128::from(anchor.since_boot);
        if self.boot != other.boot || self.boot == 0 {
            return None;
        }
        i64::try_from(offset(self) - offset(other)).ok().map(Shift)
    }

    fn elapsed(&self) -> Duration {
        since_boot().saturating_sub(Duration::from_micros(self.since_boot))
    }
}

fn wall_clock() -> Moment {
    #[allow(clippy::disallowed_methods, reason = "this is the place that reads it")]
    let wall = SystemTime::now();
    Moment(micros(wall.duration_since(UNIX_EPOCH).unwrap_or_default()))
}

fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

fn boot_id() -> Option<u128> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&id.trim().replace('-', ""), 16).ok()
}

/// A test of the program itself sets its wall clock, and has it believe that the machine was booted anew: with so many seconds in the
/// variable `WALL_CLOCK_AHEAD`, and a number in `BOOT`. A release build does nothing here.
fn set_for_a_test(mut anchor: Anchor) -> Anchor {
    if cfg!(debug_assertions) {
        let variable = |name| std::env::var(name).ok().and_then(|value| value.parse::<i64>().ok());
        if let Some(seconds) = variable("WALL_CLOCK_AHEAD") {
            anchor.moment = anchor.moment.on(Shift(seconds.saturating_mul(1_000_000)));
        }
        if let Some(boot) = variable("BOOT") {
            anchor.boot ^= u128::from(boot.unsigned_abs());
        }
    }
    anchor
}

/// A clock that a test owns.
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<AtomicU64>,
    anchor: Option<Anchor>,
}

impl ManualClock {
    /// A clock that stands at `start`. Of which boot it is, is not known.
    pub fn new(start: Moment) -> Self {
        Self { now: Arc::new(AtomicU64::new(start.0)), anchor: None }
    }

    /// The same clock, of a machine that was booted and whose clock was set as this says.
    pub fn anchored(self, anchor: Anchor) -> Self {
        Self { anchor: Some(anchor), ..self }
    }

    /// Where it stands.
    pub fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::SeqCst))
    }

    /// Moves it on.
    pub fn advance(&self, span: Duration) {
        self.now.fetch_add(micros(span), Ordering::SeqCst);
    }

    /// Puts it anywhere, the past included.
    pub fn set(&self, moment: Moment) {
        self.now.store(moment.0, Ordering::SeqCst);
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
    fn of_one_boot_a_moment_of_one_clock_is_found_on_another_however_the_wall_clock_was_set_in_between() {
        let anchor = |moment, since_boot, boot| Anchor { moment: Moment::from_micros(moment), since_boot, boot };
        // Three seconds after boot it was 1000 s; five seconds after boot somebody had set it to 400 s.
        let (early, late) = (anchor(1_000_000_000, 3_000_000, 7), anchor(400_000_000, 5_000_000, 7));
        let shift = late.ahead_of(&early).unwrap();
        assert_eq!(Moment::from_micros(1_001_000_000).on(shift), Moment::from_micros(399_000_000));
        assert_eq!(Moment::from_micros(399_000_000).on(early.ahead_of(&late).unwrap()).as_micros(), 1_001_000_000);
        assert_eq!(late.ahead_of(&anchor(1_000_000_000, 3_000_000, 8)), None);
        assert_eq!(anchor(1, 1, 0).ahead_of(&anchor(1, 1, 0)), None, "of no boot that is known");
        let (a, b) = (Clock::system().anchor().unwrap(), Clock::system().anchor().unwrap());
        assert!(a.ahead_of(&b).unwrap().span() < Duration::from_secs(1));
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
