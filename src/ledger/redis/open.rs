//! Which charges may yet be given back: a gateway knows its own.

use std::sync::Arc;

use super::Redis;
use super::backlog::Tokened;
use super::wire::Contents;
use crate::clock::Moment;
use crate::ledger::Charge;
use crate::ledger::waiting::Waiting;
use crate::policy::told::Told;
use crate::policy::{Key, Kind, Policy, Rule};

/// A charge of this gateway that is open until this is dropped.
pub(super) struct Open<'r> {
    redis: &'r Redis,
    tokened: Option<Tokened>,
}

impl<'r> Open<'r> {
    /// A charge that Redis may learn of from now on.
    pub(super) fn new(redis: &'r Redis, tokened: Tokened) -> Self {
        redis.open.lock().insert(tokened.token.number, tokened.charge);
        Self { redis, tokened: Some(tokened) }
    }

    /// One that is known, and open until this is dropped.
    pub(super) const fn again(redis: &'r Redis, tokened: Tokened) -> Self {
        Self { redis, tokened: Some(tokened) }
    }

    /// It stays open until it is settled.
    pub(super) fn stays(mut self) {
        self.tokened = None;
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(Tokened { token, charge }) = self.tokened.take() {
            self.redis.open.lock().remove(&token.number);
            self.redis.warm.waiting().settled(&charge);
        }
    }
}

impl Redis {
    /// What the rules of a key say, once it is looked at which of its charges are open: this gateway knows its own.
    pub(super) async fn see_open(
        &self,
        policy: &Policy,
        (key, kind): (Key, Kind),
        told: Vec<Told>,
        copy: Option<&Contents>,
        (own, now): (u32, Moment),
    ) -> Vec<Told> {
        let met = policy.met(key.per(), kind);
        let is_full = |(rule, told): (&Rule, &Told)| rule.enforced && matches!(told, Told::Full(_));
        // What was charged to a phone or a verification may stand at another one by now. Accounts stay what they are.
        let names = |charge: &Charge| match key {
            Key::Account(account) => charge.account == Some(account),
            Key::Phone(_) | Key::Verification(_) => true,
        };
        let has_open = || self.open.lock().iter().any(|(number, charge)| *number != own && names(charge));
        if !met.iter().zip(&told).any(is_full) || !has_open() {
            return told;
        }
        let log = match copy {
            Some(contents) => contents.log(&self.open.lock()),
            // It is too much to be sent each time.
            None => match self.contents("look", key, now).await {
                Some(contents) => contents.log(&self.open.lock()),
                None => return told,
            },
        };
        met.iter().zip(told).map(|(rule, told)| told.with(rule, &log)).collect()
    }

    /// Requests that wait for charges to be settled.
    pub fn waiting(&self) -> &Arc<Waiting> {
        self.warm.waiting()
    }
}
