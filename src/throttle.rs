//! Throttles: a smoothed rate on request attempts, by governor.
//!
//! A throttle is about load, not about codes: it may let a burst through and it charges nothing. That is what GCRA is for, and
//! what it cannot do (hold an exact window) the ledger does.

mod keys;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};

use keys::{Keys, MAX_KEYS};

use crate::api::Operation;
use crate::clock::Clock;
use crate::config::{Throttle as Settings, ThrottlePer};
use crate::policy::subject::Account;

/// All throttles that are in force.
#[derive(Clone, Debug)]
pub(crate) struct Throttles {
    throttles: Vec<OneThrottle>,
}

#[derive(Clone, Debug)]
struct OneThrottle {
    settings: Settings,
    /// Who has attempted how much. A reload that does not change the rate keeps it.
    limiter: Arc<Limiter>,
}

type Limiter = RateLimiter<ThrottledKey, Keys<ThrottledKey>, Ticker, NoOpMiddleware<Nanos>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ThrottledKey {
    Account(Account),
    Client(IpAddr),
}

/// A throttle's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slow<'t> {
    /// The throttle's name.
    pub name: &'t str,
    /// Its place in the configuration.
    pub place: usize,
    /// From now.
    pub retry_after: Duration,
}

impl Throttles {
    /// Throttles with these settings.
    pub(crate) fn new(settings: &[Settings], clock: &Clock) -> Self {
        Self { throttles: Vec::new() }.succeed(settings, clock)
    }

    /// Throttles with these settings in the place of others. One that goes on under its name, with its rate and its burst, knows who has
    /// attempted how much; any other starts anew.
    pub(crate) fn succeed(&self, settings: &[Settings], clock: &Clock) -> Self {
        let throttle = |settings: &Settings| {
            let goes_on = |before: &&OneThrottle| before.is_rated_like(settings);
            let limiter = self.throttles.iter().find(goes_on).map(|before| Arc::clone(&before.limiter));
            OneThrottle { settings: settings.clone(), limiter: limiter.unwrap_or_else(|| limiter_of(settings, clock)) }
        };
        Self { throttles: settings.iter().map(throttle).collect() }
    }

    /// Whether there is none, so that nothing has to be found out about a request.
    pub(crate) fn is_empty(&self) -> bool {
        self.throttles.is_empty()
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// The first throttle that refuses. Those before it have counted the attempt: it was one.
    pub(crate) fn check(&self, operation: Operation, account: Account, client: Option<IpAddr>) -> Result<(), Slow<'_>> {
        for (place, OneThrottle { settings, limiter }) in self.throttles.iter().enumerate() {
            if settings.operations.as_ref().is_some_and(|operations| !operations.contains(&operation)) {
                continue;
            }
            let who = match settings.per {
                ThrottlePer::Account => ThrottledKey::Account(account),
                // A client without an address came over a Unix socket; all of those are one.
                ThrottlePer::Client => ThrottledKey::Client(client.map_or(IpAddr::from([0; 4]), network)),
            };
            if let Err(until) = limiter.check_key(&who) {
                let retry_after = until.wait_time_from(limiter.clock().now());
                return Err(Slow { name: &settings.name, place, retry_after });
            }
        }
        Ok(())
    }

    /// How many keys it has of each throttle, and how many there may be of all.
    pub(crate) fn keys(&self) -> (usize, usize) {
        (self.throttles.iter().map(|throttle| throttle.limiter.len()).sum(), MAX_KEYS * self.throttles.len())
    }

    /// Drops the keys that are back where a new one would start. Returns how many there were.
    pub(crate) fn sweep(&self) -> usize {
        let sweep = |throttle: &OneThrottle| {
            let before = throttle.limiter.len();
            throttle.limiter.retain_recent();
            throttle.limiter.shrink_to_fit();
            before.saturating_sub(throttle.limiter.len())
        };
        self.throttles.iter().map(sweep).sum()
    }
}

impl OneThrottle {
    fn is_rated_like(&self, other: &Settings) -> bool {
        let Settings { name, per, every, burst, .. } = &self.settings;
        (name, per, every, burst) == (&other.name, &other.per, &other.every, &other.burst)
    }
}

fn limiter_of(settings: &Settings, clock: &Clock) -> Arc<Limiter> {
    let burst = NonZeroU32::new(settings.burst).unwrap_or(NonZeroU32::MIN);
    // A period of zero has no quota; the config refuses it.
    let quota = Quota::with_period(settings.every).unwrap_or(Quota::per_second(NonZeroU32::MAX)).allow_burst(burst);
    Arc::new(RateLimiter::new(quota, Keys::default(), Ticker(clock.clone())))
}

/// Who a client is: its address, or its /64, since one IPv6 host has as many addresses as it likes (RFC 7707, RFC 6177).
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
        },
    }
}

/// The gateway's clock in governor's terms.
#[derive(Clone, Debug)]
struct Ticker(Clock);

impl governor::clock::Clock for Ticker {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.now().as_micros().saturating_mul(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Moment};
    use crate::policy::subject::HashKey;

    fn throttles(per: ThrottlePer, burst: u32) -> (Throttles, ManualClock) {
        let clock = ManualClock::new(Moment::from_micros(1_800_000_000_000_000));
        let settings = Settings {
            name: "t".into(),
            per,
            every: Duration::from_millis(100),
            burst,
            operations: Some(vec![Operation::Check]),
        };
        (Throttles::new(&[settings], &clock.clone().into()), clock)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let (throttles, clock) = throttles(ThrottlePer::Account, 3);
        let account = HashKey::random().account(b"Bearer a");
        let check = || throttles.check(Operation::Check, account, None).map_err(|slow| slow.retry_after);
        for _ in 0..3 {
            assert_eq!(check(), Ok(()));
        }
        assert_eq!(check(), Err(Duration::from_millis(100)));
        clock.advance(Duration::from_millis(99));
        assert_eq!(check(), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(check(), Ok(()), "refused until exactly its wait was over");
        assert_eq!(throttles.check(Operation::Send, account, None), Ok(()), "sends are not its business");
    }

    #[test]
    fn clients_of_one_ipv6_network_are_one() {
        let (throttles, _clock) = throttles(ThrottlePer::Client, 1);
        let account = HashKey::random().account(b"Bearer a");
        let check = |address: &str| throttles.check(Operation::Check, account, address.parse().ok()).is_ok();
        assert!(check("2001:db8::1"));
        assert!(!check("2001:db8::ffff:2"));
        assert!(check("2001:db8:0:1::1"));
        assert!(check("192.0.2.1"));
        assert!(!check("::ffff:192.0.2.1"));
    }

    #[test]
    fn a_throttle_that_goes_on_remembers_and_one_that_changes_starts_anew() {
        let (throttles, clock) = throttles(ThrottlePer::Account, 1);
        let account = HashKey::random().account(b"Bearer a");
        let passes = |throttles: &Throttles| throttles.check(Operation::Check, account, None).is_ok();
        assert!(passes(&throttles) && !passes(&throttles));
        let settings = throttles.throttles[0].settings.clone();
        let succeed = |settings: Settings| throttles.succeed(&[settings], &clock.clone().into());
        let others = Settings { operations: None, ..settings.clone() };
        assert!(!passes(&succeed(settings.clone())) && !passes(&succeed(others)), "the attempt counts on");
        for changed in [
            Settings { burst: 2, ..settings.clone() },
            Settings { every: Duration::from_millis(99), ..settings.clone() },
            Settings { name: "u".into(), ..settings.clone() },
        ] {
            assert!(passes(&succeed(changed)));
        }
        assert!(!passes(&throttles), "those before it are as they were");
    }

    #[test]
    fn idle_keys_are_swept() {
        let (throttles, clock) = throttles(ThrottlePer::Client, 1);
        let account = HashKey::random().account(b"Bearer a");
        for host in 0..100_u8 {
            assert!(throttles.check(Operation::Check, account, Some(IpAddr::from([192, 0, 2, host]))).is_ok());
        }
        assert_eq!(throttles.sweep(), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(throttles.sweep(), 100);
    }
}
