//! The configuration that is in force, as JSON in the shape of its file. Secrets are told only to be there, phones masked.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::phones::{counts, mode};
use crate::api::code;
use crate::config::file::duration_text;
use crate::config::ledger::{Ledger, Topology};
use crate::config::traces::Traces;
use crate::config::{Config, LogFormat, Throttle, ThrottlePer, Tls};
use crate::country::Country;
use crate::policy::tariff::{Tariff, Tier};
use crate::policy::{Limit, OnOutage, RefusalCode, WhenFull};

/// What stands in the place of a secret.
const SECRET: &str = "•••";

/// `GET /v1/config`.
pub(super) fn shown(config: &Config) -> Value {
    let Config { upstream, clients, memory, retries, log, .. } = config;
    json!({
        "listen": config.listen.to_string(),
        "workers": config.workers,
        // Given or drawn: that makes no difference here.
        "hash_key": SECRET,
        "drain_delay": span(config.drain_delay),
        "drain_timeout": span(config.drain_timeout),
        "limits_wait": span(config.limits_wait),
        "exempt": config.exempt.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "upstream": {
            "url": upstream.origin.to_string(),
            "protocol": "http1",
            "ca_file": upstream.ca_file.as_deref().map(path),
            "connect_timeout": span(upstream.connect_timeout),
            "answer_within": span(upstream.answer_within),
            "exchange_timeout": span(upstream.exchange_timeout),
            "lookup_timeout": span(upstream.lookup_timeout),
            "read_timeout": span(upstream.read_timeout),
            "write_timeout": span(upstream.write_timeout),
            "idle_timeout": span(upstream.idle_timeout),
            "max_age": span(upstream.max_age),
            "max_idle": upstream.max_idle,
            "max_connections": upstream.max_connections,
        },
        "tls": config.tls.as_ref().map(tls),
        "clients": {
            "keep_alive": span(clients.keep_alive),
            "header_timeout": span(clients.header_timeout),
            "body_timeout": span(clients.body_timeout),
            "min_rate": clients.min_rate,
            "write_timeout": span(clients.write_timeout),
            "max_connections": clients.max_connections,
            "max_per_address": clients.max_per_address,
            "max_streams": clients.max_streams,
            "max_requests": clients.max_requests,
            "address": clients.address.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "trusted_proxies": clients.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "admin": {
            "listen": config.admin.listen.to_string(),
            "token": config.admin.token.as_ref().map(|_| SECRET),
            "hosts": config.admin.hosts,
        },
        "accounts": {
            "allow": config.accounts.allow.iter().map(|account| format!("{:032x}", account.bits())).collect::<Vec<_>>(),
            "max_failed": config.accounts.max_failed,
        },
        "ledger": ledger(&config.ledger),
        "memory": {
            "max_keys": memory.max_keys,
            "when_full": match memory.when_full { WhenFull::Refuse => "refuse", WhenFull::Allow => "allow" },
            "sweep_every": span(memory.sweep_every),
            "max_verifications": memory.max_verifications,
            "remember_verifications": span(memory.remember_verifications),
        },
        "state": { "dir": config.state.dir.as_deref().map(path) },
        "upgrade": { "socket": config.upgrade.socket.as_deref().map(path) },
        "retries": {
            "undelivered": span(retries.undelivered),
            "unknown": span(retries.unknown),
            "idempotency": span(retries.idempotency),
            "max_kept": retries.max_kept,
        },
        "phones": { "strict": config.phones.strict },
        "replies": { "ratelimit_headers": config.replies.ratelimit_headers },
        "log": {
            "filter": log.filter,
            "format": match log.format { LogFormat::Json => "json", LogFormat::Text => "text" },
            "access": log.access,
        },
        "traces": traces(&config.traces),
        "reload": { "watch": config.reload.watch },
        "credits": credits(&config.tariff),
        "limits": config.limits.iter().map(limit).collect::<Vec<_>>(),
        "throttles": config.throttles.iter().map(throttle).collect::<Vec<_>>(),
    })
}

fn ledger(ledger: &Ledger) -> Value {
    json!({
        "backend": if ledger.redis.is_some() { "redis" } else { "memory" },
        // It may hold a password.
        "url": ledger.redis.as_ref().map(|_| SECRET),
        "topology": match ledger.topology {
            Topology::Single => "single",
            Topology::Sentinel => "sentinel",
            Topology::Cluster => "cluster",
        },
        "master": ledger.master,
        "sentinel_user": ledger.sentinel_login.user,
        "sentinel_password": ledger.sentinel_login.password.as_ref().map(|_| SECRET),
        "ca_file": ledger.ca_file.as_deref().map(path),
        "hash_key": ledger.redis.as_ref().map(|_| SECRET),
        "prefix": ledger.prefix,
        "connections": ledger.connections,
        "connect_timeout": span(ledger.connect_timeout),
        "timeout": span(ledger.timeout),
        "on_outage": on_outage(ledger.on_outage),
        "max_backlog": ledger.max_backlog,
    })
}

fn traces(traces: &Traces) -> Value {
    let collector = traces.collector.as_ref();
    json!({
        "url": collector.map(|collector| format!("{}{}", collector.origin, collector.base)),
        // They may hold a key.
        "headers": collector.filter(|collector| !collector.headers.is_empty()).map(|_| SECRET),
        "ca_file": collector.and_then(|collector| collector.ca_file.as_deref()).map(path),
        "sample": traces.sample,
        "service": traces.service,
    })
}

/// As it stands in the configuration.
pub(super) const fn on_outage(on_outage: OnOutage) -> &'static str {
    match on_outage {
        OnOutage::Local => "local",
        OnOutage::Refuse => "refuse",
        OnOutage::Allow => "allow",
    }
}

fn span(duration: Duration) -> String {
    duration_text(duration)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn tls(tls: &Tls) -> Value {
    json!({ "cert_file": path(&tls.cert_file), "key_file": path(&tls.key_file) })
}

fn credits(tariff: &Tariff) -> Value {
    let of_tier = |tier: Tier| {
        let is_in = |country: &Country| tariff.tier(Some(*country)) == tier;
        let countries: Vec<&str> = Country::all().filter(is_in).map(Country::code).collect();
        // Where no tier names a country, this one has it: not all of them are listed.
        let countries = (tier != tariff.tier(None)).then_some(countries);
        (tier.name().to_owned(), json!({ "credits": tariff.credits(tier), "countries": countries }))
    };
    let mut credits: serde_json::Map<String, Value> = Tier::ALL.into_iter().map(of_tier).collect();
    credits.insert("other".to_owned(), json!(tariff.tier(None).name()));
    Value::Object(credits)
}

fn limit(limit: &Limit) -> Value {
    json!({
        "name": limit.name,
        "per": limit.per.name(),
        "max": limit.max,
        "window": span(limit.window),
        "counts": counts(limit),
        "mode": mode(limit.mode),
        "code": match limit.code {
            RefusalCode::RateLimitExceeded => code::RATE_LIMIT_EXCEEDED,
            RefusalCode::ResendCooldown => code::RESEND_COOLDOWN,
        },
    })
}

fn throttle(throttle: &Throttle) -> Value {
    let operations = throttle.operations.as_ref();
    json!({
        "name": throttle.name,
        "per": match throttle.per { ThrottlePer::Account => "account", ThrottlePer::Client => "client" },
        "every": format!("{:?}", throttle.every),
        "burst": throttle.burst,
        "operations": operations.map(|all| all.iter().map(|operation| operation.name()).collect::<Vec<_>>()),
    })
}

#[cfg(test)]
mod tests {
    use toml::de::{DeTable, DeValue};

    use super::*;
    use crate::config::file::parse_duration;

    /// That each key of the file's table is in the JSON too.
    fn has_all(table: &DeTable<'_>, shown: &Value, path: &str) {
        for (key, value) in table {
            let path = format!("{path}.{}", key.get_ref());
            let shown = shown.get(key.get_ref().as_ref()).unwrap_or_else(|| panic!("{path} is not shown"));
            match value.get_ref() {
                DeValue::Table(table) => has_all(table, shown, &path),
                DeValue::Array(items) => {
                    let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                    tables.enumerate().for_each(|(nth, table)| has_all(table, &shown[nth], &path));
                }
                DeValue::String(text) => {
                    let shown = shown.as_str().unwrap().trim_end_matches(":443");
                    let is_same_span = parse_duration(text).is_some_and(|span| parse_duration(shown) == Some(span));
                    assert!(shown == text.as_ref() || is_same_span, "{path}: {shown}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_key_of_the_shipped_file_is_shown_with_its_value() {
        const SHIPPED: &str = include_str!("../../config/gateway.toml");
        let config = Config::parse(SHIPPED, "gateway.toml", std::iter::empty()).unwrap();
        has_all(DeTable::parse(SHIPPED).unwrap().get_ref(), &shown(&config), "");
    }

    #[test]
    fn secrets_are_not_shown_and_phones_are_masked() {
        let text = "hash_key = \"0123456789abcdef\"\nexempt = [\"+15550100123\"]\nadmin.token = \"fedcba9876543210\"";
        let config = Config::parse(text, "test", std::iter::empty()).unwrap();
        let shown = shown(&config);
        let text = shown.to_string();
        assert!(!text.contains("0123456789") && !text.contains("fedcba") && !text.contains("15550100123"), "{text}");
        assert_eq!((&shown["exempt"][0], &shown["admin"]["token"]), (&json!("+1555•••0123"), &json!(SECRET)));
    }
}
