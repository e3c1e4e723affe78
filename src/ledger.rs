//! Who has had how many codes.
//!
//! The one verb that matters is [`Ledger::reserve`]: it judges a code against every limit that it meets and, if none refuses,
//! charges it to every key at once. What it hands out has to be settled: kept, because an SMS went out or may have, or given
//! back, because none did. A [`Reservation`] is settled exactly once: settling consumes it, and one that is dropped unsettled
//! (its task panicked, the process is being torn down) is kept, because a code that nobody can vouch for may be out. Until then
//! the charge is *open*: it takes its place in every window, but a request that only open charges stand in the way of waits for
//! them ([`waiting`]). Settling has to come within [`UNSETTLED`](crate::policy::window::UNSETTLED).
//!
//! The ledger also knows whose a verification is: id → phone, learned from Sendly's answers.

pub mod durable;
pub mod journal;
pub mod memory;
pub mod redis;
pub mod waiting;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::standing::Standing;
use crate::policy::subject::{Account, Verification};
use crate::policy::{Decision, Key, Kind, Policy, Refusal, Subject};
use durable::Durable;
use memory::Memory;
use redis::Redis;
use waiting::Waiting;

/// The store behind the verbs.
#[derive(Clone, Debug)]
pub enum Ledger {
    /// In this process' memory.
    Memory(Arc<Memory>),
    /// In this process' memory, and written down as it happens.
    Durable(Arc<Durable>),
    /// In Redis, for all gateways that share it. What it does is boxed: its futures are large, and would make those of all requests so,
    /// which are moved into their places.
    Redis(Arc<Redis>),
}

/// What came of asking for a code.
#[derive(Debug)]
pub enum Verdict {
    /// It may go out, and is charged.
    Reserved(Reservation),
    /// A limit refuses. Nothing was charged anywhere.
    Refused(Refusal),
    /// A key of it is new, and there is no room for another. Nothing was charged anywhere.
    NoRoom,
    /// The store cannot be asked, and codes are refused for that. Nothing was charged anywhere.
    Away,
}

/// What is known of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where its codes go.
    pub phone: Phone,
    /// The id that its cooldown counts against: the first under which the gateway met it.
    pub root: Verification,
}

/// A charge that is to be settled: where, when, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// The phone that was charged, if one was.
    pub phone: Option<Phone>,
    /// The verification that was charged, if one was.
    pub verification: Option<Verification>,
    /// The account that was charged, if it was.
    pub account: Option<Account>,
    /// The time that they were charged with.
    pub at: Moment,
    /// What was counted.
    pub kind: Kind,
}

impl Charge {
    /// Of this key alone.
    pub const fn of(key: Key, kind: Kind, at: Moment) -> Self {
        let mut charge = Self { phone: None, verification: None, account: None, at, kind };
        match key {
            Key::Phone(phone) => charge.phone = Some(phone),
            Key::Verification(verification) => charge.verification = Some(verification),
            Key::Account(account) => charge.account = Some(account),
        }
        charge
    }

    /// Whom it was charged to.
    pub fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        let Self { phone, verification, account, .. } = *self;
        [phone.map(Key::Phone), verification.map(Key::Verification), account.map(Key::Account)].into_iter().flatten()
    }
}

/// What is known of a key, for people who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// How it stands with each limit that counts for it.
    pub standings: Vec<Standing>,
    /// Until when Sendly itself refuses it.
    pub held_until: Option<Moment>,
}

/// What was cleared of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Codes that some limit still counted.
    pub codes: usize,
    /// Whether it was held.
    pub hold: bool,
    /// Of a phone: its verifications that some limit still counted, cooldowns above all.
    pub cooldowns: usize,
}

impl Ledger {
    /// Judges one more code of `kind` for `subject` and, if no enforced limit refuses, charges it: all or nothing, in one step
    /// that no other request can come between.
    pub async fn reserve(&self, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> (Decision, Verdict) {
        let (decision, verdict) = match self {
            Ledger::Memory(memory) => memory.reserve(policy, subject, kind, now),
            Ledger::Durable(durable) => durable.reserve(policy, subject, kind, now).await,
            Ledger::Redis(redis) => {
                let (decision, verdict) = Box::pin(redis.reserve(policy, subject, kind, now)).await;
                let verdict = match verdict {
                    redis::Verdict::Charged(charge, token) => Verdict::Reserved(self.reservation(charge, Some(token))),
                    redis::Verdict::Refused(refusal) => Verdict::Refused(refusal),
                    redis::Verdict::NoRoom => Verdict::NoRoom,
                    redis::Verdict::Away => Verdict::Away,
                };
                return (decision, verdict);
            }
        };
        let verdict = match verdict {
            memory::Verdict::Charged(charge) => Verdict::Reserved(self.reservation(charge, None)),
            memory::Verdict::Refused(refusal) => Verdict::Refused(refusal),
            memory::Verdict::NoRoom => Verdict::NoRoom,
        };
        (decision, verdict)
    }

    /// Charges a code that went out already to a key that was not known when it was reserved. It is not judged.
    pub async fn record(&self, policy: &Policy, key: Key, kind: Kind, at: Moment) {
        match self {
            Ledger::Memory(memory) => drop(memory.record(policy, key, kind, at)),
            Ledger::Durable(durable) => durable.record(policy, key, kind, at),
            Ledger::Redis(redis) => Box::pin(redis.record(policy, key, kind, at)).await,
        }
    }

    /// Makes `from` and `into` one: they turned out to be the same. What was charged to `from` counts for `into`, and is given
    /// back there if it is; who still asks for `from`, for as long as that counts, asks for `into`.
    pub async fn absorb(&self, policy: &Policy, into: Key, from: Key, now: Moment) {
        match self {
            Ledger::Memory(memory) => memory.absorb(policy, into, from),
            Ledger::Durable(durable) => durable.absorb(policy, into, from, now),
            Ledger::Redis(redis) => Box::pin(redis.absorb(policy, into, from)).await,
        }
    }

    /// Lets nothing through for this key until then: Sendly said so.
    pub async fn hold(&self, key: Key, until: Moment, now: Moment) {
        match self {
            Ledger::Memory(memory) => drop(memory.hold(key, until)),
            Ledger::Durable(durable) => durable.hold(key, until, now),
            Ledger::Redis(redis) => Box::pin(redis.hold(key, until)).await,
        }
    }

    /// Has other gateways that share the store know soon that Sendly refuses an account this key until then. It waits for nobody.
    pub fn share_hold(&self, key: Key, account: Account, until: Moment) {
        match self {
            Ledger::Memory(_) | Ledger::Durable(_) => {}
            Ledger::Redis(redis) => redis.share_hold(key, account, until),
        }
    }

    /// How a key stands. Changes nothing.
    pub async fn look(&self, policy: &Policy, key: Key, now: Moment) -> Look {
        match self {
            Ledger::Memory(memory) => memory.look(policy, key, now),
            Ledger::Durable(durable) => durable.memory().look(policy, key, now),
            Ledger::Redis(redis) => Box::pin(redis.look(policy, key, now)).await,
        }
    }

    /// Forgets what was charged to a key, and its hold: it has all its limits again. A code whose exchange is still under way
    /// is forgotten with the others, and gives nothing back afterwards: unless the key was charged anew in the very microsecond
    /// of that code. Then that charge is taken for it, and the key has one code too many.
    pub async fn clear(&self, policy: &Policy, key: Key, now: Moment) -> Cleared {
        match self {
            Ledger::Memory(memory) => memory.clear(policy, key, now),
            Ledger::Durable(durable) => durable.clear(policy, key, now),
            Ledger::Redis(redis) => Box::pin(redis.clear(policy, key, now)).await,
        }
    }

    /// Gives a phone its full limits again, ends its hold, and gives its verifications theirs, so that their cooldowns are over. With Redis,
    /// those that this gateway has met, and the phone's newest 16 of all gateways. It looks at every verification that is remembered: a support desk's verb.
    pub async fn clear_phone(&self, policy: &Policy, phone: Phone, now: Moment) -> Cleared {
        let mut cleared = self.clear(policy, Key::Phone(phone), now).await;
        let (spelling, mut ids) = self.memory().charged_verifications(policy, phone, now).await;
        if let Ledger::Redis(redis) = self {
            for phone in BTreeSet::from([phone, spelling]) {
                ids.extend(redis.roots_of(phone, now).await);
            }
        }
        for id in ids {
            let verification = self.clear(policy, Key::Verification(id), now).await;
            cleared.cooldowns += usize::from(verification.codes > 0 || verification.hold);
        }
        cleared
    }

    /// What this process knows by itself.
    fn memory(&self) -> &Memory {
        match self {
            Ledger::Memory(memory) => memory,
            Ledger::Durable(durable) => durable.memory(),
            Ledger::Redis(redis) => redis.memory(),
        }
    }

    /// What is known of the verification with this id.
    pub async fn whose(&self, id: Verification, now: Moment) -> Option<Known> {
        match self {
            Ledger::Memory(memory) => memory.whose(id, now),
            Ledger::Durable(durable) => durable.memory().whose(id, now),
            Ledger::Redis(redis) => Box::pin(redis.whose(id, now)).await,
        }
    }

    /// Learns that `id` is a verification of this phone. What it is rooted in stays, if it is known.
    pub async fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        match self {
            Ledger::Memory(memory) => memory.learn(id, phone, now),
            Ledger::Durable(durable) => durable.learn(id, phone, now).await,
            Ledger::Redis(redis) => Box::pin(redis.learn(id, phone, now)).await,
        }
    }

    /// The same, of an answer that passes by and waits for nobody. This gateway knows it at once; others that share the store may
    /// know it a moment later.
    pub fn overhear(&self, id: Verification, phone: Phone, now: Moment) {
        match self {
            Ledger::Memory(memory) => drop(memory.learn(id, phone, now)),
            Ledger::Durable(durable) => drop(durable.learn_at_once(id, phone, now)),
            Ledger::Redis(redis) => redis.overhear(id, phone, now),
        }
    }

    /// Learns that `asked` and `answered` are two ids of one verification: what was charged to either counts for both. Returns
    /// what both are now.
    pub async fn join(
        &self,
        policy: &Policy,
        asked: Verification,
        answered: Verification,
        phone: Phone,
        now: Moment,
    ) -> Known {
        match self {
            Ledger::Memory(memory) => memory.join(policy, asked, answered, phone, now),
            Ledger::Durable(durable) => durable.join(policy, asked, answered, phone, now).await,
            Ledger::Redis(redis) => Box::pin(redis.join(policy, asked, answered, phone, now)).await,
        }
    }

    /// Whether Sendly is known to have accepted this API key, which is being used. It asks no other process.
    pub fn is_proven(&self, account: Account, now: Moment) -> bool {
        match self {
            Ledger::Memory(memory) => memory.proofs.check(account, now) != memory::Proof::Missing,
            Ledger::Durable(durable) => durable.is_proven(account, now),
            Ledger::Redis(redis) => redis.is_proven(account, now),
        }
    }

    /// Whether another gateway that shares the store has noted that Sendly accepted this API key. If so, this one knows it too from now on.
    pub async fn finds_proof(&self, account: Account, now: Moment) -> bool {
        match self {
            Ledger::Memory(_) | Ledger::Durable(_) => false,
            Ledger::Redis(redis) => Box::pin(redis.finds_proof(account, now)).await,
        }
    }

    /// Notes that Sendly accepted this API key.
    pub fn accept_key(&self, account: Account, at: Moment) {
        match self {
            Ledger::Memory(memory) => drop(memory.proofs.insert(account, at)),
            Ledger::Durable(durable) => durable.accept_key(account, at),
            Ledger::Redis(redis) => redis.accept_key(account, at),
        }
    }

    /// Notes that Sendly does not accept this API key, or no more.
    pub fn reject_key(&self, account: Account, at: Moment) {
        match self {
            Ledger::Memory(memory) => drop(memory.proofs.remove(account)),
            Ledger::Durable(durable) => durable.reject_key(account, at),
            Ledger::Redis(redis) => redis.reject_key(account, at),
        }
    }

    /// The time by which the ledger in memory goes, at this moment: that of the store that gateways share, if there is one.
    pub fn time(&self, now: Moment) -> Moment {
        match self {
            Ledger::Memory(_) | Ledger::Durable(_) => now,
            Ledger::Redis(redis) => redis.time(now),
        }
    }

    /// Requests that wait for charges to be settled.
    pub fn waiting(&self) -> &Arc<Waiting> {
        match self {
            Ledger::Memory(memory) => memory.waiting(),
            Ledger::Durable(durable) => durable.memory().waiting(),
            Ledger::Redis(redis) => redis.waiting(),
        }
    }

    fn reservation(&self, charge: Charge, token: Option<redis::Token>) -> Reservation {
        Reservation { ledger: self.clone(), charge, token, ends: Some(Settlement::Keep) }
    }

    /// All that another process knew has been taken over.
    pub(crate) fn has_taken_over(&self, policy: &Policy) {
        if let Ledger::Redis(redis) = self {
            redis.has_taken_over(policy);
        }
    }

    /// Tells a shared ledger what it does not know yet, once more, before this process ends.
    pub(crate) async fn finish_telling(&self) {
        if let Ledger::Redis(redis) = self {
            redis.finish().await;
        }
    }
}

/// How a charge ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It stays: a code went out, or may have.
    Keep,
    /// It never was.
    GiveBack,
}

/// A code that may go out, charged and waiting to be settled. See the module's documentation for what dropping one means.
#[must_use = "a reservation that is dropped is kept"]
pub struct Reservation {
    ledger: Ledger,
    charge: Charge,
    /// What tells it from all others, where it is in a store that gateways share.
    token: Option<redis::Token>,
    /// How dropping it settles it; `None`, once it is.
    ends: Option<Settlement>,
}

impl Reservation {
    /// The time that it was charged with, on the clock of whoever charged it.
    pub fn at(&self) -> Moment {
        self.charge.at
    }

    /// Settles it. It is settled for everybody when this returns; whoever does not wait for that settles it all the same.
    pub async fn settle(mut self, settlement: Settlement) {
        self.ends = Some(settlement);
        if let (Ledger::Redis(redis), Some(token), Settlement::GiveBack) = (self.ledger.clone(), self.token, settlement)
        {
            // From here on it is Redis' matter, also if this wait is cut off.
            self.ends = None;
            Box::pin(redis.give_back(&self.charge, token)).await;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(settlement) = self.ends.take() else { return };
        match (&self.ledger, self.token) {
            (Ledger::Memory(memory), _) => memory.settle(&self.charge, settlement),
            (Ledger::Durable(durable), _) => durable.settle(&self.charge, settlement),
            (Ledger::Redis(redis), Some(token)) => match settlement {
                Settlement::Keep => redis.keep(&self.charge, token),
                Settlement::GiveBack => redis.give_back_later(&self.charge, token),
            },
            (Ledger::Redis(_), None) => {}
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("charge", &self.charge).finish_non_exhaustive()
    }
}
