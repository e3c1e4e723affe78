//! The sandbox over a socket: HTTP/1.1, strict about where a request ends, and the ways in which an answer may fail to arrive.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::strict::Strict;
use super::{Begun, Leaves, Sandbox, SandboxRefusal};
use crate::api::body::MAX_REQUEST;
use crate::clock::Clock;

/// How long an answer is held back that no test releases: longer than any SDK waits.
pub const HELD_FOR: Duration = Duration::from_secs(60);

/// For a request's header, the idle time before it included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// For a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// For requests in flight, once the sandbox is to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What to wait after a connection could not be accepted: if the process is out of descriptors, the next cannot be either.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers what connects to `listener` until `shutdown` is over; then lets requests in flight end, for some seconds.
///
/// Held answers leave at once then.
pub async fn serve(listener: TcpListener, sandbox: Arc<Sandbox>, clock: Clock, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let desk = Desk { sandbox: sandbox.clone(), clock: clock.clone(), stopping: stopping.clone() };
                    connections.spawn(desk.connection(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "sandbox: a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stop.send_replace(true);
    // Whatever is left after that goes with the set.
    let _ = timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

/// What one connection needs.
#[derive(Clone)]
struct Desk {
    sandbox: Arc<Sandbox>,
    clock: Clock,
    stopping: watch::Receiver<bool>,
}

/// Why a connection ends without an answer.
#[derive(Debug)]
enum NoAnswer {
    /// The client went away before its request was complete.
    Gone,
    /// The phone asked for it.
    Cut,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAnswer::Gone => "the client is gone",
            NoAnswer::Cut => "cut, as the phone asked for",
        })
    }
}

impl std::error::Error for NoAnswer {}

impl Desk {
    async fn connection(self, stream: TcpStream) {
        let mut stopping = self.stopping.clone();
        let served = async {
            stream.set_nodelay(true)?;
            let service = service_fn(|request| self.clone().exchange(request));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            let mut connection = pin!(http.serve_connection(TokioIo::new(Strict::new(stream)), service));
            tokio::select! {
                ended = connection.as_mut() => return ended.map_err(io::Error::other),
                _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            connection.await.map_err(io::Error::other)
        };
        if let Err(error) = served.await {
            tracing::debug!(%error, "sandbox: a connection ended early");
        }
    }

    async fn exchange(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let (head, body) = request.into_parts();
        let begun = match timeout(BODY_TIMEOUT, Limited::new(body, MAX_REQUEST).collect()).await {
            Ok(Ok(body)) => self.sandbox.begin(&Request::from_parts(head, body.to_bytes()), self.clock.now()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => SandboxRefusal::TooLarge.into(),
            Ok(Err(_)) => return Err(NoAnswer::Gone),
            Err(_) => SandboxRefusal::Timeout.into(),
        };
        let response = match begun.reply.leaves {
            Leaves::AtOnce => self.sandbox.complete(begun, self.clock.now()),
            Leaves::Never => {
                self.sandbox.complete(begun, self.clock.now());
                return Err(NoAnswer::Cut);
            }
            // In a task of its own: that the client goes away is no reason for Sendly not to finish.
            Leaves::WhenReleased => tokio::spawn(self.release(begun)).await.map_err(|_| NoAnswer::Gone)?,
        };
        Ok(response.map(Full::new))
    }

    async fn release(mut self, begun: Begun) -> Response<Bytes> {
        tokio::select! {
            permit = self.sandbox.releases.acquire() => permit.into_iter().for_each(|permit| permit.forget()),
            () = sleep(HELD_FOR) => {}
            _ = self.stopping.wait_for(|stop| *stop) => {}
        }
        self.sandbox.complete(begun, self.clock.now())
    }
}
