//! The ledger that a configuration asks for.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::ledger::{Redis as Place, RedisUrl, Topology};
use crate::ledger::Ledger;
use crate::ledger::durable::Durable;
use crate::ledger::redis::{Options, Redis, Servers, Time, Topology as Stands};

/// The ledger over this memory.
///
/// # Errors
/// What is wrong with the way to Redis. That it cannot be reached is no error.
pub(crate) fn ledger(config: &Config, durable: &Arc<Durable>, clock: &Clock) -> Result<Ledger, String> {
    let Some(redis) = &config.ledger.redis else { return Ok(Ledger::Durable(Arc::clone(durable))) };
    let wrong = |error: String| format!("ledger: {error}");
    let options = options(redis, config).map_err(wrong)?;
    Ok(Ledger::Redis(Redis::start(options, Arc::clone(durable.memory()), clock.clone()).map_err(wrong)?))
}

fn options(redis: &Place, config: &Config) -> Result<Options, String> {
    let RedisUrl { tls, user, password, nodes, database } = &redis.url;
    let ledger = &config.ledger;
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| format!("ca_file: {}: {error}", path.display()))
    };
    let servers = Servers {
        topology: match ledger.topology {
            Topology::Single => Stands::Single,
            Topology::Sentinel => Stands::Sentinel {
                master: ledger.master.clone(),
                user: ledger.sentinel_login.user.clone(),
                password: ledger.sentinel_login.password.clone(),
            },
            Topology::Cluster => Stands::Cluster,
        },
        nodes: nodes.clone(),
        tls: *tls,
        authorities: ledger.ca_file.as_ref().map(read).transpose()?,
        user: user.clone(),
        password: password.clone(),
        database: *database,
    };
    Ok(Options {
        servers,
        prefix: ledger.prefix.clone(),
        hash_key: redis.hash_key.clone(),
        connections: ledger.connections,
        connect_timeout: ledger.connect_timeout,
        timeout: ledger.timeout,
        on_outage: ledger.on_outage,
        max_backlog: ledger.max_backlog,
        remember: config.memory.remember_verifications,
        time: Time::Servers,
    })
}
