//! The shipped file, the fixtures in `tests/fixtures/config`, and every key with its variable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::{Throttle, ThrottlePer};
use crate::policy::{Counts, Limit, Mode, RefusalCode};

/// What the repository ships as `config/gateway.toml`.
const SHIPPED: &str = include_str!("../../../config/gateway.toml");

/// A file that is there, and that TLS keys can name.
const SOME_FILE: &str = "Cargo.toml";

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, "gateway.toml", environment)
}

fn messages(text: &str, environment: &[(&str, &str)]) -> String {
    parse(text, environment).map_or_else(|mistakes| mistakes.to_string(), |_| String::new())
}

/// Everything about a configuration except its hash key.
fn shown(config: &Config) -> String {
    format!("{config:#?}")
}

fn asked(text: &str) -> BTreeMap<String, reader::Asked> {
    let (document, _) = Document::parse("gateway.toml", text);
    let (default_limits, _) = Document::parse("default limits", limits::DEFAULT);
    let mut reader = Reader::new(Environment::new([]));
    Section::root(&mut reader, &document).read(|keys| config(keys, &default_limits));
    reader.asked
}

#[test]
fn the_empty_text_gives_the_defaults() {
    let config = parse("", &[]).unwrap();
    let limit = |name: &str, per, max, window, counts, code| Limit {
        name: name.to_owned(),
        per,
        max,
        window,
        counts,
        mode: Mode::Enforce,
        code,
    };
    let (window, cooldown) = (RefusalCode::RateLimitExceeded, RefusalCode::ResendCooldown);
    assert_eq!(
        config.limits,
        [
            limit("phone-10m", Per::Phone, 5, minutes(10), Counts::BOTH, window),
            limit("phone-day", Per::Phone, 20, hours(24), Counts::BOTH, window),
            limit("resend-cooldown", Per::Verification, 1, secs(60), Counts::RESENDS, cooldown),
            limit("account-1m", Per::Account, 100, minutes(1), Counts::BOTH, window),
        ]
    );
    assert_eq!(config.throttles, []);
    assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.admin.listen, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(config.upstream.origin, Origin { tls: true, host: "sendly.live".to_owned(), port: 443 });
    assert!(config.workers >= 1);
    assert!(config.tls.is_none());
}

#[test]
fn no_limits_are_none() {
    assert_eq!(parse("limits = []", &[]).unwrap().limits, []);
}

#[test]
fn a_throttle_has_defaults_too() {
    let text = r#"
        [[throttles]]
        name = "account"
        per = "account"
        rate = "600/m"
    "#;
    let expected = Throttle {
        name: "account".to_owned(),
        per: ThrottlePer::Account,
        every: millis(100),
        burst: 600,
        operations: None,
    };
    assert_eq!(parse(text, &[]).unwrap().throttles, [expected]);
}

#[test]
fn the_shipped_file_says_what_the_empty_one_means() {
    let shipped = Config::load(Path::new("config/gateway.toml"), [].into_iter()).unwrap();
    assert_eq!(shown(&shipped), shown(&parse("", &[]).unwrap()));
}

/// The shipped file with everything in it that is commented out.
fn shipped_in_full() -> String {
    let is_example = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_alphabetic()))
    };
    SHIPPED.lines().map(|line| if is_example(line) { &line[1..] } else { line }.to_owned() + "\n").collect()
}

/// The keys of a document as paths without indices.
fn keys_in(table: &toml::de::DeTable<'_>, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{path}{}", key.get_ref());
        match value.get_ref() {
            toml::de::DeValue::Table(table) => keys_in(table, &format!("{path}."), keys),
            toml::de::DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.for_each(|table| keys_in(table, &format!("{path}."), keys));
            }
            _ => {
                keys.insert(path);
            }
        }
    }
}

fn without_index(path: &str) -> String {
    path.split(['[', ']']).step_by(2).collect()
}

#[test]
fn every_key_stands_in_the_shipped_file() {
    let in_full = shipped_in_full();
    let keys = |text: &str| {
        let mut keys = BTreeSet::new();
        keys_in(Document::parse("gateway.toml", text).0.table.get_ref(), "", &mut keys);
        keys
    };
    let known: BTreeSet<_> = asked(&in_full).keys().map(|path| without_index(path)).collect();
    let sections =
        ["upstream", "tls", "clients", "admin", "memory", "retries", "replies", "log", "limits", "throttles"];
    let known: BTreeSet<_> = known.into_iter().filter(|path| !sections.contains(&path.as_str())).collect();
    assert_eq!(keys(&in_full), known);

    let commented: Vec<_> = known.difference(&keys(SHIPPED)).cloned().collect();
    let without_default = [
        "hash_key",
        "hash_key_file",
        "throttles.burst",
        "throttles.name",
        "throttles.operations",
        "throttles.per",
        "throttles.rate",
        "tls.cert_file",
        "tls.key_file",
        "upstream.ca_file",
    ];
    assert_eq!(commented, without_default, "a key with a default stands in the file with it, not commented out");
}

#[test]
fn the_examples_of_the_shipped_file_are_valid() {
    let files = "/etc/sendly-gateway";
    let text: String = shipped_in_full()
        .lines()
        .filter(|line| !line.starts_with("hash_key"))
        .map(|line| {
            if line.contains(files) {
                line.split('"').next().unwrap().to_owned() + "\"Cargo.toml\"\n"
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    let throttles = parse(&text, &[]).unwrap().throttles;
    assert_eq!(
        throttles.iter().map(|throttle| throttle.name.as_str()).collect::<Vec<_>>(),
        ["sendly-600", "client-checks"]
    );
}

/// For each key, values that it can have, in the environment's spelling. For each limit, one of them is none of its defaults.
const SAMPLES: &[(&str, &[&str])] = &[
    ("admin.listen", &["127.0.0.1:9191"]),
    ("clients.body_timeout", &["7s"]),
    ("clients.keep_alive", &["70s"]),
    ("clients.trusted_proxies", &["10.0.0.0/8, ::1"]),
    ("clients.write_timeout", &["7s"]),
    ("drain_timeout", &["45s"]),
    ("hash_key", &["0123456789abcdef"]),
    ("limits.code", &["resend_cooldown", "rate_limit_exceeded"]),
    ("limits.counts", &["send,resend", "resend"]),
    ("limits.max", &["7"]),
    ("limits.mode", &["shadow"]),
    ("limits.per", &["phone", "account"]),
    ("limits.window", &["7h"]),
    ("listen", &["[::]:8181"]),
    ("log.access", &["false"]),
    ("log.filter", &["warn,sendly_gateway=debug"]),
    ("log.format", &["text"]),
    ("memory.max_keys", &["7_000"]),
    ("memory.max_verifications", &["7000"]),
    ("memory.remember_verifications", &["7d"]),
    ("memory.sweep_every", &["7s"]),
    ("memory.when_full", &["allow"]),
    ("replies.ratelimit_headers", &["false"]),
    ("retries.idempotency", &["0s"]),
    ("retries.max_kept", &["0"]),
    ("retries.undelivered", &["7s"]),
    ("retries.unknown", &["7s"]),
    ("throttles.burst", &["7"]),
    ("throttles.operations", &["send,other"]),
    ("throttles.per", &["account", "client"]),
    ("throttles.rate", &["7/h"]),
    ("tls.cert_file", &["Cargo.lock"]),
    ("tls.key_file", &["Cargo.lock"]),
    ("upstream.ca_file", &["Cargo.lock"]),
    ("upstream.connect_timeout", &["7s"]),
    ("upstream.exchange_timeout", &["7s"]),
    ("upstream.idle_timeout", &["7s"]),
    ("upstream.lookup_timeout", &["7s"]),
    ("upstream.max_idle", &["7"]),
    ("upstream.read_timeout", &["7s"]),
    ("upstream.url", &["http://localhost:8081"]),
    ("upstream.write_timeout", &["7s"]),
    ("workers", &["77"]),
];

/// A file in which every section has something.
fn full_text() -> String {
    format!(
        r#"
        [tls]
        cert_file = "{SOME_FILE}"
        key_file = "{SOME_FILE}"
        [[throttles]]
        name = "checks"
        per = "client"
        rate = "30/m"
        "#
    )
}

/// The variable of every key but `hash_key_file`, whose variable is that of `hash_key`'s file, with values for it.
fn variables() -> Vec<(String, &'static [&'static str])> {
    let overridable = asked(&full_text()).into_iter().filter_map(|(path, asked)| Some((path, asked.variable?)));
    let samples = |path: &str| {
        let sample = SAMPLES.iter().find(|(key, _)| *key == without_index(path));
        sample.unwrap_or_else(|| panic!("there is no sample for {path}")).1
    };
    overridable.filter(|(path, _)| path != "hash_key_file").map(|(path, variable)| (variable, samples(&path))).collect()
}

/// What a configuration is, its hash key included.
fn fingerprint(config: &Config) -> String {
    format!("{config:?} {:?}", config.hash_key.verification("ver_1"))
}

#[test]
fn a_variable_overrides_every_key() {
    let text = full_text();
    let key = ("SENDLY_GATEWAY_HASH_KEY", "fedcba9876543210");
    let without = fingerprint(&parse(&text, &[key]).unwrap());
    let variables = variables();
    assert!(variables.len() > SAMPLES.len(), "there are several limits, so a sample serves several variables");
    for (variable, samples) in variables {
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
    let text = full_text();
    let folder = Folder::new("overrides");
    for (variable, samples) in variables() {
        for sample in samples {
            let file = folder.file(&variable, &format!("{sample}\n"));
            let key = ("SENDLY_GATEWAY_HASH_KEY", "fedcba9876543210");
            let own_key = Some(key).filter(|(name, _)| *name != variable);
            let fingerprint_of = |name: &str, value: &str| {
                let environment: Vec<_> = [(name, value)].into_iter().chain(own_key).collect();
                fingerprint(&parse(&text, &environment).unwrap_or_else(|error| panic!("{error}")))
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
    assert_eq!(shared, ["SENDLY_GATEWAY_HASH_KEY_FILE"], "which means the same both ways");
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

#[test]
fn a_secret_is_never_repeated() {
    const SECRET: &str = "s3cr3t";
    let long = SECRET.repeat(300);
    let texts = [
        format!("hash_key = {SECRET:?}"),
        format!("hash_key = {SECRET}"),
        format!("hash_key = \"{SECRET}"),
        format!("hash_key = {long:?}"),
        format!("hash_key = [{SECRET:?}]"),
        format!("hash_key = {{ key = {SECRET:?} }}"),
        format!("hash_key_file = {SECRET:?}"),
        format!("hash_key_file = [{SECRET:?}]"),
        format!("hash_key = {SECRET:?}\nhash_key_file = {SECRET:?}"),
        format!("hash_kee = {SECRET:?}"),
        format!("upstream.url = \"https://user:{SECRET}@sendly.live\""),
    ];
    for text in texts {
        let messages = messages(&text, &[]);
        assert!(!messages.is_empty() && !messages.contains(SECRET), "{messages}");
    }
    let folder = Folder::new("secret");
    let (short, file) = (folder.file("short", SECRET), folder.file("value", &SECRET.repeat(2)));
    for (name, value) in [
        ("SENDLY_GATEWAY_HASH_KEY", SECRET),
        ("SENDLY_GATEWAY_HASH_KEY_FILE", SECRET),
        ("SENDLY_GATEWAY_HASH_KEY_FILE", &short),
        ("SENDLY_GATEWAY_HASH_KEI", SECRET),
        ("SENDLY_GATEWAY_LISTEN_FILE", &file),
        ("SENDLY_GATEWAY_CLIENTS_TRUSTED_PROXIES_FILE", &file),
    ] {
        let messages = messages("", &[(name, value)]);
        assert!(!messages.is_empty() && !messages.contains(SECRET), "{messages}");
    }
    let config = parse(&format!("hash_key = {:?}", SECRET.repeat(3)), &[]).unwrap();
    assert!(!shown(&config).contains(SECRET));
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let error = Config::load(Path::new("absent.toml"), [].into_iter()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "absent.toml: expected a file that can be read, found No such file or directory (os error 2)"
    );
}

/// Each fixture is a file with mistakes. It says which variables are set (`#$ NAME=value`) and what it is told (`#! message`).
#[test]
fn each_fixture_is_told_its_mistakes() {
    let mut fixtures: Vec<PathBuf> =
        fs::read_dir("tests/fixtures/config").unwrap().map(|entry| entry.unwrap().path()).collect();
    fixtures.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    fixtures.sort();
    assert!(fixtures.len() > 50, "found only {}", fixtures.len());
    for fixture in fixtures {
        let text = fs::read_to_string(&fixture).unwrap();
        let environment: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#$ ")?.split_once('=')).collect();
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        assert!(!expected.is_empty(), "{} has no mistake", fixture.display());
        assert_eq!(messages(&text, &environment), expected.join("\n"), "{}", fixture.display());
    }
}

/// A folder of its own for a test's files.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sendly-gateway-config-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, contents: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Lines that are nearly a configuration.
fn nearly() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = SHIPPED.lines().collect();
    let value = prop_oneof![
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[[1]]".to_owned()),
        "-?[0-9]{1,20}",
        "\"[a-z0-9:/\\[\\]@.]{0,12}\"",
        ".{0,8}",
    ];
    let line = (proptest::sample::select(lines), proptest::option::of(value)).prop_map(|(line, value)| {
        let line = line.strip_prefix('#').unwrap_or(line);
        match (value, line.split_once('=')) {
            (Some(value), Some((key, _))) => format!("{key}= {value}"),
            _ => line.to_owned(),
        }
    });
    proptest::collection::vec(line, 0..40).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "(?s).{0,200}", name in "[A-Z0-9_]{0,20}", value in ".{0,20}") {
        let variable = format!("SENDLY_GATEWAY_{name}");
        let _ = parse(&text, &[(&variable, &value)]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn nearly_a_configuration_is_read_without_a_panic(text in nearly()) {
        let _ = parse(&text, &[]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn any_value_of_any_variable_is_read_without_a_panic(
        variable in proptest::sample::select(variables()),
        value in ".{0,20}",
    ) {
        let _ = parse(&full_text(), &[(&variable.0, &value)]).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn a_mistake_is_one_line(text in nearly()) {
        if let Err(mistakes) = parse(&text, &[]) {
            prop_assert_eq!(mistakes.to_string().lines().count(), mistakes.iter().count());
        }
    }
}
#[test]
fn zz_dump() {
    let mut fixtures: Vec<PathBuf> =
        fs::read_dir("tests/fixtures/config").unwrap().map(|entry| entry.unwrap().path()).collect();
    fixtures.sort();
    let mut out = String::new();
    for fixture in fixtures {
        let text = fs::read_to_string(&fixture).unwrap();
        let environment: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#$ ")?.split_once('=')).collect();
        out += &format!("@@{}\n{}\n", fixture.file_name().unwrap().to_str().unwrap(), messages(&text, &environment));
    }
    fs::write("/tmp/dump.txt", out).unwrap();
}
