//! Decisions a second, and how long one takes, beside a bare `SET`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use redis_rs::aio::MultiplexedConnection;
use sendly_gateway::clock::Clock;
use sendly_gateway::ledger::redis::{Redis, Verdict};
use sendly_gateway::policy::{Kind, Policy};
use tokio::task::JoinSet;

use crate::figures::Figures;
use crate::server::Server;
use crate::{Plan, shared};

/// Over so many connections each.
const CONNECTIONS: usize = 2;

/// As little as a script can do for a decision over two keys: ask the time, read both, write both.
const LEAST: &str = "redis.call('TIME') local one, other = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]) \
     redis.call('SET', KEYS[1], ARGV[1], 'PX', 600000) redis.call('SET', KEYS[2], ARGV[1], 'PX', 600000) return one or other";

#[derive(Clone)]
enum Candidate {
    Set(Vec<MultiplexedConnection>),
    /// A script that does less than a decision, with as many bytes to read.
    Script(Vec<MultiplexedConnection>, redis_rs::Script),
    Decide {
        redis: Arc<Redis>,
        policy: Arc<Policy>,
        clock: Clock,
        is_refused: bool,
    },
}

impl Candidate {
    async fn once(&self, nth: u64) {
        match self {
            Candidate::Set(connections) => {
                let mut connection = connections[nth as usize % connections.len()].clone();
                let mut command = redis_rs::cmd("SET");
                // As long as what a decision writes.
                command.arg(format!("bare:{nth}")).arg([7_u8; 22].as_slice()).arg("PX").arg(600_000);
                command.exec_async(&mut connection).await.unwrap();
            }
            Candidate::Script(connections, script) => {
                let mut connection = connections[nth as usize % connections.len()].clone();
                let mut invocation = script.prepare_invoke();
                invocation.key(format!("phone:{nth:021}")).key(format!("account:{:019}", nth / 40));
                let charge = [7_u8; 11].as_slice();
                let asked = invocation.arg(charge).arg([7_u8; 272].as_slice()).invoke_async(&mut connection).await;
                let _: redis_rs::Value = asked.unwrap();
            }
            Candidate::Decide { redis, policy, clock, is_refused } => {
                let subject = shared::send(if *is_refused { 0 } else { nth });
                let (_, verdict) = redis.reserve(policy, &subject, Kind::Send, clock.now()).await;
                let expected = matches!(verdict, Verdict::Refused(_)) == *is_refused;
                assert!(expected, "{verdict:?}");
            }
        }
    }
}

/// Microseconds of Redis' thread for each, as it counts them itself: of reading, answering and waking it knows nothing.
fn of_its_thread(server: &Server) -> f64 {
    let info = server.ask(&["INFO", "commandstats"]);
    let usec = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.split_once("usec_per_call="));
        line.and_then(|(_, rest)| rest.split(',').next()?.parse().ok())
    };
    usec("cmdstat_evalsha:").or_else(|| usec("cmdstat_set:")).unwrap_or_default()
}

/// Microseconds each took, sorted; and how many there were in a second.
async fn measure(candidate: &Candidate, at_once: u64, many: u64, next: &Arc<AtomicU64>) -> (Vec<f64>, f64) {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (candidate, next) = (candidate.clone(), Arc::clone(next));
        tasks.spawn(async move {
            let mut took = Vec::new();
            for _ in 0..many / at_once {
                let began = Instant::now();
                candidate.once(next.fetch_add(1, Ordering::Relaxed)).await;
                took.push(began.elapsed().as_nanos() as f64 / 1000.0);
            }
            took
        });
    }
    let mut took: Vec<f64> = tasks.join_all().await.into_iter().flatten().collect();
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    (took, rate)
}

/// Three tables in one: how many are under way at once.
pub(crate) async fn table(plan: &Plan) {
    let server = Server::start(&[]);
    let client = redis_rs::Client::open(server.url()).unwrap();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(client.get_multiplexed_async_connection().await.unwrap());
    }
    let (redis, policy, clock) =
        (shared::ledger(server.port, CONNECTIONS).await, Arc::new(shared::policy()), Clock::system());
    let decide = |is_refused| Candidate::Decide {
        redis: Arc::clone(&redis),
        policy: Arc::clone(&policy),
        clock: clock.clone(),
        is_refused,
    };
    let script = |text| Candidate::Script(connections.clone(), redis_rs::Script::new(text));
    let candidates = [
        ("bare `SET`", Candidate::Set(connections.clone())),
        ("a script that does nothing", script("return 1")),
        ("the least of a script", script(LEAST)),
        ("allowed", decide(false)),
        ("refused", decide(true)),
    ];
    let next = Arc::new(AtomicU64::new(1));
    for _ in 0..5 {
        // The phone that is refused from then on.
        let (_, verdict) = redis.reserve(&policy, &shared::send(0), Kind::Send, clock.now()).await;
        assert!(matches!(verdict, Verdict::Charged(..)));
    }
    println!("{CONNECTIONS} connections, {} a round, {} rounds; × bare `SET`\n", plan.decisions, plan.rounds);
    println!("| at once | what | µs, median | × | µs, 99 % | × | a second | µs of its thread |");
    println!("|---|---|---|---|---|---|---|---|");
    for at_once in [1, 8, 64, 256] {
        let mut medians = vec![Figures::default(); candidates.len()];
        let (mut tails, mut rates, mut threads) = (medians.clone(), medians.clone(), medians.clone());
        for _ in 0..plan.rounds {
            for (place, (_, candidate)) in candidates.iter().enumerate() {
                let many = if at_once == 1 { plan.decisions / 4 } else { plan.decisions };
                server.ask(&["CONFIG", "RESETSTAT"]);
                let (took, rate) = measure(candidate, at_once, many.max(at_once), &next).await;
                medians[place].push(took[took.len() / 2]);
                tails[place].push(took[took.len() * 99 / 100]);
                rates[place].push(rate);
                threads[place].push(of_its_thread(&server));
            }
        }
        for (place, (name, _)) in candidates.iter().enumerate() {
            println!(
                "| {at_once} | {name} | {:.0} | {} | {:.0} | {} | {:.0} | {:.1} |",
                medians[place].median(),
                medians[place].over(&medians[0]).ratio(place == 0),
                tails[place].median(),
                tails[place].over(&tails[0]).ratio(place == 0),
                rates[place].median(),
                threads[place].median(),
            );
        }
    }
    println!();
}
