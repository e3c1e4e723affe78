//! What an operator may write, and every mistake in it.
//!
//! Each function here reads one section, and each key stands in one place: its name, its default, what it takes, and why no
//! more than that. What a key is for stands at its field in [`Config`] and in `config/gateway.toml`, which shows them all.
//!
//! Every key can be overridden by an environment variable that is named after it (`SENDLY_GATEWAY_UPSTREAM_URL`,
//! `SENDLY_GATEWAY_LIMITS_PHONE_10M_MAX`), or by the contents of the file that the same variable with `_FILE` names.

mod capacity;
mod credits;
mod duration;
mod environment;
mod ledger;
mod limits;
mod mistake;
mod origin;
mod parsers;
mod raw;
mod reader;
mod section;
#[cfg(test)]
mod tests;
mod throttles;
mod traces;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use duration::{days, hours, millis, minutes, secs};
use environment::Environment;
pub use mistake::{Mistake, Mistakes, Place, Problem};
pub use parsers::is_log_filter;
use parsers::{
    account, address, address_sources, array, count, duration, flag, log_filter, network, one_of, passphrase, path,
    phones,
};
use raw::Document;
use reader::Reader;
use section::Section;

use super::{
    Accounts, AddressSource, Admin, Clients, Config, Log, LogFormat, Memory, Origin, Phones, Reload, Replies, Retries,
    State, Tls, Token, Upgrade, Upstream, WhenFull,
};
use crate::policy::subject::HashKey;
use crate::policy::{self, Per};

/// When Sendly's SDKs give up on a request. They send it again then, so a limited request has to be answered before.
const SDKS_GIVE_UP: Duration = secs(30);

/// The longest that a client may wait for one step, with room for an answer before [`SDKS_GIVE_UP`].
const MAX_STEP: Duration = secs(29);

/// Test numbers, and no list of customers.
const MAX_EXEMPT: usize = 100;

/// The duration that an operator wrote: `10m`, `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    duration::parse(text)
}

/// A duration as an operator would write it.
pub fn duration_text(duration: Duration) -> String {
    duration::text(duration)
}

impl Config {
    /// Reads a file, and the variables that override it.
    pub fn load(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        Self::load_with_files(path, environment).0
    }

    /// The same; and which files it is made of, as far as it could be read: those that hold values, and those that it names.
    pub fn load_with_files(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> (Result<Self, Mistakes>, BTreeSet<PathBuf>) {
        let origin = path.display().to_string();
        let (config, mut files) = match fs::read_to_string(path) {
            Ok(text) => Self::read(&text, &origin, environment),
            Err(error) => {
                let problem =
                    Problem::Value { expected: environment::READABLE_FILE.to_owned(), found: error.to_string() };
                let mistake = Mistake { place: Place::File(origin), key: String::new(), problem };
                (Err(mistake.into()), BTreeSet::new())
            }
        };
        files.insert(path.to_owned());
        (config, files)
    }

    /// Reads the text of a file that is called `origin`, and the variables that override it. The empty text is a
    /// configuration too: that of the defaults.
    pub fn parse(
        text: &str,
        origin: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        Self::read(text, origin, environment).0
    }

    fn read(
        text: &str,
        origin: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> (Result<Self, Mistakes>, BTreeSet<PathBuf>) {
        let (document, syntax) = Document::parse(origin, text);
        let (default_limits, _) = Document::parse("default limits", limits::DEFAULT);
        let mut reader = Reader::new(Environment::new(environment));
        let mut config = Section::root(&mut reader, &document).read(|keys| config(keys, &default_limits));
        config.warnings = reader.warnings.iter().map(Mistake::to_string).collect();
        let files = std::mem::take(&mut reader.files);
        (reader.finish(syntax).map_or(Ok(config), Err), files)
    }
}

fn config<'t>(keys: &mut Section<'_, 't>, default_limits: &'t Document<'t>) -> Config {
    let hash_key = keys.secret("hash_key", "hash_key_file", passphrase).map(|text| HashKey::from_passphrase(&text));
    let (ledger, its_key) = keys.section("ledger", |keys| ledger::ledger(keys, hash_key.as_ref()));
    let mut config = Config {
        listen: keys.get("listen", loopback(8080), address),
        workers: match keys.get("workers", 0, count(0..=1024)) {
            0 => available_parallelism().map_or(1, usize::from),
            workers => workers,
        },
        // Gateways that share a ledger know ids and API keys by the same hashes.
        hash_key: hash_key.or(its_key).unwrap_or_else(HashKey::random),
        drain_delay: keys.get("drain_delay", secs(0), duration(secs(0)..=hours(1))),
        drain_timeout: keys.optional("drain_timeout", duration(secs(0)..=hours(1))).unwrap_or_default(),
        limits_wait: keys.get("limits_wait", secs(2), duration(secs(0)..=secs(20))),
        upstream: keys.section("upstream", upstream),
        tls: keys.section("tls", tls),
        clients: keys.section("clients", clients),
        admin: keys.section("admin", admin),
        ledger,
        accounts: keys.section("accounts", accounts),
        memory: keys.section("memory", memory),
        state: keys.section("state", |keys| State { dir: keys.optional("dir", path) }),
        upgrade: keys.section("upgrade", |keys| Upgrade { socket: keys.optional("socket", path) }),
        retries: keys.section("retries", retries),
        phones: keys.section("phones", |keys| Phones { strict: keys.get("strict", true, flag) }),
        replies: keys
            .section("replies", |keys| Replies { ratelimit_headers: keys.get("ratelimit_headers", true, flag) }),
        log: keys.section("log", log),
        traces: keys.section("traces", traces::traces),
        reload: keys.section("reload", |keys| Reload { watch: keys.get("watch", true, flag) }),
        tariff: keys.section("credits", credits::credits),
        limits: keys.entries("limits", policy::MAX_LIMITS, Some(default_limits), limits::limit),
        throttles: keys.entries("throttles", throttles::MAX_THROTTLES, None, throttles::throttle),
        exempt: keys.get("exempt", Vec::new(), phones(MAX_EXEMPT)),
        warnings: Vec::new(),
    };
    if !keys.is_given("drain_timeout") {
        config.drain_timeout = drains_all(&config.upstream);
    }
    rules(keys, &config);
    config
}

fn upstream(keys: &mut Section<'_, '_>) -> Upstream {
    // Files of 0.1 may ask for HTTP/2, and still start.
    let is_http1 = keys.get("protocol", true, one_of(&[("http1", true), ("http2", false)]));
    keys.advise(is_http1, &["protocol"], "\"http1\", which \"http2\" has meant since 0.2");
    let sendly = Origin { tls: true, host: "sendly.live".to_owned(), port: 443 };
    Upstream {
        origin: keys.get("url", sendly, origin::origin),
        ca_file: keys.file("ca_file"),
        connect_timeout: keys.get("connect_timeout", secs(3), duration(millis(1)..=MAX_STEP)),
        answer_within: keys.get("answer_within", secs(20), duration(millis(1)..=MAX_STEP)),
        exchange_timeout: keys.get("exchange_timeout", secs(60), duration(millis(1)..=minutes(5))),
        lookup_timeout: keys.get("lookup_timeout", secs(3), duration(millis(1)..=MAX_STEP)),
        read_timeout: keys.get("read_timeout", secs(60), duration(millis(1)..=hours(1))),
        write_timeout: keys.get("write_timeout", secs(30), duration(millis(1)..=hours(1))),
        // A connection that the upstream closes just as a code is sent leaves its outcome unknown, and its charge kept. The
        // shortest common keep-alive is Node's, 5 s.
        idle_timeout: keys.get("idle_timeout", secs(4), duration(millis(1)..=hours(1))),
        max_age: keys.get("max_age", minutes(5), duration(secs(1)..=hours(24))),
        max_idle: keys.get("max_idle", 1024, count(0..=65_536)),
        max_connections: capacity::of_upstream(keys),
    }
}

fn tls(keys: &mut Section<'_, '_>) -> Option<Tls> {
    let (cert_file, key_file) = (keys.file("cert_file"), keys.file("key_file"));
    let paired = cert_file.is_some() == key_file.is_some();
    keys.rule(paired, &["cert_file", "key_file"], "both cert_file and key_file");
    Some(Tls { cert_file: cert_file?, key_file: key_file? })
}

fn clients(keys: &mut Section<'_, '_>) -> Clients {
    let caps = capacity::of_clients(keys);
    let clients = Clients {
        max_connections: caps.connections,
        max_per_address: caps.per_address,
        max_streams: caps.streams,
        max_requests: caps.requests,
        // pingora counts it in seconds.
        keep_alive: keys.get("keep_alive", secs(60), duration(secs(1)..=hours(1))),
        header_timeout: keys.get("header_timeout", secs(10), duration(millis(1)..=minutes(10))),
        body_timeout: keys.get("body_timeout", secs(5), duration(millis(1)..=minutes(10))),
        min_rate: keys.get("min_rate", 500, count(0..=1_000_000)),
        write_timeout: keys.get("write_timeout", secs(30), duration(millis(1)..=hours(1))),
        trusted_proxies: keys.get("trusted_proxies", Vec::new(), array("networks", network)),
        address: keys.get("address", vec![AddressSource::Header("x-forwarded-for".to_owned())], address_sources),
    };
    let is_sent = !clients.address.contains(&AddressSource::ProxyProtocol) || !clients.trusted_proxies.is_empty();
    keys.rule(
        is_sent,
        &["address"],
        "no \"proxy-protocol\" without trusted_proxies, since it is read from those alone",
    );
    clients
}

fn admin(keys: &mut Section<'_, '_>) -> Admin {
    Admin {
        listen: keys.get("listen", loopback(9090), address),
        token: keys.secret("token", "token_file", passphrase).map(Token::new),
        hosts: keys.get("hosts", Vec::new(), array("names", origin::host_name)),
    }
}

fn accounts(keys: &mut Section<'_, '_>) -> Accounts {
    Accounts {
        allow: keys.get("allow", Vec::new(), array("accounts", account)),
        // Sendly locks an address out for more of them; how many, it does not say.
        max_failed: keys.get("max_failed", 10, count(1..=1000)),
    }
}

fn memory(keys: &mut Section<'_, '_>) -> Memory {
    Memory {
        max_keys: keys.get("max_keys", 1_000_000, count(1..=1_000_000_000)),
        when_full: keys.get(
            "when_full",
            WhenFull::Refuse,
            one_of(&[("refuse", WhenFull::Refuse), ("allow", WhenFull::Allow)]),
        ),
        sweep_every: keys.get("sweep_every", secs(10), duration(millis(1)..=hours(1))),
        max_verifications: keys.get("max_verifications", 1_000_000, count(1..=1_000_000_000)),
        // A verification lives for an hour at most.
        remember_verifications: keys.get("remember_verifications", hours(24), duration(millis(1)..=days(31))),
    }
}

fn retries(keys: &mut Section<'_, '_>) -> Retries {
    Retries {
        undelivered: keys.get("undelivered", secs(60), duration(secs(0)..=hours(1))),
        // Ruby's SDK pauses 2, 4 and 8 s, and its tries take time.
        unknown: keys.get("unknown", secs(30), duration(secs(0)..=hours(1))),
        idempotency: keys.get("idempotency", minutes(10), duration(secs(0)..=hours(24))),
        max_kept: keys.get("max_kept", 100_000, count(1..=100_000_000)),
    }
}

fn log(keys: &mut Section<'_, '_>) -> Log {
    Log {
        filter: keys.get("filter", "info".to_owned(), log_filter),
        format: keys.get("format", LogFormat::Json, one_of(&[("json", LogFormat::Json), ("text", LogFormat::Text)])),
        access: keys.get("access", true, flag),
    }
}

/// What has to hold between keys.
fn rules(keys: &mut Section<'_, '_>, config: &Config) {
    let Config { upstream, memory, .. } = config;
    keys.rule(
        !collide(config.listen, config.admin.listen),
        &["admin.listen", "listen"],
        "listen and admin.listen to differ",
    );
    keys.rule(
        upstream.connect_timeout <= upstream.exchange_timeout,
        &["upstream.connect_timeout", "upstream.exchange_timeout"],
        "connect_timeout to be no longer than exchange_timeout, of which it is a part",
    );
    let is_answered_in_time = config.clients.body_timeout + upstream.answer_within < SDKS_GIVE_UP;
    let answered = ["upstream.answer_within", "clients.body_timeout"];
    let in_time = "body_timeout and answer_within to be less than 30s together (SDKs give up then, and retry)";
    if keys.is_given("upstream.answer_within") {
        keys.rule(is_answered_in_time, &answered, in_time);
    } else {
        // Files of 0.1 may have a long body_timeout, and still start.
        keys.advise(is_answered_in_time, &answered, in_time);
    }
    keys.advise(
        drains_all(upstream) <= config.drain_timeout,
        &["drain_timeout", "upstream.exchange_timeout", "upstream.lookup_timeout"],
        format!(
            "drain_timeout to be at least {}: lookup_timeout, exchange_timeout and 2s. What is in flight at its end stays charged, and its \
             retry is not recognised",
            duration::text(drains_all(upstream))
        ),
    );
    keys.rule(
        upstream.origin.tls || upstream.ca_file.is_none(),
        &["upstream.ca_file"],
        "no ca_file, or a url that is https",
    );
    keys.rule(
        config.accounts.allow.is_empty() || !config.hash_key.is_drawn(),
        &["accounts.allow", "hash_key"],
        "no accounts in allow, or a hash_key (each start draws another one where there is none, and hashes mean nothing then)",
    );
    keys.rule(
        config.state.dir.is_none() || config.ledger.redis.is_none(),
        &["state.dir", "ledger.backend"],
        "no dir, or ledger.backend = \"memory\" (what is counted in Redis stands there)",
    );
    let cooldowns = config.limits.iter().filter(|limit| limit.per == Per::Verification);
    if let Some(longest) = cooldowns.max_by_key(|limit| limit.window) {
        keys.rule(
            // An id that is seen again is remembered anew only in the second half of its time.
            longest.window * 2 <= memory.remember_verifications,
            &["memory.remember_verifications"],
            format!("at least {}, twice the window of the limit {}", duration::text(longest.window * 2), longest.name),
        );
    }
}

/// How long the last limited request may take, and its answer.
fn drains_all(upstream: &Upstream) -> Duration {
    upstream.lookup_timeout + upstream.exchange_timeout + secs(2)
}

/// Whether two listeners cannot both have their addresses. Port 0 is any free port, and `[::]` takes IPv4 too.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip() == narrow.ip() || wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    one.port() == other.port() && one.port() != 0 && (covers(one, other) || covers(other, one))
}

/// Nobody else reaches what listens here until an operator says so.
fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
