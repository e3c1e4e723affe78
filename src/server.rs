//! The wiring: from a configuration and its sockets to a gateway that serves.
//!
//! pingora's services run on the caller's runtime. Its own `Server` is left out: it sleeps out a fixed grace period when it is
//! told to stop, and panics inside a task where a socket cannot be bound.

mod reload;
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora::apps::HttpServerOptions;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::Fds;
use pingora::server::configuration::ServerConf;
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::board::Board;
use crate::admin::{Admin, Draining};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::front::Front;
pub use reload::{Applied, Prepared, Reload};
use tls::{Certificate, Shown};

/// How often the upstream's addresses are looked up; while none is known, much more often.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// How often the counters are looked at, for the status page.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The write buffer of a connection, in bytes: an answer's head and the body of nearly all that Sendly says leave in one write.
const WRITE_BUFFER: usize = 2048;

/// Its read buffer. pingora reads heads and bodies into buffers that they have anyway; its 64 KiB in front of those would be most
/// of what an idle connection costs.
const READ_BUFFER: usize = 0;

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

/// A gateway that serves. Dropping it stops it at once, and writes out what its access log holds.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin_address: SocketAddr,
    gateway: Arc<Gateway>,
    reload: Reload,
    draining: Draining,
    /// Stops the clients' listener.
    stop: watch::Sender<bool>,
    /// Stops the operators' listener: only at the very end, since a drain is what they want to see.
    close: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts a gateway on the current runtime.
///
/// # Errors
/// What is wrong with a certificate, a socket or the way to the upstream.
pub async fn start(config: Config, sockets: Sockets, clock: Clock) -> Result<Running, String> {
    let (address, admin_address) = (local(&sockets.proxy)?, local(&sockets.admin)?);
    let certificate = config.tls.as_ref().map(Certificate::read).transpose()?;
    let shown = certificate.as_ref().map(Shown::new);
    let conf = Arc::new(ServerConf {
        threads: config.workers,
        upstream_keepalive_pool_size: config.upstream.max_idle,
        ca_file: config.upstream.ca_file.as_ref().map(|file| file.display().to_string()),
        // Of connecting; and of an idempotent request whose reused connection was dead. Never of a POST.
        max_retries: 2,
        ..ServerConf::default()
    });
    let keep_alive = config.clients.keep_alive;
    let gateway = Gateway::new(config, clock)?;
    // The first requests are to find it, if it can be found.
    gateway.has_tried_ledger().await;
    if let Some(certificate) = certificate {
        gateway.shows_certificate(certificate.expires);
    }
    let draining = Draining::default();
    let ((stop, stopping), (close, closing)) = (watch::channel(false), watch::channel(false));

    // HTTP/1.1 connections get theirs from each request; pingora keeps idle HTTP/2 ones for ever.
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(keep_alive);
    let mut proxy = Service::new("proxy".to_owned(), Front::new(Arc::clone(&gateway), conf, options));
    let mut fds = Fds::new();
    let mut listener = ListenerConfig::tcp(hand_over(&mut fds, sockets.proxy)?);
    if let Some(shown) = &shown {
        listener = listener.tls(tls::settings(Arc::clone(shown))?);
    }
    proxy.add_listener(listener.l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER)));
    let board = Arc::new(Board::new(Arc::clone(&gateway)));
    let admin = Admin::new(Arc::clone(&gateway), draining.clone(), Arc::clone(&board));
    let mut admin = Service::new("admin".to_owned(), admin);
    admin.add_listener(ListenerConfig::tcp(hand_over(&mut fds, sockets.admin)?));

    let fds = Arc::new(Mutex::new(fds));
    let proxy_fds = Arc::clone(&fds);
    let tasks = vec![
        tokio::spawn(async move { proxy.start_service(Some(proxy_fds), stopping, 1).await }),
        tokio::spawn(async move { admin.start_service(Some(fds), closing, 1).await }),
        tokio::spawn(sweep(Arc::clone(&gateway))),
        tokio::spawn(resolve(Arc::clone(&gateway))),
        tokio::spawn(look(board)),
    ];
    let reload = Reload { gateway: Arc::clone(&gateway), shown, turn: Arc::default() };
    Ok(Running { address, admin_address, gateway, reload, draining, stop, close, tasks })
}

impl Running {
    /// The gateway itself.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// What gives it another configuration.
    pub fn reload(&self) -> &Reload {
        &self.reload
    }

    /// Takes no more connections from clients, as of this call; and waits until nothing is in flight any more, but no longer than
    /// `patience`. Returns how many requests and exchanges were still in flight then.
    pub fn drain(self, patience: Duration) -> impl Future<Output = usize> {
        self.draining.begin();
        self.stop.send_replace(true);
        async move {
            let work = self.gateway.work();
            match tokio::time::timeout(patience, work.none_left()).await {
                Ok(()) => 0,
                Err(_) => work.count(),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.close.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        self.gateway.access().close();
    }
}

async fn sweep(gateway: Arc<Gateway>) {
    loop {
        gateway.sweep().await;
        tokio::time::sleep(gateway.sweep_every()).await;
    }
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

/// Gives a bound socket to pingora, under the name by which its listener asks for it.
fn hand_over(fds: &mut Fds, listener: TcpListener) -> Result<String, String> {
    let name = local(&listener)?.to_string();
    let non_blocking: io::Result<()> = listener.set_nonblocking(true);
    non_blocking.map_err(|error| error.to_string())?;
    fds.add(name.clone(), listener.into_raw_fd());
    Ok(name)
}
