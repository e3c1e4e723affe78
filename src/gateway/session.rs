//! The client's side of a request: its connection's settings, its body, its answer.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, AUTHORIZATION};
use http::{Method, StatusCode, Version};
use ipnet::IpNet;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::proxy::Session;

use super::reply::Reply;
use crate::config::Clients;
use crate::policy::subject::{Account, HashKey};
use crate::sendly::body::MAX_REQUEST;

/// Sets what pingora leaves unset.
pub(super) fn prepare(session: &mut Session, clients: &Clients) {
    // Idle connections are kept for ever after their first request unless every request says otherwise; but one that is
    // to be closed stays so.
    if session.get_keepalive().is_some() {
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
pub(super) fn path(session: &Session) -> Option<&str> {
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

/// Who called, as the access log and throttles know it: the peer, or, where that is a trusted proxy, the last address in
/// `X-Forwarded-For` that is not.
pub(super) fn client(session: &Session, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let peer = match session.client_addr()? {
        SocketAddr::Inet(address) => address.ip().to_canonical(),
        SocketAddr::Unix(_) => return None,
    };
    if !is_trusted(&peer) {
        return Some(peer);
    }
    // As bytes: what a client has written into the header must not hide what a proxy has added to it.
    let lines = session.req_header().headers.get_all("x-forwarded-for");
    let forwarded: Vec<&[u8]> = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).collect();
    let mut client = peer;
    for address in forwarded.iter().rev() {
        // What is no address was not written by a proxy that is to be trusted.
        let address = std::str::from_utf8(address).ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
        let Some(address) = address else { break };
        client = address.to_canonical();
        if !is_trusted(&client) {
            break;
        }
    }
    Some(client)
}

/// The account whose API key the request carries. Without a key it is the account of nobody: Sendly will say so.
pub(super) fn account(session: &Session, hash_key: &HashKey) -> Account {
    hash_key.account(session.get_header_bytes(AUTHORIZATION))
}

/// What calls, in its own words.
pub(super) fn user_agent(session: &Session) -> &str {
    session.get_header(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Why there is no body.
#[derive(Debug)]
pub(super) enum NoBody {
    /// It cannot be taken, and this says why.
    Refused(Reply),
    /// It has not come in time.
    Late,
    /// The client broke off, or its framing cannot be read.
    Broken(Box<pingora::Error>),
}

/// Reads a limited request's whole body. One that is announced as too large is not waited for.
pub(super) async fn read_body(session: &mut Session, patience: Duration) -> Result<Bytes, NoBody> {
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
        Some(Ok(Some(body))) => Ok(body),
        Some(Ok(None)) => Err(NoBody::Refused(Reply::body_too_large())),
        Some(Err(error)) if *error.etype() == pingora::ErrorType::ReadTimedout => Err(NoBody::Late),
        Some(Err(error)) => Err(NoBody::Broken(error)),
        None => Err(NoBody::Late),
    }
}

/// Waits for what nearly always is there at once: only what is not needs a timer.
async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => tokio::time::timeout(patience, work).await.ok(),
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
pub(super) async fn expect_continue(session: &mut Session) -> pingora::Result<()> {
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
pub(super) async fn refuse(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    // One that waits for leave has its answer now; whether it sends the body all the same is not known.
    let drained = !waits_for_leave(session) && drain(session, DRAIN, DRAIN_FOR).await;
    if drained || session.is_body_done() {
        return write(session, reply).await;
    }
    close_with(session, reply).await
}

/// Answers a request whose body has not come, or not all of it, and closes the connection: first the side that sends, so that
/// a client that is still sending sees the answer instead of a broken pipe.
pub(super) async fn close_with(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    session.set_keepalive(None);
    write(session, reply).await?;
    if !session.is_http2() {
        session.as_downstream_mut().shutdown().await;
        drain(session, LINGER, LINGER_FOR).await;
    }
    Ok(())
}

/// How much of an unwanted body is read before its answer, and for how long.
const DRAIN: usize = 1 << 20;
const DRAIN_FOR: Duration = Duration::from_secs(1);

/// The same after its answer: nobody waits for this, and a client that has seen the answer ends it.
const LINGER: usize = 64 << 20;
const LINGER_FOR: Duration = Duration::from_secs(5);

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

/// Resolves when the client has gone. Stays pending for as long as it is there.
pub(super) async fn gone(session: &mut Session) {
    // Any way of returning means it: while the client is there and silent, this does not return. Nor does it once the client has
    // sent the bytes of its next request: from then on pingora does not watch it any more.
    let _ = session.read_body_or_idle(true).await;
}

/// The status that the client has been told, if it has been told any. That it may send its body is none yet.
pub(super) fn told(session: &Session) -> Option<StatusCode> {
    session.response_written().map(|header| header.status).filter(|status| !status.is_informational())
}

/// Writes a whole answer.
pub(super) async fn write(session: &mut Session, reply: Reply) -> pingora::Result<()> {
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
