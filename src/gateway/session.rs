//! The client's side of a request: its connection's settings, its body, its answer.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, AUTHORIZATION};
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
    /// The client broke off, or its framing cannot be read.
    Broken(Box<pingora::Error>),
}

/// Reads a limited request's whole body.
pub(super) async fn read_body(session: &mut Session, patience: Duration) -> Result<Bytes, NoBody> {
    let announced =
        session.get_header(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_REQUEST as u64) {
        drain(session).await;
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
    match tokio::time::timeout(patience, read).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            drain(session).await;
            Err(NoBody::Refused(Reply::body_too_large()))
        }
        Ok(Err(error)) if *error.etype() == pingora::ErrorType::ReadTimedout => Err(NoBody::Refused(slow(session))),
        Ok(Err(error)) => Err(NoBody::Broken(error)),
        Err(_) => Err(NoBody::Refused(slow(session))),
    }
}

fn slow(session: &mut Session) -> Reply {
    session.set_keepalive(None);
    Reply::body_timeout()
}

/// Tells a client that waits for leave to send its body (RFC 9110, 10.1.1) to go on. pingora never does.
pub(super) async fn expect_continue(session: &mut Session) -> pingora::Result<()> {
    let waits =
        session.get_header(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits && !session.is_http2() {
        // Or pingora takes the 100 for an answer that came too early, and closes.
        session.set_close_on_response_before_downstream_finish(false);
        session.write_continue_response().await.map_err(|error| error.into_down())?;
        session.set_close_on_response_before_downstream_finish(true);
    }
    Ok(())
}

/// How much of an unwanted body is read, and for how long, so that a client that is still sending sees the answer instead of
/// a broken pipe.
const DRAIN: usize = 1 << 20;
const DRAIN_FOR: Duration = Duration::from_secs(1);

/// Reads some of a body that nobody wants.
pub(super) async fn drain(session: &mut Session) {
    if session.get_header(header::EXPECT).is_some() {
        // It has not been told to send; the answer is what it waits for.
        session.set_keepalive(None);
        return;
    }
    let read = async {
        let mut left = DRAIN;
        while let Ok(Some(bytes)) = session.read_request_body().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                return false;
            }
        }
        true
    };
    if !tokio::time::timeout(DRAIN_FOR, read).await.unwrap_or(false) {
        session.set_keepalive(None);
    }
}

/// Resolves when the client has gone. Stays pending for as long as it is there.
pub(super) async fn gone(session: &mut Session) {
    // Any way of returning means it: while the client is there and silent, this does not return.
    let _ = session.read_body_or_idle(true).await;
}

/// The status that the client has been told, if it has been told any. That it may send its body is none yet.
pub(super) fn told(session: &Session) -> Option<StatusCode> {
    session.response_written().map(|header| header.status).filter(|status| !status.is_informational())
}

/// Writes a whole answer.
pub(super) async fn write(session: &mut Session, reply: &Reply) -> pingora::Result<()> {
    write_all(session, reply).await.map_err(|error| error.into_down())
}

async fn write_all(session: &mut Session, reply: &Reply) -> pingora::Result<()> {
    let mut header = ResponseHeader::build(reply.status, Some(reply.headers.len() + 2))?;
    for (name, value) in &reply.headers {
        header.append_header(name, value)?;
    }
    let bodiless = reply.status == StatusCode::NO_CONTENT || reply.status == StatusCode::NOT_MODIFIED;
    if bodiless {
        return session.write_response_header(Box::new(header), true).await;
    }
    header.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
    let end = reply.body.is_empty();
    session.write_response_header(Box::new(header), end).await?;
    if end {
        return Ok(());
    }
    session.write_response_body(Some(reply.body.clone()), true).await
}
