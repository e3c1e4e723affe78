//! The ledger in Redis, for the suite: on a server of this process' own, on the clock that the suite moves.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sendly_gateway::clock::Clock;
use sendly_gateway::ledger::Ledger;
use sendly_gateway::ledger::memory::{Bounds, Memory};
use sendly_gateway::ledger::redis::{Options, Redis, Servers, Time, Topology};
use sendly_gateway::policy::subject::HashKey;
use sendly_gateway::policy::{OnOutage, WhenFull};

use super::world::wait;
use crate::server::Server;

/// An empty ledger: whatever others have written has other names.
pub fn ledger() -> Ledger {
    static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(&[]));
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let servers = Servers {
        topology: Topology::Single,
        nodes: vec![("127.0.0.1".to_owned(), SERVER.port)],
        tls: false,
        authorities: None,
        user: None,
        password: None,
        database: 0,
    };
    let options = Options {
        servers,
        prefix: format!("suite-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        hash_key: HashKey::new([2; 16]),
        connections: 2,
        connect_timeout: Duration::from_secs(20),
        // Nothing is to be decided without it.
        timeout: Duration::from_secs(20),
        on_outage: OnOutage::Refuse,
        max_backlog: 1000,
        remember: Duration::from_secs(24 * 60 * 60),
        time: Time::Callers,
    };
    let bounds = Bounds {
        keys: 1_000_000,
        when_full: WhenFull::Refuse,
        verifications: 1_000_000,
        remember: Duration::from_secs(24 * 60 * 60),
    };
    wait(async {
        let redis = Redis::start(options, Arc::new(Memory::new(bounds)), Clock::system()).unwrap();
        redis.tried().await;
        assert_eq!(redis.state().away, None, "it is not reached");
        Ledger::Redis(redis)
    })
}
