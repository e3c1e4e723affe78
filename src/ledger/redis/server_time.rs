//! What time the ledger in Redis has, as far as its answers tell: for what is decided without it, so that it fits to what it decided.
//!
//! That is the time of Redis' server and what gateways have agreed to add to it (`watch.rs`). A gateway whose own clock goes on steadily sees when
//! the server's was set.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Moment;

/// What is seen beyond what round trips explain is a step: where it is more than this,
const LEAST_STEP: Duration = Duration::from_millis(20);

/// and more than so much of the time for which the server was not seen: clocks go wrong by less.
const DRIFT: u32 = 1000;

/// What the script takes off a number that is added to its server's time (`BIAS` there).
const BIAS: i64 = 1 << 51;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct ServerTime {
    whose: Whose,
    /// How far the ledger's time is ahead of the gateway's, in microseconds; and by how much that may be wrong.
    ahead: AtomicI64,
    within: AtomicU64,
    is_known: AtomicBool,
    /// What is added to the server's time, in microseconds.
    added: AtomicI64,
    /// Since when it has been seen to go on, and when it was seen last, on the ledger's time.
    began: AtomicU64,
    seen: AtomicU64,
    /// An answer showed that it was set.
    was_set: AtomicBool,
}

/// Whose time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Whose {
    /// That of one server, which is watched.
    #[default]
    Server,
    /// That of whichever server of a cluster is asked.
    Servers,
    /// Whoever asks says what time it is, to the server too.
    Callers,
}

impl ServerTime {
    pub(super) fn new(whose: Whose) -> Self {
        Self { whose, ..Self::default() }
    }

    /// Whether it is seen to when the server's clock is set.
    pub(super) fn is_watched(&self) -> bool {
        self.whose == Whose::Server
    }

    /// An answer to what was asked then, and came then, shows this time. What is known changes no more than that demands: times
    /// that were told apart stay so. Of a server that is watched, a time that cannot be changes nothing: its clock was set.
    pub(super) fn observe(&self, asked: Moment, answered: Moment, shown: Moment) {
        let known = self.is_known.load(Ordering::Acquire);
        if self.whose == Whose::Callers || self.is_watched() && !known {
            return;
        }
        if self.is_watched() && self.step(asked, answered, shown).is_some() {
            self.was_set.store(true, Ordering::Release);
            return;
        }
        let (least, most) = bounds(asked, answered, shown);
        let before = self.ahead.load(Ordering::Relaxed);
        let ahead = if known { before.clamp(least, most) } else { least.midpoint(most) };
        if ahead != before {
            self.ahead.store(ahead, Ordering::Relaxed);
        }
        self.within.fetch_min(least.abs_diff(most), Ordering::Relaxed);
        self.seen.fetch_max(shown.as_micros(), Ordering::Relaxed);
        self.is_known.store(true, Ordering::Release);
    }

    /// How far a time that an answer shows is ahead of what it can be, if it cannot be that, in microseconds.
    pub(super) fn step(&self, asked: Moment, answered: Moment, shown: Moment) -> Option<i64> {
        let (least, most) = bounds(asked, answered, shown);
        let (ahead, tolerance) = (self.ahead.load(Ordering::Relaxed), self.tolerance(asked));
        (least > ahead.saturating_add(tolerance) || most < ahead.saturating_sub(tolerance))
            .then(|| least.midpoint(most).saturating_sub(ahead))
    }

    fn tolerance(&self, now: Moment) -> i64 {
        let unseen = self.at(now).since(Moment::from_micros(self.seen.load(Ordering::Relaxed)));
        let within = Duration::from_micros(self.within.load(Ordering::Relaxed));
        micros(within + LEAST_STEP + unseen / DRIFT)
    }

    /// Begins to watch: so much is added, and then it showed this time.
    pub(super) fn begin(&self, added: i64, (asked, answered): (Moment, Moment), shown: Moment) {
        let (least, most) = bounds(asked, answered, shown);
        self.added.store(added, Ordering::Relaxed);
        self.ahead.store(least.midpoint(most), Ordering::Relaxed);
        self.within.store(least.abs_diff(most), Ordering::Relaxed);
        self.began.store(shown.as_micros(), Ordering::Relaxed);
        self.seen.store(shown.as_micros(), Ordering::Relaxed);
        self.was_set.store(false, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Release);
    }

    /// Goes on with so much added: with that, time goes on from where it was.
    pub(super) fn go_on(&self, added: i64) {
        self.added.store(added, Ordering::Relaxed);
        self.was_set.store(false, Ordering::Release);
    }

    /// Whether an answer showed that the server's clock was set.
    pub(super) fn was_set(&self) -> bool {
        self.was_set.load(Ordering::Acquire)
    }

    /// What is added to the server's time, in microseconds.
    pub(super) fn added(&self) -> i64 {
        self.added.load(Ordering::Relaxed)
    }

    /// Since when the server has been watched, and when it was seen last, on the ledger's time.
    pub(super) fn watched(&self) -> (Moment, Moment) {
        let moment = |micros: &AtomicU64| Moment::from_micros(micros.load(Ordering::Relaxed));
        (moment(&self.began), moment(&self.seen))
    }

    /// Whether the server was ever heard.
    pub(super) fn is_known(&self) -> bool {
        self.whose == Whose::Callers || self.is_known.load(Ordering::Acquire)
    }

    /// What the script is told of the time: what it is, or what is added to that of its server.
    pub(super) fn told(&self, now: Moment) -> u64 {
        match (self.whose, self.added()) {
            (Whose::Callers, _) => now.as_micros(),
            (_, 0) => 0,
            (_, added) => (added - BIAS).cast_unsigned(),
        }
    }

    /// Between which times what is asked now is to be carried out, if it is to be within `bound`. The script takes 0 and 0 for any.
    pub(super) fn span(&self, now: Moment, bound: Duration) -> (u64, u64) {
        if self.whose == Whose::Callers || !self.is_known() {
            return (0, 0);
        }
        let at = self.at(now);
        let earliest = match self.is_watched() {
            true => at - Duration::from_micros(self.tolerance(now).unsigned_abs()),
            false => Moment::default(),
        };
        // The server's time is known to within the time that an answer takes: another bound.
        (earliest.as_micros(), (at + bound * 2).as_micros())
    }

    /// The ledger's time at a moment of the gateway's.
    pub(super) fn at(&self, moment: Moment) -> Moment {
        Moment::from_micros(moment.as_micros().saturating_add_signed(self.ahead.load(Ordering::Relaxed)))
    }

    /// The moment of the gateway's at a time of the ledger's.
    pub(super) fn moment(&self, at: Moment) -> Moment {
        let behind = self.ahead.load(Ordering::Relaxed).saturating_neg();
        Moment::from_micros(at.as_micros().saturating_add_signed(behind))
    }
}

/// How far the server may be ahead that showed this time between those two: at least, and at most.
fn bounds(asked: Moment, answered: Moment, shown: Moment) -> (i64, i64) {
    let least = between(answered, shown);
    (least, between(asked, shown).max(least))
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// How far the one is behind the other, in microseconds.
fn between(one: Moment, other: Moment) -> i64 {
    let micros = |moment: Moment| i64::try_from(moment.as_micros()).unwrap_or(i64::MAX);
    micros(other).saturating_sub(micros(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn an_answer_moves_what_is_known_no_further_than_it_has_to() {
        let time = ServerTime::new(Whose::Servers);
        assert!(!time.is_known());
        // Between asked and answered, somewhere: in the middle.
        time.observe(NOW, NOW + MICRO * 100, NOW + HOUR + MICRO * 50);
        assert_eq!(time.at(NOW), NOW + HOUR);
        // This fits.
        time.observe(NOW, NOW + MICRO * 100, NOW + HOUR + MICRO * 90);
        assert_eq!(time.at(NOW), NOW + HOUR);
        // This does not: it shows that the server is 20 microseconds further ahead.
        time.observe(NOW, NOW + MICRO * 100, NOW + HOUR + MICRO * 120);
        assert_eq!(time.at(NOW), NOW + HOUR + MICRO * 20);
        assert_eq!(time.moment(time.at(NOW)), NOW);
        // Set back by an hour.
        time.observe(NOW, NOW, NOW);
        assert_eq!((time.at(NOW), time.told(NOW), time.was_set()), (NOW, 0, false));
    }

    #[test]
    fn who_is_told_the_time_needs_not_to_know_it() {
        let time = ServerTime::new(Whose::Callers);
        time.observe(NOW, NOW, NOW + HOUR);
        assert_eq!((time.at(NOW), time.told(NOW), time.is_known()), (NOW, NOW.as_micros(), true));
    }

    #[test]
    fn a_step_is_what_no_round_trip_explains() {
        let (time, milli) = (ServerTime::default(), MICRO * 1000);
        time.observe(NOW, NOW, NOW + HOUR);
        assert!(!time.is_known(), "it is watched from when it is known what is added to it");
        time.begin(0, (NOW, NOW + milli * 10), NOW + milli * 5);
        // Ten milliseconds of a round trip, twenty besides, and one for a second.
        let second = Duration::from_secs(1);
        let later = NOW + second;
        time.observe(later, later + milli * 200, later + milli * 230);
        assert!(!time.was_set());
        assert_eq!(time.at(later), later + milli * 30, "it goes after it");
        let later = later + second;
        time.observe(later, later + milli, later + milli * 100);
        assert!(time.was_set());
        assert_eq!(time.step(later, later + milli, later + milli * 100), Some(69_500));
        assert_eq!(time.at(later), later + milli * 30, "it does not go after a step");
        assert_eq!(time.step(later, later + second, later + milli * 100), None, "it may have taken so long");
        assert_eq!(time.step(later, later + second, later - second), Some(-1_530_000));
        time.go_on(-69_500);
        assert!(!time.was_set());
        let told = time.told(NOW).cast_signed();
        assert_eq!(told + (1 << 51), -69_500);
        let (earliest, deadline) = time.span(later, second);
        assert_eq!(deadline, (later + milli * 30 + second * 2).as_micros());
        assert!((later - milli..later + milli * 30).contains(&Moment::from_micros(earliest)));
    }
}
