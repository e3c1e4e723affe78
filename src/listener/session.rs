//! The client's side of a request that pingora reads: its connection's settings, its body, its answer.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::proxy::Session;

use crate::api::body::MAX_REQUEST;
use crate::config::Clients;
use crate::gateway::downstream::{Caller, DRAIN, DRAIN_FOR, LINGER, LINGER_FOR, NoBody, within};
use crate::gateway::reply::Reply;
use crate::http1::fields::{self, Fields};

/// Sets what pingora leaves unset.
pub(crate) fn prepare(session: &mut Session, clients: &Clients, is_draining: bool) {
    // Idle connections are kept for ever after their first request unless every request says otherwise; but one that is
    // to be closed stays so.
    if is_draining {
        session.set_keepalive(None);
    } else if session.get_keepalive().is_some() {
        session.set_keepalive(Some(clients.keep_alive.as_secs().max(1)));
    }
    session.set_read_timeout(Some(clients.body_timeout));
    session.set_write_timeout(Some(clients.write_timeout));
    // Bytes behind the body are the next request: they must not break this one off.
    session.set_pipelining_enabled(true);
}

/// The path that a request asks for, if its target has one of the forms that a target may have here: `/path`; `http://host/path`,
/// as to a proxy; `*`, of OPTIONS. pingora reads no path in any other, but would send it on as it came, and a more lenient server
/// may find one in it (`x:/api/v1/verify`, `api/v1/verify`).
pub(crate) fn path(session: &Session) -> Option<&str> {
    let header = session.req_header();
    let target = header.raw_path();
    let starts =
        |scheme: &str| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()));
    let has_form = match target {
        b"*" => header.method == Method::OPTIONS,
        target => target.first() == Some(&b'/') || starts("http://") || starts("https://"),
    };
    (has_form && target.is_ascii()).then(|| header.uri.path())
}

/// Whether it tells its length at most once, as every reader reads it. Of HTTP/1 the own reader has let no other pass; over HTTP/2 the
/// length frames nothing, but pingora would pass it on as it came to an upstream where it does.
pub(crate) fn has_clear_length(session: &Session) -> bool {
    let mut lengths = session.req_header().headers.get_all(header::CONTENT_LENGTH).iter();
    lengths.next().is_none_or(|length| fields::content_length(length.as_bytes()).is_some()) && lengths.next().is_none()
}

/// Where a request comes from.
fn peer(session: &Session) -> Option<IpAddr> {
    match session.client_addr()? {
        SocketAddr::Inet(address) => Some(address.ip()),
        SocketAddr::Unix(_) => None,
    }
}

/// A request that pingora has read, and its body.
pub(crate) struct Streamed<'s> {
    session: &'s mut Session,
    body: Bytes,
}

impl<'s> Streamed<'s> {
    /// A request whose body has not been read.
    pub(crate) fn new(session: &'s mut Session) -> Self {
        Self { session, body: Bytes::new() }
    }
}

impl Caller for Streamed<'_> {
    type Error = Box<pingora::Error>;

    fn fields(&self) -> Fields<'_> {
        Fields::Map(&self.session.req_header().headers)
    }

    fn path(&self) -> &str {
        self.session.req_header().uri.path()
    }

    fn peer(&self) -> Option<IpAddr> {
        peer(self.session)
    }

    async fn read_body(&mut self, patience: Duration) -> Result<(), NoBody<Self::Error>> {
        let session = &mut *self.session;
        let announced =
            session.get_header(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > MAX_REQUEST as u64) {
            return Err(NoBody::Refused(Reply::body_too_large()));
        }
        expect_continue(session).await.map_err(NoBody::Broken)?;
        let read = async {
            let mut body = BytesMut::new();
            while let Some(bytes) = session.read_request_body().await.map_err(|error| error.into_down())? {
                if body.len() + bytes.len() > MAX_REQUEST {
                    return Ok::<_, Box<pingora::Error>>(None);
                }
                // Nearly always it comes at once.
                if body.is_empty() && session.is_body_done() {
                    return Ok(Some(bytes));
                }
                body.extend_from_slice(&bytes);
            }
            Ok(Some(body.freeze()))
        };
        match within(patience, read).await {
            Some(Ok(Some(body))) => self.body = body,
            Some(Ok(None)) => return Err(NoBody::Refused(Reply::body_too_large())),
            Some(Err(error)) if *error.etype() == pingora::ErrorType::ReadTimedout => return Err(NoBody::Late),
            Some(Err(error)) => return Err(NoBody::Broken(error)),
            None => return Err(NoBody::Late),
        }
        Ok(())
    }

    fn body(&self) -> &[u8] {
        &self.body
    }

    async fn gone(&mut self) {
        // Any way of returning means it: while the client is there and silent, this does not return. Nor does it once the client has
        // sent the bytes of its next request: from then on pingora does not watch it any more.
        let _ = self.session.read_body_or_idle(true).await;
    }

    fn part(&mut self) {
        self.session.set_keepalive(None);
    }

    async fn tell(&mut self, reply: &Reply) -> pingora::Result<()> {
        write(self.session, reply.clone()).await
    }

    async fn dismiss(&mut self, reply: &Reply) -> pingora::Result<()> {
        self.session.set_keepalive(None);
        write(self.session, reply.clone()).await?;
        if !self.session.is_http2() {
            self.session.as_downstream_mut().shutdown().await;
        }
        Ok(())
    }

    async fn refuse(&mut self, reply: Reply) -> pingora::Result<()> {
        refuse(self.session, reply).await
    }

    async fn close_with(&mut self, reply: Reply) -> pingora::Result<()> {
        close_with(self.session, reply).await
    }
}

/// Whether the client waits for leave to send its body (RFC 9110, 10.1.1). One of HTTP/1.0 knows of no such thing, and of HTTP/2
/// none that this gateway serves does it.
fn waits_for_leave(session: &Session) -> bool {
    session.req_header().version == Version::HTTP_11
        && session
            .get_header(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Tells a client that waits for leave to send its body to go on. pingora never does.
pub(crate) async fn expect_continue(session: &mut Session) -> pingora::Result<()> {
    if waits_for_leave(session) {
        // Or pingora takes the 100 for an answer that came too early, and closes.
        session.set_close_on_response_before_downstream_finish(false);
        session.write_continue_response().await.map_err(|error| error.into_down())?;
        session.set_close_on_response_before_downstream_finish(true);
    }
    Ok(())
}

/// Answers a request whose body nobody wants, if there is more of it. A body of a reasonable size is read away first, and the
/// connection lives on.
pub(crate) async fn refuse(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    // One that waits for leave has its answer now; whether it sends the body all the same is not known.
    let drained = !waits_for_leave(session) && drain(session, DRAIN, DRAIN_FOR).await;
    if drained || session.is_body_done() {
        return write(session, reply).await;
    }
    close_with(session, reply).await
}

/// Answers a request whose body has not come, or not all of it, and closes the connection: first the side that sends, so that
/// a client that is still sending sees the answer instead of a broken pipe.
pub(crate) async fn close_with(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    session.set_keepalive(None);
    write(session, reply).await?;
    if !session.is_http2() {
        session.as_downstream_mut().shutdown().await;
        drain(session, LINGER, LINGER_FOR).await;
    }
    Ok(())
}

/// Reads and forgets the rest of a body. Returns whether that was all of it.
async fn drain(session: &mut Session, most: usize, patience: Duration) -> bool {
    let read = async {
        let mut left = most;
        while let Some(bytes) = session.read_request_body().await.ok()? {
            left = left.checked_sub(bytes.len())?;
        }
        Some(())
    };
    within(patience, read).await.flatten().is_some()
}

/// The status that the client has been told, if it has been told any. That it may send its body is none yet.
pub(crate) fn told(session: &Session) -> Option<StatusCode> {
    session.response_written().map(|header| header.status).filter(|status| !status.is_informational())
}

/// Writes a whole answer.
pub(crate) async fn write(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    write_all(session, reply).await.map_err(|error| error.into_down())
}

async fn write_all(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    let bodiless = reply.status == StatusCode::NO_CONTENT || reply.status == StatusCode::NOT_MODIFIED;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers) = (reply.status, reply.headers);
    if !bodiless {
        parts.headers.insert(header::CONTENT_LENGTH, reply.body.len().into());
    }
    let end = bodiless || reply.body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(ResponseHeader::from(parts)), end).await?;
    if end {
        return Ok(());
    }
    session.write_response_body(Some(reply.body), true).await
}
