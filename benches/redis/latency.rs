//! How long a client waits for a code that goes out, at a thousand a second: from a gateway that counts in memory, and from one that
//! counts in Redis. The load is open: a code is asked for when its time has come, whether others have their answers or not.

use std::time::Duration;

use sendly_gateway::clock::Clock;
use sendly_gateway::config::Config;
use sendly_gateway::server::{Running, Sockets, start};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Plan;
use crate::client::Wire;
use crate::figures::Figures;
use crate::server::Server;
use crate::upstream::{Act, Upstream};

const PER_SECOND: u64 = 1000;
const LANES: u64 = 100;

async fn gateway(ledger: &str, upstream: &str) -> Running {
    let given = [("LISTEN", "127.0.0.1:0"), ("ADMIN_LISTEN", "127.0.0.1:0"), ("UPSTREAM_URL", upstream)];
    let environment = given.map(|(key, value)| (format!("SENDLY_GATEWAY_{key}"), value.to_owned()));
    let text = format!("hash_key = \"0123456789abcdef\"\n{ledger}\n[log]\naccess = false\n");
    let config = Config::parse(&text, "bench", environment.into_iter()).unwrap();
    let sockets = Sockets::bind(&config).unwrap();
    start(config, sockets, Clock::system()).await.unwrap()
}

/// Milliseconds from when a code was to be asked for to its answer, sorted.
async fn visit(gateway: &Running, seconds: u64, first: u64) -> Vec<f64> {
    let begins = Instant::now() + Duration::from_millis(50);
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let address = gateway.address;
        lanes.spawn(async move {
            let mut wire = Wire::connect(address).await;
            let mut took = Vec::new();
            for turn in 0..seconds * PER_SECOND / LANES {
                let nth = turn * LANES + lane;
                let due = begins + Duration::from_micros(nth * 1_000_000 / PER_SECOND);
                tokio::time::sleep_until(due).await;
                let body = format!("{{\"to\":\"+{}\"}}", 15_550_000_000_000 + first + nth);
                // 40 phones share an API key.
                let key = format!("Bearer sk_test_v1_{}", (first + nth) / 40);
                wire.request("POST", "/api/v1/verify", &[("authorization", &key)], body.as_bytes()).await;
                let answer = wire.answer().await.unwrap();
                assert_eq!(answer.status, 201);
                took.push(due.elapsed().as_secs_f64() * 1000.0);
            }
            took
        });
    }
    let mut took: Vec<f64> = lanes.join_all().await.into_iter().flatten().collect();
    took.sort_by(f64::total_cmp);
    took
}

pub(crate) async fn table(plan: &Plan) {
    let redis = Server::start(&[]);
    let upstream = Upstream::start().await;
    upstream.script(|seen| Act::verification(201, &format!("ver_{}", seen.to().unwrap()), &seen.to().unwrap()));
    let shared = format!("[ledger]\nbackend = \"redis\"\nurl = \"{}\"\n", redis.url());
    let gateways = [("memory", gateway("", &upstream.url()).await), ("Redis", gateway(&shared, &upstream.url()).await)];
    let mut figures = vec![[Figures::default(), Figures::default(), Figures::default()]; gateways.len()];
    for round in 0..plan.rounds as u64 {
        for (place, (_, gateway)) in gateways.iter().enumerate() {
            let took = visit(gateway, plan.seconds, round * 1_000_000).await;
            let at = |part: usize| took[(took.len() * part / 1000).min(took.len() - 1)];
            [at(500), at(990), at(999)].into_iter().zip(&mut figures[place]).for_each(|(one, all)| all.push(one));
        }
    }
    let away = gateways[1].1.gateway().shared_ledger().unwrap().outages.iter().sum::<u64>();
    println!(
        "{PER_SECOND} codes a second that go out, {} s a round, {} rounds; Redis went away {away} times\n",
        plan.seconds, plan.rounds
    );
    println!("| counted in | ms, median | ms, 99 % | more than in memory | ms, 99.9 % |");
    println!("|---|---|---|---|---|");
    for (place, (name, _)) in gateways.iter().enumerate() {
        let [median, tail, far] = &figures[place];
        let more = tail.less(&figures[0][1]);
        println!("| {name} | {median:.2} | {tail:.2} | {more:.2} | {far:.2} |");
    }
    println!();
}
