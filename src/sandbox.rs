//! A Sendly for development: the verify family as Sendly documents it, without an account, a credit or an SMS.
//!
//! It is the upstream of `run --sandbox` and of the tests. Any API key of Sendly's form works, and is an account of its own:
//! `sk_test_v1_…` is answered with the code (`sandbox_code`), `sk_live_v1_…` without. A key that contains `sendonly` lacks
//! the scope `verify:read`: its GETs answer 403.
//!
//! The last four digits of a phone decide what becomes of its codes, sent or resent:
//!
//! | phone ends in | answer | goes out |
//! |---|---|---|
//! | 0001 | 400 `unsupported_destination` | no |
//! | 0002 | 402 `insufficient_credits` | no |
//! | 0003 | 500 `delivery_failed`; the verification is `failed` | no |
//! | 0004 | as usual, but `delivery_status` is `failed`: a resend is legal at once | yes |
//! | 0005 | 500 `internal_error`, though the code went out | yes |
//! | 0006 | none: the connection is closed after the code went out | yes |
//! | 0007 | after [`HELD_FOR`], or when a test [releases](Sandbox::release) it | yes |
//! | 0008 | 429 `rate_limit_exceeded`, as at Sendly's own limit | no |
//! | anything else | as usual; the code arrives at once | yes |
//!
//! Where Sendly's documentation is silent: a resend keeps its id (but see [`Options::renew_ids`]); whatever touches a pending
//! verification past its expiry finds it expired, a resend and a check included; what is refused or fails uses up no budget;
//! phones are counted over all accounts; three wrong codes leave a verification pending, and no longer checkable.
//!
//! Everything is in memory, and all of it is bounded: the oldest is dropped.

mod bounded;
mod caller;
mod fate;
mod limits;
mod profiles;
mod replays;
mod reply;
mod route;
mod serve;
mod state;
mod strict;
mod verification;

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::HashKey;
use caller::ApiCaller;
use limits::Quota;
use replays::ReplaySlot;
use reply::{Leaves, SandboxRefusal, SandboxReply};
use route::SandboxRoute;
pub use serve::{HELD_FOR, serve};
use state::SandboxState;

/// What may be chosen about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Enforces Sendly's own limits: 5 codes per phone in any 10 minutes and 20 in any 24 hours, 100 per account and minute,
    /// resends included; 60 requests a minute per test key, 600 per live key.
    pub limits: bool,
    /// A resend answers a new id; the one that it was asked for stays, as it was. Sendly documents neither this nor the
    /// opposite.
    pub renew_ids: bool,
    /// How many verifications, phones, accounts and idempotent answers are kept, of each.
    pub capacity: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: false, renew_ids: false, capacity: 100_000 }
    }
}

/// A Sendly without a phone network.
pub struct Sandbox {
    limits: bool,
    secret: HashKey,
    state: Mutex<SandboxState>,
    sent: watch::Sender<u64>,
    releases: Semaphore,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("sent", &self.sent_total()).finish_non_exhaustive()
    }
}

/// An answer that is known, but not given yet.
struct Begun {
    reply: SandboxReply,
    /// `None` where nobody can say whose request it was.
    quota: Option<Quota>,
    /// Where to record it once it is given.
    slot: Option<ReplaySlot>,
    replayed: bool,
}

impl From<SandboxRefusal> for Begun {
    fn from(refusal: SandboxRefusal) -> Begun {
        Begun { reply: refusal.into(), quota: None, slot: None, replayed: false }
    }
}

impl Sandbox {
    /// An empty sandbox, with secrets of its own: no two draw the same ids or codes.
    pub fn new(options: Options) -> Self {
        let secret = HashKey::random();
        Self {
            limits: options.limits,
            state: Mutex::new(SandboxState::new(options, secret.clone())),
            secret,
            sent: watch::Sender::new(0),
            releases: Semaphore::new(0),
        }
    }

    /// Answers a request at once. What only a socket can do, hold an answer back or close instead, is left to [`serve`].
    pub fn answer<B: AsRef<[u8]>>(&self, request: &Request<B>, now: Moment) -> Response<Bytes> {
        let begun = self.begin(request, now);
        self.complete(begun, now)
    }

    /// Codes that went out to this phone, as sends and as resends.
    pub fn sent(&self, phone: Phone) -> u64 {
        self.state.lock().sent_to(phone)
    }

    /// Codes that went out.
    pub fn sent_total(&self) -> u64 {
        *self.sent.borrow()
    }

    /// Follows [`sent_total`](Self::sent_total): lets a test await that a code went out whose answer does not come.
    pub fn watch_sent(&self) -> watch::Receiver<u64> {
        self.sent.subscribe()
    }

    /// Lets so many held answers go: those that wait already, or the next ones.
    pub fn release(&self, answers: usize) {
        self.releases.add_permits(answers.min(Semaphore::MAX_PERMITS - self.releases.available_permits()));
    }

    /// Does what a request asks for.
    fn begin<B: AsRef<[u8]>>(&self, request: &Request<B>, now: Moment) -> Begun {
        let Some(route) = SandboxRoute::read(request.method(), request.uri().path()) else {
            return SandboxRefusal::NotFound.into();
        };
        let caller = match ApiCaller::read(request.headers(), &self.secret) {
            Ok(caller) => caller,
            Err(refusal) => return refusal.into(),
        };
        let mut state = self.state.lock();
        let quota = state.count(&caller, now);
        let mut begun = if quota.exceeded && self.limits {
            quota.refusal().into()
        } else {
            self.run(&mut state, &caller, route, request, now).unwrap_or_else(Begun::from)
        };
        begun.quota = Some(quota);
        // Still under the lock, so that the number only grows.
        self.sent.send_if_modified(|sent| std::mem::replace(sent, state.sent) != state.sent);
        begun
    }

    fn run<B: AsRef<[u8]>>(
        &self,
        state: &mut SandboxState,
        caller: &ApiCaller,
        route: SandboxRoute,
        request: &Request<B>,
        now: Moment,
    ) -> Result<Begun, SandboxRefusal> {
        if request.method() == Method::GET && !caller.reads {
            return Err(SandboxRefusal::InsufficientPermissions);
        }
        let slot = match route {
            SandboxRoute::Send => {
                ReplaySlot::read(request.headers(), caller.account, request.body().as_ref(), &self.secret)?
            }
            _ => None,
        };
        if let Some(slot) = &slot
            && let Some(reply) = state.replays.find(slot, now)?
        {
            return Ok(Begun { reply, quota: None, slot: None, replayed: true });
        }
        let reply = state.run(caller, route, request, now).unwrap_or_else(SandboxReply::from);
        Ok(Begun { reply, quota: None, slot, replayed: false })
    }

    /// Gives an answer. Only now is it recorded: of two identical requests in flight at once both run, as at Sendly.
    fn complete(&self, begun: Begun, now: Moment) -> Response<Bytes> {
        if let Some(slot) = begun.slot {
            self.state.lock().replays.record(slot, &begun.reply, now);
        }
        let mut response = begun.reply.into_response();
        let headers = response.headers_mut();
        if let Some(quota) = begun.quota {
            headers.insert("x-ratelimit-limit", quota.limit.into());
            headers.insert("x-ratelimit-remaining", quota.remaining.into());
            headers.insert("x-ratelimit-reset", quota.reset.into());
        }
        if begun.replayed {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests;
