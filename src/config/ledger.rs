//! Where codes are counted.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::OnOutage;
use crate::policy::subject::HashKey;

/// Where codes are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The Redis, or the Valkey, that gateways share; `None`: each counts in its memory, for itself.
    pub redis: Option<Redis>,
    /// What stands at its address.
    pub topology: Topology,
    /// What sentinels call the server.
    pub master: String,
    /// Whom to log in to them as.
    pub sentinel_login: Login,
    /// The certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What every key begins with.
    pub prefix: String,
    /// How many connections are kept; at least 1.
    pub connections: usize,
    /// For a connection, TLS and login included.
    pub connect_timeout: Duration,
    /// For one decision: after that it is made without Redis.
    pub timeout: Duration,
    /// What becomes of codes while it is away.
    pub on_outage: OnOutage,
    /// How much is kept of what it is to be told when it is back.
    pub max_backlog: usize,
}

/// Where Redis is, and what makes phones unreadable there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub url: RedisUrl,
    /// The secret under which phones are hashed; the same in all gateways.
    pub hash_key: HashKey,
}

/// A user and a password. It prints without either.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user, if it is not the default one.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// What stands at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// The server.
    Single,
    /// Sentinels, who know where it is.
    Sentinel,
    /// Some servers of a cluster.
    Cluster,
}

/// Hosts, and whom to log in as. It prints without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Whether they speak TLS.
    pub tls: bool,
    /// The user, if it is not the default one.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<String>,
    /// Names or addresses, without brackets, and ports; at least one.
    pub nodes: Vec<(String, u16)>,
    /// The number of the database.
    pub database: u32,
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl").field("tls", &self.tls).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}
