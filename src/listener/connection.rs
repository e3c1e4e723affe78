//! One client's connection over HTTP/1: what has come on it, and whose it is.
//!
//! It is lent to pingora for one request at a time, as the stream that it is: pingora reads what has come already, and then not a byte
//! beyond that request, be its length known or its body in chunks. So when it is given back, the next request is still here. While it
//! is lent, it sees to it that the body comes fast enough.

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
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::pace::Pace;
use super::plain::Plain;
use super::request_head::{self, Framing, MAX_HEAD, RefusedHead, RequestHead};
use crate::clock::Clock;
use crate::gateway::downstream::within;
use crate::http1::buffer::Buffer;
use crate::http1::chunk_framing::{ChunkFraming, MalformedChunk};

/// From how many bytes on, of which it is certain that they belong to a body, they are read into pingora's buffer instead of through
/// this one's.
const WORTH_IT: usize = 4 * 1024;

/// How many bytes pingora reads at once. Its buffer has room for 64 KiB, of which no more takes memory than has ever been written to.
const AT_ONCE: usize = 8 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    buffer: Buffer,
    lent: Lent,
    /// Of the body that is lent.
    pace: Pace,
    clock: Clock,
}

/// What pingora may still read of a request.
#[derive(Debug)]
enum Lent {
    /// So many bytes.
    Length(usize),
    /// So many bytes of its head, and then its chunks.
    Chunked(usize, ChunkFraming),
}

/// What comes next on a connection.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and none is kept")]
pub(crate) enum Next {
    /// A plain request.
    Plain(Plain),
    /// Another.
    Passing(Framing),
    /// None that is served.
    Refused(RefusedHead),
    /// A head that has begun, and does not end in time.
    Late,
    /// Nothing any more.
    Closed,
}

impl Wire {
    pub(crate) fn new(stream: Stream, clock: Clock) -> Self {
        Self { stream, buffer: Buffer::new(), lent: Lent::Length(0), pace: Pace::new(0), clock }
    }

    /// What has come and is not over.
    pub(crate) fn unread(&self) -> &[u8] {
        self.buffer.unread()
    }

    /// The stream, to write to.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The next request's head: within `idle` its first bytes, and within `rest` what is missing then. Cancel-safe.
    pub(crate) async fn next(&mut self, idle: Duration, rest: Duration) -> Next {
        if self.unread().is_empty() {
            match within(idle, self.more()).await {
                Some(Ok(1..)) => {}
                _ => return Next::Closed,
            }
        }
        // Nearly always the first read has all of it.
        match request_head::read(self.unread()) {
            RequestHead::Partial => {}
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
            if self.unread().len() < MAX_HEAD && !ends_a_head(self.unread(), before) {
                continue;
            }
            match request_head::read(self.unread()) {
                RequestHead::Partial => {}
                head => return Next::from(head),
            }
        }
    }

    /// Reads more into the buffer. Returns how much came: 0 at the end. Cancel-safe.
    pub(crate) async fn more(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_more(context)).await
    }

    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.buffer.room());
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut room))?;
        let count = room.filled().len();
        self.buffer.add(count);
        Poll::Ready(Ok(count))
    }

    /// Forgets a request that is over, of which so much is still unread.
    pub(crate) fn next_request(&mut self, length: usize) {
        self.buffer.consume(length);
        self.buffer.slim();
    }

    /// Reads and forgets what comes: at most this much, and no longer than this.
    pub(crate) async fn drain(&mut self, most: usize, patience: Duration) {
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

    /// From now on, pingora reads this request, and no more. Its body has to come with so many bytes a second.
    pub(crate) fn lend(&mut self, framing: Framing, min_rate: u32) {
        self.pace = Pace::new(min_rate);
        self.lent = match framing {
            Framing::Length(length) => Lent::Length(length),
            Framing::Chunked(head) => Lent::Chunked(head, ChunkFraming::new()),
        };
    }

    /// Whether the request that was lent has been read to its end.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.lent {
            Lent::Length(left) => *left == 0,
            Lent::Chunked(head, body) => *head == 0 && body.is_over(),
        }
    }

    /// So much came just now, and was passed on.
    fn note(&mut self, came: usize) {
        // What was here already took no time.
        if came > 0 {
            self.pace.came(came, self.clock.now());
        }
    }

    /// Reads at most `most` bytes, which belong to the request for certain, straight into pingora's buffer.
    fn poll_certain(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut (&mut self.stream).take(most as u64)).poll_read(context, into))?;
        let read = into.filled().get(before..).unwrap_or_default();
        let count = self.lent.pass(read)?;
        Poll::Ready(Ok(count))
    }
}

impl Lent {
    /// How many of the next bytes belong to the request for certain.
    fn certain(&self) -> usize {
        match self {
            Lent::Length(left) => *left,
            Lent::Chunked(0, body) => body.certain(),
            Lent::Chunked(head, _) => *head,
        }
    }

    /// These bytes come next. Returns how many of them are the request's: so many pass.
    fn pass(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Lent::Length(left) => {
                let count = bytes.len().min(*left);
                *left -= count;
                Ok(count)
            }
            // The head by itself: that it can be served does not hang on its body.
            Lent::Chunked(head @ 1.., _) => {
                let count = bytes.len().min(*head);
                *head -= count;
                Ok(count)
            }
            Lent::Chunked(_, body) => body.follow(bytes).map_err(|MalformedChunk| io::ErrorKind::InvalidData.into()),
        }
    }
}

impl From<RequestHead> for Next {
    fn from(head: RequestHead) -> Self {
        match head {
            RequestHead::Plain(plain) => Next::Plain(plain),
            RequestHead::Passing(framing) => Next::Passing(framing),
            RequestHead::Refused(refused) => Next::Refused(refused),
            RequestHead::Partial => Next::Closed,
        }
    }
}

/// Whether an empty line ends in what came after the first `before` bytes.
fn ends_a_head(bytes: &[u8], before: usize) -> bool {
    let new = bytes.get(before.saturating_sub(2)..).unwrap_or_default();
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

impl AsyncRead for Wire {
    /// What pingora reads of it. An error of the kind `InvalidData` says that the body cannot be read, and `TimedOut` that it comes too
    /// slowly (`listener/passthrough.rs` tells the client so).
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let mut came = 0;
        if wire.unread().is_empty() {
            let certain = wire.lent.certain().min(into.remaining()).min(AT_ONCE);
            let is_direct = certain >= WORTH_IT || certain > 0 && certain == into.remaining();
            let read = if is_direct { wire.poll_certain(context, into, certain) } else { wire.poll_more(context) };
            let Poll::Ready(read) = read else {
                if wire.is_whole() || wire.pace.wait(wire.clock.now()) {
                    return Poll::Pending;
                }
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            came = read?;
            if came == 0 || is_direct {
                wire.note(came);
                return Poll::Ready(Ok(()));
            }
        }
        let most = wire.buffer.unread().len().min(into.remaining());
        let next = wire.buffer.unread().get(..most).unwrap_or_default();
        let count = wire.lent.pass(next)?;
        if count == 0 {
            // That pingora has read all of its request does not mean that it wants no news of the client. But this one has sent its next
            // request already, so it is there: nothing of this one will come, and no end either.
            return Poll::Pending;
        }
        into.put_slice(next.get(..count).unwrap_or_default());
        wire.buffer.consume(count);
        wire.note(came);
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
