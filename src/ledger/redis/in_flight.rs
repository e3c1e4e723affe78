//! Which charges are not settled yet, of all gateways: each tells the others its own, by their tokens.
//!
//! One string in Redis has an entry for each gateway: which tokens it has yet to give out, and those that it gave out and that are open. So no
//! code costs Redis more for it, and none that is settled has to be told of by itself. What no gateway claims is settled: a gateway that
//! ended claims nothing any more, and one of version 0.1 never did.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::wire::{self, Call};
use super::{Fault, Redis};
use crate::clock::Moment;

/// How often at most a gateway tells and asks.
const EVERY: Duration = Duration::from_millis(100);

/// How often at least.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// For how long the others believe it.
const LASTS: Duration = Duration::from_secs(5);

/// How many tokens it tells at most. What is one more counts as settled.
const MOST: usize = 16_384;

/// How many tokens it may give out until it tells the next time.
const NOT_TOLD: u32 = 65_536;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct InFlight {
    /// What tells this gateway from all others.
    id: [u8; 8],
    seen: tokio::sync::Mutex<Seen>,
    /// A charge was settled that others may wait for.
    settled: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Moment>,
    others: Others,
}

/// What the other gateways have told last.
pub(super) type Others = Arc<[Other]>;

/// What another gateway has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    /// The token that it gives out next.
    next: u32,
    open: HashSet<u32>,
}

impl Other {
    /// Whether a charge of this token may yet be given back.
    pub(super) fn has_open(&self, token: u32) -> bool {
        self.open.contains(&token) || token != 0 && token.wrapping_sub(self.next) < NOT_TOLD
    }

    fn read(mut bytes: &[u8]) -> Option<Vec<Self>> {
        /// Which gateway, and until when it is believed.
        const HEAD: usize = 16;
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (next, rest) = bytes.get(HEAD..)?.split_first_chunk()?;
            let (many, rest) = rest.split_first_chunk()?;
            let (tokens, rest) = rest.split_at_checked((u32::from_be_bytes(*many) as usize).checked_mul(4)?)?;
            let token = |bytes: &[u8]| bytes.first_chunk().map(|token| u32::from_be_bytes(*token));
            all.push(Self {
                next: u32::from_be_bytes(*next),
                open: tokens.chunks_exact(4).filter_map(token).collect(),
            });
            bytes = rest;
        }
        Some(all)
    }
}

impl InFlight {
    pub(super) fn new(id: [u8; 8]) -> Self {
        Self { id, seen: tokio::sync::Mutex::default(), settled: Arc::default() }
    }

    /// Others are told soon that something is settled.
    pub(super) fn settled(&self) {
        self.settled.notify_one();
    }

    /// Tells them for as long as there is somebody to tell of.
    pub(super) async fn tell(redis: Weak<Redis>) {
        loop {
            let Some(settled) = redis.upgrade().map(|redis| Arc::clone(&redis.in_flight.settled)) else { return };
            // Whichever comes first.
            let _ = tokio::time::timeout(AT_LEAST_EVERY, settled.notified()).await;
            let Some(telling) = redis.upgrade() else { return };
            let _ = telling.attempt(telling.exchange_in_flight()).await;
            drop(telling);
            tokio::time::sleep(EVERY).await;
        }
    }
}

impl Redis {
    /// What the others have in flight, as of a tenth of a second ago at most. Nothing, where that cannot be known.
    pub(super) async fn others_in_flight(&self) -> Others {
        {
            let seen = self.in_flight.seen.lock().await;
            if seen.at.is_some_and(|at| at + EVERY > self.clock.now()) {
                return Arc::clone(&seen.others);
            }
        }
        self.attempt(self.exchange_in_flight()).await.unwrap_or_default()
    }

    /// Tells the others what this gateway has in flight, and learns what they have.
    pub(super) async fn exchange_in_flight(&self) -> Result<Others, Fault> {
        // One at a time: whoever comes meanwhile has the same answer.
        let mut seen = self.in_flight.seen.lock().await;
        let asked = self.clock.now();
        let (next, tokens) = {
            // Tokens are given out under the same lock.
            let open = self.open.lock();
            let next = self.token.load(Ordering::Relaxed);
            (next, open.keys().take(MOST).flat_map(|token| token.to_be_bytes()).collect::<Vec<u8>>())
        };
        let numbers = self.numbers(asked).and(next.into()).span(LASTS);
        let call = Call::new("exchange", vec![self.names.in_flight()], numbers).with(&self.in_flight.id);
        let parts = self.call(&call.with(&tokens)).await?;
        let others = Other::read(wire::bytes(parts.first())?).ok_or_else(|| Fault::wrong("what is in flight"))?;
        *seen = Seen { at: Some(asked), others: others.into() };
        Ok(Arc::clone(&seen.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_or_not_told_yet_is_open_and_nothing_else() {
        let entry = |next: u32, tokens: &[u32]| {
            let many = u32::try_from(tokens.len()).unwrap();
            let numbers = [next, many].into_iter().chain(tokens.iter().copied());
            [vec![7; 16], numbers.flat_map(u32::to_be_bytes).collect()].concat()
        };
        let others = Other::read(&[entry(100, &[3, 99]), entry(u32::MAX, &[])].concat()).unwrap();
        assert_eq!(others.len(), 2);
        let first = |token| others[0].has_open(token);
        assert_eq!([3, 4, 99, 98].map(first), [true, false, true, false]);
        assert_eq!([100, 100 + NOT_TOLD - 1, 100 + NOT_TOLD].map(first), [true, true, false], "not told of yet");
        let second = |token| others[1].has_open(token);
        assert_eq!(
            [u32::MAX - 1, u32::MAX, 0, 1].map(second),
            [false, true, false, true],
            "they begin anew; 0 is none"
        );
        assert_eq!(Other::read(b""), Some(vec![]));
        assert_eq!(Other::read(&entry(1, &[2, 3])[..30]), None);
    }
}
