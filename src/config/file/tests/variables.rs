//! Every key has a variable, and a variable for its file.

use std::collections::BTreeSet;

use super::*;

/// A file that is there, and that TLS keys can name.
const SOME_FILE: &str = "Cargo.toml";

/// For each key, values that it can have, in the environment's spelling. For each limit, one of them is none of its defaults.
const SAMPLES: &[(&str, &[&str])] = &[
    ("accounts.allow", &["0123456789abcdef0123456789ABCDEF, 00000000000000000000000000000001"]),
    ("accounts.max_failed", &["7"]),
    ("admin.hosts", &["gateway.internal, sendly_gateway"]),
    ("admin.listen", &["127.0.0.1:9191"]),
    ("admin.token", &["0123456789abcdef"]),
    ("clients.header_timeout", &["8s"]),
    ("clients.address", &["forwarded,cf-connecting-ip"]),
    ("clients.body_timeout", &["7s"]),
    ("clients.keep_alive", &["70s"]),
    ("clients.max_connections", &["77"]),
    ("clients.max_per_address", &["7"]),
    ("clients.max_requests", &["77"]),
    ("clients.max_streams", &["7"]),
    ("clients.min_rate", &["7"]),
    ("clients.trusted_proxies", &["10.0.0.0/8, ::1"]),
    ("clients.write_timeout", &["7s"]),
    ("credits.domestic.countries", &["KE, NG"]),
    ("credits.domestic.credits", &["7"]),
    ("credits.other", &["tier5"]),
    ("credits.tier1.countries", &["KE, NG"]),
    ("credits.tier1.credits", &["7"]),
    ("credits.tier2.countries", &["KE, NG"]),
    ("credits.tier2.credits", &["7"]),
    ("credits.tier3.countries", &["KE, NG"]),
    ("credits.tier3.credits", &["7"]),
    ("credits.tier4.countries", &["KE, NG"]),
    ("credits.tier4.credits", &["7"]),
    ("credits.tier5.countries", &["KE, NG"]),
    ("credits.tier5.credits", &["7"]),
    ("drain_delay", &["7s"]),
    ("drain_timeout", &["90s"]),
    ("exempt", &["+15550100001, +15550100002"]),
    ("hash_key", &["0123456789abcdef"]),
    ("ledger.backend", &["memory"]),
    ("ledger.ca_file", &["Cargo.lock"]),
    ("ledger.connect_timeout", &["7s"]),
    ("ledger.connections", &["7"]),
    ("ledger.hash_key", &["fedcba9876543210"]),
    ("ledger.master", &["primary"]),
    ("ledger.max_backlog", &["7"]),
    ("ledger.on_outage", &["refuse"]),
    ("ledger.prefix", &["other"]),
    ("ledger.sentinel_password", &["p:w/1"]),
    ("ledger.sentinel_user", &["gate"]),
    ("ledger.timeout", &["7ms"]),
    ("ledger.topology", &["sentinel"]),
    ("ledger.url", &["rediss://127.0.0.2"]),
    ("limits.code", &["resend_cooldown", "rate_limit_exceeded"]),
    ("limits.counts", &["send,resend", "resend"]),
    ("limits.max", &["7"]),
    ("limits.mode", &["shadow"]),
    ("limits.per", &["phone", "account"]),
    ("limits.window", &["7h"]),
    ("listen", &["[::]:8181"]),
    ("limits_wait", &["3s"]),
    ("log.access", &["false"]),
    ("log.filter", &["warn,sendly_gateway=debug"]),
    ("log.format", &["text"]),
    ("memory.max_keys", &["7_000"]),
    ("memory.max_verifications", &["7000"]),
    ("memory.remember_verifications", &["7d"]),
    ("memory.sweep_every", &["7s"]),
    ("memory.when_full", &["allow"]),
    ("phones.strict", &["false"]),
    ("reload.watch", &["false"]),
    ("replies.ratelimit_headers", &["false"]),
    ("retries.idempotency", &["0s"]),
    ("retries.max_kept", &["7"]),
    ("retries.undelivered", &["7s"]),
    ("retries.unknown", &["7s"]),
    ("state.dir", &["state"]),
    ("throttles.burst", &["7"]),
    ("throttles.operations", &["send,other"]),
    ("throttles.per", &["account", "client"]),
    ("throttles.rate", &["7/h"]),
    ("tls.cert_file", &["Cargo.lock"]),
    ("tls.key_file", &["Cargo.lock"]),
    ("traces.ca_file", &["Cargo.lock"]),
    ("traces.headers", &["x-team=ops"]),
    ("traces.sample", &["0.7", "0"]),
    ("traces.service", &["seven"]),
    ("traces.url", &["https://localhost:4318/otlp"]),
    ("upgrade.socket", &["upgrade.sock"]),
    ("upstream.ca_file", &["Cargo.lock"]),
    ("upstream.connect_timeout", &["7s"]),
    ("upstream.answer_within", &["7s"]),
    ("upstream.exchange_timeout", &["7s"]),
    ("upstream.idle_timeout", &["7s"]),
    ("upstream.lookup_timeout", &["7s"]),
    ("upstream.max_connections", &["77"]),
    ("upstream.max_age", &["7m"]),
    ("upstream.max_idle", &["7"]),
    ("upstream.protocol", &["http2"]),
    ("upstream.read_timeout", &["7s"]),
    ("upstream.url", &["http://localhost:8081"]),
    ("upstream.write_timeout", &["7s"]),
    ("workers", &["77"]),
];

/// A file in which every section has something.
pub(super) fn full_text() -> String {
    format!(
        r#"
        [tls]
        cert_file = "{SOME_FILE}"
        key_file = "{SOME_FILE}"
        [ledger]
        backend = "redis"
        url = "rediss://127.0.0.1"
        hash_key = "0123456789abcdef"
        [traces]
        url = "https://127.0.0.1:4318"
        [[throttles]]
        name = "checks"
        per = "client"
        rate = "30/m"
        "#
    )
}

/// The same, where a variable's key goes with its values: state on disk is for a ledger in memory.
fn text_for(variable: &str) -> String {
    match variable {
        "SENDLY_GATEWAY_STATE_DIR" => full_text().replace(r#"backend = "redis""#, r#"backend = "memory""#),
        _ => full_text(),
    }
}

/// The variable of every key but those that name a secret's file, whose variable is that of the secret's file, with values for it.
pub(super) fn variables() -> Vec<(String, &'static [&'static str])> {
    let overridable = asked(&full_text()).into_iter().filter_map(|(path, asked)| Some((path, asked.variable?)));
    let samples = |path: &str| {
        let sample = SAMPLES.iter().find(|(key, _)| *key == of_any(path));
        sample.unwrap_or_else(|| panic!("there is no sample for {path}")).1
    };
    overridable
        .filter(|(path, _)| {
            let files = [
                "hash_key_file",
                "admin.token_file",
                "ledger.hash_key_file",
                "ledger.sentinel_password_file",
                "ledger.url_file",
                "traces.headers_file",
            ];
            !files.contains(&path.as_str())
        })
        .map(|(path, variable)| (variable, samples(&path)))
        .collect()
}

/// What a configuration is, its secrets included.
fn fingerprint(config: &Config) -> String {
    let is_sample = config.admin.token.as_ref().is_some_and(|token| token.is(b"0123456789abcdef"));
    let phones = config.ledger.redis.as_ref().map(|redis| redis.hash_key.verification("ver_1"));
    let sentinels = (&config.ledger.sentinel_login.user, &config.ledger.sentinel_login.password);
    let headers = config.traces.collector.as_ref().map(|collector| &collector.headers);
    format!("{config:?} {:?} {phones:?} {headers:?} {is_sample} {sentinels:?}", config.hash_key.verification("ver_1"))
}

#[test]
fn a_variable_overrides_every_key() {
    let key = ("SENDLY_GATEWAY_HASH_KEY", "fedcba9876543210");
    let variables = variables();
    assert!(variables.len() > SAMPLES.len(), "there are several limits, so a sample serves several variables");
    for (variable, samples) in variables {
        let text = text_for(&variable);
        let without = fingerprint(&parse(&text, &[key]).unwrap());
        let with = |sample| {
            let own_key = Some(key).filter(|(name, _)| *name != variable);
            let environment: Vec<_> = [(variable.as_str(), sample)].into_iter().chain(own_key).collect();
            parse(&text, &environment).map(|config| fingerprint(&config)).unwrap_or_else(|error| panic!("{error}"))
        };
        assert!(samples.iter().any(|sample| with(sample) != without), "{variable} changes nothing");
    }
}

#[test]
fn a_file_overrides_every_key() {
    let folder = Folder::new("overrides");
    for (variable, samples) in variables() {
        let text = text_for(&variable);
        for sample in samples {
            let file = folder.file(&variable, &format!("{sample}\n"));
            let key = ("SENDLY_GATEWAY_HASH_KEY", "fedcba9876543210");
            let own_key = Some(key).filter(|(name, _)| *name != variable);
            let fingerprint_of = |name: &str, value: &str| {
                let environment: Vec<_> = [(name, value)].into_iter().chain(own_key).collect();
                let mut config = parse(&text, &environment).unwrap_or_else(|error| panic!("{error}"));
                // A warning tells where its value stands.
                config.warnings.clear();
                fingerprint(&config)
            };
            assert_eq!(
                fingerprint_of(&format!("{variable}_FILE"), &file),
                fingerprint_of(&variable, sample),
                "{variable}"
            );
        }
    }
}

#[test]
fn no_two_keys_share_a_variable() {
    let asked = asked(&full_text());
    let variables: Vec<_> = asked.values().filter_map(|asked| asked.variable.clone()).collect();
    let distinct: BTreeSet<_> = variables.iter().cloned().collect();
    assert_eq!(variables.len(), distinct.len());
    let files = variables.iter().map(|variable| format!("{variable}_FILE"));
    let shared: Vec<_> = files.filter(|file| distinct.contains(file)).collect();
    let secrets =
        ["ADMIN_TOKEN", "HASH_KEY", "LEDGER_HASH_KEY", "LEDGER_SENTINEL_PASSWORD", "LEDGER_URL", "TRACES_HEADERS"];
    let secrets = secrets.map(|secret| format!("SENDLY_GATEWAY_{secret}_FILE"));
    assert_eq!(shared, secrets, "which mean the same both ways");
}

#[test]
fn gateways_that_share_a_ledger_share_the_hash_key_that_stands_in_either_place() {
    let redis = "backend = \"redis\"\nurl = \"redis://127.0.0.1\"\n";
    let keys = |text: &str| {
        let config = parse(text, &[]).unwrap_or_else(|error| panic!("{error}"));
        let phones = config.ledger.redis.unwrap().hash_key;
        [config.hash_key, phones].map(|key| key.verification("ver_1"))
    };
    let [one, other] =
        ["0123456789abcdef", "fedcba9876543210"].map(|text| HashKey::from_passphrase(text).verification("ver_1"));
    assert_eq!(keys(&format!("hash_key = \"0123456789abcdef\"\n[ledger]\n{redis}")), [one, one]);
    assert_eq!(keys(&format!("[ledger]\n{redis}hash_key = \"0123456789abcdef\"")), [one, one]);
    let both = format!("hash_key = \"0123456789abcdef\"\n[ledger]\n{redis}hash_key = \"fedcba9876543210\"");
    assert_eq!(keys(&both), [one, other]);
}

#[test]
fn the_hash_key_can_stand_in_a_file() {
    let folder = Folder::new("hash-key");
    let file = folder.file("hash_key", "0123456789abcdef\r\n");
    let key = |text: &str, environment: &[(&str, &str)]| {
        parse(text, environment).unwrap_or_else(|error| panic!("{error}")).hash_key.verification("ver_1")
    };
    let expected = HashKey::from_passphrase("0123456789abcdef").verification("ver_1");
    assert_eq!(key(r#"hash_key = "0123456789abcdef""#, &[]), expected);
    assert_eq!(key(&format!("hash_key_file = {file:?}"), &[]), expected);
    assert_eq!(key("", &[("SENDLY_GATEWAY_HASH_KEY_FILE", &file)]), expected);
    assert_eq!(key(r#"hash_key = "fedcba9876543210""#, &[("SENDLY_GATEWAY_HASH_KEY_FILE", &file)]), expected);
    assert_eq!(key(r#"hash_key_file = "absent""#, &[("SENDLY_GATEWAY_HASH_KEY", "0123456789abcdef")]), expected);
}
