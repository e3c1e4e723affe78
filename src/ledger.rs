//! Who has had how many codes.
//!
//! The one verb that matters is [`Ledger::reserve`]: it judges a code against every limit that it meets and, if none refuses,
//! charges it to every key at once. What it hands out has to be settled: kept, because an SMS went out or may have, or given
//! back, because none did. A [`Reservation`] is settled exactly once: settling consumes it, and one that is dropped unsettled
//! (its task panicked, the process is being torn down) is kept, because a code that nobody can vouch for may be out. Keeping is
//! what happens when nothing does: only giving back changes the ledger again. It has to come within
//! [`UNSETTLED`](crate::policy::window::UNSETTLED).
//!
//! The ledger also knows whose a verification is: id → phone, learned from Sendly's answers.

pub mod durable;
pub mod journal;
pub mod memory;

use std::fmt;
use std::sync::Arc;

use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::standing::Standing;
use crate::policy::subject::{Account, Verification};
use crate::policy::{Decision, Key, Kind, Policy, Refusal, Subject};
use durable::Durable;
use memory::Memory;

/// The store behind the verbs.
#[derive(Clone, Debug)]
pub enum Ledger {
    /// In this process' memory.
    Memory(Arc<Memory>),
    /// In this process' memory, and written down as it happens.
    Durable(Arc<Durable>),
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
}

impl Ledger {
    /// Judges one more code of `kind` for `subject` and, if no enforced limit refuses, charges it: all or nothing, in one step
    /// that no other request can come between.
    pub async fn reserve(&self, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> (Decision, Verdict) {
        let (decision, verdict) = match self {
            Ledger::Memory(memory) => memory.reserve(policy, subject, kind, now),
            Ledger::Durable(durable) => durable.reserve(policy, subject, kind, now).await,
        };
        let verdict = match verdict {
            memory::Verdict::Charged(charge) => {
                Verdict::Reserved(Reservation { ledger: self.clone(), charge, ends: Settlement::Keep })
            }
            memory::Verdict::Refused(refusal) => Verdict::Refused(refusal),
            memory::Verdict::NoRoom => Verdict::NoRoom,
        };
        (decision, verdict)
    }

    /// Charges a code that went out already to a key that was not known when it was reserved. It is not judged.
    pub async fn record(&self, policy: &Policy, key: Key, kind: Kind, at: Moment) {
        match self {
            Ledger::Memory(memory) => memory.record(policy, key, kind, at),
            Ledger::Durable(durable) => durable.record(policy, key, kind, at),
        }
    }

    /// Makes `from` and `into` one: they turned out to be the same. What was charged to `from` counts for `into`, and is given
    /// back there if it is; who still asks for `from`, for as long as that counts, asks for `into`.
    pub async fn absorb(&self, policy: &Policy, into: Key, from: Key, now: Moment) {
        match self {
            Ledger::Memory(memory) => memory.absorb(policy, into, from),
            Ledger::Durable(durable) => durable.absorb(policy, into, from, now),
        }
    }

    /// Lets nothing through for this key until then: Sendly said so.
    pub async fn hold(&self, key: Key, until: Moment, now: Moment) {
        match self {
            Ledger::Memory(memory) => memory.hold(key, until),
            Ledger::Durable(durable) => durable.hold(key, until, now),
        }
    }

    /// How a key stands. Changes nothing.
    pub async fn look(&self, policy: &Policy, key: Key, now: Moment) -> Look {
        match self {
            Ledger::Memory(memory) => memory.look(policy, key, now),
            Ledger::Durable(durable) => durable.memory().look(policy, key, now),
        }
    }

    /// Forgets what was charged to a key, and its hold: it has all its limits again. A code whose exchange is still under way
    /// is forgotten with the others, and gives nothing back afterwards: unless the key was charged anew in the very microsecond
    /// of that code. Then that charge is taken for it, and the key has one code too many.
    pub async fn clear(&self, policy: &Policy, key: Key, now: Moment) -> Cleared {
        match self {
            Ledger::Memory(memory) => memory.clear(policy, key, now),
            Ledger::Durable(durable) => durable.clear(policy, key, now),
        }
    }

    /// What is known of the verification with this id.
    pub async fn whose(&self, id: Verification, now: Moment) -> Option<Known> {
        match self {
            Ledger::Memory(memory) => memory.whose(id, now),
            Ledger::Durable(durable) => durable.memory().whose(id, now),
        }
    }

    /// Learns that `id` is a verification of this phone. What it is rooted in stays, if it is known.
    pub async fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        match self {
            Ledger::Memory(memory) => memory.learn(id, phone, now),
            Ledger::Durable(durable) => durable.learn(id, phone, now).await,
        }
    }

    /// The same, for whoever cannot wait.
    pub fn learn_at_once(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        match self {
            Ledger::Memory(memory) => memory.learn(id, phone, now),
            Ledger::Durable(durable) => durable.learn_at_once(id, phone, now),
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
        }
    }

    fn settle(&self, charge: &Charge, settlement: Settlement) {
        match self {
            Ledger::Memory(memory) => memory.settle(charge, settlement),
            Ledger::Durable(durable) => durable.settle(charge, settlement),
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

impl Settlement {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Settlement::Keep => "kept",
            Settlement::GiveBack => "given_back",
        }
    }
}

/// A code that may go out, charged and waiting to be settled. See the module's documentation for what dropping one means.
#[must_use = "a reservation that is dropped is kept"]
pub struct Reservation {
    ledger: Ledger,
    charge: Charge,
    /// How dropping it, which is what settles it, settles it.
    ends: Settlement,
}

impl Reservation {
    /// The time that it was charged with.
    pub fn at(&self) -> Moment {
        self.charge.at
    }

    /// Settles it.
    pub fn settle(mut self, settlement: Settlement) {
        self.ends = settlement;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.settle(&self.charge, self.ends);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("charge", &self.charge).finish_non_exhaustive()
    }
}
