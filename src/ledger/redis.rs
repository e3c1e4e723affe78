//! The ledger in Redis: one count for all gateways that share it.
//!
//! What a verb does is one call of one script (`redis/ledger.lua`), on the server's own clock: gateways whose clocks disagree count
//! alike. Beside it every gateway keeps a ledger in memory that learns all that this one does, and what it sees of the others. Where
//! Redis is away (it cannot be reached, is too slow, takes no writes) that one decides, or the configuration says otherwise; and what
//! happened meanwhile is told to Redis when it is back.
//!
//! A charge has a token that tells it from all others. So what may have been done already can be told again, or taken back: when an
//! answer is lost, nobody has to know whether it was.

mod backlog;
mod circuit;
mod connections;
mod fallback;
mod fault;
mod ids;
mod in_flight;
mod keys;
mod open;
mod operations;
mod options;
mod proofs;
mod protocol;
mod recovery;
mod server_time;
mod waits;
mod watch;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, SetOnce};

use super::Charge;
use super::memory::Memory;
use crate::clock::{Clock, Moment};
use crate::phone::Phone;
use crate::policy::told::Told;
use crate::policy::{Decision, Key, Kind, OnOutage, Per, Policy, Refusal, Retention, Subject};
use backlog::{Backlog, BacklogEntry, Tokened};
use circuit::Circuit;
pub use circuit::Reason;
use connections::Link;
use fault::Fault;
use in_flight::InFlight;
use keys::Names;
use open::Open;
pub use options::{Options, Servers, Time, Topology};
use protocol::{Contents, Judged, Numbers, ScriptCall};
use server_time::{ServerTime, Whose};
pub use waits::Waits;

/// See the module's documentation.
#[derive(Debug)]
pub struct Redis {
    warm: Arc<Memory>,
    link: Link,
    names: Names,
    circuit: Circuit,
    backlog: Mutex<Backlog>,
    time: ServerTime,
    clock: Clock,
    bound: Duration,
    on_outage: OnOutage,
    remember: Duration,
    /// The last one that was given out.
    token: AtomicU32,
    /// This gateway's charges that are not settled yet, by their tokens.
    open: Mutex<HashMap<u32, Charge>>,
    in_flight: InFlight,
    /// What limits need, as of the last code.
    retention: Mutex<[Retention; Per::ALL.len()]>,
    /// Keys of the dataset marker, and what was found there.
    data_names: Vec<String>,
    data: Mutex<HashMap<String, Vec<u8>>>,
    /// It is to be told all that this gateway knows.
    owes_all: AtomicBool,
    /// Held by whoever keeps it.
    keeping: tokio::sync::Mutex<()>,
    merged: AtomicU64,
    /// Set once it was tried to reach it.
    tried: SetOnce<()>,
    /// There is something to do for the keeper.
    changed: Arc<Notify>,
}

/// What came of asking for a code.
#[derive(Debug)]
pub enum Verdict {
    /// It was charged.
    Charged(Charge, Token),
    /// A limit refuses.
    Refused(Refusal),
    /// Redis is away, and the gateway has no room for a new key.
    NoRoom,
    /// Redis is away, and codes are refused for that.
    Away,
}

/// What tells a charge from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    number: u32,
    /// The phone beside which its verification stands.
    beside: Option<Phone>,
    /// Whether its time is the gateway's own, of before it knew the server's.
    is_local: bool,
}

/// How it stands with Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisState {
    /// Since when it is so.
    pub since: Moment,
    /// Why it is away; `None` if it is not.
    pub away: Option<Reason>,
    /// What becomes of codes while it is.
    pub on_outage: OnOutage,
    /// How much it has yet to be told.
    pub backlog: usize,
    /// How often it went away for each reason, in the order of [`Reason::ALL`].
    pub outages: [u64; Reason::ALL.len()],
    /// How much of what happened while it was away it has been told.
    pub merged: u64,
    /// How much could not be kept for that.
    pub lost: u64,
}

impl Redis {
    /// What this gateway knows by itself.
    pub(super) const fn memory(&self) -> &Arc<Memory> {
        &self.warm
    }

    /// A ledger that connects to its servers, and keeps to that for as long as it lives. `warm` decides while they are away.
    ///
    /// To be called on a runtime, where its keeper runs.
    ///
    /// # Errors
    /// What is wrong with the addresses or the authorities. Servers that cannot be reached are no error.
    pub fn start(options: Options, warm: Arc<Memory>, clock: Clock) -> Result<Arc<Self>, String> {
        let Options { servers, connections, connect_timeout, timeout, .. } = &options;
        let link = Link::new(servers, *connections, *connect_timeout, *timeout)?;
        let is_cluster = servers.topology == Topology::Cluster;
        let names = Names::new(options.prefix, options.hash_key, is_cluster);
        let changed = Arc::new(Notify::new());
        let redis = Arc::new(Self {
            warm,
            link,
            circuit: Circuit::new(clock.now()),
            backlog: Mutex::new(Backlog::new(options.max_backlog)),
            time: ServerTime::new(match options.time {
                Time::Callers => Whose::Callers,
                Time::Servers if is_cluster => Whose::Servers,
                Time::Servers => Whose::Server,
            }),
            clock,
            bound: options.timeout,
            on_outage: options.on_outage,
            remember: options.remember,
            // Tokens of gateways that share a phone in the same minutes are not to meet.
            token: AtomicU32::new(random() as u32),
            open: Mutex::default(),
            in_flight: InFlight::new(random().to_be_bytes()),
            retention: Mutex::new([Retention::default(); Per::ALL.len()]),
            data_names: names.data(),
            data: Mutex::default(),
            owes_all: AtomicBool::new(false),
            keeping: tokio::sync::Mutex::new(()),
            names,
            merged: AtomicU64::new(0),
            tried: SetOnce::new(),
            changed: Arc::clone(&changed),
        });
        tokio::spawn(recovery::keep(Arc::downgrade(&redis), changed));
        tokio::spawn(InFlight::tell(Arc::downgrade(&redis)));
        Ok(redis)
    }

    /// Waits until it was tried to reach the servers.
    pub async fn tried(&self) {
        self.tried.wait().await;
    }

    /// How it stands with Redis.
    pub fn state(&self) -> RedisState {
        let (since, away) = self.circuit.state();
        let (backlog, lost) = {
            let backlog = self.backlog.lock();
            (backlog.len(), backlog.lost())
        };
        RedisState {
            since,
            away,
            on_outage: self.on_outage,
            backlog,
            outages: self.circuit.outages(),
            merged: self.merged.load(Ordering::Relaxed),
            lost,
        }
    }

    /// The time by which the ledger in memory goes: the server's, as far as it is known.
    pub fn time(&self, now: Moment) -> Moment {
        self.time.at(now)
    }

    /// See [`Ledger::reserve`](super::Ledger::reserve).
    pub async fn reserve(&self, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> (Decision, Verdict) {
        self.note_retention(policy);
        let charge = charge_of(policy, subject, kind, now, &policy.keys(subject));
        let is_local = !self.time.is_known();
        let token = |number| Token { number, beside: subject.phone, is_local };
        let (open, number) = Open::new(self, |number| Tokened { token: token(number), charge });
        let (decision, verdict) = self.decide(policy, subject, kind, number, now).await;
        match &verdict {
            Verdict::Charged(..) => open.stays(),
            Verdict::Refused(_) | Verdict::NoRoom | Verdict::Away => open.never_was(),
        }
        (decision, verdict)
    }

    async fn decide(
        &self,
        policy: &Policy,
        subject: &Subject,
        kind: Kind,
        number: u32,
        now: Moment,
    ) -> (Decision, Verdict) {
        let mut may_be_charged = false;
        if self.circuit.is_up() && !waits::has_waited() {
            let turn = self.circuit.turn();
            let asking = self.ask(policy, subject, kind, number, now);
            let answer = tokio::time::timeout(self.bound, asking).await;
            match answer.unwrap_or_else(|_| Err(Fault::late(self.bound))) {
                Ok(answer) => return answer,
                Err(fault) => {
                    may_be_charged = fault.may_be_done;
                    self.failed(&fault, turn);
                }
            }
        }
        let token = Token { number, beside: subject.phone, is_local: !self.time.is_known() };
        self.decide_alone(policy, subject, kind, now, token, may_be_charged)
    }

    /// Has Redis judge a code.
    ///
    /// On one server that is one call. In a cluster an account may stand on another server than a phone: it is asked second, and where
    /// it refuses, the phone's charge is given back. In between, the phone has a code too many for a moment, and never one too few.
    async fn ask(
        &self,
        policy: &Policy,
        subject: &Subject,
        kind: Kind,
        number: u32,
        now: Moment,
    ) -> Result<(Decision, Verdict), Fault> {
        let keys = policy.keys(subject);
        let together = |per| !self.names.is_cluster || per != Per::Account;
        let (first, second): (Vec<Key>, Vec<Key>) = keys.iter().partition(|key| together(key.per()));
        let token = Token { number, beside: subject.phone, is_local: false };
        let mut told: Vec<(Key, Duration, Vec<Told>, Option<Contents>)> = Vec::with_capacity(Subject::MAX_KEYS);
        let (mut refused, mut at, mut is_withdrawn) = (false, None, false);
        for some in [&first, &second] {
            let is_met = |key: &Key| policy.counts(key.per(), kind) || !policy.met(key.per(), kind).is_empty();
            if some.is_empty() || at.is_some() && !some.iter().any(is_met) {
                continue;
            }
            let judged = self.judge(policy, some, token, kind, !refused, now).await?;
            let refuses = judged.verdict == protocol::Verdict::Refused;
            if let Some(at) = at.filter(|_| refuses && !refused) {
                self.give_back(&charge_of(policy, subject, kind, at, &first), token).await;
                is_withdrawn = true;
            }
            refused |= refuses;
            at = at.or(Some(judged.at));
            let facts = judged.told.into_iter().zip(judged.copies);
            for (key, ((held, rules), copy)) in some.iter().zip(facts) {
                let rules = self.see_open(policy, (*key, kind), rules, copy.as_ref(), (number, now)).await;
                told.push((*key, held, rules, copy));
            }
        }
        let facts = told.iter().map(|(key, held, rules, _)| (key.per(), *held, rules.as_slice()));
        let decision = policy.decision(facts, kind);
        let at = at.unwrap_or(now);
        let charge = charge_of(policy, subject, kind, at, &keys);
        for (key, _, _, copy) in told.iter().filter(|_| !is_withdrawn) {
            match copy {
                Some(copy) => {
                    let open = self.open.lock();
                    let charges = copy.each_open(|token| open.contains_key(&token));
                    self.warm.mirror(policy, *key, charges, copy.held_until);
                }
                // Too much to be sent each time: what this gateway does is all that it knows of it.
                None if !refused => drop(self.warm.record_as(policy, *key, kind, at, true)),
                None => {}
            }
        }
        if let Some(refusal) = decision.refusal {
            return Ok((decision, Verdict::Refused(refusal)));
        }
        if refused {
            return Err(Fault::wrong("a refusal without a reason"));
        }
        self.backlog.lock().remember(BacklogEntry::Charge(Tokened { token, charge }), self.clock.now());
        Ok((decision, Verdict::Charged(charge, token)))
    }

    /// One call. An answer that it came too late, or too early, shows what time it is: then it is asked again, once.
    async fn judge(
        &self,
        policy: &Policy,
        keys: &[Key],
        token: Token,
        kind: Kind,
        charges: bool,
        now: Moment,
    ) -> Result<Judged, Fault> {
        let names: Vec<String> = keys.iter().map(|key| self.names.key(*key, token.beside)).collect();
        for _ in 0..2 {
            let (earliest, deadline) = self.time.span(self.clock.now(), self.bound);
            let numbers = self.numbers(now).and(earliest).and(deadline).and(token.number.into()).kind(kind);
            let numbers = numbers.and(policy.holds().into()).and(charges.into());
            // A cluster's client asks again by itself when a server has moved.
            let numbers = numbers.and(self.names.is_cluster.into());
            let numbers = keys.iter().map(|key| key.per()).fold(numbers, |numbers, per| {
                let counts = policy.counts(per, kind);
                numbers.and(counts.into()).keep(policy.retention(per)).rules(policy.met(per, kind))
            });
            let parts = self.call(&ScriptCall::new("reserve", names.clone(), numbers)).await?;
            let judged = protocol::judged(&parts, keys.iter().map(|key| policy.met(key.per(), kind).len()))?;
            if judged.verdict != protocol::Verdict::Late {
                return Ok(judged);
            }
            self.see_to_clock().await?;
        }
        Err(Fault { may_be_done: false, ..Fault::late(self.bound) })
    }

    /// Calls the script. Its answer shows what time it is there.
    async fn call(&self, call: &ScriptCall) -> Result<Vec<redis_rs::Value>, Fault> {
        let asked = self.clock.now();
        let answer = self.link.call(call, self.bound).await?;
        let (shown, parts) = protocol::parts(answer)?;
        self.time.observe(asked, self.clock.now(), shown);
        self.circuit.worked();
        if self.time.was_set() {
            self.changed.notify_one();
        }
        Ok(parts)
    }

    /// Calls it where it can be called. `None`, where it is away, and where the request has waited in vain already.
    async fn tell(&self, call: &ScriptCall) -> Option<Vec<redis_rs::Value>> {
        self.attempt(self.call(call)).await
    }

    /// The same, for whatever is called.
    async fn attempt<T>(&self, calling: impl Future<Output = Result<T, Fault>>) -> Option<T> {
        if !self.circuit.is_up() || waits::has_waited() {
            return None;
        }
        let turn = self.circuit.turn();
        calling.await.map_err(|fault| self.failed(&fault, turn)).ok()
    }

    fn numbers(&self, now: Moment) -> Numbers {
        Numbers::new(self.time.told(now))
    }

    /// A call of this turn failed. If that is how it goes now, nobody waits for the next one.
    fn failed(&self, fault: &Fault, turn: u32) {
        if fault.reason == Reason::Timeout {
            waits::note();
        }
        if self.circuit.failed(fault.reason, turn, self.clock.now()) {
            let goes_on = match self.on_outage {
                OnOutage::Local => "this gateway counts by itself",
                OnOutage::Refuse => "codes are refused",
                OnOutage::Allow => "codes go out whatever limits say",
            };
            tracing::error!(reason = fault.reason.name(), error = fault.text, "Redis is away: {goes_on}");
            self.link.disconnect();
        }
        self.changed.notify_one();
    }

    /// Has Redis be told of this when it can.
    fn leave(&self, entry: BacklogEntry) {
        if self.backlog.lock().push(entry) {
            tracing::debug!("the backlog is full: the oldest of it is lost");
        }
        self.changed.notify_one();
    }

    fn note_retention(&self, policy: &Policy) {
        let retention = Per::ALL.map(|per| policy.retention(per));
        let mut known = self.retention.lock();
        if *known != retention {
            *known = retention;
        }
    }

    /// Never 0, which is no token.
    fn next_token(&self) -> u32 {
        self.token.fetch_add(1, Ordering::Relaxed).max(1)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The keeper finds nobody to keep.
        self.changed.notify_one();
    }
}

/// What was charged: of these keys, those that some limit counts.
fn charge_of(policy: &Policy, subject: &Subject, kind: Kind, at: Moment, keys: &[Key]) -> Charge {
    let counts = |per| policy.counts(per, kind) && keys.iter().any(|key| key.per() == per);
    Charge {
        phone: subject.phone.filter(|_| counts(Per::Phone)),
        verification: subject.verification.filter(|_| counts(Per::Verification)),
        account: Some(subject.account).filter(|_| counts(Per::Account)),
        at,
        kind,
    }
}

/// From the operating system, by way of the standard library.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}
