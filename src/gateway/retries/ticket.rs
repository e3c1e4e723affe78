//! A retry's place beside the exchange that it repeats.

use std::sync::Arc;

use super::{Registered, Retries};
use crate::gateway::reply::Reply;

/// A retry's claim to the answer of the exchange that it repeats. Dropping it without [`Ticket::delivered`] means that the client
/// has gone.
#[derive(Debug)]
pub(crate) struct Ticket<'r> {
    pub(super) retries: &'r Retries,
    pub(super) identity: u128,
    pub(super) registered: Registered,
    pub(super) delivered: bool,
    pub(super) given_up: bool,
}

impl Ticket<'_> {
    /// Waits for the answer: there will be one. Cancel-safe.
    pub(crate) fn answer(&self) -> impl Future<Output = Reply> + use<> {
        let told = Arc::clone(&self.registered.told);
        async move { told.reply.wait().await.clone() }
    }

    /// The client has its answer. After [`Ticket::give_up`] that cannot be known, and this changes nothing.
    pub(crate) fn delivered(mut self) {
        self.delivered = true;
    }

    /// The client has gone, as far as can be seen: from now on a retry may take its place. The answer can still be waited for.
    pub(crate) fn give_up(&mut self) {
        if !std::mem::replace(&mut self.given_up, true) {
            self.retries.leave(self.identity, &self.registered, self.delivered);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
