//! Exchanges that go on in one process while another one has taken over from it: retries come to that one, and have to find them.
//!
//! The process that leaves tells what a retry could want to know ([`News`]): which exchanges with Sendly are in flight, when the last of
//! their clients there has gone or has its answer, and how they end. The other one enters them as its own, each with a client for as long
//! as it has one there. So a retry is recognised by the same rules as in one process: it joins by its key, and adopts what has lost its
//! client. An exchange without a key whose client is there is told of only when that goes, as in one process; until then the other one
//! knows that there is a twin to wait a moment for ([`super::twins`]).
//!
//! Where the process that leaves ends before an exchange has, nobody knows whether a code went out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Ending, Exchange, Fingerprint, Registered, Retries};
use crate::gateway::reply::Reply;
use crate::gateway::successor::RelayedReply;

/// What a process tells the one that has taken over from it. Its form is part of what two processes say to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// Sendly is being asked, or its answer is being told to a client.
    InFlight {
        /// By which what follows names it.
        serial: u64,
        /// Of its request, as are the next two.
        identity: u128,
        /// See [`Fingerprint`].
        key: u128,
        /// See [`Fingerprint`].
        keyed: bool,
        /// Whether it has a client there.
        claimed: bool,
    },
    /// Its last client there has gone, or one has been told.
    Parted {
        /// Whose.
        serial: u64,
        /// Whether one has been told.
        delivered: bool,
    },
    /// It has ended.
    Ended {
        /// Which.
        serial: u64,
        /// How.
        ending: Ending,
        /// With which answer.
        told: RelayedReply,
    },
    /// So many requests may have a twin in flight there, by counter.
    Twins(Vec<(u32, u16)>),
    /// One of them has ended.
    TwinLeft(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// Whether another process is told: what each request asks.
    is_told: AtomicBool,
    successor: ArcSwapOption<Teller>,
    /// What goes on in the process that this one has taken over from, by serials there. Locked around a lock of the exchanges, never within.
    there: Mutex<HashMap<u64, There>>,
    /// Twins there, by counter.
    twins: Mutex<HashMap<u32, u16>>,
}

struct Teller(Box<dyn Fn(News) + Send + Sync>);

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Teller")
    }
}

/// An exchange of another process, entered here.
#[derive(Debug)]
struct There {
    identity: u128,
    registered: Registered,
    is_claimed: bool,
    has_ended: bool,
}

impl Retries {
    /// From now on whatever a retry could want to know is told, in its order for each exchange. What is in flight by now is told by
    /// [`leave_behind`](Self::leave_behind).
    pub(crate) fn stream_to(&self, tell: impl Fn(News) + Send + Sync + 'static) {
        self.remote.successor.store(Some(Arc::new(Teller(Box::new(tell)))));
        self.remote.is_told.store(true, Ordering::Relaxed);
        // Either an exchange that begins to be asked for sees this, or it is seen as one.
        fence(Ordering::SeqCst);
    }

    /// Nobody is told any more.
    pub(crate) fn end_stream(&self) {
        self.remote.is_told.store(false, Ordering::Relaxed);
        self.remote.successor.store(None);
    }

    pub(crate) fn tell_successor(&self, news: impl FnOnce() -> News) {
        if self.remote.is_told.load(Ordering::Relaxed)
            && let Some(successor) = &*self.remote.successor.load()
        {
            (successor.0)(news());
        }
    }

    /// To be called within the lock of the exchange.
    pub(super) fn tell_of(&self, identity: u128, exchange: &Exchange) {
        let Exchange { serial, key, keyed, clients, over, ref told, .. } = *exchange;
        self.tell_successor(|| News::InFlight { serial, identity, key, keyed, claimed: clients > 0 });
        if let (Some((ending, _)), Some(reply)) = (over, told.reply.get()) {
            self.tell_successor(|| News::Ended { serial, ending, told: reply.into() });
        }
    }

    /// From now on Sendly is asked for it: the other process has to know, which may have taken over just now.
    pub(super) fn is_asked_for(&self, identity: u128, Registered { serial, told }: &Registered) {
        told.is_asked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.remote.is_told.load(Ordering::Relaxed)
            && let Some(exchanges) = self.exchanges.get(&identity)
            && let Some(exchange) = exchanges.iter().find(|exchange| exchange.serial == *serial)
        {
            self.tell_of(identity, exchange);
        }
    }

    pub(crate) fn tell_of_twins(&self) {
        let twins = self.twins.counts();
        if !twins.is_empty() {
            self.tell_successor(|| News::Twins(twins));
        }
    }

    /// Takes in what the process tells that this one takes over from.
    pub(crate) fn hear(&self, news: News) {
        match news {
            News::InFlight { serial, identity, key, keyed, claimed } => {
                let mut there = self.remote.there.lock();
                // It may be told of twice.
                let Entry::Vacant(place) = there.entry(serial) else { return };
                // That process had room for it, and so for its answer.
                self.places.take_from_predecessor();
                let fingerprint = Fingerprint { identity, key, keyed };
                let registered = self.register(fingerprint, true, &mut self.exchanges.entry(identity).or_default());
                if !claimed {
                    self.leave(identity, &registered, false);
                    self.twins.client_left();
                }
                place.insert(There { identity, registered, is_claimed: claimed, has_ended: false });
            }
            News::Parted { serial, delivered } => self.changes_there(serial, |there| {
                if std::mem::take(&mut there.is_claimed) {
                    self.leave(there.identity, &there.registered, delivered);
                    self.twins.client_left();
                }
            }),
            News::Ended { serial, ending, told } => self.changes_there(serial, |there| {
                if !std::mem::replace(&mut there.has_ended, true) {
                    self.ends(there.identity, &there.registered, told.into(), ending);
                }
            }),
            News::Twins(twins) => {
                let mut known = self.remote.twins.lock();
                for (counter, many) in twins {
                    self.twins.enter_many(counter, many);
                    known.insert(counter, many);
                }
            }
            News::TwinLeft(counter) => {
                if let Some(many @ 1..) = self.remote.twins.lock().get_mut(&counter) {
                    *many -= 1;
                    self.twins.leave_many(counter, 1);
                }
            }
        }
    }

    /// Changes an exchange of the other process, if it has been told of, and forgets it there once nothing more can come of it.
    fn changes_there(&self, serial: u64, change: impl FnOnce(&mut There)) {
        if let Entry::Occupied(mut known) = self.remote.there.lock().entry(serial) {
            change(known.get_mut());
            if known.get().has_ended && !known.get().is_claimed {
                known.remove();
            }
        }
    }

    /// The process that this one has taken over from has ended. What it did not tell nobody knows.
    pub(crate) fn nobody_tells_any_more(&self) {
        let there = std::mem::take(&mut *self.remote.there.lock());
        for There { identity, registered, is_claimed, has_ended } in there.into_values() {
            if !has_ended {
                self.ends(identity, &registered, Reply::broken_off(), Ending::Unknown);
            }
            if is_claimed {
                self.leave(identity, &registered, false);
            }
        }
        for (counter, many) in self.remote.twins.lock().drain() {
            self.twins.leave_many(counter, many);
        }
    }
}
