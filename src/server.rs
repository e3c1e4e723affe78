//! The wiring: from a configuration and its sockets to a gateway that serves.
//!
//! What serves runs on the caller's runtime. pingora's own `Server` is left out: it sleeps out a fixed grace period when it is
//! told to stop, and panics inside a task where a socket cannot be bound. Its `Service` is, too: see `server/accept.rs`.

mod accept;
mod accepted;
mod proxy_protocol;
mod reload;
mod tls;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pingora::listeners::tls::TlsSettings;
use pingora::server::configuration::ServerConf;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::admin::connection::Connections;
use crate::admin::history::Board;
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::caps::Admitted;
use crate::gateway::{self, Gateway};
use crate::handover::{self, Attempt, Estate, Given, NotTaken};
use crate::listener::Front;
use crate::metrics::{Late, TurnedAway, Unread};
use crate::policy::subject::HashKey;
use accept::{Admission, Listener};
pub use reload::{Applied, Prepared, Reloader};
use tls::{Certificate, Shown};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// How often the upstream's addresses are looked up; while none is known, much more often.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// How often the counters are looked at, for the status page.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long spans wait for a batch to fill, at most; and how long the last of them may take to be told.
const TELL_SPANS_EVERY: Duration = Duration::from_secs(1);
const LAST_SPANS: Duration = Duration::from_secs(2);

/// How often what was written of the state is made to outlive the machine.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Connections to the admin listener, at most: a few scrapers, probes and browsers. They have descriptors of their own, which clients cannot
/// take (`config/file/capacity.rs`).
const ADMIN_CONNECTIONS: usize = 64;

/// Bound sockets, not served yet.
#[derive(Debug)]
pub struct Sockets {
    proxy: TcpListener,
    admin: TcpListener,
}

impl Sockets {
    /// Binds both listeners of a configuration.
    ///
    /// # Errors
    /// The address that cannot be bound, the key that names it, and why.
    pub fn bind(config: &Config) -> Result<Self, String> {
        let bind = |key: &str, address: SocketAddr| {
            TcpListener::bind(address).map_err(|error| format!("{key}: {address}: {error}"))
        };
        Ok(Self { proxy: bind("listen", config.listen)?, admin: bind("admin.listen", config.admin.listen)? })
    }
}

/// A gateway that serves. Dropping it stops it at once, and writes out its state; codes are to be judged no more by then
/// (`Gate::stop_judging`).
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin_address: SocketAddr,
    /// The same sockets, for whoever takes over; until it stops.
    sockets: Option<Arc<Sockets>>,
    gateway: Arc<Gateway>,
    /// The process that this one has taken over from, for as long as it asks for anything.
    predecessor: TaskTracker,
    reload: Reloader,
    /// Stops the clients' listener.
    stop: watch::Sender<bool>,
    /// Stops the operators' listener: only at the very end, since a drain is what they want to see.
    close: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Reads the files that a configuration names, and returns what is wrong with each: what would keep a gateway from starting with it.
pub fn examine(config: &Config) -> Vec<String> {
    let certificate = config.tls.as_ref().map(Certificate::read).transpose();
    certificate.err().into_iter().chain(gateway::examine(config)).collect()
}

/// Starts a gateway on the current runtime.
///
/// # Errors
/// What is wrong with a certificate, a socket, the folder of the state or the way to the upstream.
pub async fn start(config: Config, sockets: Sockets, clock: Clock) -> Result<Running, String> {
    let prepared = Prepare::read(config, clock)?;
    prepared.gateway.restore()?;
    // The first requests are to find it, if it can be found.
    prepared.gateway.has_tried_ledger().await;
    Ok(prepared.bind(sockets)?.serve())
}

/// Takes over from another process, on the current runtime: its sockets, its counts, and the requests that still come to it.
///
/// # Errors
/// As of [`start`], or why the other one does not give what it has. It goes on then, and this one must not.
pub async fn take_over(mut config: Config, estate: Estate, clock: Clock) -> Result<Running, String> {
    estate.suits(&config)?;
    if let Some(drawn) = estate.drawn_key().filter(|_| config.hash_key.is_drawn()) {
        config.hash_key = HashKey::drawn(drawn);
    }
    let prepared = match Prepare::read(config, clock) {
        Ok(prepared) => prepared,
        Err(why) => return Err(estate.refuse(why)),
    };
    // Until then this process may be told to stop.
    let under_way_there = estate.under_way()?;
    let gateway = Arc::clone(&prepared.gateway);
    let taking = tokio::task::spawn_blocking(move || {
        let sockets = (estate.proxy.try_clone(), estate.admin.try_clone());
        (sockets, estate.take(&gateway))
    });
    let (sockets, taken) = taking.await.map_err(|error| error.to_string())?;
    let taken = taken?;
    let (Ok(proxy), Ok(admin)) = sockets else { return Err("the sockets cannot be used".to_owned()) };
    prepared.gateway.has_tried_ledger().await;
    // Until the old one has said that it judges no more.
    handover::snapshot::pause(&prepared.gateway).await;
    let ready = prepared.bind(Sockets { proxy, admin })?;
    let (gateway, runtime) = (Arc::clone(&ready.running.gateway), Handle::current());
    let under_way = ready.running.predecessor.token();
    let serving = tokio::task::spawn_blocking(move || taken.serves(&gateway, runtime, under_way));
    serving.await.map_err(|error| error.to_string())??;
    under_way_there.succeeded();
    let gateway = &ready.running.gateway;
    gateway.ledger.has_taken_over(&gateway.settings().policy);
    // Not a connection is taken before that: it would be cut if nothing came of it.
    Ok(ready.serve())
}

/// A gateway that could serve.
struct Prepare {
    gateway: Arc<Gateway>,
    conf: Arc<ServerConf>,
    shown: Option<Arc<Shown>>,
}

impl Prepare {
    /// # Errors
    /// What is wrong with a certificate or the way to the upstream.
    fn read(config: Config, clock: Clock) -> Result<Self, String> {
        let certificate = config.tls.as_ref().map(Certificate::read).transpose()?;
        let shown = certificate.as_ref().map(Shown::new);
        let conf = Arc::new(ServerConf {
            threads: config.workers,
            upstream_keepalive_pool_size: config.upstream.max_idle.min(config.upstream.max_connections.div_ceil(2)),
            ca_file: config.upstream.ca_file.as_ref().map(|file| file.display().to_string()),
            // Of connecting; and of an idempotent request whose reused connection was dead. Never of a POST.
            max_retries: 2,
            ..ServerConf::default()
        });
        let gateway = Gateway::new(config, clock)?;
        if let Some(certificate) = certificate {
            gateway.shows_certificate(certificate.expires);
        }
        Ok(Self { gateway, conf, shown })
    }

    /// # Errors
    /// What is wrong with a socket.
    fn bind(self, sockets: Sockets) -> Result<Ready, String> {
        let Self { gateway, conf, shown } = self;
        let (address, admin_address) = (local(&sockets.proxy)?, local(&sockets.admin)?);
        let again = Sockets {
            proxy: sockets.proxy.try_clone().map_err(|error| error.to_string())?,
            admin: sockets.admin.try_clone().map_err(|error| error.to_string())?,
        };
        let ((stop, stopping), (close, closing)) = (watch::channel(false), watch::channel(false));

        let front = Front::new(Arc::clone(&gateway), conf);
        let acceptor =
            shown.as_ref().map(|shown| tls::settings(Arc::clone(shown))).transpose()?.map(TlsSettings::build);
        let admitted = ClientAdmission(Arc::clone(&gateway));
        let proxy = Listener::new(sockets.proxy, front, admitted, acceptor).map_err(|error| error.to_string())?;
        let board = Arc::new(Board::new(Arc::clone(&gateway)));
        let admin = Admin::new(Arc::clone(&gateway), Arc::clone(&board));
        let admitted = Operators { gateway: Arc::clone(&gateway), open: TaskTracker::default() };
        let admin =
            Listener::new(sockets.admin, Connections::new(admin), admitted, None).map_err(|error| error.to_string())?;

        let services: Vec<Service> = vec![
            Box::pin(proxy.serve(stopping)),
            Box::pin(admin.serve(closing)),
            Box::pin(sweep(Arc::clone(&gateway))),
            Box::pin(save(Arc::clone(&gateway))),
            Box::pin(tell_spans(Arc::clone(&gateway))),
            Box::pin(resolve(Arc::clone(&gateway))),
            Box::pin(look(board)),
        ];
        let reload = Reloader { gateway: Arc::clone(&gateway), shown, turn: Arc::default() };
        let running = Running {
            address,
            admin_address,
            sockets: Some(Arc::new(again)),
            gateway,
            predecessor: TaskTracker::default(),
            reload,
            stop,
            close,
            tasks: Vec::new(),
        };
        Ok(Ready { running, services })
    }
}

/// What a gateway does by itself, until it is stopped.
type Service = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A gateway that serves as soon as it is told to.
struct Ready {
    running: Running,
    services: Vec<Service>,
}

impl Ready {
    fn serve(self) -> Running {
        let Self { mut running, services } = self;
        running.tasks = services.into_iter().map(tokio::spawn).collect();
        running
    }
}

impl Running {
    /// The gateway itself.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// What gives it another configuration.
    pub fn reload(&self) -> &Reloader {
        &self.reload
    }

    /// Gives everything to the process that waits at a Unix socket: sockets, counts, and the requests that still come here. Returns
    /// which process that is. What is left to do then is [`leave`](Self::leave).
    ///
    /// # Errors
    /// Why nobody took over. It goes on as before.
    pub async fn hand_over(&self, socket: PathBuf, attempt: &Attempt) -> Result<u32, NotTaken> {
        let attempt = attempt.clone();
        let gateway = Arc::clone(&self.gateway);
        let sockets = self.sockets.clone().ok_or_else(|| NotTaken::Failed("it has stopped".to_owned()))?;
        let (listen, admin) = (self.address, self.admin_address);
        let runtime = Handle::current();
        let giving = tokio::task::spawn_blocking(move || {
            let given = Given { listen: (listen, sockets.proxy.as_fd()), admin: (admin, sockets.admin.as_fd()) };
            handover::give(&socket, &gateway, &given, &runtime, &attempt)
        });
        giving.await.map_err(|error| NotTaken::Failed(error.to_string()))?
    }

    /// Once another process has taken over: waits until the last connection is closed, and until the process has ended that this one took
    /// over from, which may still pass requests on; but no longer than `patience`. Returns how many connections were still open then.
    pub fn leave(mut self, patience: Duration) -> impl Future<Output = usize> {
        self.sockets = None;
        self.gateway.begin_draining();
        self.stop.send_replace(true);
        self.close.send_replace(true);
        async move {
            let (connections, work) = (self.gateway.connections(), self.gateway.work());
            let all = async {
                none_left(connections).await;
                none_left(&self.predecessor).await;
                none_left(work).await;
                self.gateway.ledger.finish_telling().await;
            };
            let left = match tokio::time::timeout(patience, all).await {
                Ok(()) => 0,
                Err(_) => connections.len(),
            };
            warn_of_untold(&self.gateway);
            tell_last_spans(&self.gateway).await;
            left
        }
    }

    /// Says that it wants no more clients, as of this call: it is not ready, and answers over HTTP/1 close their connections. It goes on to
    /// take connections and to serve them until it [drains](Self::drain).
    pub fn withdraw(&self) {
        self.gateway.begin_draining();
    }

    /// Takes no more connections from clients, as of this call; and waits until nothing is in flight any more, but no longer than
    /// `patience`. Returns how many requests and exchanges were still in flight then.
    pub fn drain(mut self, patience: Duration) -> impl Future<Output = usize> {
        // While anybody has them, the kernel takes connections.
        self.sockets = None;
        self.gateway.begin_draining();
        self.stop.send_replace(true);
        async move {
            let work = self.gateway.work();
            let all = async {
                none_left(work).await;
                self.gateway.ledger.finish_telling().await;
            };
            let left = match tokio::time::timeout(patience, all).await {
                Ok(()) => 0,
                Err(_) => work.len(),
            };
            warn_of_untold(&self.gateway);
            tell_last_spans(&self.gateway).await;
            self.gateway.gate.stop_judging().await;
            left
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.close.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        self.gateway.finish_saving();
    }
}

async fn sweep(gateway: Arc<Gateway>) {
    loop {
        gateway.sweep().await;
        tokio::time::sleep(gateway.sweep_every()).await;
    }
}

async fn save(gateway: Arc<Gateway>) {
    let mut turns = tokio::time::interval(SAVE_EVERY);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        gateway.save().await;
    }
}

async fn tell_spans(gateway: Arc<Gateway>) {
    loop {
        gateway.has_spans(TELL_SPANS_EVERY).await;
        gateway.tell_spans().await;
    }
}

/// Warns of what the ledger that gateways share has not been told: it is lost with this process.
fn warn_of_untold(gateway: &Gateway) {
    let untold = gateway.shared_ledger().map_or(0, |ledger| ledger.backlog);
    if untold > 0 {
        tracing::warn!(untold, "Redis is away: what it has yet to be told is lost");
    }
}

/// Waits until nothing is tracked. Later tokens are tracked all the same: `close` only tells the tracker that an end is awaited.
async fn none_left(tracker: &TaskTracker) {
    tracker.close();
    tracker.wait().await;
}

/// Tells the collector what it has not been told, unless it takes too long.
async fn tell_last_spans(gateway: &Gateway) {
    let _ = tokio::time::timeout(LAST_SPANS, gateway.tell_spans()).await;
}

async fn look(board: Arc<Board>) {
    let mut turns = tokio::time::interval(LOOK_EVERY);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        board.tick();
    }
}

async fn resolve(gateway: Arc<Gateway>) {
    loop {
        let known = gateway.resolve().await;
        tokio::time::sleep(if known { RESOLVE_EVERY } else { RESOLVE_AGAIN }).await;
    }
}

fn local(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}

/// Clients are admitted as their caps allow.
struct ClientAdmission(Arc<Gateway>);

impl Admission for ClientAdmission {
    type Admitted = Admitted;

    fn admit(&self, peer: IpAddr) -> Option<Admitted> {
        self.0.admit(peer)
    }

    fn sends_proxy_header(&self, peer: IpAddr) -> bool {
        self.0.settings().config().clients.sends_proxy_header(peer)
    }

    fn admit_behind_proxy(&self, client: IpAddr, admitted: &mut Admitted) -> bool {
        self.0.admit_behind_proxy(client, admitted)
    }

    fn proxy_header_was_unread(&self) {
        self.0.client_is_unread(Unread::ProxyProtocol);
    }

    fn handshake_timeout(&self) -> Duration {
        self.0.settings().config().clients.header_timeout
    }

    fn handshake_was_late(&self) {
        self.0.client_was_late(Late::Handshake);
    }
}

/// Operators are admitted up to a constant.
struct Operators {
    gateway: Arc<Gateway>,
    open: TaskTracker,
}

impl Admission for Operators {
    type Admitted = TaskTrackerToken;

    fn admit(&self, _peer: IpAddr) -> Option<TaskTrackerToken> {
        if self.open.len() < ADMIN_CONNECTIONS {
            return Some(self.open.token());
        }
        self.gateway.turn_away(TurnedAway::Admin);
        None
    }

    fn handshake_timeout(&self) -> Duration {
        self.gateway.settings().config().clients.header_timeout
    }

    fn handshake_was_late(&self) {
        self.gateway.client_was_late(Late::Handshake);
    }
}
