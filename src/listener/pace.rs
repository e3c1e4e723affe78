//! How fast a request's body has to come. Time is an argument.
//!
//! Only the time counts in which the gateway waits for the client: while Sendly is slow to take a body, the gateway does not read, and
//! the client cannot send. A silence as such is not judged here: `clients.body_timeout` ends it.

use std::time::Duration;

use crate::clock::Moment;

/// The time over which the rate is averaged: spans of so much waiting, one after the other.
const SPAN: Duration = Duration::from_secs(30);

/// The pace of one body.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; 0 demands nothing.
    min_rate: u32,
    /// Since when the gateway waits for the client.
    waits_since: Option<Moment>,
    /// What the present span has so far.
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Of a body that has to come with at least `min_rate` bytes a second; 0 demands nothing.
    pub(crate) fn new(min_rate: u32) -> Self {
        Self { min_rate, waits_since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// More of the body has come.
    pub(crate) fn came(&mut self, bytes: usize, now: Moment) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if let Some(since) = self.waits_since.take() {
            self.waited = self.waited.saturating_add(now.since(since));
        }
    }

    /// The gateway has read all that has come, and waits for more as of `now`. Returns whether the client is fast enough: it is judged
    /// here, where nothing that it has sent is still unread.
    #[must_use]
    pub(crate) fn wait(&mut self, now: Moment) -> bool {
        self.waits_since.get_or_insert(now);
        if self.waited < SPAN {
            return true;
        }
        let demanded = self.waited.as_micros().saturating_mul(self.min_rate.into());
        let is_fast = u128::from(self.bytes).saturating_mul(1_000_000) >= demanded;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_micros(0);

    /// Whether a body that comes in pieces of `bytes`, `every` so often, is fast enough for a minute and a half.
    fn passes(min_rate: u32, bytes: usize, every: Duration) -> bool {
        let (mut pace, mut now) = (Pace::new(min_rate), Moment::from_micros(7));
        let end = now + Duration::from_secs(90);
        while now < end {
            if !pace.wait(now) {
                return false;
            }
            now = now + every;
            pace.came(bytes, now);
        }
        pace.wait(now)
    }

    #[test]
    fn a_body_that_comes_at_the_rate_passes_in_whatever_pieces() {
        for (bytes, every) in [(1, 2), (50, 100), (500, 1000), (2500, 5000), (15_000, 30_000)] {
            assert!(passes(500, bytes, Duration::from_millis(every)), "{bytes} bytes each {every} ms");
        }
    }

    #[test]
    fn a_body_that_comes_slower_is_too_slow() {
        for (bytes, every) in [(1, 1000), (1, 5000), (49, 100), (499, 1000), (2499, 5000)] {
            assert!(!passes(500, bytes, Duration::from_millis(every)), "{bytes} bytes each {every} ms");
        }
    }

    #[test]
    fn nothing_is_judged_before_its_span_is_over() {
        let (mut pace, almost) = (Pace::new(500), START + Duration::from_micros(29_999_999));
        assert!(pace.wait(START));
        pace.came(1, almost);
        assert!(pace.wait(almost));
        pace.came(1, START + SPAN);
        assert!(!pace.wait(START + SPAN));
    }

    #[test]
    fn what_has_come_and_is_not_read_yet_is_not_held_against_the_client() {
        let mut pace = Pace::new(500);
        assert!(pace.wait(START));
        for _ in 0..20 {
            pace.came(1000, START + SPAN + Duration::from_secs(1));
        }
        assert!(pace.wait(START + SPAN + Duration::from_secs(1)), "one piece that is read in many");
    }

    #[test]
    fn each_span_is_judged_by_itself() {
        let mut pace = Pace::new(500);
        assert!(pace.wait(START));
        pace.came(10_000_000, START + SPAN);
        assert!(pace.wait(START + SPAN), "fast");
        pace.came(10, START + SPAN + SPAN);
        assert!(!pace.wait(START + SPAN + SPAN), "and then slow");
    }

    #[test]
    fn time_in_which_the_gateway_does_not_wait_does_not_count() {
        let mut pace = Pace::new(500);
        for nth in 0..10 {
            let begins = Moment::from_micros(nth * 100_000_000);
            assert!(pace.wait(begins) && pace.wait(begins + Duration::from_micros(400_000)));
            pace.came(500, begins + Duration::from_micros(1_000_000));
        }
    }

    #[test]
    fn a_rate_of_zero_demands_nothing() {
        assert!(passes(0, 1, Duration::from_secs(5)));
    }
}
