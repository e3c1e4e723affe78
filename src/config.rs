//! What the program may assume about its configuration. A value of these types is valid: what an operator may write, and
//! everything that can be wrong with it, is in [`mod@file`].

mod changes;
pub mod file;
pub mod ledger;
mod token;
pub mod traces;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use file::{Mistake, Mistakes};
use ipnet::IpNet;
pub use token::Token;

use crate::api::Operation;
use crate::phone::Phone;
use crate::policy::subject::{Account, HashKey};
use crate::policy::tariff::Tariff;
use crate::policy::{Limit, WhenFull};
use ledger::Ledger;
use traces::Traces;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// The secret for keyed hashes; a random one where the operator gives none.
    pub hash_key: HashKey,
    /// Sendly.
    pub upstream: Upstream,
    /// TLS to clients, if there is any.
    pub tls: Option<Tls>,
    /// The connections that clients make.
    pub clients: Clients,
    /// The listener for operators.
    pub admin: Admin,
    /// The API keys that are served.
    pub accounts: Accounts,
    /// Where codes are counted.
    pub ledger: Ledger,
    /// What is kept in memory, and how much of it.
    pub memory: Memory,
    /// Where that outlives the process.
    pub state: State,
    /// How another process takes over.
    pub upgrade: Upgrade,
    /// How an SDK's retry is recognised.
    pub retries: Retries,
    /// Which phones are taken for numbers.
    pub phones: Phones,
    /// How refusals look.
    pub replies: Replies,
    /// What is logged, and how.
    pub log: Log,
    /// Whether traces are recorded, and where to.
    pub traces: Traces,
    /// How another configuration is loaded.
    pub reload: Reload,
    /// What a code costs, by where it goes.
    pub tariff: Tariff,
    /// How long connections are still taken once the process was told to stop, and says that it is not ready.
    pub drain_delay: Duration,
    /// How long requests in flight may take to end after that.
    pub drain_timeout: Duration,
    /// How long a request waits for charges that are not settled yet.
    pub limits_wait: Duration,
    /// The limits on codes.
    pub limits: Vec<Limit>,
    /// The throttles on request attempts.
    pub throttles: Vec<Throttle>,
    /// Phones that no limit refuses; their codes are charged to no account.
    pub exempt: Vec<Phone>,
    /// What is allowed and is likely not meant: a line for each.
    pub warnings: Vec<String>,
}

/// Sendly, as the gateway reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its origin: scheme, host and port, no path.
    pub origin: Origin,
    /// The certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// For a connection, TLS included.
    pub connect_timeout: Duration,
    /// How long a client waits for the answer to a limited request, from the end of its body. With `body_timeout` below the SDKs' 30 s, so
    /// that the gateway answers before they retry.
    pub answer_within: Duration,
    /// For a whole limited exchange. It may go on after its client was answered: the client's retry joins it.
    pub exchange_timeout: Duration,
    /// For the look-up of an unknown id.
    pub lookup_timeout: Duration,
    /// Between two reads of a passed-through answer.
    pub read_timeout: Duration,
    /// Between two writes of a passed-through request.
    pub write_timeout: Duration,
    /// For an idle pooled connection. Below the upstream's own keep-alive.
    pub idle_timeout: Duration,
    /// For a connection that is in use all the time: it is made anew then, and the name resolved with it.
    pub max_age: Duration,
    /// Idle connections kept at most.
    pub max_idle: usize,
    /// Connections in use at a time, at most.
    pub max_connections: usize,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// As the URL of an origin, its port included.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// The connections that clients make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// For the rest of a request's head, once its first bytes have come.
    pub header_timeout: Duration,
    /// For the whole body of a limited request, and between two reads of any other body.
    pub body_timeout: Duration,
    /// Bytes a second, averaged over 30 s, that a body has to come with which passes through; 0 demands nothing.
    pub min_rate: u32,
    /// Between two writes of an answer.
    pub write_timeout: Duration,
    /// Connections at a time, at most.
    pub max_connections: usize,
    /// Connections at a time of one address, at most. Trusted proxies may have as many as there may be at all.
    pub max_per_address: usize,
    /// Streams at a time of one connection of HTTP/2, at most; one that was reset counts until its exchange has ended.
    pub max_streams: u32,
    /// Requests in flight, at most; an exchange with Sendly is one more.
    pub max_requests: usize,
    /// Who is believed about whom a connection or a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// Where they say it, in the order in which it is looked for.
    pub address: Vec<AddressSource>,
}

impl Clients {
    /// Whether this peer has to begin its connections with a header of the PROXY protocol.
    pub fn sends_proxy_header(&self, peer: IpAddr) -> bool {
        self.address.contains(&AddressSource::ProxyProtocol) && self.trusts(peer)
    }

    /// Whether this is a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// Where a trusted proxy says whom it was called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// A header of the PROXY protocol, before the first byte of a connection.
    ProxyProtocol,
    /// A list of addresses, as in `X-Forwarded-For`, in the header of this name, in lower case.
    Header(String),
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressSource::Forwarded => "forwarded",
            AddressSource::ProxyProtocol => "proxy-protocol",
            AddressSource::Header(name) => name,
        })
    }
}

/// The listener for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What has to be shown to it before it changes anything or tells of one phone; without one it does neither.
    pub token: Option<Token>,
    /// Names that it goes by, in lower case, besides addresses and `localhost`. Metrics and probes may be asked for by any.
    pub hosts: Vec<String>,
}

/// The API keys that are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// Those that are served at all; any, if there is none.
    pub allow: Vec<Account>,
    /// How many 401s of Sendly's the gateway causes in any five minutes, at most.
    pub max_failed: usize,
}

/// What is kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Phones, verifications and accounts that are counted at the same time, at most.
    pub max_keys: usize,
    /// What happens to a code whose key would be one too many.
    pub when_full: WhenFull,
    /// How often entries that no limit needs any more are dropped.
    pub sweep_every: Duration,
    /// Verifications whose phone is remembered, at most. The oldest is forgotten first; it can be looked up again.
    pub max_verifications: usize,
    /// For how long.
    pub remember_verifications: Duration,
}

/// Where what is kept in memory outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The folder; without one it ends with the process.
    pub dir: Option<PathBuf>,
}

/// How another process takes over the sockets and the counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The Unix socket at which it waits for them; without one none can.
    pub socket: Option<PathBuf>,
}

/// How an SDK's retry is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How long an answer that could not be delivered waits for the retry that will ask for it.
    pub undelivered: Duration,
    /// How long an exchange whose outcome nobody knows answers its retries, instead of sending again.
    pub unknown: Duration,
    /// How long a final answer is kept under its `Idempotency-Key`.
    pub idempotency: Duration,
    /// Answers kept at most, for any of these reasons.
    pub max_kept: usize,
}

/// Which phones are taken for numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phones {
    /// Whether a send to what cannot be a number is refused ([`Phone::is_possible`]).
    pub strict: bool,
}

/// How refusals look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replies {
    /// Whether they carry `RateLimit` and `RateLimit-Policy`.
    pub ratelimit_headers: bool,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Levels, of everything or of modules: a directive of `tracing-subscriber`'s `EnvFilter`, of its plain kind.
    pub filter: String,
    /// The form of a line.
    pub format: LogFormat,
    /// Whether each request gets a line.
    pub access: bool,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// How another configuration is loaded, once the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether it is when the files change that this one was read from; on SIGHUP it is anyway.
    pub watch: bool,
}

/// A smoothed rate on request attempts. It charges no code.
#[derive(Clone, Debug, PartialEq)]
pub struct Throttle {
    /// Names it in metrics, logs and headers.
    pub name: String,
    /// Whom it counts for.
    pub per: ThrottlePer,
    /// One more attempt is let through each time this has passed.
    pub every: Duration,
    /// Attempts that may come at once; at least 1.
    pub burst: u32,
    /// Which operations it counts; `None` for any.
    pub operations: Option<Vec<Operation>>,
}

/// Whom a throttle counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThrottlePer {
    /// The API key.
    Account,
    /// The client's address; an IPv6 client is its /64.
    Client,
}
