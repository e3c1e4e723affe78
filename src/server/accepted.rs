//! A client's TCP connection, in the terms in which pingora reads and writes one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use pingora::protocols::l4::socket;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// The write buffer of a connection, in bytes: an answer's head and the body of nearly all that Sendly says leave in one write. There is no
/// read buffer: heads and bodies are read into buffers that are there anyway.
const WRITE_BUFFER: usize = 2048;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Accepted {
    tcp: BufWriter<TcpStream>,
    digest: Arc<SocketDigest>,
}

impl Accepted {
    /// A connection that `peer` has made.
    ///
    /// # Errors
    /// The connection is broken already.
    pub(super) fn new(tcp: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        // It is empty: nothing has asked for the address.
        let _ = digest.peer_addr.set(Some(socket::SocketAddr::Inet(peer)));
        Ok(Self { tcp: BufWriter::with_capacity(WRITE_BUFFER, tcp), digest: Arc::new(digest) })
    }
}

impl Drop for Accepted {
    /// Where a request is given up, what was answered until then has not been flushed. It is written if the kernel takes it at once.
    fn drop(&mut self) {
        let _ = Pin::new(&mut self.tcp).poll_flush(&mut Context::from_waker(Waker::noop()));
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.tcp.get_mut()).poll_read(context, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Accepted {
    async fn shutdown(&mut self) {
        // It is closed next, whether this worked or not.
        let _ = self.tcp.shutdown().await;
    }
}

impl UniqueID for Accepted {
    fn id(&self) -> UniqueIDType {
        self.tcp.get_ref().as_raw_fd()
    }
}

impl GetSocketDigest for Accepted {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetTimingDigest for Accepted {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Accepted {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Ssl for Accepted {}

impl Peek for Accepted {}
