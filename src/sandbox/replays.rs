//! Idempotent sends: the first answer that completed under a key is the answer for a day.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::bounded::Bounded;
use super::reply::{Leaves, SandboxRefusal, SandboxReply};
use crate::clock::Moment;
use crate::policy::subject::{Account, HashKey};

const KEPT: Duration = Duration::from_secs(86_400);

/// Where a send's answer is recorded, and for which body.
#[derive(Clone, Debug)]
pub(super) struct ReplaySlot {
    place: (Account, String),
    body: u128,
}

impl ReplaySlot {
    /// The slot of a send; `None` without a key.
    pub(super) fn read(
        headers: &HeaderMap,
        account: Account,
        body: &[u8],
        secret: &HashKey,
    ) -> Result<Option<ReplaySlot>, SandboxRefusal> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        let key = value.to_str().map_err(|_| SandboxRefusal::InvalidIdempotencyKey)?;
        // `to_str` lets visible ASCII, spaces and tabs through.
        if values.next().is_some() || !(1..=255).contains(&key.len()) || key.contains('\t') {
            return Err(SandboxRefusal::InvalidIdempotencyKey);
        }
        Ok(Some(ReplaySlot { place: (account, key.to_owned()), body: secret.hash(b"body", [body]) }))
    }
}

/// An answer that was given.
#[derive(Debug)]
struct Recorded {
    reply: SandboxReply,
    body: u128,
    at: Moment,
}

/// The answers that are replayed.
#[derive(Debug)]
pub(super) struct Replays(Bounded<(Account, String), Recorded>);

impl Replays {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Bounded::new(capacity))
    }

    /// The answer that was given under this key to this body.
    pub(super) fn find(&mut self, slot: &ReplaySlot, now: Moment) -> Result<Option<SandboxReply>, SandboxRefusal> {
        match self.0.get(&slot.place) {
            Some(recorded) if now >= recorded.at + KEPT => {
                self.0.remove(&slot.place);
                Ok(None)
            }
            Some(recorded) if recorded.body != slot.body => Err(SandboxRefusal::IdempotencyKeyMismatch),
            Some(recorded) => Ok(Some(recorded.reply.clone())),
            None => Ok(None),
        }
    }

    /// Records an answer that completed, unless it is a failure or another one completed before it.
    pub(super) fn record(&mut self, slot: ReplaySlot, reply: &SandboxReply, now: Moment) {
        let passing = reply.status.is_server_error() || reply.status == StatusCode::TOO_MANY_REQUESTS;
        if !passing && self.0.get(&slot.place).is_none() {
            let reply = reply.clone().leaving(Leaves::AtOnce);
            self.0.insert(slot.place, Recorded { reply, body: slot.body, at: now });
        }
    }
}
