//! How a connection to Sendly comes about: its name, its addresses, TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Stream};
use crate::clock::Moment;
use crate::config::{Origin, Upstream};
use crate::tls_roots::Authorities;

/// How long an address is tried before the next one is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Finds the addresses of a host and a port.
type Resolve =
    Box<dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

/// Whom to connect to, and how.
pub(crate) struct Connector {
    origin: Origin,
    resolve: Resolve,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Connector {
    /// # Errors
    /// What is wrong with the origin's name.
    pub(crate) fn new(upstream: &Upstream, authorities: &Authorities) -> Result<Self, String> {
        let Upstream { origin, .. } = upstream;
        let tls = if origin.tls {
            let mut config = authorities.client_config()?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = ServerName::try_from(origin.host.clone()).map_err(|error| error.to_string())?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let resolve: Resolve =
            Box::new(|host, port| Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) }));
        Ok(Self { origin: origin.clone(), resolve, tls, timeout: timeout(upstream) })
    }

    /// The same with another way to find addresses.
    #[cfg(test)]
    pub(crate) fn resolving_by(mut self, resolve: Resolve) -> Self {
        self.resolve = resolve;
        self
    }

    /// A new connection, for exchanges until then. The name is resolved for it.
    ///
    /// # Errors
    /// Nothing was sent then, except what TLS says to begin with.
    pub(crate) async fn connect(&self, end: Moment) -> io::Result<Connection> {
        let connecting = async {
            let tcp = self.reach().await?;
            tcp.set_nodelay(true)?;
            let stream = match &self.tls {
                None => Stream::Plain(tcp),
                Some((tls, name)) => Stream::Tls(Box::new(tls.connect(name.clone(), tcp).await?)),
            };
            Ok(Connection::new(stream, end))
        };
        tokio::time::timeout(self.timeout, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Tries the addresses in turn, each with a head start. The first that answers is taken.
    async fn reach(&self) -> io::Result<TcpStream> {
        let Origin { host, port, .. } = &self.origin;
        let mut left = (self.resolve)(host.clone(), *port).await?.into_iter();
        let mut tries = JoinSet::new();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        loop {
            match left.next() {
                Some(address) => drop(tries.spawn(TcpStream::connect(address))),
                None if tries.is_empty() => return Err(failure),
                None => {}
            }
            tokio::select! {
                Some(Ok(tried)) = tries.join_next() => match tried {
                    Ok(tcp) => return Ok(tcp),
                    Err(error) => failure = error,
                },
                () = tokio::time::sleep(HEAD_START), if left.len() > 0 => {}
            }
        }
    }
}

/// The time limit for TCP and TLS together. Also where both may take equally long, connecting ends well before the exchange:
/// which of the two timers spoke first is how the gateway knows whether the request had left.
pub(crate) fn timeout(upstream: &Upstream) -> Duration {
    upstream.connect_timeout.min(upstream.exchange_timeout * 7 / 8)
}
