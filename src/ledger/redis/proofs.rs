//! Which API keys Sendly has accepted, for all gateways that share the store: one key with a lifetime for each.
//!
//! A key that this gateway knows is never asked for here. Nothing waits for a write: the keeper does it.

use redis_rs::Value;

use super::backlog::BacklogEntry;
use super::{Fault, Redis};
use crate::clock::Moment;
use crate::ledger::memory::Proof;
use crate::policy::subject::Account;

impl Redis {
    /// See [`Ledger::is_proven`](crate::ledger::Ledger::is_proven).
    pub fn is_proven(&self, account: Account, now: Moment) -> bool {
        let proof = self.warm.proofs.check(account, now);
        if proof == Proof::HeldAndDue {
            self.leave(BacklogEntry::Accept(account));
        }
        proof != Proof::Missing
    }

    /// See [`Ledger::finds_proof`](crate::ledger::Ledger::finds_proof).
    pub async fn finds_proof(&self, account: Account, now: Moment) -> bool {
        let value = self.attempt(self.link.get(&self.names.proof(account), self.bound)).await;
        let is_there = matches!(value, Some(Value::BulkString(_)));
        if is_there {
            self.warm.proofs.insert(account, now);
        }
        is_there
    }

    /// See [`Ledger::accept_key`](crate::ledger::Ledger::accept_key).
    pub fn accept_key(&self, account: Account, at: Moment) {
        if self.warm.proofs.insert(account, at) {
            self.leave(BacklogEntry::Accept(account));
        }
    }

    /// See [`Ledger::reject_key`](crate::ledger::Ledger::reject_key).
    pub fn reject_key(&self, account: Account, _at: Moment) {
        if self.warm.proofs.remove(account) {
            self.leave(BacklogEntry::Reject(account));
        }
    }

    pub(super) async fn tell_accepted(&self, account: Account) -> Result<(), Fault> {
        self.link.set(&self.names.proof(account), self.remember, self.bound).await
    }

    pub(super) async fn tell_rejected(&self, account: Account) -> Result<(), Fault> {
        self.link.delete(&self.names.proof(account), self.bound).await
    }
}
