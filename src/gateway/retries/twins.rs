//! Requests that are identical to one in flight whose client seems to be there.
//!
//! An SDK that gives up a try closes its connection and tries again within a millisecond. The new request can be judged before the gateway
//! has seen that the connection is closed, and would then be taken for a second click. So a request that has a twin in flight waits a moment
//! for the twin's client to go. Two clicks of two people who are there are served all the same, the second one [`GRACE`] later.

use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Fingerprint, Retries};

/// How long a request waits for its twin's client to go. Seeing that takes the gateway well under a millisecond, and longer on a busy core.
const GRACE: Duration = Duration::from_millis(50);

/// Counters of exchanges in flight, by a part of their identity. Identities that share one cost each other a needless wait: with a thousand
/// exchanges in flight one request in 260.
const COUNTERS: usize = 1 << 18;

#[derive(Debug, Default)]
pub(super) struct Twins {
    /// There from the first exchange on.
    in_flight: OnceLock<Box<[AtomicU16]>>,
    /// A client has gone while its exchange is in flight.
    left: Notify,
}

/// Which counter an identity has. The exchanges' table uses the lowest bits.
const fn counter_of(identity: u128) -> u32 {
    (identity >> 64) as u32 % COUNTERS as u32
}

impl Twins {
    fn counter(&self, counter: u32) -> Option<&AtomicU16> {
        self.in_flight.get()?.get(counter as usize)
    }

    pub(super) fn enter(&self, identity: u128) {
        self.enter_many(counter_of(identity), 1);
    }

    pub(super) fn enter_many(&self, counter: u32, many: u16) {
        self.in_flight.get_or_init(|| (0..COUNTERS).map(|_| AtomicU16::new(0)).collect());
        self.counter(counter).map(|counter| counter.fetch_add(many, Ordering::Relaxed));
    }

    /// Returns which counter it had.
    pub(super) fn leave(&self, identity: u128) -> u32 {
        let counter = counter_of(identity);
        self.leave_many(counter, 1);
        counter
    }

    pub(super) fn leave_many(&self, counter: u32, many: u16) {
        self.counter(counter).map(|counter| counter.fetch_sub(many, Ordering::Relaxed));
    }

    /// All that are not zero.
    pub(super) fn counts(&self) -> Vec<(u32, u16)> {
        let all = self.in_flight.get().into_iter().flatten().map(|many| many.load(Ordering::Relaxed));
        (0..).zip(all).filter(|(_, many)| *many > 0).collect()
    }

    pub(super) fn client_left(&self) {
        self.left.notify_waiters();
    }

    fn are_in_flight(&self, identity: u128) -> bool {
        self.counter(counter_of(identity)).is_some_and(|counter| counter.load(Ordering::Relaxed) > 0)
    }
}

impl Retries {
    /// Whether a request may be identical to one in flight, so that [`twin_to_leave`](Self::twin_to_leave) is to be waited for.
    pub(crate) fn may_have_twin(&self, fingerprint: Fingerprint) -> bool {
        self.twins.are_in_flight(fingerprint.identity)
    }

    /// Waits until the client of an identical exchange in flight has gone, or for `GRACE`.
    pub(crate) async fn twin_to_leave(&self, fingerprint: Fingerprint) {
        let mut over = pin!(tokio::time::sleep(GRACE));
        loop {
            let mut left = pin!(self.twins.left.notified());
            left.as_mut().enable();
            if !self.may_have_twin(fingerprint) || self.is_repeated(fingerprint) {
                return;
            }
            tokio::select! {
                () = left => {}
                () = &mut over => return,
            }
        }
    }

    /// Whether there is an exchange that a request repeats.
    fn is_repeated(&self, Fingerprint { identity, key, .. }: Fingerprint) -> bool {
        let now = self.clock.now();
        let exchanges = self.exchanges.get(&identity);
        exchanges.is_some_and(|all| all.iter().any(|exchange| self.is_open_to_retries(exchange, key, now)))
    }
}
