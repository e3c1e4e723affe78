//! The connections to Redis: a few, over each of which many calls are under way at once; and one call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis_rs::aio::MultiplexedConnection;
use redis_rs::cluster::ClusterClient;
use redis_rs::cluster_async::ClusterConnection;
use redis_rs::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis_rs::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, ServerErrorKind, TlsCertificates, TlsMode, Value,
};

use super::circuit::Reason;
use super::fault::Fault;
use super::protocol::ScriptCall;
use super::{Servers, Topology};

const SCRIPT: &str = include_str!("ledger.lua");

/// Calls that wait to be written to one connection, at most. More is more than it can answer in time.
const WAITING: usize = 4096;

/// See the module's documentation.
pub(crate) struct Link {
    way: Reached,
    many: usize,
    connect_within: Duration,
    pool: ArcSwap<Vec<AnyConnection>>,
    next: AtomicUsize,
    sha: String,
}

/// How connections come about.
enum Reached {
    /// To this server.
    One(Box<Client>),
    /// To whichever the sentinels say.
    Sentinel(Box<dyn Fn() -> Result<SentinelClient, RedisError> + Send + Sync>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum AnyConnection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl AnyConnection {
    async fn ask(self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            AnyConnection::One(mut connection) => command.query_async(&mut connection).await,
            AnyConnection::Cluster(mut connection) => command.query_async(&mut connection).await,
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("connections", &self.pool.load().len()).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the addresses or the authorities.
    pub(crate) fn new(
        servers: &Servers,
        many: usize,
        connect_within: Duration,
        bound: Duration,
    ) -> Result<Self, String> {
        let way = Reached::new(servers, connect_within, bound).map_err(|error| error.to_string())?;
        // A cluster's client holds a connection to each of its servers by itself.
        let many = if matches!(way, Reached::Cluster(_)) { 1 } else { many };
        Ok(Self {
            way,
            many,
            connect_within,
            pool: ArcSwap::default(),
            next: AtomicUsize::new(0),
            sha: redis_rs::Script::new(SCRIPT).get_hash().to_owned(),
        })
    }

    /// Makes all connections anew.
    pub(crate) async fn connect(&self) -> Result<(), Fault> {
        let mut pool = Vec::with_capacity(self.many);
        for _ in 0..self.many {
            // A sentinel is asked on the way.
            let within = self.connect_within * 2;
            let connecting = tokio::time::timeout(within, self.way.connect(self.connect_within));
            let connection =
                connecting.await.map_err(|_| Fault { reason: Reason::Unreachable, ..Fault::late(within) })?;
            pool.push(connection.map_err(|error| {
                let fault = Fault::of(&error);
                let reason = if fault.reason == Reason::Timeout { Reason::Unreachable } else { fault.reason };
                Fault { reason, ..fault }
            })?);
        }
        self.pool.store(pool.into());
        Ok(())
    }

    /// Closes all connections, once nothing is under way over them.
    pub(crate) fn disconnect(&self) {
        self.pool.store(Vec::new().into());
    }

    /// Carries out one verb of the script, within this time. The script is sent where it is not known.
    pub(crate) async fn call(&self, call: &ScriptCall, within: Duration) -> Result<Value, Fault> {
        let connection = self.connection()?;
        let asking = async {
            match connection.clone().ask(&composed(call, "EVALSHA", &self.sha)).await {
                Err(error) if error.kind() == redis_rs::ErrorKind::Server(ServerErrorKind::NoScript) => {
                    connection.ask(&composed(call, "EVAL", SCRIPT)).await
                }
                answer => answer,
            }
        };
        bounded(asking, within).await
    }

    /// Reads one string.
    pub(crate) async fn get(&self, key: &str, within: Duration) -> Result<Value, Fault> {
        let mut command = redis_rs::cmd("GET");
        command.arg(key);
        bounded(self.connection()?.ask(&command), within).await
    }

    /// Writes that something is so, for this long.
    pub(crate) async fn set(&self, key: &str, lasts: Duration, within: Duration) -> Result<(), Fault> {
        let mut command = redis_rs::cmd("SET");
        command.arg(key).arg("1").arg("PX").arg(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1));
        bounded(self.connection()?.ask(&command), within).await.map(drop)
    }

    /// Deletes a key.
    pub(crate) async fn delete(&self, key: &str, within: Duration) -> Result<(), Fault> {
        let mut command = redis_rs::cmd("DEL");
        command.arg(key);
        bounded(self.connection()?.ask(&command), within).await.map(drop)
    }

    fn connection(&self) -> Result<AnyConnection, Fault> {
        let pool = self.pool.load();
        let nth = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(pool.len()).unwrap_or(0);
        pool.get(nth).cloned().ok_or_else(Fault::away)
    }
}

async fn bounded(asking: impl Future<Output = Result<Value, RedisError>>, within: Duration) -> Result<Value, Fault> {
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer.map_err(|error| Fault::of(&error)),
        Err(_) => Err(Fault::late(within)),
    }
}

fn composed(call: &ScriptCall, how: &str, script: &str) -> Cmd {
    let mut command = redis_rs::cmd(how);
    command.arg(script).arg(call.keys.len());
    for key in &call.keys {
        command.arg(key);
    }
    command.arg(call.verb).arg(call.numbers.0.as_slice());
    for text in &call.texts {
        command.arg(text.as_slice());
    }
    command
}

impl Reached {
    fn new(servers: &Servers, connect_within: Duration, bound: Duration) -> Result<Self, RedisError> {
        let Servers { topology, nodes, tls, authorities, user, password, database } = servers;
        let certificates = || TlsCertificates { client_tls: None, root_cert: authorities.clone() };
        let address = |(host, port): &(String, u16)| match tls {
            true => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host.clone(), *port),
        };
        let login = || {
            let mut login = RedisConnectionInfo::default().set_db(i64::from(*database));
            if let Some(user) = user {
                login = login.set_username(user);
            }
            if let Some(password) = password {
                login = login.set_password(password);
            }
            login
        };
        let infos = nodes
            .iter()
            .map(|node| Ok(address(node).into_connection_info()?.set_redis_settings(login())))
            .collect::<Result<Vec<ConnectionInfo>, RedisError>>()?;
        match topology {
            Topology::Single => {
                let Some(info) = infos.into_iter().next() else {
                    return Err((redis_rs::ErrorKind::InvalidClientConfig, "no address").into());
                };
                let client = if *tls { Client::build_with_tls(info, certificates()) } else { Client::open(info) };
                client.map(|client| Reached::One(Box::new(client)))
            }
            Topology::Sentinel { master, user: sentinels_user, password: sentinels_password } => {
                let (addresses, master) = (nodes.iter().map(address).collect::<Vec<_>>(), master.clone());
                let (sentinels_user, sentinels_password) = (sentinels_user.clone(), sentinels_password.clone());
                let (tls, user, password, database) = (*tls, user.clone(), password.clone(), *database);
                let certificates = certificates();
                // Anew each time: what it remembers of sentinels may be what has gone.
                let client = move || {
                    let kind = SentinelServerType::Master;
                    let mut builder = SentinelClientBuilder::new(addresses.clone(), &master, kind)?;
                    builder = builder.set_client_to_redis_db(i64::from(database));
                    if let Some(user) = &user {
                        builder = builder.set_client_to_redis_username(user);
                    }
                    if let Some(password) = &password {
                        builder = builder.set_client_to_redis_password(password);
                    }
                    if let Some(user) = &sentinels_user {
                        builder = builder.set_client_to_sentinel_username(user);
                    }
                    if let Some(password) = &sentinels_password {
                        builder = builder.set_client_to_sentinel_password(password);
                    }
                    if tls {
                        builder = builder
                            .set_client_to_redis_tls_mode(TlsMode::Secure)
                            .set_client_to_redis_certificates(certificates.clone())
                            .set_client_to_sentinel_certificates(certificates.clone());
                    }
                    builder.build()
                };
                client()?;
                Ok(Reached::Sentinel(Box::new(client)))
            }
            Topology::Cluster => {
                let mut builder = ClusterClient::builder(infos)
                    .connection_timeout(connect_within)
                    .response_timeout(bound)
                    .overall_response_timeout(Some(bound * 2));
                if *tls {
                    builder = builder.certs(certificates());
                }
                Ok(Reached::Cluster(Box::new(builder.build()?)))
            }
        }
    }

    async fn connect(&self, within: Duration) -> Result<AnyConnection, RedisError> {
        // Each call has a bound of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(within))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING);
        match self {
            Reached::One(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(AnyConnection::One)
            }
            Reached::Sentinel(client) => {
                client()?.get_async_connection_with_config(&config).await.map(AnyConnection::One)
            }
            Reached::Cluster(client) => client.get_async_connection().await.map(AnyConnection::Cluster),
        }
    }
}
