//! HTTP/2: the streams of a connection, each served by pingora, and what keeps a connection within its bounds.
//!
//! pingora has such a loop, but no deadline for the preface, none for a head that comes in pieces, and no count of streams that were reset
//! while their exchange with Sendly goes on.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderValue};
use pingora::apps::HttpServerApp;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, HttpSession, default_h2_options, handshake};
use pingora::protocols::{Digest, Stream};
use pingora::server::ShutdownWatch;
use tokio::time::{sleep, timeout};

use super::body_watch::BodyWatch;
use super::guarded::Guarded;
use super::{Front, LAST_REQUEST};
use crate::gateway::reply::Reply;
use crate::metrics::{Late, TurnedAway};
use tokio_util::task::TaskTracker;

/// A head's fields, as SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113, 6.5.2). `h2` answers a larger one with 431, and ends the
/// connection of one that is much larger.
const MAX_HEAD: u32 = 16 * 1024;

/// How much of an answer waits in memory for a client that does not read it, for each stream.
const SEND_BUFFER: usize = 32 * 1024;

/// How many requests that are malformed end a connection.
const MAX_MALFORMED: usize = 32;

/// Serves a connection to its end.
pub(crate) async fn serve(front: &Arc<Front>, stream: Stream, shutdown: &ShutdownWatch) {
    let gateway = &front.gateway;
    let settings = gateway.settings();
    let clients = &settings.config.clients;
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let guarded = Guarded::new(stream, Arc::clone(gateway), clients.header_timeout, clients.write_timeout);
    let mut options = default_h2_options();
    options
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(clients.max_streams)
        .max_send_buffer_size(SEND_BUFFER);
    let shaken = timeout(clients.header_timeout, handshake(Box::new(guarded), Some(options))).await;
    let mut connection = match shaken {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return,
        Err(_) => return gateway.client_was_late(Late::Handshake),
    };

    let (streams, most) = (TaskTracker::default(), clients.max_streams as usize);
    let mut patience = clients.keep_alive;
    drop(settings);
    let mut malformed = 0;
    let mut stopping = shutdown.clone();
    let mut is_stopping = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stops| *stops), if !is_stopping => {
                connection.graceful_shutdown();
                (is_stopping, patience) = (true, LAST_REQUEST);
                continue;
            }
            // It is what drives the connection.
            accepted = HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
            () = idle(&streams, patience) => return,
        };
        match accepted {
            Err(_) | Ok(None) => return,
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                if malformed >= MAX_MALFORMED {
                    return;
                }
            }
            Ok(Some(H2Accept::Session(session))) => {
                if streams.len() >= most {
                    gateway.turn_away(TurnedAway::Streams);
                    let patience = gateway.settings().config.clients.write_timeout;
                    tokio::spawn(refuse(session, patience));
                    continue;
                }
                let (open, front, shutdown) = (streams.token(), Arc::clone(front), shutdown.clone());
                tokio::spawn(async move {
                    let _open = open;
                    let session = ServerSession::new_http2(session);
                    let serving = async { drop(front.proxy.process_new_http(session, &shutdown).await) };
                    if !BodyWatch::over(serving).await {
                        front.gateway.client_was_late(Late::Body);
                    }
                });
            }
        }
    }
}

/// Waits until no stream has been open for so long.
async fn idle(streams: &TaskTracker, patience: Duration) {
    streams.close();
    streams.wait().await;
    sleep(patience).await;
}

/// Answers a stream beyond the cap. There are no more of these than of others: `h2` lets no more than the cap be open, and one that the
/// client has reset takes no answer.
async fn refuse(mut session: HttpSession, patience: Duration) {
    session.set_write_timeout(Some(patience));
    let Reply { status, mut headers, body } = Reply::overloaded();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    if session.write_response_header(Box::new(ResponseHeader::from(parts)), false).is_ok() {
        // The client is told or is gone.
        let _ = session.write_body(body, true).await;
    }
}
