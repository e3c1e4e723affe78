//! Which charges are not settled yet, of all gateways: each tells the others its own, by their tokens.
//!
//! One string in Redis has an entry for each gateway: which tokens it has yet to give out, and those that it gave out and that are open. So no
//! code costs Redis more for it, and none that is settled has to be told of by itself. What no gateway claims is settled: a gateway that
//! ended claims nothing any more, and one of version 0.1 never did.
//!
//! In the same entry stands what Sendly has refused to an account in the last seconds, so that the others need not be told so by Sendly.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::keys::{Held, Names};
use super::protocol::{self, ScriptCall};
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

/// How many holds it tells at most: the last ones.
const MOST_HOLDS: usize = 1000;

/// What is left of a hold has to be longer than what is known of it by this much: clocks are known to within less.
const LONGER: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct InFlight {
    /// What tells this gateway from all others.
    id: [u8; 8],
    seen: tokio::sync::Mutex<Seen>,
    /// A charge was settled that others may wait for.
    settled: Arc<Notify>,
    /// What Sendly refused to an account, and when that was said.
    held: Mutex<VecDeque<(Moment, Held)>>,
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
    held: Vec<Held>,
}

impl Other {
    /// Whether a charge of this token may yet be given back.
    pub(super) fn has_open(&self, token: u32) -> bool {
        self.open.contains(&token) || token != 0 && token.wrapping_sub(self.next) < NOT_TOLD
    }

    fn read(mut bytes: &[u8], names: &Names) -> Option<Vec<Self>> {
        /// Which gateway, and until when it is believed.
        const HEAD: usize = 16;
        let number = |bytes: &[u8]| bytes.first_chunk().map(|number| u32::from_be_bytes(*number));
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (size, rest) = bytes.get(HEAD..)?.split_at_checked(4)?;
            let (told, rest) = rest.split_at_checked(number(size)? as usize)?;
            let (next, told) = told.split_at_checked(4)?;
            let (many, told) = told.split_at_checked(4)?;
            let (tokens, held) = told.split_at_checked((number(many)? as usize).checked_mul(4)?)?;
            let open = tokens.chunks_exact(4).filter_map(number).collect();
            let held = held.chunks_exact(Names::HOLD).filter_map(|hold| names.read_hold(hold)).collect();
            all.push(Self { next: number(next)?, open, held });
            bytes = rest;
        }
        Some(all)
    }
}

impl InFlight {
    pub(super) fn new(id: [u8; 8]) -> Self {
        Self { id, seen: tokio::sync::Mutex::default(), settled: Arc::default(), held: Mutex::default() }
    }

    /// The others are told soon that Sendly refuses this.
    pub(super) fn held(&self, held: Held, now: Moment) {
        let mut all = self.held.lock();
        if all.len() == MOST_HOLDS {
            all.pop_front();
        }
        all.push_back((now, held));
        drop(all);
        self.settled();
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
            if let Some(others) = telling.attempt(telling.exchange_in_flight()).await {
                telling.learn_holds(&others).await;
            }
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
        let mut news: Vec<u8> = {
            // Tokens are given out under the same lock.
            let open = self.open.lock();
            let (next, many) = (self.token.load(Ordering::Relaxed), open.len().min(MOST));
            let numbers = [next, u32::try_from(many).unwrap_or_default()];
            numbers.into_iter().chain(open.keys().take(many).copied()).flat_map(u32::to_be_bytes).collect()
        };
        {
            let mut held = self.in_flight.held.lock();
            held.retain(|(said, _)| *said + LASTS > asked);
            held.iter().for_each(|(_, held)| news.extend(self.names.write_hold(*held)));
        }
        let numbers = self.numbers(asked).span(LASTS);
        let call = ScriptCall::new("exchange", vec![self.names.in_flight()], numbers).with(&self.in_flight.id);
        let parts = self.call(&call.with(&news)).await?;
        let others = Other::read(protocol::bytes(parts.first())?, &self.names);
        let others = others.ok_or_else(|| Fault::wrong("what is in flight"))?;
        *seen = Seen { at: Some(asked), others: others.into() };
        Ok(Arc::clone(&seen.others))
    }

    /// What Sendly refused to an account at another gateway holds here too.
    async fn learn_holds(&self, others: &Others) {
        let now = self.clock.now();
        for (key, account, until) in others.iter().flat_map(|other| other.held.iter().copied()) {
            let until = self.time.moment(until);
            let known = self.warm.holds.wait(key, account, now).unwrap_or_default();
            if until.since(now) > known + LONGER
                && let Some(until) = self.warm.holds.add(key, account, until, now)
            {
                self.hold(key, until).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Key;

    #[test]
    fn what_is_claimed_or_not_told_yet_is_open_and_nothing_else() {
        let hash_key = || crate::policy::subject::HashKey::new([3; 16]);
        let names = Names::new("sendly".to_owned(), hash_key(), false);
        let entry = |next: u32, tokens: &[u32], held: &[u8]| {
            let many = u32::try_from(tokens.len()).unwrap();
            let size = 8 + 4 * many + u32::try_from(held.len()).unwrap();
            let numbers = [size, next, many].into_iter().chain(tokens.iter().copied());
            [vec![7; 16], numbers.flat_map(u32::to_be_bytes).collect(), held.to_vec()].concat()
        };
        let until = Moment::from_micros(1_795_424_400_000_000);
        let held = [Key::Phone("+15550100123".parse().unwrap()), Key::Verification(hash_key().verification("a"))]
            .map(|key| (key, hash_key().account(b"a"), until));
        let written = held.map(|held| names.write_hold(held)).concat();
        let told = [entry(100, &[3, 99], &written), entry(u32::MAX, &[], b"")].concat();
        let others = Other::read(&told, &names).unwrap();
        assert_eq!((others[0].held.as_slice(), others[1].held.len()), (held.as_slice(), 0));
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
        assert_eq!(Other::read(b"", &names), Some(vec![]));
        assert_eq!(Other::read(&entry(1, &[2, 3], b"")[..30], &names), None);
    }
}
