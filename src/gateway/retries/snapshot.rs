//! The answers that wait for a retry, told by one process to another.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::{Ending, Exchange, Retries, Telling};
use crate::clock::{Moment, Shift};
use crate::gateway::successor::RelayedReply;

/// An answer that waits. Its form is part of what two processes say to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    identity: u128,
    keyed: bool,
    delivered: bool,
    ending: Ending,
    /// When its exchange ended, in microseconds since the epoch.
    at: u64,
    told: RelayedReply,
}

impl Retries {
    /// All of them, each with the key's hash where that is not its identity's. Exchanges that are in flight are told of as
    /// [`stream_to`](Self::stream_to) says: each exchange is one or the other, at one moment.
    pub(crate) fn kept_answers(&self) -> Vec<(Option<u128>, Kept)> {
        let mut all = Vec::new();
        for exchanges in &self.exchanges {
            for exchange in exchanges.value() {
                if !exchange.is_kept() {
                    if exchange.over.is_some() || exchange.told.is_asked.load(Ordering::Relaxed) {
                        self.tell_of(*exchanges.key(), exchange);
                    }
                    continue;
                }
                let (Some((ending, at)), Some(reply)) = (exchange.over, exchange.told.reply.get()) else { continue };
                // It is over in a few seconds.
                if ending == Ending::Refused {
                    continue;
                }
                let identity = *exchanges.key();
                let kept = Kept {
                    identity,
                    keyed: exchange.keyed,
                    delivered: exchange.delivered,
                    ending,
                    at: at.as_micros(),
                    told: RelayedReply::from(reply),
                };
                all.push(((exchange.key != identity).then_some(exchange.key), kept));
            }
        }
        self.tell_of_twins();
        // The successor forgets the oldest first, and knows them in this order.
        all.sort_unstable_by_key(|(_, kept)| kept.at);
        all
    }

    /// Keeps one of another process, for as long as that would have. Its clock is behind this one's by `shift`.
    pub(crate) fn take(&self, key: Option<u128>, kept: Kept, shift: Shift) {
        let Kept { identity, keyed, delivered, ending, at, told } = kept;
        let key = key.unwrap_or(identity);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        // From 0.1, which does not tell its clock, it may be of a time to come, and would be kept until long after that.
        let over = Some((ending, Moment::from_micros(at).on(shift).min(self.clock.now())));
        let told = Telling::of(told.into());
        let exchange = Exchange { serial, key, keyed, clients: 0, delivered, over, told };
        let mut exchanges = self.exchanges.entry(identity).or_default();
        self.places.take_from_predecessor();
        if !exchange.may_be_bought_twice() {
            self.places.may_be_forgotten(serial, identity);
        }
        exchanges.push(exchange);
        self.kept.fetch_add(1, Ordering::Relaxed);
    }
}
