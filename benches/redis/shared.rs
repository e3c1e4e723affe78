//! A ledger in Redis, and whom it is asked about.

use std::sync::Arc;
use std::time::Duration;

use sendly_gateway::clock::Clock;
use sendly_gateway::config::Config;
use sendly_gateway::ledger::memory::{Bounds, Memory};
use sendly_gateway::ledger::redis::{Options, Redis, Servers, Time, Topology};
use sendly_gateway::phone::Phone;
use sendly_gateway::policy::subject::HashKey;
use sendly_gateway::policy::{OnOutage, Policy, Subject, WhenFull};

/// The default limits, but for the account's, which no decision is to reach.
pub(crate) fn policy() -> Policy {
    let mut limits = Config::parse("", "defaults", std::iter::empty()).unwrap().limits;
    limits.iter_mut().filter(|limit| limit.name == "account-1m").for_each(|limit| limit.max = 1_000_000);
    Policy::new(limits)
}

pub(crate) async fn ledger(port: u16, connections: usize) -> Arc<Redis> {
    let servers = Servers {
        topology: Topology::Single,
        nodes: vec![("127.0.0.1".to_owned(), port)],
        tls: false,
        authorities: None,
        user: None,
        password: None,
        database: 0,
    };
    let day = Duration::from_secs(24 * 60 * 60);
    let options = Options {
        servers,
        prefix: "sendly".to_owned(),
        hash_key: HashKey::new([2; 16]),
        connections,
        connect_timeout: Duration::from_secs(5),
        // A decision that was made without Redis would be none that is measured.
        timeout: Duration::from_secs(5),
        on_outage: OnOutage::Refuse,
        max_backlog: 1000,
        remember: day,
        time: Time::Servers,
    };
    let bounds = Bounds { keys: 10_000_000, when_full: WhenFull::Refuse, verifications: 10_000_000, remember: day };
    let redis = Redis::start(options, Arc::new(Memory::new(bounds)), Clock::system()).unwrap();
    redis.tried().await;
    assert_eq!(redis.state().away, None);
    redis
}

/// A send to the nth phone; 40 phones share an API key.
pub(crate) fn send(nth: u64) -> Subject {
    let account = HashKey::new([1; 16]).account(format!("Bearer sk_{}", nth / 40).as_bytes());
    Subject { phone: Some(phone(nth)), verification: None, account }
}

pub(crate) fn phone(nth: u64) -> Phone {
    Phone::from_digits(15_550_000_000_000 + nth).unwrap()
}
