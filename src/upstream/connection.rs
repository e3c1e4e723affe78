//! One connection to Sendly, over TCP or TLS, and one exchange at a time on it.
//!
//! No task stands behind it: whoever makes an exchange owns the connection meanwhile, and to drop it is to close it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::api::body::MAX_ANSWER;
use crate::clock::Moment;
use crate::http1::buffer::Buffer;
use crate::http1::response::{Progress, ResponseReader};

/// What carries the bytes.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// See the module's documentation.
pub(crate) struct Connection {
    stream: Stream,
    buffer: Buffer,
    /// No exchange begins on it from then on.
    end: Moment,
}

/// How an exchange ended.
pub(crate) enum End {
    /// Not a byte of the request was written.
    Unsent(io::Error),
    /// As far as the answer tells; and the error, if the connection broke. Never [`Progress::More`].
    Sent(Progress, Option<io::Error>),
}

/// What happened on the wire.
enum Event {
    Unsent(io::Error),
    /// Bytes came.
    Read,
    /// No more will.
    Ended,
    /// No more can.
    Broken(io::Error),
}

impl Connection {
    pub(crate) fn new(stream: Stream, end: Moment) -> Self {
        Self { stream, buffer: Buffer::new(), end }
    }

    /// Whether it is as old as a connection may be.
    pub(crate) fn is_old(&self, now: Moment) -> bool {
        now >= self.end
    }

    /// Sends a request and reads its answer. The connection can be used again if the answer says so.
    pub(crate) async fn exchange(&mut self, method: &Method, wire: &[u8]) -> End {
        let (mut reading, mut unsent) = (ResponseReader::new(method, MAX_ANSWER), wire);
        loop {
            let event = poll_fn(|context| self.poll(context, wire.len(), &mut unsent)).await;
            let ended = match event {
                Event::Unsent(error) => return End::Unsent(error),
                Event::Broken(error) => return End::Sent(reading.broken(), Some(error)),
                Event::Ended => true,
                Event::Read => false,
            };
            match reading.step(&mut self.buffer, ended) {
                Progress::More => {}
                // An answer to a request that was not read to its end: what is left of it would begin the next one.
                Progress::Whole(answer, _) if !unsent.is_empty() => {
                    return End::Sent(Progress::Whole(answer, false), None);
                }
                step => {
                    self.buffer.slim();
                    return End::Sent(step, None);
                }
            }
        }
    }

    /// Writes what is unsent and reads what comes, also while it cannot write: the other side may answer early.
    fn poll(&mut self, context: &mut Context<'_>, whole: usize, unsent: &mut &[u8]) -> Poll<Event> {
        let mut stream = Pin::new(&mut self.stream);
        while !unsent.is_empty() {
            match stream.as_mut().poll_write(context, unsent) {
                Poll::Ready(Ok(written @ 1..)) => *unsent = unsent.get(written..).unwrap_or_default(),
                Poll::Ready(Err(error)) if unsent.len() == whole && self.stream.is_plain() => {
                    return Poll::Ready(Event::Unsent(error));
                }
                // It may have answered before it stopped to listen.
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        // TCP keeps nothing back. What TLS cannot write now, it writes while it is waited for the answer.
        let _ = Pin::new(&mut self.stream).poll_flush(context);
        let mut room = ReadBuf::new(self.buffer.room());
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut room));
        let count = room.filled().len();
        Poll::Ready(match read {
            Ok(()) if count > 0 => {
                self.buffer.add(count);
                Event::Read
            }
            Ok(()) => Event::Ended,
            Err(error) => Event::Broken(error),
        })
    }

    /// Whether an idle connection stands: nothing has come on it, and it has not been closed, as far as the runtime knows.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match &mut self.stream {
            // No system call, unless something has happened.
            Stream::Plain(tcp) => tcp.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
            // What TLS itself has to say, such as a ticket, does not count.
            Stream::Tls(tls) => {
                let mut context = Context::from_waker(Waker::noop());
                let mut byte = [0];
                Pin::new(tls).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }
}

impl Stream {
    /// Whether a write that fails has written nothing: over TLS, some records may have left.
    fn is_plain(&self) -> bool {
        matches!(self, Stream::Plain(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(context, into),
            Stream::Tls(tls) => Pin::new(tls).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
