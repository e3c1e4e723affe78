//! Accepting connections: each is admitted or closed at once, has a deadline for its TLS handshake, and then is its application's.
//!
//! pingora's `Service` has a loop of its own. It counts nothing, closes nothing at a cap, and gives a handshake 60 s; and what it calls
//! before a handshake does not learn when the connection ends.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::accepted::Accepted;
use super::proxy_protocol::{self, NoHeader, ProxyHeader};

/// How many connections may wait in the kernel to be accepted. It takes `net.core.somaxconn` where that is less.
const BACKLOG: i32 = 65_535;

/// How long to wait where the system has no descriptor for another connection. Without it the loop would spin.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Who decides whether a connection is taken, and counts it for as long as it lives.
pub(super) trait Admission: Send + Sync + 'static {
    /// Counts a connection until it is dropped.
    type Admitted: Send + 'static;

    /// Counts a connection of this peer. `None` closes it.
    fn admit(&self, peer: IpAddr) -> Option<Self::Admitted>;

    /// Whether this peer has to say in a header of the PROXY protocol whose connection it is.
    fn sends_proxy_header(&self, _peer: IpAddr) -> bool {
        false
    }

    /// Counts a connection to the client whose it is, as that header says. `false` closes it.
    fn admit_behind_proxy(&self, _client: IpAddr, _admitted: &mut Self::Admitted) -> bool {
        true
    }

    /// The header did not come, or not in time, or is none.
    fn proxy_header_was_unread(&self) {}

    /// How long a TLS handshake may take, and the header before it.
    fn handshake_timeout(&self) -> Duration;

    /// A TLS handshake did not end in time.
    fn handshake_was_late(&self);
}

/// A listening socket, and what becomes of its connections.
pub(super) struct Listener<A, D> {
    socket: tokio::net::TcpListener,
    app: Arc<A>,
    admission: Arc<D>,
    tls: Option<Arc<Acceptor>>,
}

impl<A: ServerApp + Send + Sync + 'static, D: Admission> Listener<A, D> {
    /// # Errors
    /// What is wrong with the socket.
    pub(super) fn new(socket: TcpListener, app: A, admission: D, tls: Option<Acceptor>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // It listens already, with the standard library's backlog of 128.
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            socket: tokio::net::TcpListener::from_std(socket)?,
            app: Arc::new(app),
            admission: Arc::new(admission),
            tls: tls.map(Arc::new),
        })
    }

    /// Accepts connections until it is told to stop. Those that were accepted go on.
    pub(super) async fn serve(self, mut shutdown: ShutdownWatch) {
        let watch = shutdown.clone();
        let stop = shutdown.wait_for(|stops| *stops);
        tokio::select! {
            _ = stop => {}
            () = self.accept_all(&watch) => {}
        }
        let Self { socket, app, .. } = self;
        drop(socket);
        app.cleanup().await;
    }

    async fn accept_all(&self, shutdown: &ShutdownWatch) {
        loop {
            match self.socket.accept().await {
                Ok((tcp, peer)) => self.accept(tcp, peer, shutdown),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    sleep(NO_DESCRIPTOR).await;
                }
            }
        }
    }

    fn accept(&self, tcp: TcpStream, peer: SocketAddr, shutdown: &ShutdownWatch) {
        // Dropping a connection closes it.
        let Some(mut admitted) = self.admission.admit(peer.ip().to_canonical()) else { return };
        let (app, admission, tls) = (Arc::clone(&self.app), Arc::clone(&self.admission), self.tls.clone());
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            let has_header = admission.sends_proxy_header(peer.ip().to_canonical());
            let (tcp, client) = match has_header {
                false => (tcp, peer),
                true => match Box::pin(read_proxy_header(tcp, peer, &*admission, &mut admitted)).await {
                    Some(told) => told,
                    None => return,
                },
            };
            let Ok(accepted) = Accepted::new(tcp, client) else { return };
            let _admitted = admitted;
            let stream: Stream = match tls {
                None => Box::new(accepted),
                // Boxed: a handshake is large, and soon over.
                Some(tls) => match Box::pin(shake_hands(&tls, accepted, &*admission)).await {
                    Some(stream) => stream,
                    None => return,
                },
            };
            drop(admission);
            let mut next = app.process_new(stream, &shutdown).await;
            while let Some(stream) = next {
                next = app.process_new(stream, &shutdown).await;
            }
        });
    }
}

/// Finds out from a proxy's header whose connection it is. `None` closes it.
async fn read_proxy_header<D: Admission>(
    mut tcp: TcpStream,
    proxy: SocketAddr,
    admission: &D,
    admitted: &mut D::Admitted,
) -> Option<(TcpStream, SocketAddr)> {
    match timeout(admission.handshake_timeout(), proxy_protocol::read(&mut tcp)).await {
        Ok(Ok(ProxyHeader::Nothing)) => Some((tcp, proxy)),
        Ok(Ok(ProxyHeader::Client(client))) => {
            admission.admit_behind_proxy(client.ip(), admitted).then_some((tcp, client))
        }
        Ok(Err(NoHeader::Closed)) => None,
        Ok(Err(NoHeader::Malformed)) | Err(_) => {
            admission.proxy_header_was_unread();
            None
        }
    }
}

async fn shake_hands(tls: &Acceptor, accepted: Accepted, admission: &impl Admission) -> Option<Stream> {
    match timeout(admission.handshake_timeout(), tls.tls_handshake(accepted)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            admission.handshake_was_late();
            None
        }
    }
}

/// Whether an error of `accept` is about the connection that it would have returned (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
