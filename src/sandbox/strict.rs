//! A client's connection, strict about where its requests end. hyper would forgive a byte that belongs to no request, and so hide what
//! breaks a real server: here it breaks the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most of a head that is kept to find the request's framing in it. hyper ends a connection earlier.
const MAX_HEAD: usize = 1 << 20;

/// A stream on which only requests come.
pub(super) struct Strict<S> {
    stream: S,
    framing: StrictFraming,
}

impl<S> Strict<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, framing: StrictFraming::default() }
    }
}

/// Where in a request the next byte stands.
#[derive(Debug)]
enum StrictFraming {
    /// In its head, of which this has come.
    Head(Vec<u8>),
    /// So many bytes before its end.
    Body(usize),
    /// In the line that tells a chunk's size.
    Size(Vec<u8>),
    /// So many bytes before the end of a chunk, its line's end included.
    Chunk(usize),
    /// In its trailers, in a line that has so many bytes.
    Trailers(usize),
}

impl Default for StrictFraming {
    fn default() -> Self {
        StrictFraming::Head(Vec::new())
    }
}

impl StrictFraming {
    /// Follows what came.
    ///
    /// # Errors
    /// A byte belongs to no request.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let mut taken = 1;
            match self {
                StrictFraming::Head(head) => {
                    // A method begins with a letter; hyper judges the rest.
                    if head.is_empty() && !byte.is_ascii_alphabetic() {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "a byte outside of a request"));
                    }
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") || head.len() > MAX_HEAD {
                        *self = Self::behind(head);
                    }
                }
                StrictFraming::Body(left) | StrictFraming::Chunk(left) => {
                    taken = rest.len().min(*left);
                    *left -= taken;
                }
                StrictFraming::Size(line) => {
                    line.push(byte);
                    if byte == b'\n' {
                        let digits: Vec<u8> = line.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
                        let digits = String::from_utf8_lossy(&digits);
                        *self = match usize::from_str_radix(&digits, 16) {
                            Ok(0) => StrictFraming::Trailers(0),
                            Ok(size) => StrictFraming::Chunk(size.saturating_add(2)),
                            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk without a size")),
                        };
                    }
                }
                StrictFraming::Trailers(line) => match byte {
                    b'\n' if *line == 0 => *self = Self::default(),
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ => *line += 1,
                },
            }
            match self {
                StrictFraming::Body(0) => *self = Self::default(),
                StrictFraming::Chunk(0) => *self = StrictFraming::Size(Vec::new()),
                _ => {}
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// What stands behind this head.
    fn behind(head: &[u8]) -> Self {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let value = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.filter(|(other, _)| *other == name).map(|(_, value)| value.trim()).next()
        };
        if value("transfer-encoding").is_some() {
            return StrictFraming::Size(Vec::new());
        }
        StrictFraming::Body(value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        Poll::Ready(self.framing.follow(into.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether all of it is requests, in one piece and byte by byte.
    fn is_requests(text: &str) -> bool {
        let whole = StrictFraming::default().follow(text.as_bytes()).is_ok();
        let mut framing = StrictFraming::default();
        let each = text.as_bytes().chunks(1).all(|byte| framing.follow(byte).is_ok());
        assert_eq!(whole, each, "{text:?}");
        whole
    }

    #[test]
    fn requests_one_behind_the_other_are_read_whatever_their_framing() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let length = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
        let empty = "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n";
        let trailers = "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n0\r\na: b\r\nc: d\r\n\r\n";
        for first in [get, length, empty, chunked, trailers] {
            for second in [get, length, empty, chunked, trailers] {
                assert!(is_requests(&[first, second, get].concat()), "{first:?} {second:?}");
                for stray in ["0\r\n\r\n", "\r\n", "{}", "5\r\nabcde\r\n0\r\n\r\n"] {
                    assert!(!is_requests(&[first, second, stray, get].concat()), "{first:?} {second:?} {stray:?}");
                }
            }
        }
    }
}
