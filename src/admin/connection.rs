//! A connection to the admin listener: each head is whole, and within bounds, before pingora reads it; and nothing lasts for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::Admin;
use crate::metrics::Late;

/// A head, at most. pingora would take 1 MiB.
const MAX_HEAD: usize = 16 * 1024;

/// For a whole request once its head is there, until its answer has been read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client that is told to go away may take to read that.
const LINGER: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub(crate) struct Connections(Arc<Admin>);

impl Connections {
    /// Those that this serves.
    pub(crate) fn new(admin: Admin) -> Self {
        Self(Arc::new(admin))
    }
}

#[async_trait]
impl ServerApp for Connections {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let gateway = &self.0.gateway;
        let mut connection = Prefixed { stream, prefix: Vec::new() };
        loop {
            let (idle, head) = {
                let settings = gateway.settings();
                (settings.config().clients.keep_alive, settings.config().clients.header_timeout)
            };
            if connection.prefix.is_empty() && !matches!(timeout(idle, connection.more()).await, Ok(Ok(1..))) {
                return None;
            }
            match timeout(head, connection.rest_of_head()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    connection
                        .refuse("431 Request Header Fields Too Large", "A head of 16 KiB at most is read.\n")
                        .await;
                    return None;
                }
                Ok(Err(_)) => return None,
                Err(_) => {
                    gateway.client_was_late(Late::Head);
                    connection.refuse("408 Request Timeout", "The request's head did not arrive in time.\n").await;
                    return None;
                }
            }
            let session = ServerSession::new_http1(Box::new(connection));
            let serving = Box::pin(self.0.process_new_http(session, shutdown));
            let Ok(served) = timeout(REQUEST_TIMEOUT, serving).await else {
                gateway.client_was_late(Late::Read);
                return None;
            };
            let (stream, _) = served?.consume();
            connection = *stream.into_any().downcast::<Prefixed>().ok()?;
        }
    }
}

/// A stream, and what has been read of it and is to be read again.
#[derive(Debug)]
struct Prefixed {
    stream: Stream,
    prefix: Vec<u8>,
}

impl Prefixed {
    /// Reads more. Returns how much came: 0 at the end.
    async fn more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 2048];
        let count = self.stream.read(&mut bytes).await?;
        self.prefix.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Reads until a head is there. Returns whether it is within bounds.
    async fn rest_of_head(&mut self) -> io::Result<bool> {
        let mut looked_at = 0;
        loop {
            if has_head(self.prefix.get(looked_at..).unwrap_or_default()) {
                return Ok(self.prefix.len() <= MAX_HEAD || has_head(self.prefix.get(..MAX_HEAD).unwrap_or_default()));
            }
            if self.prefix.len() >= MAX_HEAD {
                return Ok(false);
            }
            looked_at = self.prefix.len().saturating_sub(3);
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn refuse(&mut self, status: &str, message: &str) {
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{message}",
            message.len()
        );
        let telling = async {
            self.stream.write_all(answer.as_bytes()).await?;
            self.stream.flush().await?;
            AsyncWriteExt::shutdown(&mut self.stream).await?;
            // Or a client that is still sending sees a broken pipe instead.
            let mut rest = [0; 2048];
            while self.stream.read(&mut rest).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // It is closed next, whether the client has read it or not.
        let _ = timeout(LINGER, telling).await;
    }
}

/// Whether an empty line ends in these bytes.
fn has_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = self.prefix.len().min(into.remaining());
        into.put_slice(self.prefix.get(..count).unwrap_or_default());
        self.prefix.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Prefixed {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(self.stream.as_mut()).await;
    }
}

impl UniqueID for Prefixed {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl GetSocketDigest for Prefixed {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl GetTimingDigest for Prefixed {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Prefixed {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl Ssl for Prefixed {}

impl Peek for Prefixed {}
