//! The clients' connections: each request's head is read here first, and then it is the gateway's own or pingora's.
//!
//! Every head of HTTP/1 is judged in `listener/request_head.rs`: how long it is, whether it can be read in one way only, and where its request ends.
//! The gateway's own are the plain sends and resends (`listener/plain.rs`): of HTTP/1.1, with one length, whole, and with nothing about them
//! that would need a second thought. It answers them itself, in one write. The rest goes to pingora byte for byte as it came, which
//! reads it again: other routes, chunks, `Expect`. Both ways end in the same code (`gateway/limited.rs`), and a connection may change between
//! them with every request. pingora has a connection for one request at a time, and never waits for a head.
//!
//! Why: pingora makes a session, a context and a future of several kilobytes anew for each request, before any code of the gateway runs.
//! That is most of what a refusal used to cost, and of what an idle connection keeps. See docs/decisions.

pub(crate) mod body_watch;
pub(crate) mod connection;
pub(crate) mod fast_path;
mod frames;
mod guarded;
mod http2;
pub(crate) mod pace;
pub(crate) mod passthrough;
pub(crate) mod plain;
pub(crate) mod proxy;
pub(crate) mod request_head;
pub(crate) mod session;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Cache;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;

use crate::gateway::Gateway;
use crate::gateway::reply::Reply;
use crate::gateway::settings::Settings;
use connection::{Next, Wire};
use fast_path::Own;
use plain::Plain;
use proxy::Proxy;
use request_head::Framing;

/// How long a connection may be idle once another process has taken over.
const LAST_REQUEST: Duration = Duration::from_secs(5);

/// See the module's documentation.
pub(crate) struct Front {
    gateway: Arc<Gateway>,
    proxy: Arc<HttpProxy<Proxy>>,
}

impl Front {
    /// A front of this gateway, with pingora's proxy behind it.
    pub(crate) fn new(gateway: Arc<Gateway>, conf: Arc<ServerConf>) -> Self {
        let mut proxy = HttpProxy::new(Proxy(Arc::clone(&gateway)), conf);
        proxy.handle_init_modules();
        Self { gateway, proxy: Arc::new(proxy) }
    }

    /// Serves a plain request. Returns whether the connection stands for another.
    async fn serve(&self, settings: &Arc<Settings>, wire: &mut Wire, plain: Plain, peer: Option<IpAddr>) -> bool {
        let mut own = Own::new(&self.gateway, settings, wire, &plain, peer);
        own.serve(&plain.call).await;
        let keeps = own.keeps();
        wire.next_request(plain.length());
        keeps
    }

    /// Lets pingora serve a request. Returns the connection, if it stands for another.
    async fn pass(
        &self,
        mut wire: Wire,
        framing: Framing,
        settings: &Settings,
        shutdown: &ShutdownWatch,
    ) -> Option<Wire> {
        wire.lend(framing, settings.config.clients.min_rate);
        let reused = self.proxy.process_new_http(session(Box::new(wire)), shutdown).await?;
        let (stream, _) = reused.consume();
        let mut wire = stream.into_any().downcast::<Wire>().ok().filter(|wire| wire.is_whole())?;
        wire.next_request(0);
        Some(*wire)
    }
}

fn session(stream: Stream) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    // Until its head is read, which is here already; then the request's own settings hold.
    session.set_keepalive(Some(60));
    session
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            // Boxed: a connection of HTTP/1 should not have room for it.
            Box::pin(http2::serve(self, stream, shutdown)).await;
            return None;
        }
        let peer = stream.get_socket_digest().and_then(|digest| match digest.peer_addr()? {
            SocketAddr::Inet(address) => Some(address.ip()),
            SocketAddr::Unix(_) => None,
        });
        let mut wire = Wire::new(stream, self.gateway.clock.clone());
        // Asked before each request whether they still stand: that is a look at a pointer. They stay where they are while it lasts.
        let mut settings = Cache::new(&self.gateway.settings);
        let mut stopping = shutdown.clone();
        let mut is_stopping = false;
        let mut stop = pin!(stopping.wait_for(|stops| *stops));
        loop {
            let clients = &settings.load().config.clients;
            let patience = if is_stopping { LAST_REQUEST } else { clients.keep_alive };
            let next = tokio::select! {
                biased;
                next = wire.next(patience, clients.header_timeout) => next,
                _ = &mut stop, if !is_stopping => {
                    if !self.gateway.gate.leads_away() {
                        return None;
                    }
                    // Another process has the sockets. This connection's next request may be on its way: it is answered, and told to
                    // come back there.
                    is_stopping = true;
                    continue;
                }
            };
            match next {
                Next::Plain(plain) => {
                    if !self.serve(settings.load(), &mut wire, plain, peer).await {
                        return None;
                    }
                }
                // Boxed: it is large, and a connection that is idle should not be.
                Next::Passing(framing) => {
                    wire = Box::pin(self.pass(wire, framing, settings.load(), shutdown)).await?;
                }
                Next::Refused(refused) => {
                    let reply = refused.reply();
                    Own::turn_away(&self.gateway, settings.load(), &mut wire, peer, (refused.method, reply)).await;
                    return None;
                }
                Next::Late => {
                    let late = ("", Reply::head_timeout());
                    Own::turn_away(&self.gateway, settings.load(), &mut wire, peer, late).await;
                    return None;
                }
                Next::Closed => return None,
            }
        }
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
