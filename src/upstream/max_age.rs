//! How long connections to Sendly are used (`upstream.max_age`), so that a busy one follows a change of Sendly's addresses.
//!
//! Connections that were made together do not end together: each age is up to a tenth less than the maximum, spread evenly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Moment;

/// The golden ratio, as a fraction of 2⁶⁴: its multiples lie evenly between 0 and 1, however many there are.
const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct MaxAge {
    /// In microseconds.
    most: u64,
    drawn: AtomicU64,
}

impl MaxAge {
    pub(crate) fn new(most: Duration) -> Self {
        Self { most: u64::try_from(most.as_micros()).unwrap_or(u64::MAX), drawn: AtomicU64::new(0) }
    }

    /// When a connection that is made now is to be used no more.
    pub(crate) fn end_of_connection(&self, now: Moment) -> Moment {
        now + Duration::from_micros(self.most - self.spread())
    }

    /// Numbers the time in which a request takes a connection, for a pool that knows no age: a connection is used by requests of one number
    /// alone. Requests change to the next number one by one, so that not all connections are made anew at once.
    pub(crate) fn period(&self, now: Moment) -> u64 {
        // With the spread, a number is given out for as long as the maximum.
        let length = self.most - self.most / 10;
        (now + Duration::from_micros(self.spread())).as_micros().checked_div(length).unwrap_or_default()
    }

    /// Microseconds, from 0 to less than a tenth of the maximum.
    fn spread(&self) -> u64 {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN_RATIO);
        // 24 bits of it: their product with a tenth of a day has room.
        ((self.most / 10).saturating_mul(drawn >> 40)) >> 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);
    const MOST: Duration = Duration::from_secs(300);

    #[test]
    fn ages_are_spread_evenly_over_the_last_tenth_and_none_is_over_the_maximum() {
        for most in [MOST, Duration::from_secs(1), Duration::from_secs(24 * 60 * 60)] {
            let max_age = MaxAge::new(most);
            let mut tenths = [0; 10];
            for _ in 0..1000 {
                let less = most - max_age.end_of_connection(NOW).since(NOW);
                assert!(less < most / 10, "{less:?}");
                tenths[(less.as_micros() * 100 / most.as_micros()) as usize] += 1;
            }
            assert!(tenths.iter().all(|many| (90..=110).contains(many)), "{most:?}: {tenths:?}");
        }
    }

    #[test]
    fn a_period_is_used_for_no_longer_than_the_maximum_and_the_next_one_comes_little_by_little() {
        let max_age = MaxAge::new(MOST);
        // A request each 10 ms, for half an hour.
        let (mut used, mut alone, mut both) = (Vec::<(u64, Moment, Moment)>::new(), 0, 0);
        let mut last = 0;
        for nth in 0..180_000 {
            let now = NOW + Duration::from_millis(10) * nth;
            let period = max_age.period(now);
            match used.iter_mut().find(|(other, ..)| *other == period) {
                Some((.., until)) => *until = now,
                None => used.push((period, now, now)),
            }
            if period < last {
                both += 1
            } else {
                alone += 1
            }
            last = last.max(period);
        }
        assert!(used.len() >= 6, "{used:?}");
        for (period, from, until) in &used {
            assert!(until.since(*from) <= MOST, "{period}: {:?}", until.since(*from));
        }
        // For a ninth of the time two periods are in use, and half of the requests are still of the first one.
        assert!(both * 25 > alone && both * 12 < alone, "{both} of {alone}");
    }
}
