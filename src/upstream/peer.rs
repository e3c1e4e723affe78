//! Where passed-through requests go: Sendly's addresses, resolved in the background, and how a connection to it behaves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::HeaderValue;
use parking_lot::RwLock;
use pingora::protocols::ALPN;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, Peer as _, PeerOptions};
use pingora::utils::tls::{WrappedX509, parse_x509};
use pingora::{Error, ErrorType};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::max_age::MaxAge;
use crate::clock::Moment;
use crate::config::{Origin, Upstream};
use crate::tls_roots::Authorities;
use crate::upstream;

/// See the module's documentation.
pub(crate) struct Peer {
    origin: Origin,
    host: HeaderValue,
    options: PeerOptions,
    /// Which settings of an upstream it belongs to, from 0: connections that were made for others are not used for it.
    generation: u64,
    /// One for each address.
    peers: RwLock<Vec<HttpPeer>>,
    turn: AtomicUsize,
    max_age: MaxAge,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Peer {
    /// The first one: it trusts whom pingora's connector was told to trust at the start.
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, String> {
        let peer = Self::of(upstream, None, 0)?;
        if let Ok(ip) = upstream.origin.host.parse::<IpAddr>() {
            peer.become_known([SocketAddr::new(ip, upstream.origin.port)]);
        }
        Ok(peer)
    }

    /// Another in its place; it trusts `others`, if there are any, instead of those of the start. If it is the same origin, its
    /// addresses are known already.
    pub(crate) fn succeed(&self, upstream: &Upstream, others: Option<&Authorities>) -> Result<Self, String> {
        // What is none, pingora would panic on.
        let readable =
            others.into_iter().flat_map(Authorities::iter).filter(|der| X509Certificate::from_der(der).is_ok());
        let trusted: Vec<WrappedX509> = readable.map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
        let trusted: Option<Arc<CaType>> = (!trusted.is_empty()).then(|| trusted.into());
        let peer = Self::of(upstream, trusted, self.generation + 1)?;
        let known: Vec<SocketAddr> = match upstream.origin.host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, upstream.origin.port)],
            Err(_) if upstream.origin == self.origin => self.addresses(),
            Err(_) => Vec::new(),
        };
        peer.become_known(known);
        Ok(peer)
    }

    fn of(upstream: &Upstream, trusted: Option<Arc<CaType>>, generation: u64) -> Result<Self, String> {
        let mut options = PeerOptions::new();
        options.alpn = ALPN::H1;
        options.ca = trusted;
        options.connection_timeout = Some(upstream.connect_timeout);
        options.total_connection_timeout = Some(upstream.connect_timeout);
        options.read_timeout = Some(upstream.read_timeout);
        options.write_timeout = Some(upstream.write_timeout);
        options.idle_timeout = Some(upstream.idle_timeout);
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        let host = upstream::authority(&upstream.origin)?;
        Ok(Self {
            host: HeaderValue::try_from(host.as_str()).map_err(|error| error.to_string())?,
            options,
            generation,
            peers: RwLock::default(),
            turn: AtomicUsize::new(0),
            max_age: MaxAge::new(upstream.max_age),
            origin: upstream.origin.clone(),
        })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let inet = |peer: &HttpPeer| peer.address().as_inet().copied();
        self.peers.read().iter().filter_map(inet).collect()
    }

    fn become_known(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let peer = |address| {
            // An empty name would switch the verification of certificates off; the config refuses an empty host.
            let mut peer = HttpPeer::new(address, self.origin.tls, self.origin.host.clone());
            peer.options = self.options.clone();
            peer
        };
        *self.peers.write() = addresses.into_iter().map(peer).collect();
    }

    /// What Sendly is called in a `Host` header.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    pub(crate) fn is_known(&self) -> bool {
        !self.peers.read().is_empty()
    }

    pub(crate) fn has_another(&self) -> bool {
        self.peers.read().len() > 1
    }

    /// Looks the addresses up. What was known stays if that fails: an old address is better than none.
    pub(crate) async fn resolve(&self) -> bool {
        let Origin { host, port, .. } = &self.origin;
        match tokio::net::lookup_host((host.as_str(), *port)).await {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                if !found.is_empty() {
                    self.become_known(found);
                }
            }
            Err(error) => tracing::warn!(host, %error, "the upstream's name cannot be resolved"),
        }
        self.is_known()
    }

    /// The next address in turn, for a request that begins now.
    pub(crate) fn choose(&self, now: Moment) -> pingora::Result<Box<HttpPeer>> {
        let peers = self.peers.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(peers.len());
        let mut peer = turn.and_then(|turn| peers.get(turn)).cloned();
        if let Some(peer) = &mut peer {
            // pingora's pool does not know how old a connection is, but keeps those of other groups apart: they are closed when they have
            // been idle. A period has fewer than 40 bits for thousands of years.
            peer.group_key = self.generation << 40 | self.max_age.period(now);
        }
        peer.map(Box::new)
            .ok_or_else(|| Error::explain(ErrorType::HTTPStatus(502), "no address of the upstream is known"))
    }
}
