//! A plain request and its client: its body is read from the wire, and its answer written in one piece.

use std::future::{Future, pending};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONNECTION, DATE};
use pingora::protocols::http::date::get_cached_date;
use tokio::io::AsyncWriteExt;

use super::connection::Wire;
use super::plain::Plain;
use crate::api::path::ApiCall;
use crate::gateway::downstream::{Caller, DRAIN_FOR, LINGER, LINGER_FOR, NoBody, within};
use crate::gateway::reply::Reply;
use crate::gateway::settings::Settings;
use crate::gateway::{Gateway, Request, limited};
use crate::http1::fields::Fields;
use crate::metrics::Outcome;

/// How many bytes of its next requests a client may send ahead before it is not watched any more.
const AHEAD: usize = 16 * 1024;

/// See the module's documentation.
pub(crate) struct Own<'w> {
    gateway: &'w Arc<Gateway>,
    settings: &'w Arc<Settings>,
    wire: &'w mut Wire,
    plain: &'w Plain,
    peer: Option<IpAddr>,
    keeps: bool,
    /// The status that the client was told, and the bytes of that answer's body.
    told: Option<(StatusCode, usize)>,
}

impl<'w> Own<'w> {
    pub(crate) fn new(
        gateway: &'w Arc<Gateway>,
        settings: &'w Arc<Settings>,
        wire: &'w mut Wire,
        plain: &'w Plain,
        peer: Option<IpAddr>,
    ) -> Self {
        Self { gateway, settings, wire, plain, peer, keeps: true, told: None }
    }

    /// Whether the connection stands for another request.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Serves it, to its line in the log.
    pub(crate) async fn serve(&mut self, call: &ApiCall) {
        let (gateway, settings) = (self.gateway, self.settings);
        let mut request = Request::default();
        gateway.begin(&mut request);
        request.operation = call.operation;
        let served = match gateway.throttle(settings, self, &mut request) {
            Some(reply) => self.refuse(reply).await,
            None => limited::serve(gateway, settings, self, &mut request, call).await,
        };
        if served.is_err() {
            request.outcome = Outcome::Abandoned;
            self.keeps = false;
        }
        let (status, bytes) = self.told.map_or((0, 0), |(status, bytes)| (status.as_u16(), bytes));
        gateway.tell(&request, "POST", status, bytes);
    }

    /// Tells a client whose head is no request that is served, and closes. Of a head that cannot be read, the method is not known.
    pub(crate) async fn turn_away(
        gateway: &Gateway,
        settings: &Settings,
        wire: &mut Wire,
        peer: Option<IpAddr>,
        (method, reply): (&'static str, Reply),
    ) {
        let mut request = Request::default();
        gateway.begin(&mut request);
        (request.outcome, request.client) = (Outcome::Rejected, peer.map(|peer| peer.to_canonical()));
        let told = write(wire, &answer(&reply, false), settings.config.clients.write_timeout).await;
        gateway.tell(&request, method, reply.status.as_u16(), told.as_ref().map_or(0, |()| reply.body.len()));
        drop(request);
        if told.is_ok() {
            linger(wire).await;
        }
    }

    fn head(&self) -> &[u8] {
        self.wire.unread().get(..self.plain.head).unwrap_or_default()
    }

    /// Reads until all of the request is there.
    async fn read_whole(&mut self) -> io::Result<()> {
        while self.wire.unread().len() < self.plain.length() {
            if self.wire.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Caller for Own<'_> {
    type Error = io::Error;

    fn fields(&self) -> Fields<'_> {
        Fields::Plain(self.head(), &self.plain.fields)
    }

    fn path(&self) -> &str {
        std::str::from_utf8(self.plain.path.of(self.head())).unwrap_or_default()
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    async fn read_body(&mut self, patience: Duration) -> Result<(), NoBody<io::Error>> {
        match within(patience, self.read_whole()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(NoBody::Broken(error)),
            None => Err(NoBody::Late),
        }
    }

    fn body(&self) -> &[u8] {
        self.wire.unread().get(self.plain.head..self.plain.length()).unwrap_or_default()
    }

    async fn gone(&mut self) {
        while self.wire.unread().len() < self.plain.length() + AHEAD {
            if !matches!(self.wire.more().await, Ok(1..)) {
                return;
            }
        }
        pending().await
    }

    fn part(&mut self) {
        self.keeps = false;
    }

    async fn tell(&mut self, reply: &Reply) -> io::Result<()> {
        self.keeps &= !self.gateway.is_draining();
        let answer = answer(reply, self.keeps);
        // Also what it would have been told, if that fails.
        self.told = Some((reply.status, 0));
        write(self.wire, &answer, self.settings.config.clients.write_timeout).await?;
        self.told = Some((reply.status, reply.body.len()));
        Ok(())
    }

    async fn dismiss(&mut self, reply: &Reply) -> io::Result<()> {
        self.keeps = false;
        self.tell(reply).await?;
        let patience = self.settings.config.clients.write_timeout;
        within(patience, self.wire.stream().shutdown()).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn refuse(&mut self, reply: Reply) -> io::Result<()> {
        match within(DRAIN_FOR, self.read_whole()).await {
            Some(Ok(())) => self.tell(&reply).await,
            _ => self.close_with(reply).await,
        }
    }

    async fn close_with(&mut self, reply: Reply) -> io::Result<()> {
        self.keeps = false;
        self.tell(&reply).await?;
        linger(self.wire).await;
        Ok(())
    }
}

/// Ends the side that sends, and waits for a client that is still sending to see it.
async fn linger(wire: &mut Wire) {
    // Whether it could be ended or not, the connection is closed next.
    let _ = wire.stream().shutdown().await;
    wire.drain(LINGER, LINGER_FOR).await;
}

fn write(wire: &mut Wire, answer: &[u8], patience: Duration) -> impl Future<Output = io::Result<()>> {
    let writing = async move {
        wire.stream().write_all(answer).await?;
        wire.stream().flush().await
    };
    async move { within(patience, writing).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) }
}

/// An answer as it stands on the wire.
fn answer(reply: &Reply, keeps: bool) -> Vec<u8> {
    let Reply { status, headers, body } = reply;
    let bodiless = matches!(*status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut wire = Vec::with_capacity(512 + body.len());
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| wire.extend_from_slice(part));
    put(&[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", status.canonical_reason().unwrap_or_default().as_bytes()]);
    for (name, value) in headers.iter().filter(|(name, _)| **name != CONNECTION) {
        put(&[b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    if !bodiless {
        put(&[b"\r\ncontent-length: ", body.len().to_string().as_bytes()]);
    }
    // RFC 9110, 6.6.1: one that has none gets one.
    if !headers.contains_key(DATE) {
        put(&[b"\r\ndate: ", get_cached_date().as_bytes()]);
    }
    put(&[b"\r\nconnection: ", if keeps { b"keep-alive" } else { b"close" }, b"\r\n\r\n"]);
    if !bodiless {
        put(&[body]);
    }
    wire
}
