//! All that happens to charges and ids besides [`reserve`](Redis::reserve). What cannot be told to Redis now is left for later.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::backlog::{BacklogEntry, Tokened};
use super::open::Open;
use super::protocol::{self, Contents, ScriptCall};
use super::{Fault, Reason, Redis, Token};
use crate::clock::Moment;
use crate::ledger::{Charge, Cleared, Look, Settlement};
use crate::phone::Phone;
use crate::policy::subject::Account;
use crate::policy::{Key, Kind, Policy, Record, Retention};

/// What is left for later unless it is told: also if nobody waits for that to its end.
struct Left<'r> {
    redis: &'r Redis,
    entry: Option<BacklogEntry>,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.redis.leave(entry);
        }
    }
}

impl Redis {
    /// Gives a charge back, and returns when Redis knows.
    pub async fn give_back(&self, charge: &Charge, token: Token) {
        self.warm.settle(charge, Settlement::GiveBack);
        let tokened = Tokened { token, charge: *charge };
        self.backlog.lock().remember(BacklogEntry::GiveBack(tokened.clone()), self.clock.now());
        // Dropped last: whoever waits for this asks Redis once it knows.
        let _open = Open::again(self, tokened.clone());
        let mut left = Left { redis: self, entry: Some(BacklogEntry::GiveBack(tokened.clone())) };
        let now = self.time.at(self.clock.now());
        let (together, apart) = self.names_of(&tokened);
        for names in [together, apart].iter().filter(|names| !names.is_empty()) {
            if self.tell(&self.back(&tokened, now, names)).await.is_none() {
                return;
            }
        }
        left.entry = None;
    }

    /// Gives a charge back where nobody can wait for it.
    pub fn give_back_later(&self, charge: &Charge, token: Token) {
        self.warm.settle(charge, Settlement::GiveBack);
        self.leave(BacklogEntry::GiveBack(Tokened { token, charge: *charge }));
        drop(Open::again(self, Tokened { token, charge: *charge }));
    }

    /// Keeps a charge: what Redis knows of it stays as it is.
    pub fn keep(&self, charge: &Charge, token: Token) {
        self.warm.settle(charge, Settlement::Keep);
        drop(Open::again(self, Tokened { token, charge: *charge }));
        self.in_flight.settled();
    }

    /// See [`Ledger::record`](crate::ledger::Ledger::record).
    pub async fn record(&self, policy: &Policy, key: Key, kind: Kind, at: Moment) {
        if !policy.counts(key.per(), kind) {
            return;
        }
        self.warm.record(policy, key, kind, at);
        let mut charge = Charge { phone: None, verification: None, account: None, at, kind };
        match key {
            Key::Phone(phone) => charge.phone = Some(phone),
            Key::Verification(id) => charge.verification = Some(id),
            Key::Account(account) => charge.account = Some(account),
        }
        let beside = self.phone_of(key).await;
        let token = Token { number: self.next_token(), beside, is_local: !self.time.is_known() };
        // Until the others know that it was given out, they take it for one that is open.
        self.in_flight.settled();
        let entry = BacklogEntry::Charge(Tokened { token, charge });
        let name = self.names.key(key, beside);
        if self.tell(&self.note(&name, policy.retention(key.per()), token, &charge)).await.is_some() {
            self.backlog.lock().remember(entry, self.clock.now());
        } else {
            self.leave(entry);
        }
    }

    /// See [`Ledger::absorb`](crate::ledger::Ledger::absorb).
    pub async fn absorb(&self, policy: &Policy, into: Key, from: Key) {
        self.warm.absorb(policy, into, from);
        if self.tell_absorb(into, from, Duration::ZERO, policy.retention(into.per())).await.is_none() {
            self.leave(BacklogEntry::Absorb { into, from });
        }
    }

    /// See [`Ledger::hold`](crate::ledger::Ledger::hold).
    pub async fn hold(&self, key: Key, until: Moment) {
        let until = self.time.at(until);
        self.warm.hold(key, until);
        let name = self.names.key(key, self.phone_of(key).await);
        if self.tell(&self.hold_until(name, until)).await.is_none() {
            self.leave(BacklogEntry::Hold(key, until));
        }
    }

    /// See [`Ledger::share_hold`](crate::ledger::Ledger::share_hold).
    pub fn share_hold(&self, key: Key, account: Account, until: Moment) {
        self.in_flight.held((key, account, self.time.at(until)), self.clock.now());
    }

    /// See [`Ledger::look`](crate::ledger::Ledger::look).
    pub async fn look(&self, policy: &Policy, key: Key, now: Moment) -> Look {
        let at = self.time.at(now);
        let mut look = match self.contents("look", key, now).await {
            Some(contents) => {
                let log = contents.log(|_| false);
                let held_until = contents.held_until.filter(|until| *until > at);
                let record = Record { per: key.per(), log: Some(&log).filter(|log| !log.is_empty()), held_until };
                Look { standings: policy.standing(&record, at), held_until }
            }
            None => self.warm.look(policy, key, at),
        };
        look.held_until = look.held_until.map(|until| self.time.moment(until));
        look
    }

    /// See [`Ledger::clear`](crate::ledger::Ledger::clear).
    pub async fn clear(&self, policy: &Policy, key: Key, now: Moment) -> Cleared {
        let at = self.time.at(now);
        let cleared = self.warm.clear(policy, key, at);
        match self.contents("clear", key, now).await {
            Some(contents) => Cleared {
                codes: contents.log(|_| false).counted(policy.retention(key.per()), at),
                hold: contents.held_until.is_some_and(|until| until > at),
                cooldowns: 0,
            },
            None => {
                self.leave(BacklogEntry::Clear(key));
                cleared
            }
        }
    }

    /// Tells Redis what happened while it could not be told. `false`, if it cannot be told now either.
    pub(super) async fn tell_again(&self, entry: &BacklogEntry) -> bool {
        let turn = self.circuit.turn();
        let told = match entry {
            BacklogEntry::Charge(tokened) => self.tell_charge(tokened).await,
            BacklogEntry::GiveBack(tokened) => self.tell_back(tokened).await,
            BacklogEntry::Hold(key, until) => {
                let name = self.names.key(*key, self.phone_of(*key).await);
                self.call(&self.hold_until(name, *until)).await.map(drop)
            }
            BacklogEntry::Learn(id, phone) => self.call_id(*id, *phone, None).await.map(drop),
            BacklogEntry::Accept(account) => self.tell_accepted(*account).await,
            BacklogEntry::Reject(account) => self.tell_rejected(*account).await,
            BacklogEntry::Join { asked, answered, phone } => self.call_join(*asked, *answered, *phone).await.map(drop),
            BacklogEntry::Absorb { into, from } => {
                let retention = self.kept(*into);
                self.call_absorb(*into, *from, Duration::ZERO, retention).await
            }
            BacklogEntry::Clear(key) => {
                let name = self.names.key(*key, self.phone_of(*key).await);
                let numbers = self.numbers(self.clock.now());
                self.call(&ScriptCall::new("clear", vec![name], numbers)).await.map(drop)
            }
        };
        if matches!(entry, BacklogEntry::Charge(_)) && told.is_ok() {
            self.merged.fetch_add(1, Ordering::Relaxed);
        }
        match told {
            Ok(()) => true,
            Err(fault) => {
                self.failed(&fault, turn);
                // What is never understood must not stand in the way of all that comes after it.
                fault.reason == Reason::Error && {
                    tracing::error!(error = fault.text, "Redis cannot be told something: it is lost");
                    self.backlog.lock().lose();
                    true
                }
            }
        }
    }

    async fn tell_charge(&self, Tokened { token, charge }: &Tokened) -> Result<(), Fault> {
        for (key, name) in self.keys_of(charge, token.beside) {
            self.call(&self.note(&name, self.kept(key), *token, charge)).await?;
        }
        Ok(())
    }

    async fn tell_back(&self, tokened: &Tokened) -> Result<(), Fault> {
        let now = self.time.at(self.clock.now());
        for (_, name) in self.keys_of(&tokened.charge, tokened.token.beside) {
            self.call(&self.back(tokened, now, &[name])).await?;
        }
        Ok(())
    }

    /// What some limit needs of a key, as of the last code.
    pub(crate) fn kept(&self, key: Key) -> Retention {
        self.retention.lock().get(key.per() as usize).copied().unwrap_or_default()
    }

    /// The keys of a charge and their names.
    fn keys_of(&self, charge: &Charge, beside: Option<Phone>) -> Vec<(Key, String)> {
        let keys = [
            charge.phone.map(Key::Phone),
            charge.verification.map(Key::Verification),
            charge.account.map(Key::Account),
        ];
        keys.into_iter().flatten().map(|key| (key, self.names.key(key, beside))).collect()
    }

    /// Those that one call can name, and those that another has to.
    fn names_of(&self, Tokened { token, charge }: &Tokened) -> (Vec<String>, Vec<String>) {
        let (together, apart): (Vec<_>, Vec<_>) = self
            .keys_of(charge, token.beside)
            .into_iter()
            .partition(|(key, _)| !self.names.is_cluster || !matches!(key, Key::Account(_)));
        let names = |keys: Vec<(Key, String)>| keys.into_iter().map(|(_, name)| name).collect();
        (names(together), names(apart))
    }

    fn back(&self, Tokened { token, charge }: &Tokened, now: Moment, names: &[String]) -> ScriptCall {
        let numbers = self.numbers(now).and(self.at(*token, charge).as_micros());
        ScriptCall::new("back", names.to_vec(), numbers.and(token.number.into()))
    }

    fn note(&self, name: &str, retention: Retention, token: Token, charge: &Charge) -> ScriptCall {
        let at = self.at(token, charge);
        // For callers' time: it is never behind what is noted.
        let numbers = self.numbers(at).and(at.as_micros()).kind(charge.kind).and(token.number.into());
        ScriptCall::new("note", vec![name.to_owned()], numbers.keep(retention))
    }

    /// When a charge was made, on the server's clock.
    fn at(&self, token: Token, charge: &Charge) -> Moment {
        if token.is_local { self.time.at(charge.at) } else { charge.at }
    }

    fn hold_until(&self, name: String, until: Moment) -> ScriptCall {
        ScriptCall::new("hold", vec![name], self.numbers(self.clock.now()).and(until.as_micros()))
    }

    pub(crate) async fn contents(&self, verb: &'static str, key: Key, now: Moment) -> Option<Contents> {
        let name = self.names.key(key, self.phone_of(key).await);
        let parts = self.tell(&ScriptCall::new(verb, vec![name], self.numbers(now))).await?;
        protocol::bytes(parts.first()).map(Contents::read).ok()
    }

    /// The phone beside which a key stands, where that matters.
    async fn phone_of(&self, key: Key) -> Option<Phone> {
        match key {
            Key::Verification(id) if self.names.is_cluster => {
                self.whose(id, self.clock.now()).await.map(|known| known.phone)
            }
            _ => None,
        }
    }

    async fn tell_absorb(&self, into: Key, from: Key, least: Duration, retention: Retention) -> Option<()> {
        self.attempt(self.call_absorb(into, from, least, retention)).await
    }

    pub(crate) async fn call_absorb(
        &self,
        into: Key,
        from: Key,
        least: Duration,
        retention: Retention,
    ) -> Result<(), Fault> {
        let (to, of) = (self.phone_of(into).await, self.phone_of(from).await);
        let names = vec![self.names.key(into, to), self.names.key(from, of)];
        if self.names.is_cluster {
            // They may stand on two servers. Whoever still asks for the one that was absorbed meets what it had, too.
            return self.copy(&self.names.key(from, of), &self.names.key(into, to), retention).await;
        }
        let millis = u64::try_from(least.as_millis()).unwrap_or(u64::MAX);
        let numbers = self.numbers(self.clock.now()).keep(retention).and(millis);
        self.call(&ScriptCall::new("absorb", names, numbers)).await.map(drop)
    }

    /// Notes at one key what there is of another. What is there already is not noted twice.
    pub(crate) async fn copy(&self, from: &str, into: &str, retention: Retention) -> Result<(), Fault> {
        let parts = self.call(&ScriptCall::new("look", vec![from.to_owned()], self.numbers(self.clock.now()))).await?;
        let contents = Contents::read(protocol::bytes(parts.first())?);
        self.tell_contents(into, &contents, retention).await
    }

    /// Notes at a key what there is of it elsewhere.
    pub(crate) async fn tell_contents(
        &self,
        name: &str,
        contents: &Contents,
        retention: Retention,
    ) -> Result<(), Fault> {
        for (at, kind) in &contents.charges {
            let charge = Charge { phone: None, verification: None, account: None, at: *at, kind: *kind };
            let token = Token { number: 0, beside: None, is_local: false };
            self.call(&self.note(name, retention, token, &charge)).await?;
        }
        match contents.held_until {
            Some(until) => self.call(&self.hold_until(name.to_owned(), until)).await.map(drop),
            None => Ok(()),
        }
    }
}
