//! A new click: whoever has it carries its exchange out, ends it, and tells its answer.

use super::remote::News;
use super::{Ending, Fingerprint, Registered, Retries};
use crate::api::sdk;
use crate::gateway::reply::Reply;

/// A new click: the duty to end its exchange, and its own client's claim to the answer.
///
/// Dropping it before it has ended (its task panicked) ends it with nobody knowing how. Dropping it without [`Click::delivered`]
/// means that its client has gone.
#[derive(Debug)]
pub(crate) struct Click<'r> {
    pub(super) retries: &'r Retries,
    pub(super) fingerprint: Fingerprint,
    /// There from the moment that a request may repeat it.
    pub(super) registered: Option<Registered>,
    pub(super) end: End,
    pub(super) delivered: bool,
    pub(super) given_up: bool,
    /// Whether Sendly is being asked for it.
    pub(super) in_flight: bool,
    /// Whether it is being asked for a code.
    pub(super) is_asked: bool,
}

#[derive(Debug)]
pub(super) enum End {
    /// It is in flight.
    Open,
    /// It is over, and nobody has been told of it.
    Untold(Reply, Ending),
    /// It is over, and nothing of it is kept here but an answer that is too large to be kept for a retry.
    Told(Option<Reply>),
}

impl Click<'_> {
    /// Ends the exchange and tells its answer to all who repeat it. The client has still to be told.
    pub(crate) fn end(&mut self, reply: Reply, ending: Ending) {
        if matches!(self.end, End::Open) {
            self.end = End::Untold(reply, ending);
            // Also while its client is being told: its next try may come before that is done.
            if self.registered.is_some() || ending == Ending::Unknown {
                self.tell();
            }
        }
    }

    /// The answer that it has ended with.
    pub(crate) fn answer(&self) -> Option<&Reply> {
        match (&self.end, &self.registered) {
            (End::Untold(reply, _) | End::Told(Some(reply)), _) => Some(reply),
            (End::Told(None), Some(registered)) => registered.told.reply.get(),
            _ => None,
        }
    }

    /// The client has its answer. After [`Click::give_up`] that cannot be known, and this changes nothing.
    pub(crate) fn delivered(mut self) {
        self.delivered = true;
    }

    /// Ends it without Sendly having been asked for a code. Those who have joined it are told the same.
    pub(crate) fn refuse(&mut self, reply: &Reply, ending: Ending) {
        match self.registered {
            Some(_) => self.end(reply.clone(), ending),
            None => self.end = End::Told(None),
        }
    }

    /// How a refusal of this request ends: is its SDK to be refused again when it tries again by itself?
    pub(crate) fn refused(&self, user_agent: &str) -> Ending {
        let Fingerprint { identity, key, .. } = self.fingerprint;
        // A key that the app chose may come again on purpose, once the wait is over.
        if key != identity && sdk::retries_refusals(user_agent) { Ending::Refused } else { Ending::Nothing }
    }

    /// From now on Sendly is asked for it: an identical request has a twin.
    pub(crate) fn is_in_flight(&mut self) {
        if !std::mem::replace(&mut self.in_flight, true) {
            self.retries.twins.enter(self.fingerprint.identity);
        }
    }

    /// It is charged, and Sendly is asked for its code from now on, by this process.
    pub(crate) fn is_asked_for(&mut self) {
        self.is_in_flight();
        self.is_asked = true;
        if let Some(registered) = &self.registered {
            self.retries.is_asked_for(self.fingerprint.identity, registered);
        }
    }

    /// The client has gone, as far as can be seen: from now on a retry may take its place.
    pub(crate) fn give_up(&mut self) {
        if std::mem::replace(&mut self.given_up, true) {
            return;
        }
        let repeats_for_nobody = match &self.end {
            End::Open => false,
            End::Untold(_, ending) => self.delivered || matches!(ending, Ending::Nothing | Ending::Refused),
            End::Told(_) => true,
        };
        if self.registered.is_none() && !repeats_for_nobody {
            self.tell();
        }
        if let Some(registered) = &self.registered {
            self.retries.leave(self.fingerprint.identity, registered, self.delivered);
            if self.in_flight {
                self.retries.twins.client_left();
            }
        }
    }

    /// Lets others know of the exchange, and of its end if it has come.
    fn tell(&mut self) {
        let (retries, fingerprint, is_asked) = (self.retries, self.fingerprint, self.is_asked);
        let identity = fingerprint.identity;
        let registered = self.registered.get_or_insert_with(|| {
            retries.register(fingerprint, is_asked, &mut retries.exchanges.entry(identity).or_default())
        });
        if let End::Untold(reply, ending) = std::mem::replace(&mut self.end, End::Open) {
            self.end = End::Told(retries.ends(identity, registered, reply, ending));
        }
    }
}

impl Drop for Click<'_> {
    fn drop(&mut self) {
        if matches!(self.end, End::Open) {
            self.end(Reply::internal(), Ending::Unknown);
        }
        self.give_up();
        if self.in_flight {
            let counter = self.retries.twins.leave(self.fingerprint.identity);
            self.retries.tell_successor(|| News::TwinLeft(counter));
        }
        if self.registered.is_none() {
            self.retries.places.release(1);
        }
    }
}
