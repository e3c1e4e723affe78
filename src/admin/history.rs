//! What the gateway did of late: samples of its counters, a second apart, and of the last hour a minute apart.
//!
//! A tick in the background takes them; no request waits for it, nor knows of it. It costs some 50 KiB.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::top_refused::{Share, Top, Who};
use crate::clock::Moment;
use crate::gateway::Gateway;
use crate::metrics::refused::Refusal;
use crate::metrics::sample::Sample;

/// What "now" means: over so long, rates are told.
const NOW: Duration = Duration::from_secs(10);

/// Samples that are closer together than that are one, however often somebody asks for the status.
const APART: Duration = Duration::from_millis(500);

/// How many minutes are remembered.
const MINUTES: usize = 60;

const MINUTE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Board {
    gateway: Arc<Gateway>,
    began: Moment,
    /// What refuses and is no limit.
    hold: Arc<str>,
    seen: Mutex<Sampled>,
}

/// A sample, and when it was taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) at: Moment,
    pub(crate) sample: Sample,
}

#[derive(Debug)]
struct Sampled {
    times: Times,
    top: Top,
    /// How many refusals were looked at.
    refusals: u64,
}

/// Samples, oldest first.
#[derive(Debug, Default)]
struct Times {
    /// As far back as [`NOW`], and one more.
    seconds: VecDeque<Taken>,
    /// One as of each minute's start, or of the first tick in it.
    minutes: VecDeque<Taken>,
}

/// What came within a stretch of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Period {
    pub(crate) from: Moment,
    pub(crate) seconds: f64,
    pub(crate) came: Sample,
}

/// All that is shown of it.
#[derive(Debug)]
pub(crate) struct View {
    /// When the process began to look.
    pub(crate) began: Moment,
    pub(crate) now: Taken,
    /// The last ten seconds, or as many as there were.
    pub(crate) recent: Period,
    /// The last hour, or as much of it as there was.
    pub(crate) hour: Period,
    /// Its minutes, the one that is not over last.
    pub(crate) minutes: Vec<Period>,
    /// Who was refused most.
    pub(crate) top: Vec<Share>,
    /// Since when, and how many refusals that was.
    pub(crate) top_since: Moment,
    pub(crate) top_noted: u64,
}

impl Board {
    /// A board that has seen nothing yet of this gateway.
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        let began = gateway.now();
        let mut times = Times::default();
        times.add(Taken { at: began, sample: gateway.sample() });
        let seen = Mutex::new(Sampled { times, top: Top::new(began), refusals: 0 });
        Self { gateway, began, hold: "hold".into(), seen }
    }

    /// Looks at the gateway: to be called once a second.
    pub(crate) fn tick(&self) {
        let taken = self.sample();
        let mut seen = self.seen.lock();
        let Sampled { times, top, refusals } = &mut *seen;
        top.turn(taken.at);
        // Where limits have just changed, what was refused in the second before may be told under the name of another.
        let name = |place: u8| taken.sample.limits.get(usize::from(place)).map(|(name, _)| Arc::clone(name));
        self.gateway.refused().take(refusals, |Refusal { by, whom }| {
            let limit = by.map_or_else(|| Some(Arc::clone(&self.hold)), name);
            limit.into_iter().for_each(|limit| top.note(Who { whom, limit }));
        });
        times.add(taken);
    }

    fn sample(&self) -> Taken {
        Taken { at: self.gateway.now(), sample: self.gateway.sample() }
    }

    pub(crate) fn view(&self) -> View {
        self.tick();
        let now = self.sample();
        let seen = self.seen.lock();
        let (top_since, top_noted) = seen.top.over();
        View {
            began: self.began,
            recent: Period::between(seen.times.seconds.front(), &now),
            hour: Period::between(seen.times.minutes.front(), &now),
            minutes: seen.times.minutes(&now),
            top: seen.top.most(),
            top_since,
            top_noted,
            now,
        }
    }
}

impl Times {
    fn add(&mut self, taken: Taken) {
        let minute = |taken: &Taken| taken.at.as_micros() / MINUTE.as_micros() as u64;
        if self.minutes.back().is_none_or(|last| minute(last) < minute(&taken)) {
            self.minutes.push_back(taken.clone());
        }
        while self.minutes.len() > MINUTES
            || self.minutes.front().is_some_and(|first| first.at + MINUTE * 60 < taken.at)
        {
            self.minutes.pop_front();
        }
        let now = taken.at;
        if self.seconds.back().is_none_or(|last| last.at + APART <= now) {
            self.seconds.push_back(taken);
        }
        while self.seconds.get(1).is_some_and(|second| second.at + NOW <= now) {
            self.seconds.pop_front();
        }
    }

    fn minutes(&self, now: &Taken) -> Vec<Period> {
        let ends = self.minutes.iter().skip(1).chain([now]);
        self.minutes.iter().zip(ends).map(|(start, end)| Period::between(Some(start), end)).collect()
    }
}

impl Period {
    fn between(start: Option<&Taken>, end: &Taken) -> Self {
        let Some(start) = start else { return Self::default() };
        let seconds = end.at.since(start.at).as_secs_f64();
        Self { from: start.at, seconds, came: end.sample.since(&start.sample) }
    }

    /// How many of something came in a second.
    pub(crate) fn rate(&self, count: u64) -> f64 {
        // What came in less than a second is told as if it had been one.
        let rate = count as f64 / self.seconds.max(1.0);
        (rate * 100.0).round() / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(seconds: u64, held: u64) -> Taken {
        let at = Moment::from_micros((1_795_424_400 + seconds) * 1_000_000);
        Taken { at, sample: Sample { held, ..Sample::default() } }
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut times = Times::default();
        // One a second for a minute, then nothing.
        (0..=60).for_each(|second| times.add(taken(second, second)));
        let rate = |times: &Times, second, held| {
            let span = Period::between(times.seconds.front(), &taken(second, held));
            span.rate(span.came.held)
        };
        assert_eq!(rate(&times, 60, 60), 1.0);
        (61..=65).for_each(|second| times.add(taken(second, 60)));
        assert_eq!(rate(&times, 65, 60), 0.5);
        (66..=70).for_each(|second| times.add(taken(second, 60)));
        assert_eq!((rate(&times, 70, 60), times.seconds.len()), (0.0, 11));
    }

    #[test]
    fn however_often_somebody_asks_no_more_is_kept() {
        let mut times = Times::default();
        for nth in 0..100_000 {
            let at = taken(0, 0).at + Duration::from_millis(nth);
            times.add(Taken { at, sample: Sample::default() });
        }
        assert!(times.seconds.len() <= 22 && times.minutes.len() == 2, "{}", times.seconds.len());
    }

    #[test]
    fn each_minute_has_what_came_in_it_and_an_hour_is_remembered() {
        let mut times = Times::default();
        for second in 0..=3 * 3600 {
            times.add(taken(second, second / 60 * 7));
        }
        let minutes = times.minutes(&taken(3 * 3600 + 30, 3 * 60 * 7 + 5));
        assert_eq!(minutes.len(), MINUTES);
        let (last, whole) = minutes.split_last().unwrap();
        assert!(whole.iter().all(|minute| (minute.came.held, minute.seconds) == (7, 60.0)));
        assert_eq!((last.came.held, last.seconds), (5, 30.0), "the one that is not over");
    }

    #[test]
    fn a_clock_that_stands_still_is_no_rate_of_infinity() {
        let mut times = Times::default();
        (0..5).for_each(|held| times.add(taken(0, held)));
        assert_eq!((times.seconds.len(), times.minutes.len()), (1, 1));
        let span = Period::between(times.seconds.front(), &taken(0, 9));
        assert_eq!(span.rate(span.came.held), 9.0);
    }
}
