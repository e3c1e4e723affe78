//! A connection of HTTP/2 whose reads and writes have deadlines: a request's head has to be whole in time, and the client has to read what it
//! is sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::frames::Frames;
use crate::gateway::Gateway;
use crate::metrics::Late;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: Stream,
    gateway: Arc<Gateway>,
    frames: Frames,
    head_timeout: Duration,
    write_timeout: Duration,
    /// Until when a head has to be whole, and which head that is.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// Until when the client has to have read something.
    write: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(crate) fn new(stream: Stream, gateway: Arc<Gateway>, head_timeout: Duration, write_timeout: Duration) -> Self {
        Self { stream, gateway, frames: Frames::new(), head_timeout, write_timeout, head: None, write: None }
    }

    /// Whether the head that is coming is late.
    fn head_is_late(&mut self, context: &mut Context<'_>) -> bool {
        let Some(unfinished) = self.frames.unfinished_head() else {
            self.head = None;
            return false;
        };
        if self.head.as_ref().is_none_or(|(head, _)| *head != unfinished) {
            self.head = Some((unfinished, Box::pin(sleep(self.head_timeout))));
        }
        self.head.as_mut().is_some_and(|(_, deadline)| deadline.as_mut().poll(context).is_ready())
    }

    /// The result of a write, or that it was late.
    fn bounded<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write = None;
            return result;
        }
        let patience = self.write_timeout;
        let deadline = self.write.get_or_insert_with(|| Box::pin(sleep(patience)));
        if deadline.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.gateway.client_was_late(Late::Read);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guarded = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut guarded.stream).poll_read(context, into);
        guarded.frames.came(into.filled().get(before..).unwrap_or_default());
        if guarded.head_is_late(context) {
            guarded.gateway.client_was_late(Late::Head);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let guarded = self.get_mut();
        let written = Pin::new(&mut guarded.stream).poll_write(context, bytes);
        guarded.bounded(written, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guarded = self.get_mut();
        let flushed = Pin::new(&mut guarded.stream).poll_flush(context);
        guarded.bounded(flushed, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guarded = self.get_mut();
        let shut = Pin::new(&mut guarded.stream).poll_shutdown(context);
        guarded.bounded(shut, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guarded = self.get_mut();
        let written = Pin::new(&mut guarded.stream).poll_write_vectored(context, parts);
        guarded.bounded(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

// pingora asks the stream below for these before it is wrapped.

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl Ssl for Guarded {}

impl Peek for Guarded {}
