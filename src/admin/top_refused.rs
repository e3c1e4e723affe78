//! Who is refused most: counters for few of them, by the *space-saving* algorithm (Metwally, Agrawal, El Abbadi, 2005).
//!
//! Who has no counter takes over the smallest one, with its count: that much its own may be too high, and never too low. So of
//! `n` refusals, whoever was refused more than `n / COUNTERS` times is in the list, and no count is too high by more than that.
//! Two such lists take turns, half an hour each, so that what is shown is never older than an hour.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::metrics::refused::Whom;

/// Counters of a list: more than are shown, so that those are nearly exact.
pub(crate) const COUNTERS: usize = 128;

/// How many are shown.
pub(crate) const SHOWN: usize = 20;

/// How long a list is added to.
const TURN: Duration = Duration::from_secs(30 * 60);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Top {
    current: List,
    previous: List,
}

/// Who was refused, and by which limit, or Sendly's hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) whom: Whom,
    pub(crate) limit: Arc<str>,
}

/// How often that was at most, and by how much it may be too high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) who: Who,
    pub(crate) count: u64,
    pub(crate) error: u64,
}

#[derive(Clone, Debug)]
struct List {
    since: Moment,
    noted: u64,
    counters: Vec<Share>,
}

impl List {
    const fn new(since: Moment) -> Self {
        Self { since, noted: 0, counters: Vec::new() }
    }

    fn note(&mut self, who: Who) {
        self.noted += 1;
        if let Some(counter) = self.counters.iter_mut().find(|counter| counter.who == who) {
            counter.count += 1;
        } else if self.counters.len() < COUNTERS {
            self.counters.push(Share { who, count: 1, error: 0 });
        } else if let Some(smallest) = self.counters.iter_mut().min_by_key(|counter| counter.count) {
            *smallest = Share { who, count: smallest.count + 1, error: smallest.count };
        }
    }

    /// What the count of one without a counter may be at most.
    fn floor(&self) -> u64 {
        if self.counters.len() < COUNTERS {
            0
        } else {
            self.counters.iter().map(|counter| counter.count).min().unwrap_or(0)
        }
    }
}

impl Top {
    pub(crate) const fn new(now: Moment) -> Self {
        Self { current: List::new(now), previous: List::new(now) }
    }

    /// Begins another list, if it is time.
    pub(crate) fn turn(&mut self, now: Moment) {
        if now.since(self.current.since) >= TURN {
            self.previous = std::mem::replace(&mut self.current, List::new(now));
        }
    }

    pub(crate) fn note(&mut self, who: Who) {
        self.current.note(who);
    }

    /// Since when, and how many refusals that was.
    pub(crate) const fn over(&self) -> (Moment, u64) {
        (self.previous.since, self.previous.noted + self.current.noted)
    }

    /// Those that were refused most, in both lists together.
    pub(crate) fn most(&self) -> Vec<Share> {
        let mut all = self.current.counters.clone();
        let (of_current, of_previous) = (self.current.floor(), self.previous.floor());
        for share in &mut all {
            let before = self.previous.counters.iter().find(|before| before.who == share.who);
            let (count, error) = before.map_or((of_previous, of_previous), |before| (before.count, before.error));
            share.count += count;
            share.error += error;
        }
        let is_new = |before: &&Share| !self.current.counters.iter().any(|share| share.who == before.who);
        let old = self.previous.counters.iter().filter(is_new);
        all.extend(old.map(|old| Share {
            who: old.who.clone(),
            count: old.count + of_current,
            error: old.error + of_current,
        }));
        all.sort_by_key(|share| std::cmp::Reverse(share.count - share.error));
        all.truncate(SHOWN);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const START: Moment = Moment::from_micros(1_795_424_400_000_000);

    fn refused(nth: u64) -> Who {
        Who { whom: Whom::Account(nth), limit: "phone-10m".into() }
    }

    proptest! {
        #[test]
        fn no_count_is_too_low_nor_too_high_by_more_than_is_said(
            asked in prop::collection::vec((0_u32..9, 0_u64..4000), 1..3000),
            turned in 0_usize..3000,
        ) {
            let (mut top, mut truth) = (Top::new(START), HashMap::new());
            for (nth, (rarity, who)) in asked.iter().enumerate() {
                if nth == turned {
                    top.turn(START + TURN);
                }
                let who = who >> (rarity + 3);
                top.note(refused(who));
                *truth.entry(refused(who)).or_insert(0_u64) += 1;
            }
            let most = top.most();
            prop_assert!(most.len() <= SHOWN);
            let bound = asked.len() as u64 / COUNTERS as u64 + 2;
            for share in &most {
                let truly = truth.get(&share.who).copied().unwrap_or(0);
                prop_assert!(share.count >= truly && share.count - share.error <= truly, "{share:?} {truly}");
                prop_assert!(share.error <= bound, "{share:?} of {}", asked.len());
            }
        }
    }

    #[test]
    fn whoever_is_refused_often_is_found_among_many_who_are_not() {
        let mut top = Top::new(START);
        for nth in 0..100_000_u64 {
            top.note(refused(if nth % 20 == 0 { 7 } else { 1000 + nth }));
        }
        let first = &top.most()[0];
        assert_eq!(first.who, refused(7));
        assert!(first.count - first.error >= 4000 && first.count >= 5000, "{first:?}");
    }

    #[test]
    fn what_is_older_than_an_hour_is_gone() {
        let mut top = Top::new(START);
        top.note(refused(1));
        for turns in 1..=2 {
            assert_eq!(top.over().1, 1);
            top.turn(START + TURN * turns);
        }
        assert_eq!((top.over(), top.most()), ((START + TURN, 0), vec![]));
    }
}
