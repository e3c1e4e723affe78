//! One click buys one SMS: which request is a new one, and which is an SDK's retry of an exchange that the gateway knows.
//!
//! Requests are identical if their API key, organisation, path and body are, and an `Idempotency-Key` that the app chose. A key that an
//! SDK made up itself does not count there: SDKs of 3.38 to 4.2 make a new one after each 5xx. A request is a retry, and gets the answer
//! of the exchange that it repeats, if that exchange
//! - carries the same `Idempotency-Key`, whoever made it, and is in flight, or had a final answer a while ago; or
//! - is identical and has lost its client, so that the answer could not be delivered: the client gave up, its connection broke, or it was
//!   told that Sendly is late; or
//! - is identical and has ended, and whether Sendly sent a code is not known.
//!
//! Otherwise it is a new click, however alike: two live requests are two. What the gateway itself refuses is never kept.
//!
//! So an exchange without a key, whose client is there, repeats for nobody, and nobody is told of it: it is entered here only
//! when its client goes or its end is one that nobody knows. One with a key is entered before it is decided, since the next
//! request with that key has to join it even where a limit would refuse another code by now.
//!
//! `retries.max_kept` bounds what is kept (`retries/places.rs`): every new click has a place for its answer before it is charged.

mod as_it_is;
mod click;
mod fingerprint;
mod places;
mod remote;
pub(crate) mod snapshot;
mod ticket;
mod twins;

use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use serde::{Deserialize, Serialize};
use tokio::sync::SetOnce;

use self::as_it_is::AsItIs;
pub(crate) use self::click::Click;
use self::click::End;
pub(crate) use self::fingerprint::Fingerprint;
use self::places::Places;
pub(crate) use self::ticket::Ticket;
use self::twins::Twins;
use super::reply::Reply;
use crate::api::sdk;
use crate::clock::{Clock, Moment};
use crate::config::Retries as Settings;
pub(crate) use remote::News;
use remote::Remote;

/// Delivered answers kept for identical requests, each under an SDK's key of its own: a request looks through them. Where
/// limits are in force there are no more than these allow. Sendly itself repeats the answer of a send whose key was used before.
const MAX_ALIKE: usize = 64;

/// How an exchange ended, as far as a retry is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// With a success.
    Final,
    /// With nothing bought, so that asking again buys nothing twice (3xx, 4xx, `delivery_failed`).
    Passing,
    /// With nobody knowing whether a code went out: no answer, a broken one, or a 5xx.
    Unknown,
    /// Without anything having been sent: refused, or Sendly not reached. A retry is to be judged anew.
    Nothing,
    /// Refused, and the client's SDK tries again by itself: for as long as that takes, the same key is refused again.
    Refused,
}

/// The exchanges that a retry may repeat.
#[derive(Debug)]
pub(crate) struct Retries {
    /// By their requests' identity.
    exchanges: DashMap<u128, Vec<Exchange>, BuildHasherDefault<AsItIs>>,
    places: Places,
    twins: Twins,
    remote: Remote,
    kept: AtomicUsize,
    unclaimed: AtomicUsize,
    serial: AtomicU64,
    /// Those of now: what is kept is kept for as long as they say.
    settings: ArcSwap<Settings>,
    clock: Clock,
}

#[derive(Debug)]
struct Exchange {
    serial: u64,
    key: u128,
    keyed: bool,
    /// Clients that wait for it or are being answered.
    clients: usize,
    delivered: bool,
    over: Option<(Ending, Moment)>,
    told: Told,
}

/// What an exchange's clients are told.
type Told = Arc<Telling>;

#[derive(Debug, Default)]
struct Telling {
    /// As soon as it has ended.
    reply: SetOnce<Reply>,
    /// Whether Sendly has been asked for a code: before that it may still be another process that does.
    is_asked: AtomicBool,
}

impl Telling {
    fn of(reply: Reply) -> Told {
        Arc::new(Self { reply: SetOnce::new_with(Some(reply)), is_asked: AtomicBool::new(true) })
    }
}

impl Exchange {
    /// Whether it is over and no client waits for it: only retries can want it.
    fn is_kept(&self) -> bool {
        self.over.is_some() && self.clients == 0
    }

    /// Whether losing its answer could buy a second code for one click: a code went out, or may have, and no client has been told.
    fn may_be_bought_twice(&self) -> bool {
        match self.over {
            Some((Ending::Unknown, _)) => true,
            Some((Ending::Final, _)) => !self.delivered,
            _ => false,
        }
    }

    /// Whether it is in flight and no client waits for it any more.
    fn is_unclaimed(&self) -> bool {
        self.over.is_none() && self.clients == 0
    }
}

/// A request's place in [`Retries`].
#[derive(Debug)]
pub(crate) enum Place<'r> {
    /// It is a new click: whoever asks has to carry it out.
    New(Click<'r>),
    /// It is a retry: its answer is there or on the way.
    Retry(Ticket<'r>),
    /// It is a new click, and there is no room to keep its answer: it must not be carried out.
    Full,
}

impl Retries {
    /// None yet.
    pub(crate) fn new(settings: Settings, clock: Clock) -> Self {
        Self {
            exchanges: DashMap::default(),
            places: Places::default(),
            twins: Twins::default(),
            remote: Remote::default(),
            kept: AtomicUsize::new(0),
            unclaimed: AtomicUsize::new(0),
            serial: AtomicU64::new(0),
            settings: ArcSwap::from_pointee(settings),
            clock,
        }
    }

    /// From now on, what is kept is kept for as long as these say.
    pub(crate) fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Finds the exchange that a request repeats, or makes a new one.
    pub(crate) fn place(&self, fingerprint: Fingerprint) -> Place<'_> {
        loop {
            if let Some(place) = self.try_place(fingerprint) {
                return place;
            }
            if !self.forget_oldest() && !self.forget_expired() {
                return Place::Full;
            }
        }
    }

    /// The same; `None` if it is a new click and all places are taken.
    fn try_place(&self, fingerprint: Fingerprint) -> Option<Place<'_>> {
        let most = self.settings.load().max_kept;
        let registered = if fingerprint.keyed {
            let mut entry = self.exchanges.entry(fingerprint.identity);
            if let Entry::Occupied(known) = &mut entry
                && let Some(ticket) = self.repeat(fingerprint, known.get_mut())
            {
                return Some(Place::Retry(ticket));
            }
            if !self.places.take(most) {
                return None;
            }
            Some(self.register(fingerprint, false, &mut entry.or_default()))
        } else {
            let known = self.exchanges.get_mut(&fingerprint.identity);
            if let Some(ticket) = known.and_then(|mut exchanges| self.repeat(fingerprint, &mut exchanges)) {
                return Some(Place::Retry(ticket));
            }
            if !self.places.take(most) {
                return None;
            }
            None
        };
        Some(Place::New(Click {
            retries: self,
            fingerprint,
            registered,
            end: End::Open,
            delivered: false,
            given_up: false,
            in_flight: false,
            is_asked: false,
        }))
    }

    /// Joins or adopts the exchange among these that is open to retries, if one is.
    fn repeat(&self, fingerprint: Fingerprint, exchanges: &mut [Exchange]) -> Option<Ticket<'_>> {
        let Fingerprint { identity, key, .. } = fingerprint;
        let now = self.clock.now();
        // Its own key comes first: under it stands this very request.
        let has_key = |exchange: &Exchange| exchange.key == key && self.is_open_to_retries(exchange, key, now);
        let own = exchanges.iter().position(has_key);
        let place =
            own.or_else(|| exchanges.iter().position(|exchange| self.is_open_to_retries(exchange, key, now)))?;
        let exchange = exchanges.get_mut(place)?;
        if exchange.is_kept() {
            self.kept.fetch_sub(1, Ordering::Relaxed);
            self.places.is_wanted(exchange.serial);
        }
        if exchange.is_unclaimed() {
            self.unclaimed.fetch_sub(1, Ordering::Relaxed);
        }
        exchange.clients += 1;
        let (serial, told) = (exchange.serial, Arc::clone(&exchange.told));
        Some(Ticket {
            retries: self,
            identity,
            registered: Registered { serial, told },
            delivered: false,
            given_up: false,
        })
    }

    /// Enters an exchange that is in flight and has its client.
    fn register(&self, fingerprint: Fingerprint, is_asked: bool, exchanges: &mut Vec<Exchange>) -> Registered {
        let Fingerprint { identity, key, keyed } = fingerprint;
        let told = Arc::new(Telling { is_asked: AtomicBool::new(is_asked), ..Telling::default() });
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let registered = Registered { serial, told: Arc::clone(&told) };
        let exchange = Exchange { serial, key, keyed, clients: 1, delivered: false, over: None, told };
        if is_asked {
            self.tell_of(identity, &exchange);
        }
        exchanges.push(exchange);
        registered
    }

    /// Answers that are kept for a retry.
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// Exchanges in flight that no client waits for any more.
    pub(crate) fn unclaimed(&self) -> usize {
        self.unclaimed.load(Ordering::Relaxed)
    }

    /// How many there may be.
    pub(crate) fn max_kept(&self) -> usize {
        self.settings.load().max_kept
    }

    /// Whether an identical request with this key repeats an exchange.
    fn is_open_to_retries(&self, exchange: &Exchange, key: u128, now: Moment) -> bool {
        let (unclaimed, has_its_key) = (exchange.clients == 0, exchange.key == key);
        let open = match exchange.over {
            // Also while a client is being told: its next try may come before that is done.
            Some((Ending::Unknown, _)) => true,
            // Never what is being told: once it is, it is not given again.
            Some((Ending::Passing, _)) => unclaimed,
            _ => unclaimed || exchange.keyed && has_its_key,
        };
        open && self.kept_until(exchange, has_its_key).is_none_or(|until| until > now)
    }

    /// Until when an exchange that has ended answers its retries, with its own key or with another; `None` while it is in flight.
    fn kept_until(&self, exchange: &Exchange, has_its_key: bool) -> Option<Moment> {
        let (ending, at) = exchange.over?;
        let Settings { undelivered, unknown, idempotency, .. } = **self.settings.load();
        // While a client is being told, it counts as told: only one that has gone is waited for.
        let told = exchange.delivered || exchange.clients > 0;
        let waits_for_its_client = if told { Duration::ZERO } else { undelivered };
        let span = match ending {
            Ending::Refused if has_its_key => sdk::RETRY_SPAN,
            Ending::Nothing | Ending::Refused => Duration::ZERO,
            Ending::Passing => waits_for_its_client,
            Ending::Final if exchange.keyed && has_its_key => idempotency.max(waits_for_its_client),
            Ending::Final => waits_for_its_client,
            Ending::Unknown => unknown.max(waits_for_its_client),
        };
        Some(at + span)
    }

    /// One of an exchange's clients has been told, or has gone.
    fn leave(&self, identity: u128, registered: &Registered, delivered: bool) {
        self.change(identity, registered.serial, |exchange| {
            exchange.clients = exchange.clients.saturating_sub(1);
            exchange.delivered |= delivered;
            if exchange.clients == 0 {
                let Exchange { serial, delivered, .. } = *exchange;
                self.tell_successor(|| News::Parted { serial, delivered });
            }
        });
    }

    /// Ends an exchange, and tells its answer to all who repeat it. Returns the answer if it is too large to be kept.
    fn ends(&self, identity: u128, registered: &Registered, reply: Reply, ending: Ending) -> Option<Reply> {
        let now = self.clock.now();
        let mut waits_for_a_retry = false;
        // First the end, then the answer: whoever asks after a client has been told must not find it in flight still.
        self.change(identity, registered.serial, |exchange| {
            exchange.over = Some((ending, now));
            waits_for_a_retry = exchange.clients == 0;
            self.tell_successor(|| News::Ended { serial: registered.serial, ending, told: (&reply).into() });
        });
        let shorter = if waits_for_a_retry { reply.too_large_to_keep() } else { None };
        let (kept, own) = match shorter {
            Some(shorter) => (shorter, Some(reply)),
            None => (reply, None),
        };
        // It ends once: this cannot fail.
        let _ = registered.told.reply.set(kept);
        own
    }

    /// Changes an exchange, and drops it if nobody waits for it and no retry may repeat it.
    fn change(&self, identity: u128, serial: u64, change: impl FnOnce(&mut Exchange)) {
        let now = self.clock.now();
        let Entry::Occupied(mut entry) = self.exchanges.entry(identity) else { return };
        let are_many = entry.get().len() > MAX_ALIKE;
        let Some(place) = entry.get().iter().position(|exchange| exchange.serial == serial) else { return };
        let Some(exchange) = entry.get_mut().get_mut(place) else { return };
        let was_unclaimed = exchange.is_unclaimed();
        change(exchange);
        match (was_unclaimed, exchange.is_unclaimed()) {
            (false, true) => drop(self.unclaimed.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.unclaimed.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if !exchange.is_kept() {
            return;
        }
        let is_over = self.kept_until(exchange, true).is_none_or(|until| until <= now);
        if is_over || are_many && !exchange.may_be_bought_twice() {
            return self.remove(entry, place);
        }
        if let Some(shorter) = exchange.told.reply.get().and_then(Reply::too_large_to_keep) {
            exchange.told = Telling::of(shorter);
        }
        self.kept.fetch_add(1, Ordering::Relaxed);
        if !exchange.may_be_bought_twice() {
            self.places.may_be_forgotten(serial, identity);
        }
    }
}

/// Where an exchange is found by those who repeat it, and what they will be told.
#[derive(Debug)]
struct Registered {
    serial: u64,
    told: Told,
}

#[cfg(test)]
mod tests;
