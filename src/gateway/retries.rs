//! One click buys one SMS: which request is a new one, and which is an SDK's retry of an exchange that the gateway knows.
//!
//! Requests are the same if their API key, organisation, path, body and `Idempotency-Key` are. A request is a retry, and gets
//! the answer of the exchange that it repeats, if that exchange
//! - carries an `Idempotency-Key` and is in flight, or had a final answer a while ago; or
//! - has lost its client: it timed out or its connection broke, so that the answer could not be delivered; or
//! - ended with nobody knowing whether Sendly sent a code.
//!
//! Otherwise it is a new click, however alike: two live requests are two. What the gateway itself refuses is never kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use super::reply::Reply;
use crate::clock::{Clock, Moment};
use crate::config::Retries as Settings;

/// What makes two requests the same: a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Of API key, organisation, path, body and `Idempotency-Key`.
    pub hash: u128,
    /// Whether there was an `Idempotency-Key`.
    pub keyed: bool,
}

/// How an exchange ended, as far as a retry is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a success.
    Final,
    /// With nothing bought, so that asking again buys nothing twice (3xx, 4xx, `delivery_failed`).
    Passing,
    /// With nobody knowing whether a code went out: no answer, a broken one, or a 5xx.
    Unknown,
    /// Without anything having been sent: refused, or Sendly not reached. A retry is to be judged anew.
    Nothing,
}

/// An exchange that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What its clients are told.
    pub reply: Reply,
    /// How it ended.
    pub ending: Ending,
}

impl Ended {
    /// The end of an exchange whose task died.
    fn nobody_knows_how() -> Self {
        Self { reply: Reply::internal(), ending: Ending::Unknown }
    }
}

/// The exchanges that a retry may repeat.
#[derive(Debug)]
pub struct Retries {
    exchanges: DashMap<u128, Vec<Exchange>>,
    kept: AtomicUsize,
    unclaimed: AtomicUsize,
    serial: AtomicU64,
    settings: Settings,
    clock: Clock,
}

#[derive(Debug)]
struct Exchange {
    serial: u64,
    keyed: bool,
    /// Clients that wait for it or are being answered.
    clients: usize,
    delivered: bool,
    over: Option<(Ending, Moment)>,
    ended: watch::Receiver<Option<Arc<Ended>>>,
}

impl Exchange {
    /// Whether it is over and no client waits for it: only retries can want it.
    fn is_kept(&self) -> bool {
        self.over.is_some() && self.clients == 0
    }

    /// Whether it is in flight and no client waits for it any more.
    fn is_unclaimed(&self) -> bool {
        self.over.is_none() && self.clients == 0
    }
}

/// A request's place in [`Retries`].
#[derive(Debug)]
pub enum Place {
    /// It is a new click: whoever asks has to carry it out.
    New(Ticket, Publisher),
    /// It is a retry: its answer is there or on the way.
    Retry(Ticket),
}

impl Retries {
    /// None yet.
    pub fn new(settings: Settings, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            exchanges: DashMap::new(),
            kept: AtomicUsize::new(0),
            unclaimed: AtomicUsize::new(0),
            serial: AtomicU64::new(0),
            settings,
            clock,
        })
    }

    /// Finds the exchange that a request repeats, or makes a new one.
    pub fn place(self: &Arc<Self>, fingerprint: Fingerprint) -> Place {
        let now = self.clock.now();
        let mut exchanges = self.exchanges.entry(fingerprint.hash).or_default();
        let repeats = exchanges.iter_mut().find(|exchange| self.is_open_to_retries(exchange, now));
        if let Some(exchange) = repeats {
            if exchange.is_kept() {
                self.kept.fetch_sub(1, Ordering::Relaxed);
            }
            if exchange.is_unclaimed() {
                self.unclaimed.fetch_sub(1, Ordering::Relaxed);
            }
            exchange.clients += 1;
            let (serial, ended) = (exchange.serial, exchange.ended.clone());
            return Place::Retry(self.ticket(fingerprint.hash, serial, ended));
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (sender, ended) = watch::channel(None);
        exchanges.push(Exchange {
            serial,
            keyed: fingerprint.keyed,
            clients: 1,
            delivered: false,
            over: None,
            ended: ended.clone(),
        });
        let publisher = Publisher { retries: Arc::clone(self), hash: fingerprint.hash, serial, sender: Some(sender) };
        Place::New(self.ticket(fingerprint.hash, serial, ended), publisher)
    }

    /// Answers that are kept for a retry.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// Exchanges in flight that no client waits for any more.
    pub fn unclaimed(&self) -> usize {
        self.unclaimed.load(Ordering::Relaxed)
    }

    /// Drops the answers that have been kept long enough. Returns how many there were.
    pub fn sweep(&self) -> usize {
        let now = self.clock.now();
        let mut dropped = 0;
        self.exchanges.retain(|_, exchanges| {
            let before = exchanges.len();
            exchanges
                .retain(|exchange| exchange.clients > 0 || self.kept_until(exchange).is_none_or(|until| until > now));
            dropped += before - exchanges.len();
            !exchanges.is_empty()
        });
        self.kept.fetch_sub(dropped, Ordering::Relaxed);
        dropped
    }

    fn ticket(self: &Arc<Self>, hash: u128, serial: u64, ended: watch::Receiver<Option<Arc<Ended>>>) -> Ticket {
        Ticket { retries: Arc::clone(self), hash, serial, ended, delivered: false, given_up: false }
    }

    fn is_open_to_retries(&self, exchange: &Exchange, now: Moment) -> bool {
        let unclaimed = exchange.clients == 0;
        let open = match exchange.over {
            // Also while a client is being told: its next try may come before that is done.
            Some((Ending::Unknown, _)) => true,
            // Never what is being told: once it is, it is not given again.
            Some((Ending::Passing, _)) => unclaimed,
            _ => exchange.keyed || unclaimed,
        };
        open && self.kept_until(exchange).is_none_or(|until| until > now)
    }

    /// Until when an exchange that has ended answers its retries; `None` while it is in flight.
    fn kept_until(&self, exchange: &Exchange) -> Option<Moment> {
        let (ending, at) = exchange.over?;
        let Settings { undelivered, unknown, idempotency, .. } = self.settings;
        // While a client is being told, it counts as told: only one that has gone is waited for.
        let told = exchange.delivered || exchange.clients > 0;
        let waits_for_its_client = if told { Duration::ZERO } else { undelivered };
        let span = match ending {
            Ending::Nothing => Duration::ZERO,
            Ending::Passing => waits_for_its_client,
            Ending::Final if exchange.keyed => idempotency.max(waits_for_its_client),
            Ending::Final => waits_for_its_client,
            Ending::Unknown => unknown.max(waits_for_its_client),
        };
        Some(at + span)
    }

    /// Changes an exchange, and drops it if nobody waits for it and no retry may repeat it.
    fn change(&self, hash: u128, serial: u64, change: impl FnOnce(&mut Exchange)) {
        let now = self.clock.now();
        let Entry::Occupied(mut entry) = self.exchanges.entry(hash) else { return };
        let Some(place) = entry.get().iter().position(|exchange| exchange.serial == serial) else { return };
        let Some(exchange) = entry.get_mut().get_mut(place) else { return };
        let was_unclaimed = exchange.is_unclaimed();
        change(exchange);
        match (was_unclaimed, exchange.is_unclaimed()) {
            (false, true) => drop(self.unclaimed.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.unclaimed.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if exchange.is_kept() {
            let worth_keeping = self.kept_until(exchange).is_some_and(|until| until > now);
            // What was bought, or may have been, and is not delivered always finds room: nobody can fill it without a good key.
            let may_be_bought_twice = match exchange.over {
                Some((Ending::Unknown, _)) => true,
                Some((Ending::Final, _)) => !exchange.delivered,
                _ => false,
            };
            if worth_keeping && (may_be_bought_twice || self.kept() < self.settings.max_kept) {
                self.kept.fetch_add(1, Ordering::Relaxed);
            } else {
                entry.get_mut().swap_remove(place);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }
}

/// A client's claim to an exchange's answer. Dropping it without [`Ticket::delivered`] means that the client has gone.
#[derive(Debug)]
pub struct Ticket {
    retries: Arc<Retries>,
    hash: u128,
    serial: u64,
    ended: watch::Receiver<Option<Arc<Ended>>>,
    delivered: bool,
    given_up: bool,
}

impl Ticket {
    /// Waits for the answer. Cancel-safe.
    pub async fn ended(&mut self) -> Arc<Ended> {
        let ended = self.ended.wait_for(Option::is_some).await;
        // The publisher publishes even when it is dropped: there is always something to say.
        ended.ok().and_then(|ended| ended.clone()).unwrap_or_else(|| Arc::new(Ended::nobody_knows_how()))
    }

    /// The client has its answer. After [`Ticket::give_up`] that cannot be known, and this changes nothing.
    pub fn delivered(mut self) {
        self.delivered = true;
    }

    /// The client has gone, as far as can be seen: from now on a retry may take its place. The answer can still be waited for.
    pub fn give_up(&mut self) {
        if std::mem::replace(&mut self.given_up, true) {
            return;
        }
        self.retries.change(self.hash, self.serial, |exchange| {
            exchange.clients = exchange.clients.saturating_sub(1);
            exchange.delivered |= self.delivered;
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The duty to end an exchange. One that is dropped (its task panicked) ends it with nobody knowing how.
#[derive(Debug)]
pub struct Publisher {
    retries: Arc<Retries>,
    hash: u128,
    serial: u64,
    sender: Option<watch::Sender<Option<Arc<Ended>>>>,
}

impl Publisher {
    /// Ends the exchange and tells its answer to all who wait for it.
    pub fn publish(mut self, reply: Reply, ending: Ending) {
        self.finish(Ended { reply, ending });
    }

    fn finish(&mut self, ended: Ended) {
        let Some(sender) = self.sender.take() else { return };
        let now = self.retries.clock.now();
        let ending = ended.ending;
        // First the end, then the answer: whoever asks after a client has been told must not find it in flight still.
        self.retries.change(self.hash, self.serial, |exchange| exchange.over = Some((ending, now)));
        sender.send_replace(Some(Arc::new(ended)));
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.finish(Ended::nobody_knows_how());
        }
    }
}

#[cfg(test)]
mod tests;
