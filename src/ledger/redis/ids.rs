//! Id-to-phone mappings that gateways share: learned by one, known to all.

use redis_rs::Value;

use super::backlog::BacklogEntry;
use super::keys::{ID, id_bytes, id_from};
use super::protocol::{self, ScriptCall};
use super::{Fault, Redis};
use crate::clock::Moment;
use crate::ledger::Known;
use crate::phone::Phone;
use crate::policy::subject::Verification;
use crate::policy::{Key, Policy};

/// What Redis knew of an id before it was told.
pub(super) struct Learned {
    was_known: bool,
    /// What it was rooted in, if in another.
    before: Option<Verification>,
    /// What it is rooted in now, if in another.
    root: Option<Verification>,
}

impl Redis {
    /// See [`Ledger::whose`](crate::ledger::Ledger::whose).
    pub async fn whose(&self, id: Verification, now: Moment) -> Option<Known> {
        let at = self.time.at(now);
        if let Some(known) = self.warm.whose(id, at) {
            return Some(known);
        }
        let known = self.read_id(id).await?;
        self.warm.remember(id, known, at);
        Some(known)
    }

    /// See [`Ledger::learn`](crate::ledger::Ledger::learn).
    pub async fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        let at = self.time.at(now);
        let known = self.warm.learn(id, phone, at);
        let Some(learned) = self.tell_id(id, phone, None).await else {
            self.leave(BacklogEntry::Learn(id, phone));
            return known;
        };
        let told = Known { phone, root: learned.root.unwrap_or(id) };
        if told != known {
            self.warm.remember(id, told, at);
        }
        told
    }

    /// See [`Ledger::overhear`](crate::ledger::Ledger::overhear).
    pub fn overhear(&self, id: Verification, phone: Phone, now: Moment) {
        let at = self.time.at(now);
        // What this gateway knows already Redis knows too, and for longer than a verification lives.
        if self.warm.whose(id, at).is_none_or(|known| known.phone != phone) {
            self.leave(BacklogEntry::Learn(id, phone));
        }
        self.warm.learn(id, phone, at);
    }

    /// See [`Ledger::join`](crate::ledger::Ledger::join).
    pub async fn join(
        &self,
        policy: &Policy,
        asked: Verification,
        answered: Verification,
        phone: Phone,
        now: Moment,
    ) -> Known {
        self.note_retention(policy);
        let at = self.time.at(now);
        let known = self.warm.join(policy, asked, answered, phone, at);
        let Some(told) = self.tell_join(asked, answered, phone).await else {
            self.leave(BacklogEntry::Join { asked, answered, phone });
            return known;
        };
        if told != known {
            self.warm.remember(asked, told, at);
            self.warm.remember(answered, told, at);
        }
        told
    }

    /// What the newest ids of a phone are rooted in, whichever gateway has met them: of 16 at most.
    pub async fn roots_of(&self, phone: Phone, now: Moment) -> Vec<Verification> {
        let noted = self.attempt(self.link.get(&self.names.ids(phone), self.bound)).await;
        let Some(Value::BulkString(ids)) = noted else { return Vec::new() };
        let mut roots = Vec::new();
        for id in ids.chunks_exact(ID).filter_map(id_from) {
            roots.extend(self.whose(id, now).await.filter(|known| known.phone == phone).map(|known| known.root));
        }
        roots
    }

    async fn read_id(&self, id: Verification) -> Option<Known> {
        let value = self.attempt(self.link.get(&self.names.id(id), self.bound)).await?;
        let Value::BulkString(bytes) = value else { return None };
        let (masked, root) = bytes.split_first_chunk::<8>()?;
        Some(Known { phone: self.names.unmask(id, *masked)?, root: id_from(root).unwrap_or(id) })
    }

    async fn tell_id(&self, id: Verification, phone: Phone, root: Option<Verification>) -> Option<Learned> {
        self.attempt(self.call_id(id, phone, root)).await
    }

    pub(super) async fn call_id(
        &self,
        id: Verification,
        phone: Phone,
        root: Option<Verification>,
    ) -> Result<Learned, Fault> {
        let millis = u64::try_from(self.remember.as_millis()).unwrap_or(u64::MAX);
        let numbers = self.numbers(self.clock.now()).and(millis);
        let mut call = ScriptCall::new("learn", vec![self.names.id(id)], numbers).with(&self.names.mask(id, phone));
        if let Some(root) = root {
            call = if root == id { call.with(&[]) } else { call.with(&id_bytes(root)) };
        }
        let numbers = self.numbers(self.clock.now()).and(millis);
        let note = ScriptCall::new("note_id", vec![self.names.ids(phone)], numbers).with(&id_bytes(id));
        // Together, so that it takes no longer. What is not noted is found by the gateways that have met it.
        let (learned, _noted) = tokio::join!(self.call(&call), self.call(&note));
        let parts = learned?;
        Ok(Learned {
            was_known: protocol::number(parts.first())? == 1,
            before: id_from(protocol::bytes(parts.get(1))?),
            root: id_from(protocol::bytes(parts.get(2))?),
        })
    }

    async fn tell_join(&self, asked: Verification, answered: Verification, phone: Phone) -> Option<Known> {
        self.attempt(self.call_join(asked, answered, phone)).await
    }

    pub(super) async fn call_join(
        &self,
        asked: Verification,
        answered: Verification,
        phone: Phone,
    ) -> Result<Known, Fault> {
        let learned = self.call_id(asked, phone, None).await?;
        let root = learned.root.unwrap_or(asked);
        if self.names.is_cluster && !learned.was_known {
            // What it was charged while nobody knew its phone stands elsewhere.
            let (own, beside) = (self.names.verification(root, None), self.names.verification(root, Some(phone)));
            self.copy(&own, &beside, self.kept(Key::Verification(root))).await?;
        }
        if asked != answered {
            let other = self.call_id(answered, phone, Some(root)).await?;
            let before = other.before.unwrap_or(answered);
            // An id that nobody knew has no codes of its own.
            if other.was_known && before != root {
                let (into, from) = (Key::Verification(root), Key::Verification(before));
                self.call_absorb(into, from, self.remember, self.kept(into)).await?;
            }
        }
        Ok(Known { phone, root })
    }

    /// Tells Redis whose an id is, as this gateway knows.
    pub(super) async fn tell_known(&self, id: Verification, known: Known) -> Result<(), Fault> {
        self.call_id(id, known.phone, (known.root != id).then_some(known.root)).await.map(drop)
    }
}
