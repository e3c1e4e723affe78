//! What is counted, as numbers at one moment, for whoever wants to see it go by: read by a tick in the background, not by requests.

use std::sync::Arc;

use super::codes::Fate;
use super::{Metrics, Outcome, SECONDS, Series};

/// Up to here the answers of a bucket came, in seconds.
pub(crate) const WITHIN: &[f64] = SECONDS;

/// See the module's documentation. All of it only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// What each limit said, in the policy's order, under its name: limits may change.
    pub limits: Vec<(Arc<str>, Verdicts)>,
    /// How often Sendly's hold refused.
    pub held: u64,
    /// Codes, in the order of [`Fate::ALL`].
    pub codes: [u64; Fate::ALL.len()],
    /// What they cost, or would have.
    pub credits: [u64; Fate::ALL.len()],
    /// Sends and resends that Sendly answered within each of [`WITHIN`], and last all that it answered.
    pub answered: [u64; SECONDS.len() + 1],
}

/// What one limit said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// It let a code pass.
    pub allow: u64,
    /// It refused one, or would have if it were enforced.
    pub deny: u64,
    /// It would have refused one, but the phone is exempt.
    pub exempt: u64,
}

impl Metrics {
    /// What is counted now, of these limits.
    pub fn sample(&self, series: &Series) -> Sample {
        let count =
            |outcome: Outcome| self.requests.iter().filter_map(move |row| row.get(outcome as usize)).map(|c| c.get());
        let (limits, held) = self.limits.verdicts(series);
        let (codes, credits) = self.codes.totals();
        Sample {
            outcomes: Outcome::ALL.map(|outcome| count(outcome).sum()),
            limits,
            held,
            codes,
            credits,
            answered: self.upstream.answered_within(),
        }
    }
}

impl Sample {
    /// What this limit said.
    pub fn verdicts(&self, limit: &str) -> Verdicts {
        self.limits.iter().find(|(name, _)| **name == *limit).map(|(_, verdicts)| *verdicts).unwrap_or_default()
    }

    /// What came between an earlier sample and this one. What the earlier one had more of is nothing.
    #[must_use]
    pub fn since(&self, earlier: &Sample) -> Sample {
        let limits = self.limits.iter().map(|(name, now)| {
            let before = earlier.verdicts(name);
            let came = Verdicts {
                allow: now.allow.saturating_sub(before.allow),
                deny: now.deny.saturating_sub(before.deny),
                exempt: now.exempt.saturating_sub(before.exempt),
            };
            (Arc::clone(name), came)
        });
        Sample {
            outcomes: less(self.outcomes, earlier.outcomes),
            limits: limits.collect(),
            held: self.held.saturating_sub(earlier.held),
            codes: less(self.codes, earlier.codes),
            credits: less(self.credits, earlier.credits),
            answered: less(self.answered, earlier.answered),
        }
    }

    /// The time, in seconds, within which this part of the answers came: interpolated in its bucket, as Prometheus does it. Of
    /// those that took longer than the longest of [`WITHIN`], that. `None` where there were none.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let all = *self.answered.last()?;
        if all == 0 {
            return None;
        }
        let wanted = part * all as f64;
        let (mut from, mut below) = (0.0, 0.0);
        for (to, within) in WITHIN.iter().zip(self.answered.iter().map(|count| *count as f64)) {
            if within >= wanted && within > below {
                return Some(from + (to - from) * (wanted - below) / (within - below));
            }
            (from, below) = (*to, within);
        }
        WITHIN.last().copied()
    }
}

fn less<const N: usize>(mut now: [u64; N], before: [u64; N]) -> [u64; N] {
    now.iter_mut().zip(before).for_each(|(now, before)| *now = now.saturating_sub(before));
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_answer() {
        let mut sample = Sample::default();
        assert_eq!(sample.quantile(0.5), None);
        // Four within a millisecond, four more within 2.5.
        sample.answered = [8; SECONDS.len() + 1];
        (sample.answered[0], sample.answered[1]) = (0, 4);
        assert_eq!(sample.quantile(0.25), Some(0.00075));
        assert_eq!(sample.quantile(0.5), Some(0.001));
        assert_eq!(sample.quantile(1.0), Some(0.0025));
        sample.answered[SECONDS.len()] = 800;
        assert_eq!(sample.quantile(0.5), Some(30.0), "or longer: nobody knows");
    }

    #[test]
    fn what_came_in_between_is_the_difference_also_where_limits_changed_their_places() {
        let said = |name: &str, allow| (Arc::from(name), Verdicts { allow, deny: 0, exempt: 0 });
        let before = Sample { held: 3, limits: vec![said("a", 5), said("b", 9)], ..Sample::default() };
        let now = Sample { held: 4, limits: vec![said("c", 1), said("b", 2), said("a", 7)], ..Sample::default() };
        let came = now.since(&before);
        assert_eq!((came.held, &came.limits), (1, &vec![said("c", 1), said("b", 0), said("a", 2)]));
        assert_eq!((came.verdicts("a").allow, came.verdicts("x").allow), (2, 0));
    }
}
