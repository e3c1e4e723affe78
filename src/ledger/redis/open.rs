//! Which charges may yet be given back: a gateway knows its own.

use std::sync::Arc;

use super::Redis;
use super::backlog::Tokened;
use super::protocol::Contents;
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
    /// A charge that Redis may learn of from now on, under the token of that number. What is told of open charges has no gap in between.
    pub(super) fn new(redis: &'r Redis, tokened: impl FnOnce(u32) -> Tokened) -> (Self, u32) {
        let mut open = redis.open.lock();
        let number = redis.next_token();
        let tokened = tokened(number);
        open.insert(number, tokened.charge);
        drop(open);
        (Self { redis, tokened: Some(tokened) }, number)
    }

    /// One that is known, and open until this is dropped.
    pub(super) const fn again(redis: &'r Redis, tokened: Tokened) -> Self {
        Self { redis, tokened: Some(tokened) }
    }

    /// It was never charged: nobody can have waited for it, and whoever it was must not wake itself.
    pub(super) fn never_was(mut self) {
        if let Some(Tokened { token, .. }) = self.tokened.take() {
            self.redis.open.lock().remove(&token.number);
        }
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
    /// What the rules of a key say, once it is looked at which of its charges are open, here and at other gateways.
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
        if !met.iter().zip(&told).any(is_full) {
            return told;
        }
        // What was charged to a phone or a verification may stand at another one by now. Accounts stay what they are.
        let names = |charge: &Charge| match key {
            Key::Account(account) => charge.account == Some(account),
            Key::Phone(_) | Key::Verification(_) => true,
        };
        let has_own = || self.open.lock().iter().any(|(number, charge)| *number != own && names(charge));
        let others = self.others_in_flight().await;
        let of_others = |token: u32| others.iter().any(|other| other.has_open(token));
        let found;
        let contents = match copy {
            Some(copy) if has_own() || copy.tokens.iter().any(|token| of_others(*token)) => copy,
            None if has_own() || !others.is_empty() => {
                // It is too much to be sent each time.
                found = self.contents("look", key, now).await;
                let Some(contents) = &found else { return told };
                contents
            }
            _ => return told,
        };
        let log = {
            let open = self.open.lock();
            contents.log(|token| open.contains_key(&token) || of_others(token))
        };
        met.iter().zip(told).map(|(rule, told)| told.with(rule, &log)).collect()
    }

    /// Requests that wait for charges to be settled.
    pub fn waiting(&self) -> &Arc<Waiting> {
        self.warm.waiting()
    }
}
