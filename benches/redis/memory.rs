//! What Redis needs to remember.

use sendly_gateway::clock::Clock;
use sendly_gateway::ledger::redis::Verdict;
use sendly_gateway::policy::subject::HashKey;
use sendly_gateway::policy::{Counts, Kind, Limit, Mode, Per, Policy, RefusalCode};
use std::time::Duration;

use crate::server::Server;
use crate::{Plan, shared};

/// Only phones count, and never in vain.
fn phones_alone() -> Policy {
    Policy::new(vec![Limit {
        name: "phone".to_owned(),
        per: Per::Phone,
        max: 1000,
        window: Duration::from_secs(24 * 60 * 60),
        counts: Counts::BOTH,
        mode: Mode::Shadow,
        code: RefusalCode::RateLimitExceeded,
    }])
}

fn used(server: &Server) -> f64 {
    let info = server.ask(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

pub(crate) async fn table(plan: &Plan) {
    println!("Redis' memory (`used_memory`), over {} of each\n", plan.phones);
    println!("| what | bytes each |");
    println!("|---|---|");
    let clock = Clock::system();
    for codes in [1, 2, 5, 20] {
        let server = Server::start(&[]);
        let (redis, policy) = (shared::ledger(server.port, 2).await, phones_alone());
        let before = used(&server);
        for nth in 0..plan.phones {
            for _ in 0..codes {
                let (_, verdict) = redis.reserve(&policy, &shared::send(nth), Kind::Send, clock.now()).await;
                assert!(matches!(verdict, Verdict::Charged(..)));
            }
        }
        println!("| a phone with {codes} codes | {:.0} |", (used(&server) - before) / plan.phones as f64);
    }
    let server = Server::start(&[]);
    let redis = shared::ledger(server.port, 2).await;
    let before = used(&server);
    for nth in 0..plan.phones {
        redis.learn(HashKey::new([1; 16]).verification(&nth.to_string()), shared::phone(nth), clock.now()).await;
    }
    println!("| whose an id is | {:.0} |", (used(&server) - before) / plan.phones as f64);
    println!();
}
