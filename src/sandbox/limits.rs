//! Sendly's own limits: codes per phone and per account, requests per API key.
//!
//! Written apart from [`crate::policy`], and plainly: an upstream that shared the gateway's arithmetic would share its
//! mistakes, and no test could tell.

use std::collections::VecDeque;
use std::time::Duration;

use super::reply::SandboxRefusal;
use crate::clock::Moment;

const MINUTE: Duration = Duration::from_secs(60);

/// So many codes in any window, and what Sendly says to one more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    max: usize,
    window: Duration,
    message: &'static str,
}

/// The one whose answer Sendly documents to the letter.
pub(super) const PHONE_10M: Budget = Budget {
    max: 5,
    window: Duration::from_secs(600),
    message: "Too many OTPs sent to this phone number. Max 5 per 10 minutes.",
};

/// What codes to one phone have to fit.
pub(super) const PHONE: [Budget; 2] = [
    PHONE_10M,
    Budget {
        max: 20,
        window: Duration::from_secs(86_400),
        message: "Too many OTPs sent to this phone number. Max 20 per 24 hours.",
    },
];

/// What codes of one account have to fit.
pub(super) const ACCOUNT: [Budget; 1] =
    [Budget { max: 100, window: MINUTE, message: "Too many OTPs sent by this account. Max 100 per minute." }];

impl Budget {
    /// Its `retryAfter` is the whole window, not what is left of it: that is the answer that Sendly documents, and a gateway
    /// that trusts it too much should be found out here.
    pub(super) const fn refusal(&self) -> SandboxRefusal {
        SandboxRefusal::RateLimited { message: self.message, retry_after: self.window.as_secs() }
    }
}

/// The codes that somebody had.
#[derive(Debug, Default)]
pub(super) struct SentCodes {
    total: u64,
    /// The newest, as many as any budget can need.
    recent: VecDeque<Moment>,
}

impl SentCodes {
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn record(&mut self, now: Moment) {
        self.total += 1;
        self.recent.push_back(now);
        if self.recent.len() > 100 {
            self.recent.pop_front();
        }
    }

    /// Whether one more fits all of these budgets.
    pub(super) fn fit(&self, budgets: &[Budget], now: Moment) -> Result<(), SandboxRefusal> {
        let in_window = |budget: &Budget| self.recent.iter().filter(|at| **at + budget.window > now).count();
        match budgets.iter().find(|budget| in_window(budget) >= budget.max) {
            Some(spent) => Err(spent.refusal()),
            None => Ok(()),
        }
    }
}

/// The requests of one API key in the minute that runs.
#[derive(Debug, Default)]
pub(super) struct Requests {
    since: Option<Moment>,
    count: u64,
}

/// What `X-RateLimit-*` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    /// Seconds until the minute is over, rounded up.
    pub(super) reset: u64,
    /// This request was one too many.
    pub(super) exceeded: bool,
}

impl Requests {
    /// Counts one more, of a live key or a test key.
    pub(super) fn count(&mut self, live: bool, now: Moment) -> Quota {
        let since = self.since.filter(|since| now < *since + MINUTE).unwrap_or_else(|| {
            self.count = 0;
            now
        });
        self.since = Some(since);
        self.count += 1;
        let limit = if live { 600 } else { 60 };
        let left = (since + MINUTE).since(now);
        Quota {
            limit,
            remaining: limit.saturating_sub(self.count),
            reset: left.as_secs() + u64::from(left.subsec_nanos() > 0),
            exceeded: self.count > limit,
        }
    }
}

impl Quota {
    pub(super) const fn refusal(&self) -> SandboxRefusal {
        SandboxRefusal::RateLimited { message: "Too many requests.", retry_after: self.reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_requests_starts_with_its_first() {
        let (mut requests, start) = (Requests::default(), Moment::from_micros(7));
        let at = |secs| start + Duration::from_secs(secs);
        let quota = |remaining, reset| Quota { limit: 60, remaining, reset, exceeded: false };
        assert_eq!(requests.count(false, at(0)), quota(59, 60));
        assert_eq!(requests.count(false, at(59) + Duration::from_millis(1)), quota(58, 1));
        assert_eq!(requests.count(false, at(60)), quota(59, 60));
        for _ in 0..59 {
            assert!(!requests.count(false, at(61)).exceeded);
        }
        assert!(requests.count(false, at(61)).exceeded);
    }
}
