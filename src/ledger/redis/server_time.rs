//! What time Redis has, as far as its answers tell: for what is decided without it, so that it fits to what it decided.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::clock::Moment;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct ServerTime {
    /// How far its clock is ahead of the gateway's, in microseconds.
    ahead: AtomicI64,
    is_known: AtomicBool,
    /// Whether whoever asks says what time it is, to the server too.
    is_callers: bool,
}

impl ServerTime {
    pub(super) fn new(is_callers: bool) -> Self {
        Self { is_callers, ..Self::default() }
    }

    /// An answer to what was asked then, and came then, shows this time. What is known changes no more than that demands: times
    /// that were told apart stay so.
    pub(super) fn observe(&self, asked: Moment, answered: Moment, shown: Moment) {
        if self.is_callers {
            return;
        }
        let (least, most) = (between(answered, shown), between(asked, shown).max(between(answered, shown)));
        let known = self.ahead.load(Ordering::Relaxed);
        let ahead = if self.is_known.load(Ordering::Relaxed) { known.clamp(least, most) } else { least.midpoint(most) };
        if ahead != known {
            self.ahead.store(ahead, Ordering::Relaxed);
        }
        self.is_known.store(true, Ordering::Release);
    }

    /// Whether the server was ever heard.
    pub(super) fn is_known(&self) -> bool {
        self.is_callers || self.is_known.load(Ordering::Acquire)
    }

    /// What the script is told that the time is; `None`: what its server says.
    pub(super) fn told(&self, now: Moment) -> Option<Moment> {
        self.is_callers.then_some(now)
    }

    /// The server's time at a moment of the gateway's.
    pub(super) fn at(&self, moment: Moment) -> Moment {
        Moment::from_micros(moment.as_micros().saturating_add_signed(self.ahead.load(Ordering::Relaxed)))
    }

    /// The moment of the gateway's at a time of the server's.
    pub(super) fn moment(&self, at: Moment) -> Moment {
        let behind = self.ahead.load(Ordering::Relaxed).saturating_neg();
        Moment::from_micros(at.as_micros().saturating_add_signed(behind))
    }
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
        let time = ServerTime::default();
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
        assert_eq!((time.at(NOW), time.told(NOW)), (NOW, None));
    }

    #[test]
    fn who_is_told_the_time_needs_not_to_know_it() {
        let time = ServerTime::new(true);
        time.observe(NOW, NOW, NOW + HOUR);
        assert_eq!((time.at(NOW), time.told(NOW), time.is_known()), (NOW, Some(NOW), true));
    }
}
