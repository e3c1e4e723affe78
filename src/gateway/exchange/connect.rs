//! How a connection to Sendly comes about: its name, its addresses, TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Stream};
use crate::config::{Origin, Upstream};

/// How long an address is tried before the next one is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Whom to connect to, and how.
pub(super) struct Connector {
    origin: Origin,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Connector {
    /// # Errors
    /// What is wrong with the origin's name.
    pub(super) fn new(upstream: &Upstream, authorities: &Authorities) -> Result<Self, String> {
        let Upstream { origin, .. } = upstream;
        let tls = if origin.tls {
            let mut config = tls_config(authorities)?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = ServerName::try_from(origin.host.clone()).map_err(|error| error.to_string())?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self { origin: origin.clone(), tls, timeout: timeout(upstream) })
    }

    /// A new connection.
    ///
    /// # Errors
    /// Nothing was sent then, except what TLS says to begin with.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            let tcp = self.reach().await?;
            tcp.set_nodelay(true)?;
            Ok(Connection::new(match &self.tls {
                None => Stream::Plain(tcp),
                Some((tls, name)) => Stream::Tls(Box::new(tls.connect(name.clone(), tcp).await?)),
            }))
        };
        tokio::time::timeout(self.timeout, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Tries the addresses in turn, each with a head start. The first that answers is taken.
    async fn reach(&self) -> io::Result<TcpStream> {
        let Origin { host, port, .. } = &self.origin;
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
        let mut left = found.into_iter();
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
pub(super) fn timeout(upstream: &Upstream) -> Duration {
    upstream.connect_timeout.min(upstream.exchange_timeout * 7 / 8)
}

/// TLS with the authorities that are to be trusted, without a choice of protocols yet.
pub(super) fn tls_config(authorities: &Authorities) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(authorities.roots()).with_no_client_auth())
}

/// The certificate authorities that an upstream is trusted by: those of its file, or the system's; none where TLS is not spoken. They
/// are what the file said when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// # Errors
    /// What is wrong with the file; or that the system has none.
    pub fn of(upstream: &Upstream) -> Result<Self, String> {
        if !upstream.origin.tls {
            return Ok(Self::default());
        }
        let ca_file = upstream.ca_file.as_deref();
        let certificates: Vec<CertificateDer<'static>> = match ca_file {
            Some(file) => CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| format!("{}: {error}", file.display()))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let all = Self(certificates);
        if all.roots().is_empty() {
            return Err(match ca_file {
                Some(file) => format!("{}: no certificate in it ({} unreadable)", file.display(), all.0.len()),
                None => {
                    "the system has no certificate authorities; install ca-certificates, or name a ca_file".to_owned()
                }
            });
        }
        Ok(all)
    }

    /// Each of them, as DER.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.0.iter().cloned());
        roots
    }
}
