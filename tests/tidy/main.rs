//! The house rules, held by reading the sources: which module may use which, who owns which outside crate, and what has no
//! place here at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules, lowest first, and what each may use. A module that is not here may not be.
const ARROWS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("phone", &[]),
    ("country", &["phone"]),
    ("yielding", &[]),
    ("tls_roots", &[]),
    ("systemd", &[]),
    ("http1", &[]),
    ("api", &["phone"]),
    ("policy", &["clock", "country", "phone"]),
    ("ledger", &["clock", "phone", "policy", "yielding"]),
    ("config", &["api", "country", "phone", "policy"]),
    ("metrics", &["api", "clock", "country", "phone", "policy"]),
    ("throttle", &["api", "clock", "config", "policy"]),
    ("trace", &["api", "clock", "config", "metrics", "phone", "tls_roots"]),
    ("log", &["api", "clock", "config", "metrics", "phone", "policy", "trace"]),
    ("upstream", &["api", "clock", "config", "http1", "tls_roots", "trace"]),
    (
        "gateway",
        &[
            "api",
            "clock",
            "config",
            "http1",
            "ledger",
            "log",
            "metrics",
            "phone",
            "policy",
            "throttle",
            "tls_roots",
            "trace",
            "upstream",
            "yielding",
        ],
    ),
    ("listener", &["api", "clock", "config", "gateway", "http1", "metrics", "trace", "upstream"]),
    ("admin", &["api", "clock", "config", "country", "gateway", "ledger", "log", "metrics", "phone", "policy"]),
    ("sandbox", &["api", "clock", "phone", "policy"]),
    ("handover", &["api", "clock", "config", "gateway", "http1", "ledger", "metrics", "phone"]),
    ("server", &["admin", "clock", "config", "gateway", "handover", "listener", "metrics", "policy"]),
    ("reload", &["config", "log", "policy", "server", "systemd"]),
    ("cli", &["clock", "config", "handover", "log", "metrics", "phone", "reload", "sandbox", "server", "systemd"]),
];

/// Who may name an outside crate. A crate that is not here may be named nowhere.
const OWNERS: &[(&str, &[&str])] = &[
    ("arc_swap", &["gateway", "ledger/redis", "listener", "server"]),
    ("arrayvec", &["listener", "log/access/line", "log/timestamp", "policy", "trace/parent"]),
    ("async_trait", &["admin", "listener", "server"]),
    ("bytes", &["cli", "gateway", "http1", "listener", "sandbox"]),
    ("clap", &["cli"]),
    ("crc32fast", &["ledger/journal"]),
    ("dashmap", &["gateway"]),
    ("foldhash", &["ledger/memory"]),
    ("governor", &["throttle"]),
    ("http", &["admin", "api", "cli", "gateway", "handover", "http1", "listener", "sandbox", "upstream"]),
    ("http_body_util", &["cli", "sandbox"]),
    ("httparse", &["http1", "listener"]),
    ("humantime", &["clock", "gateway/refusals"]),
    ("hyper", &["sandbox"]),
    ("hyper_rustls", &["trace/collector"]),
    ("hyper_util", &["cli", "sandbox", "trace/collector"]),
    ("ipnet", &["config", "gateway/caps", "gateway/client_address"]),
    ("mimalloc", &["main"]),
    (
        "parking_lot",
        &[
            "admin",
            "gateway",
            "handover",
            "ledger",
            "listener",
            "log/alike",
            "log/writer",
            "sandbox",
            "throttle/keys",
            "trace/span",
            "upstream",
        ],
    ),
    ("opentelemetry", &["trace/collector"]),
    ("opentelemetry_http", &["trace/collector"]),
    ("opentelemetry_otlp", &["trace/collector"]),
    ("opentelemetry_sdk", &["trace"]),
    ("percent_encoding", &["admin", "cli", "config/file/ledger", "config/file/traces", "trace/collector"]),
    ("pingora", &["admin", "listener", "server", "upstream"]),
    ("postcard", &["handover/line"]),
    ("prometheus", &["metrics"]),
    ("redis_rs", &["ledger/redis"]),
    (
        "rustix",
        &[
            "cli/signals",
            "clock",
            "config/file/capacity",
            "handover/line",
            "handover/other_process",
            "handover/steps",
            "server/accept",
        ],
    ),
    ("rustls", &["server", "tls_roots"]),
    ("rustls_native_certs", &["tls_roots"]),
    ("rustls_pki_types", &["server", "tls_roots", "upstream"]),
    ("sd_notify", &["systemd"]),
    ("sendly_gateway", &["main"]),
    ("serde", &["api", "gateway/reply", "gateway/retries", "gateway/successor", "handover/line"]),
    ("serde_json", &["admin", "api", "cli", "gateway/refusals", "gateway/reply", "sandbox"]),
    ("siphasher", &["policy"]),
    ("strsim", &["config/file/reader"]),
    ("subtle", &["config"]),
    ("thin_vec", &["policy/window"]),
    (
        "tokio",
        &[
            "admin/connection",
            "cli",
            "gateway",
            "handover",
            "ledger",
            "listener",
            "reload",
            "sandbox",
            "server",
            "trace/span",
            "upstream",
        ],
    ),
    ("tokio_rustls", &["upstream"]),
    ("tokio_util", &["gateway", "handover/take", "listener", "server"]),
    ("toml", &["config"]),
    (
        "tracing",
        &[
            "admin",
            "cli",
            "gateway",
            "handover",
            "ledger/redis",
            "listener",
            "log",
            "metrics",
            "reload",
            "sandbox",
            "server",
            "systemd",
            "upstream",
        ],
    ),
    ("tracing_subscriber", &["log"]),
    ("x509_parser", &["server", "upstream/peer"]),
];

struct Source {
    path: PathBuf,
    /// Its path below `src`, without the extension: `gateway/reply`.
    place: String,
    /// Its code: without comments and without its test module.
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        self.place.split('/').next().unwrap()
    }
}

fn files(below: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let sources: Vec<Source> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let place = path.strip_prefix(&root).unwrap().with_extension("").to_str().unwrap().to_owned();
            Source { path, place, code }
        })
        .filter(|source| !source.place.contains("/tests"))
        .collect();
    assert!(sources.len() > 20, "the sources are not where this test looks");
    sources
}

/// The words that stand before `::`, and not after another `::`; and those that a `use` takes in whole.
fn named(code: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (place, _) in code.match_indices("::") {
        let before = &code[..place];
        let name = &before[before.rfind(|c| !word(c)).map_or(0, |end| end + 1)..];
        if !before[..before.len() - name.len()].ends_with("::") {
            names.insert(name);
        }
    }
    names
}

/// The modules of this crate that the code names.
fn used_modules(code: &str) -> BTreeSet<&str> {
    let mut used = BTreeSet::new();
    for (place, mark) in code.match_indices("crate::") {
        let rest = &code[place + mark.len()..];
        used.insert(rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap());
    }
    used
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut arrows = 0;
    for source in sources().iter().filter(|source| !matches!(source.place.as_str(), "main" | "lib")) {
        let (_, allowed) = ARROWS
            .iter()
            .find(|(module, _)| *module == source.module())
            .unwrap_or_else(|| panic!("{} is no module of the house: give it a place in ARROWS", source.module()));
        for used in used_modules(&source.code) {
            arrows += 1;
            let own = used == source.module();
            assert!(own || allowed.contains(&used), "{} may not use {used}", source.path.display());
        }
    }
    assert!(arrows > 50, "this test sees no arrows");
}

#[test]
fn no_arrow_points_upward() {
    for (place, (module, uses)) in ARROWS.iter().enumerate() {
        for used in *uses {
            let lower = ARROWS.iter().position(|(other, _)| other == used).expect("a module of the house");
            assert!(lower < place, "{module} stands below {used}");
        }
    }
}

/// The files that the code of a file names, by their places.
fn named_files<'s>(source: &Source, all: &'s [Source]) -> BTreeSet<&'s str> {
    let find = |path: &str| {
        let mut path = path.to_owned();
        loop {
            if let Some(found) = all.iter().find(|other| other.place == path) {
                return Some(found.place.as_str());
            }
            path.truncate(path.rfind('/')?);
        }
    };
    let mut files = BTreeSet::new();
    for path in paths(&source.code) {
        let mut parts = path.split("::").peekable();
        let mut base: Vec<&str> = match parts.peek() {
            Some(&"crate") => Vec::new(),
            Some(&"super" | &"self") => source.place.split('/').collect(),
            _ => continue,
        };
        parts.next_if_eq(&"crate");
        parts.next_if_eq(&"self");
        while parts.next_if_eq(&"super").is_some() {
            base.pop();
        }
        base.extend(parts);
        files.extend(find(&base.join("/")));
    }
    files
}

/// The paths that begin with `crate`, `super` or `self`, those within braces one by one.
fn paths(code: &str) -> Vec<String> {
    let mut all = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (place, _) in code.match_indices(root) {
            if code[..place].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &code[place..];
            let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let path = &rest[..rest.find(|c| !is_path(c)).unwrap_or(rest.len())];
            match rest[path.len()..].strip_prefix('{').filter(|_| path.ends_with("::")) {
                Some(group) => {
                    let group = &group[..group.find("};").unwrap_or(group.len())];
                    let first = |part: &str| part.trim().split("::").next().unwrap_or_default().to_owned();
                    all.extend(group.split(['{', '}', ',']).map(|part| format!("{path}{}", first(part))));
                }
                None => all.push(path.to_owned()),
            }
        }
    }
    all
}

#[test]
fn no_files_of_a_room_use_each_other_in_a_circle() {
    let sources = sources();
    let rooms: BTreeSet<&str> = sources.iter().filter_map(|source| Some(source.place.rsplit_once('/')?.0)).collect();
    let mut arrows = 0;
    for room in rooms {
        let child_of = |place: &str| {
            let child = place.strip_prefix(room)?.strip_prefix('/')?.split('/').next()?;
            Some(child.to_owned())
        };
        let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
        for source in &sources {
            let Some(child) = child_of(&source.place) else { continue };
            let named = named_files(source, &sources).into_iter().filter_map(child_of).filter(|other| *other != child);
            uses.entry(child.clone()).or_default().extend(named);
        }
        arrows += uses.values().map(BTreeSet::len).sum::<usize>();
        // Those that use nobody who is left go, until nobody goes.
        while let Some(lowest) = uses.iter().find(|(_, used)| used.is_empty()).map(|(child, _)| child.clone()) {
            uses.remove(&lowest);
            uses.values_mut().for_each(|used| {
                used.remove(&lowest);
            });
        }
        assert!(uses.is_empty(), "a circle in {room}, or above one: {uses:?}");
    }
    assert!(arrows > 100, "this test sees no arrows: {arrows}");
}

#[test]
fn every_outside_crate_has_its_owners() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let crates: Vec<String> = dependencies
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once(" = ")?.0.replace('-', "_")))
        .collect();
    assert!(crates.len() > 20, "the manifest is not as this test reads it");
    let sources = sources();
    for name in crates.iter().map(String::as_str) {
        let owners = OWNERS.iter().find(|(owned, _)| *owned == name).map(|(_, owners)| *owners);
        let owners = owners.unwrap_or_else(|| panic!("{name} has no owner: give it one in OWNERS"));
        let users: Vec<_> = sources.iter().filter(|source| named(&source.code).contains(name)).collect();
        assert!(!users.is_empty(), "nobody uses {name}");
        let is_in = |user: &Source, owner: &str| user.place == owner || user.place.starts_with(&format!("{owner}/"));
        for user in &users {
            let owned = owners.iter().any(|owner| is_in(user, owner));
            assert!(owned, "{} may not name {name}", user.path.display());
        }
        for owner in owners {
            assert!(users.iter().any(|user| is_in(user, owner)), "{owner} does not use {name}: take it off OWNERS");
        }
    }
}

#[test]
fn nothing_reads_the_time_but_the_clock() {
    for source in sources().iter().filter(|source| source.place != "clock") {
        for call in ["Instant::now", "SystemTime::now", ".elapsed()", "Utc::now", "UNIX_EPOCH"] {
            assert!(!source.code.contains(call), "{} reads the time: {call}", source.path.display());
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for source in sources() {
        let lines = source.code.lines().count();
        assert!(lines <= 400, "{} has {lines} lines", source.path.display());
        let text = fs::read_to_string(&source.path).unwrap();
        assert!(text.starts_with("//!"), "{} does not say what it is", source.path.display());
        for word in ["mod", "util", "utils", "helper", "helpers", "manager", "handler", "service", "common", "misc"] {
            assert!(source.path.file_stem().unwrap() != word, "{} is named after nothing", source.path.display());
        }
    }
}

#[test]
fn the_crate_documentation_lists_every_module() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for (module, _) in ARROWS {
        assert!(lib.contains(&format!("`{module}`")), "src/lib.rs does not tell of {module}");
        assert!(lib.contains(&format!("mod {module};")), "{module} is no module");
    }
}

/// A word in capitals with an underscore, outside of code: something was to be filled in there.
fn placeholders(text: &str) -> Vec<&str> {
    let is_placeholder = |word: &&str| {
        let is_capital =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        word.contains('_') && word.starts_with(|c: char| c.is_ascii_uppercase()) && word.split('_').all(is_capital)
    };
    let words = |prose| str::split(prose, |c: char| !c.is_alphanumeric() && c != '_').filter(is_placeholder);
    // Between fences, and then between ticks, which may stand on two lines.
    let outside = text.split("```").step_by(2).flat_map(|text| text.split('`').step_by(2));
    outside.flat_map(words).collect()
}

#[test]
fn nothing_in_the_documentation_has_yet_to_be_filled_in() {
    assert_eq!(
        placeholders("some SCRIPT_US µs, `SENDLY_A=1` and a\n```sh\nA_B=1\n```\nTABLE_2"),
        ["SCRIPT_US", "TABLE_2"]
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let others = ["README.md", "ARCHITECTURE.md", "benches/README.md", "deploy/README.md"].map(|page| root.join(page));
    for page in pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).chain(others) {
        let found = fs::read_to_string(&page).unwrap();
        assert_eq!(placeholders(&found), [""; 0], "{}", page.display());
    }
}

fn page(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The number before each of these words, rounded.
fn figure(page: &str, before: &str, after: &str) -> u64 {
    let (_, rest) = page.split_once(before).unwrap_or_else(|| panic!("{before:?} is not there"));
    let (number, _) = rest.split_once(after).unwrap_or_else(|| panic!("{after:?} does not follow {before:?}"));
    number.trim().parse::<f64>().unwrap().round() as u64
}

#[test]
fn bytes_of_memory_are_the_same_on_every_page_as_where_they_were_measured() {
    let (measured, capacity, readme) = (page("benches/README.md"), page("docs/capacity.md"), page("README.md"));
    let measured = [
        figure(&measured, "at ten million of each: ", " bytes for a phone with one code"),
        figure(&measured, "for a phone with one code (goal: 48), ", " for one with five"),
        figure(&measured, "for one with five (goal: 96), ", " for a verification"),
    ];
    let estimated = [
        figure(&capacity, "a phone with one code in the last day | ", " bytes"),
        figure(&capacity, "a phone with five | ", " bytes"),
        figure(&capacity, "a verification and its cooldown | ", " bytes"),
    ];
    assert_eq!(estimated, measured);
    assert_eq!(figure(&readme, "code takes ", " bytes of memory"), measured[0]);
    assert_eq!(figure(&readme, "one with five ", ";"), measured[1]);
}

#[test]
fn no_failure_is_told_of_twice() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/failure-modes.md")).unwrap();
    let begins = text.lines().filter_map(|line| line.strip_prefix("**"));
    let mut seen = BTreeSet::new();
    for what in begins.map(|line| line.split([',', '.', '*', '(']).next().unwrap_or_default().trim()) {
        assert!(seen.insert(what), "docs/failure-modes.md tells of this twice: {what}");
    }
    assert!(seen.len() > 15, "{seen:?}");
}
