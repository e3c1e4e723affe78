//! Sendly's own refusals, which hold a phone for the account that was told so (`ledger/memory/holds.rs`).

use std::time::Duration;

use super::Gateway;
use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::{Decision, Key, Kind, Obstacle, Policy, Refusal, Subject};

/// What Sendly's own refusal is about: the phone, or the verification where its phone is not known.
fn held_key(subject: &Subject) -> Option<Key> {
    subject.phone.map(Key::Phone).or(subject.verification.map(Key::Verification))
}

impl Gateway {
    /// Sendly has refused this account this phone for so long.
    pub(crate) async fn hold(&self, subject: &Subject, wait: Duration, now: Moment) {
        let Some(key) = held_key(subject) else { return };
        self.ledger.share_hold(key, subject.account, now + wait);
        if let Some(until) = self.durable.hold_for(key, subject.account, now + wait, now) {
            self.ledger.hold(key, until, now).await;
        }
    }

    /// The refusal of a code whose account is held for its phone: whatever keeps it away longest.
    pub(crate) async fn held(
        &self,
        policy: &Policy,
        subject: &Subject,
        kind: Kind,
        now: Moment,
    ) -> Option<(Decision, Refusal)> {
        if self.memory.holds().many() == 0 || !policy.holds() {
            return None;
        }
        let wait = self.memory.holds().wait(held_key(subject)?, subject.account, now)?;
        let mut refusal = Refusal { by: Obstacle::AccountHold, retry_after: wait };
        for key in subject.keys() {
            let look = self.ledger.look(policy, key, now).await;
            let is_met = |place| policy.met(key.per(), kind).iter().any(|rule| rule.enforced && rule.place == place);
            let limits = look.standings.iter().filter(|standing| is_met(standing.place));
            let limits = limits.filter_map(|standing| Some((Obstacle::Limit(standing.place), standing.wait?)));
            let hold = look.held_until.map(|until| (Obstacle::Hold, until.since(now)));
            for (by, retry_after) in limits.chain(hold) {
                if retry_after > refusal.retry_after {
                    refusal = Refusal { by, retry_after };
                }
            }
        }
        Some((Decision { refusal: Some(refusal), ..Decision::default() }, refusal))
    }

    /// Until when Sendly refuses some account this phone.
    pub fn held_for_an_account(&self, phone: Phone) -> Option<Moment> {
        self.memory.holds().last(Key::Phone(phone), self.now())
    }

    /// Forgets for which accounts a phone is held. Returns whether it was for any.
    pub(crate) fn clear_holds(&self, phone: Phone) -> bool {
        self.memory.holds().clear(Key::Phone(phone), self.now())
    }
}
