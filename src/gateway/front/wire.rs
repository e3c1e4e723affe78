//! One client's connection over HTTP/1: what has come on it, and whose it is.
//!
//! It is lent to pingora for one request at a time, as the stream that it is: pingora reads what has come already, and then not a byte
//! beyond that request. So when it is given back, the next request is still here.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::plain::{self, Head, Plain};
use crate::gateway::buffer::Buffer;
use crate::gateway::caller::within;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    buffer: Buffer,
    /// How much of what comes pingora may still read. `None`: all of it.
    lent: Option<usize>,
}

/// What comes next on a connection.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and none is kept")]
pub(super) enum Next {
    /// A plain request.
    Plain(Plain),
    /// Another; and its length, if that is known.
    Other(Option<usize>),
    /// A head that has begun, and does not end in time.
    Late,
    /// Nothing any more.
    Closed,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, buffer: Buffer::new(), lent: None }
    }

    /// What has come and is not over.
    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.unread()
    }

    /// The stream, to write to.
    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The next request's head: within `idle` its first bytes, and within `rest` what is missing then. Cancel-safe.
    pub(super) async fn next(&mut self, idle: Duration, rest: Duration) -> Next {
        if self.unread().is_empty() {
            match within(idle, self.more()).await {
                Some(Ok(1..)) => {}
                _ => return Next::Closed,
            }
        }
        // Nearly always the first read has all of it.
        match plain::read(self.unread()) {
            Head::Partial => {}
            head => return Next::from(head),
        }
        match tokio::time::timeout(rest, self.rest_of_head()).await {
            Ok(next) => next,
            Err(_) => Next::Late,
        }
    }

    async fn rest_of_head(&mut self) -> Next {
        loop {
            let before = self.unread().len();
            match self.more().await {
                Ok(1..) => {}
                _ => return Next::Closed,
            }
            // Or each byte of a head that drips in would have all of it read anew.
            if self.unread().len() < plain::MAX_HEAD && !ends_a_head(self.unread(), before) {
                continue;
            }
            match plain::read(self.unread()) {
                Head::Partial => {}
                head => return Next::from(head),
            }
        }
    }

    /// Reads more into the buffer. Returns how much came: 0 at the end. Cancel-safe.
    pub(super) async fn more(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_more(context)).await
    }

    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.buffer.room());
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut room))?;
        let count = room.filled().len();
        self.buffer.add(count);
        Poll::Ready(Ok(count))
    }

    /// Forgets a request of this length, which is over.
    pub(super) fn next_request(&mut self, length: usize) {
        self.buffer.consume(length);
        self.buffer.slim();
    }

    /// Reads and forgets what comes: at most this much, and no longer than this.
    pub(super) async fn drain(&mut self, most: usize, patience: Duration) {
        let read = async {
            let mut left = most;
            loop {
                self.buffer.consume(usize::MAX);
                match self.more().await {
                    Ok(count @ 1..) if count < left => left -= count,
                    _ => return,
                }
            }
        };
        within(patience, read).await;
    }

    /// From now on, pingora reads a request of this length, and no more; or, where that is not known, all that comes.
    pub(super) fn lend(&mut self, length: Option<usize>) {
        self.lent = length;
    }

    /// Whether the request that was lent has been read to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.lent == Some(0)
    }
}

impl From<Head> for Next {
    fn from(head: Head) -> Self {
        match head {
            Head::Plain(plain) => Next::Plain(plain),
            Head::Other(length) => Next::Other(length),
            Head::Partial => Next::Closed,
        }
    }
}

/// Whether an empty line ends in what came after the first `before` bytes.
fn ends_a_head(bytes: &[u8], before: usize) -> bool {
    let new = bytes.get(before.saturating_sub(2)..).unwrap_or_default();
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

impl AsyncRead for Wire {
    /// What pingora reads of it.
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.unread().is_empty() {
            match wire.lent {
                None => return Pin::new(&mut wire.stream).poll_read(context, into),
                // No more can come than it may have.
                Some(left) if left >= into.remaining() => {
                    let before = into.filled().len();
                    ready!(Pin::new(&mut wire.stream).poll_read(context, into))?;
                    wire.lent = Some(left - (into.filled().len() - before));
                    return Poll::Ready(Ok(()));
                }
                // That it has read all of its request does not mean that it wants no news of the client.
                Some(_) => {
                    if ready!(wire.poll_more(context))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        let count = wire.unread().len().min(into.remaining()).min(wire.lent.unwrap_or(usize::MAX));
        if count == 0 {
            // The client has sent its next request already, so it is there: nothing of this one will come, and no end either.
            return Poll::Pending;
        }
        into.put_slice(wire.unread().get(..count).unwrap_or_default());
        wire.buffer.consume(count);
        wire.lent = wire.lent.map(|left| left - count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

// What pingora wants to know of a stream is the stream's own.

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Wire {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl Peek for Wire {}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}
