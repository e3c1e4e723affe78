//! The defaults, the fixtures in `tests/fixtures/config`, and what is never told.

mod any;
mod documented;
mod shipped;
mod variables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{Throttle, ThrottlePer};
use crate::policy::tariff::Tariff;
use crate::policy::tariff::Tier::{Tier1, Tier3, Tier5};
use crate::policy::{Counts, Limit, Mode, RefusalCode};

/// What the repository ships as `config/gateway.toml`.
const SHIPPED: &str = include_str!("../../../config/gateway.toml");

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

fn asked(text: &str) -> BTreeMap<String, reader::AskedKey> {
    let (document, _) = Document::parse("gateway.toml", text);
    let (default_limits, _) = Document::parse("default limits", limits::DEFAULT);
    let mut reader = Reader::new(Environment::new([]));
    Section::root(&mut reader, &document).read(|keys| config(keys, &default_limits));
    reader.asked
}

/// The path of a key, of whichever limit or throttle: `limits[0].max` and `limits.phone-10m.max` are `limits.max`.
fn of_any(path: &str) -> String {
    let path: String = path.split(['[', ']']).step_by(2).collect();
    match path.split('.').collect::<Vec<_>>()[..] {
        [section @ ("limits" | "throttles"), _, key] => format!("{section}.{key}"),
        _ => path,
    }
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
fn a_country_that_is_given_to_a_tier_is_in_no_other() {
    let tariff = |text| parse(text, &[]).unwrap().tariff;
    let tier = |tariff: &Tariff, code: &str| tariff.tier(code.parse().ok());
    let default = tariff("");
    assert_eq!((tier(&default, "BR"), tier(&default, "GB"), tier(&default, "KE")), (Tier1, Tier1, Tier3));
    let moved = tariff("credits.other = \"tier5\"\n[credits.tier3]\ncountries = [\"BR\"]\ncredits = 17");
    assert_eq!((tier(&moved, "BR"), tier(&moved, "GB"), tier(&moved, "KE")), (Tier3, Tier1, Tier5));
    assert_eq!((tier(&moved, "DE"), moved.credits(Tier3)), (Tier5, 17), "countries are replaced, not added to");
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
fn listeners_collide_where_they_could_not_both_be_bound() {
    let collide = |one: &str, other: &str| collide(one.parse().unwrap(), other.parse().unwrap());
    for (one, other, expected) in [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("127.0.0.1:80", "0.0.0.0:80", true),
        ("127.0.0.1:80", "[::]:80", true),
        ("[::1]:80", "0.0.0.0:80", false),
        ("[::1]:80", "127.0.0.1:80", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
    ] {
        assert_eq!((collide(one, other), collide(other, one)), (expected, expected), "{one} {other}");
    }
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
        format!("admin.token = {SECRET:?}"),
        format!("admin.token_file = {SECRET:?}"),
        format!("exempt = {SECRET:?}"),
        format!("exempt = [\"{SECRET}\", 5]"),
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
    let three = SECRET.repeat(3);
    let config = parse(&format!("hash_key = {three:?}\nadmin.token = {three:?}"), &[]).unwrap();
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

#[test]
fn what_is_allowed_and_likely_not_meant_is_a_warning_with_its_place() {
    let warnings = |text: &str| parse(text, &[]).unwrap().warnings;
    assert_eq!(warnings(""), [""; 0]);
    assert_eq!(warnings("drain_timeout = \"65s\""), [""; 0]);
    assert_eq!(
        warnings("drain_timeout = \"30s\""),
        [
            "gateway.toml:1:17: drain_timeout: expected drain_timeout to be at least 65s: lookup_timeout, exchange_timeout and 2s. What is in \
          flight at its end stays charged, and its retry is not recognised, found \"30s\""
        ]
    );
    assert_eq!(
        warnings("[clients]\nbody_timeout = \"10s\"\n"),
        [
            "gateway.toml:2:16: clients.body_timeout: expected body_timeout and answer_within to be less than 30s together (SDKs give up then, \
          and retry), found \"10s\""
        ]
    );
}

#[test]
fn a_drain_takes_as_long_as_the_slowest_limited_request_where_nothing_else_is_said() {
    let drain = |text: &str| parse(text, &[]).unwrap().drain_timeout;
    assert_eq!(drain(""), secs(65));
    assert_eq!(drain("[upstream]\nlookup_timeout = \"5s\"\nexchange_timeout = \"5m\"\n"), secs(307));
    assert_eq!(drain("drain_timeout = \"0s\""), secs(0));
}
