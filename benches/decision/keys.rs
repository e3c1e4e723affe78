//! The same keys, limits and stores for all.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use sendly_gateway::clock::Moment;
use sendly_gateway::config::Config;
use sendly_gateway::ledger::memory::{Bounds, Memory, Verdict};
use sendly_gateway::phone::Phone;
use sendly_gateway::policy::subject::{Account, HashKey, Subject, Verification};
use sendly_gateway::policy::{Key, Kind, Policy, WhenFull};

use crate::time::{START, Time};

/// Phones that share an API key. At 2 hours between two codes they make 8 codes a minute; the account's limit is 100.
const PER_ACCOUNT: u64 = 1000;

/// How far apart the codes of one phone are: 12 a day, of the 20 that are allowed, so that none is refused.
const APART: Duration = Duration::from_secs(2 * 60 * 60);

pub(crate) struct Keys {
    pub(crate) phones: Vec<Phone>,
    pub(crate) verifications: Vec<Verification>,
    pub(crate) accounts: Vec<Account>,
}

impl Keys {
    pub(crate) fn new(count: u64) -> Result<Self, Box<dyn Error>> {
        let hash_key = HashKey::random();
        let phones: Option<Vec<Phone>> = (0..count).map(|nth| Phone::from_digits(15_550_000_000 + nth)).collect();
        Ok(Self {
            phones: phones.ok_or("no phone")?,
            verifications: (0..count).map(|nth| hash_key.verification(&format!("ver_{nth:032x}"))).collect(),
            accounts: (0..count.div_ceil(PER_ACCOUNT))
                .map(|nth| hash_key.account(format!("Bearer sk_{nth}").as_bytes()))
                .collect(),
        })
    }

    pub(crate) fn send(&self, nth: usize) -> Subject {
        Subject { phone: Some(self.phones[nth]), verification: None, account: self.accounts[nth % self.accounts.len()] }
    }

    /// How much time passes from one decision to the next, where each phone has its turn.
    pub(crate) fn step(&self) -> u64 {
        APART.as_micros() as u64 / self.phones.len() as u64
    }
}

/// The limits that the gateway ships with.
pub(crate) fn defaults() -> Result<Policy, Box<dyn Error>> {
    Ok(Policy::new(Config::parse("", "defaults", std::iter::empty())?.limits))
}

pub(crate) fn empty() -> Memory {
    let (keys, verifications, remember) = (usize::MAX, usize::MAX, Duration::from_secs(31 * 24 * 60 * 60));
    Memory::new(Bounds { keys, when_full: WhenFull::Refuse, verifications, remember })
}

/// A ledger in which every phone has had so many codes, each a while after the other.
pub(crate) fn admitting(keys: &Keys, policy: &Policy, time: &Time, codes: usize) -> Result<Memory, Box<dyn Error>> {
    let memory = empty();
    for _ in 0..codes {
        for nth in 0..keys.phones.len() {
            time.pass(keys.step());
            let (_, verdict) = memory.reserve(policy, &keys.send(nth), Kind::Send, time.now());
            if !matches!(verdict, Verdict::Charged(_)) {
                return Err(format!("a first code was refused: {verdict:?}").into());
            }
        }
    }
    Ok(memory)
}

/// Learns every verification.
pub(crate) fn learn(memory: &Memory, keys: &Keys) {
    for (id, phone) in keys.verifications.iter().zip(&keys.phones) {
        memory.learn(*id, *phone, Moment::from_micros(START));
    }
}

/// A ledger in which every phone has had all the codes that ten minutes allow.
pub(crate) fn full(keys: &Keys, policy: &Policy) -> Arc<Memory> {
    let memory = empty();
    let at = Moment::from_micros(START);
    for phone in keys.phones.iter().flat_map(|phone| [phone; 5]) {
        memory.record(policy, Key::Phone(*phone), Kind::Send, at);
    }
    for account in &keys.accounts {
        memory.record(policy, Key::Account(*account), Kind::Send, at);
    }
    Arc::new(memory)
}

pub(crate) type Governor = RateLimiter<u64, DashMapStateStore<u64>, Time, NoOpMiddleware<Nanos>>;

/// governor with what comes nearest to 5 in 10 minutes, asked about every key so many times.
pub(crate) fn governor(keys: &Keys, time: &Time, step: u64, times: usize) -> Governor {
    let burst = NonZeroU32::MIN.saturating_add(4);
    let quota = Quota::with_period(Duration::from_secs(120)).unwrap_or(Quota::per_minute(burst)).allow_burst(burst);
    let governor = RateLimiter::dashmap_with_clock(quota, time.clone());
    for phone in &keys.phones {
        time.pass(step);
        for _ in 0..times {
            let _ = governor.check_key(&phone.digits());
        }
    }
    governor
}
