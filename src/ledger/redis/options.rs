//! Where Redis is, and what an operator may choose.

use std::time::Duration;

use crate::policy::OnOutage;
use crate::policy::subject::HashKey;

/// Where Redis is, and who the gateway is to it.
#[derive(Clone)]
pub struct Servers {
    /// What stands at those addresses.
    pub topology: Topology,
    /// Host and port of each; at least one.
    pub nodes: Vec<(String, u16)>,
    /// Whether they speak TLS.
    pub tls: bool,
    /// PEM: the authorities to trust, instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Whom to log in as.
    pub user: Option<String>,
    /// And with what.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u32,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// What stands at an address.
#[derive(Clone, PartialEq, Eq)]
pub enum Topology {
    /// The server.
    Single,
    /// Sentinels, who know where the server is.
    Sentinel {
        /// Its name among them.
        master: String,
        /// Whom to log in to them as.
        user: Option<String>,
        /// And with what.
        password: Option<String>,
    },
    /// Servers that have a part of all keys each.
    Cluster,
}

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is.
    pub servers: Servers,
    /// What every key begins with.
    pub prefix: String,
    /// The secret under which phones are hashed; the same in all gateways.
    pub hash_key: HashKey,
    /// How many connections are kept; at least 1.
    pub connections: usize,
    /// For one connection.
    pub connect_timeout: Duration,
    /// For one decision, and for one answer of any other kind.
    pub timeout: Duration,
    /// What becomes of codes while it is away.
    pub on_outage: OnOutage,
    /// How much is kept at most of what it is to be told when it is back.
    pub max_backlog: usize,
    /// For how long an id is known.
    pub remember: Duration,
    /// Whose time counts.
    pub time: Time,
}

/// Whose time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The server's.
    Servers,
    /// That of whoever asks: for tests, which move it.
    Callers,
}
