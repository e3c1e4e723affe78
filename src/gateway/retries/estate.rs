//! The answers that wait for a retry, left by one process to another.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tokio::sync::SetOnce;

use super::{Ending, Exchange, Retries};
use crate::clock::Moment;
use crate::gateway::relay::Told;

/// An answer that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    hash: u128,
    keyed: bool,
    delivered: bool,
    ending: Ending,
    /// When its exchange ended, in microseconds since the epoch.
    at: u64,
    told: Told,
}

impl Retries {
    /// All of them.
    pub fn leave_behind(&self) -> Vec<Kept> {
        let mut all = Vec::new();
        for exchanges in &self.exchanges {
            for exchange in exchanges.value().iter().filter(|exchange| exchange.is_kept()) {
                let (Some((ending, at)), Some(reply)) = (exchange.over, exchange.told.get()) else { continue };
                all.push(Kept {
                    hash: *exchanges.key(),
                    keyed: exchange.keyed,
                    delivered: exchange.delivered,
                    ending,
                    at: at.as_micros(),
                    told: Told::from(reply),
                });
            }
        }
        // The successor forgets the oldest first, and knows them in this order.
        all.sort_unstable_by_key(|kept| kept.at);
        all
    }

    /// Keeps one of another process, for as long as that would have.
    pub fn inherit(&self, kept: Kept) {
        let Kept { hash, keyed, delivered, ending, at, told } = kept;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let over = Some((ending, Moment::from_micros(at)));
        let told = Arc::new(SetOnce::new_with(Some(told.into())));
        let exchange = Exchange { serial, keyed, clients: 0, delivered, over, told };
        let mut exchanges = self.exchanges.entry(hash).or_default();
        self.places.inherit();
        if !exchange.may_be_bought_twice() {
            self.places.may_be_forgotten(serial, hash);
        }
        exchanges.push(exchange);
        self.kept.fetch_add(1, Ordering::Relaxed);
    }
}
