//! `config/gateway.toml` shows every key, with its default.

use std::collections::BTreeSet;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::*;

#[test]
fn the_shipped_file_says_what_the_empty_one_means() {
    let shipped = Config::load(Path::new("config/gateway.toml"), [].into_iter()).unwrap();
    assert_eq!(shown(&shipped), shown(&parse("", &[]).unwrap()));
}

/// The shipped file with everything in it that is commented out.
pub(super) fn shipped_in_full() -> String {
    let is_example = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_alphabetic()))
    };
    SHIPPED.lines().map(|line| if is_example(line) { &line[1..] } else { line }.to_owned() + "\n").collect()
}

/// The keys of a document as paths without indices.
fn keys_in(table: &DeTable<'_>, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{path}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => keys_in(table, &format!("{path}."), keys),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.for_each(|table| keys_in(table, &format!("{path}."), keys));
            }
            _ => {
                keys.insert(path);
            }
        }
    }
}

/// All keys that there are: those that are asked for where the file has a limit and a throttle, and that are no sections.
pub(super) fn known(in_full: &str) -> BTreeSet<String> {
    let known: BTreeSet<_> = asked(in_full).keys().map(|path| of_any(path)).collect();
    let sections = [
        "upstream",
        "tls",
        "clients",
        "admin",
        "accounts",
        "ledger",
        "memory",
        "state",
        "upgrade",
        "retries",
        "phones",
        "replies",
        "log",
        "traces",
        "reload",
        "credits",
        "limits",
        "throttles",
    ];
    let is_tier = |path: &str| path.strip_prefix("credits.").is_some_and(|key| !key.contains('.') && key != "other");
    known.into_iter().filter(|path| !sections.contains(&path.as_str()) && !is_tier(path)).collect()
}

#[test]
fn every_key_stands_in_the_shipped_file() {
    let in_full = shipped_in_full();
    let keys = |text: &str| {
        let mut keys = BTreeSet::new();
        keys_in(Document::parse("gateway.toml", text).0.table.get_ref(), "", &mut keys);
        keys
    };
    let known = known(&in_full);
    assert_eq!(keys(&in_full), known);

    let commented: Vec<_> = known.difference(&keys(SHIPPED)).cloned().collect();
    let without_default = [
        "admin.token",
        "admin.token_file",
        "drain_timeout",
        "hash_key",
        "hash_key_file",
        "ledger.ca_file",
        "ledger.hash_key",
        "ledger.hash_key_file",
        "ledger.sentinel_password",
        "ledger.sentinel_password_file",
        "ledger.sentinel_user",
        "ledger.url",
        "ledger.url_file",
        "state.dir",
        "throttles.burst",
        "throttles.name",
        "throttles.operations",
        "throttles.per",
        "throttles.rate",
        "tls.cert_file",
        "tls.key_file",
        "traces.ca_file",
        "traces.headers",
        "traces.headers_file",
        "traces.url",
        "upgrade.socket",
        "upstream.ca_file",
    ];
    assert_eq!(commented, without_default, "a key with a default stands in the file with it, not commented out");
}

#[test]
fn the_examples_of_the_shipped_file_are_valid() {
    let files = "/etc/sendly-gateway";
    let text: String = shipped_in_full()
        .lines()
        .filter(|line| {
            !["hash_key", "token", "url_file", "url = \"redis", "sentinel_password_file", "headers_file"]
                .iter()
                .any(|key| line.starts_with(key))
        })
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
