//! As much of HTTP/1.1 as the load and the upstream speak: a head, and a body whose length it tells; and a connection that
//! brings whole messages.

use std::io::{self, Read as _, Write as _};
use std::ops::Range;

use memchr::memmem;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Where a message's parts are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    line_end: usize,
    end: usize,
    length: usize,
}

impl Head {
    /// The head at the start of these bytes, if it is whole.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let end = memmem::find(bytes, b"\r\n\r\n")?;
        let head = bytes.get(..end)?;
        let line_end = memchr::memchr(b'\r', head).unwrap_or(end);
        let length = memchr::memchr_iter(b'\n', head).find_map(|line| {
            const NAME: &[u8] = b"content-length:";
            let (name, value) = head.get(line + 1..)?.split_at_checked(NAME.len())?;
            if !name.eq_ignore_ascii_case(NAME) {
                return None;
            }
            let value = value.split(|byte| *byte == b'\r').next()?;
            std::str::from_utf8(value).ok()?.trim().parse().ok()
        });
        Some(Self { line_end, end: end + 4, length: length.unwrap_or(0) })
    }

    /// The request line or status line.
    pub(crate) fn line(self, bytes: &[u8]) -> &str {
        bytes.get(..self.line_end).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default()
    }

    /// Where the body is, whether it is there yet or not.
    pub(crate) fn body(self) -> Range<usize> {
        self.end..self.end + self.length
    }
}

/// A connection that never blocks. What came of an unfinished message, and what could not be sent yet, waits in it.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    come: Vec<u8>,
    unsent: Vec<u8>,
}

impl Wire {
    /// Its events carry this token from now on.
    pub(crate) fn new(mut stream: TcpStream, registry: &Registry, token: usize) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, come: Vec::new(), unsent: Vec::new() })
    }

    /// Hands over each message that is whole, as a head and the bytes that it is in. To be called at every event; `false` once
    /// the other end has closed.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut whole: impl FnMut(Head, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.flush()?;
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let read = scratch.get(..count).unwrap_or_default();
            if self.come.is_empty() {
                let used = messages(read, &mut whole)?;
                self.come.extend_from_slice(read.get(used..).unwrap_or_default());
            } else {
                self.come.extend_from_slice(read);
                let used = messages(&self.come, &mut whole)?;
                self.come.drain(..used);
            }
            // All that there was: more will be another event (epoll(7), Q9).
            if count < scratch.len() {
                return Ok(true);
            }
        }
    }

    /// Sends now what can be sent now, and the rest when it can.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.unsent.is_empty() { write(&mut self.stream, bytes)? } else { 0 };
        self.unsent.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let sent = write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        Ok(())
    }
}

/// Hands over the whole messages at the start of these bytes, and returns how many bytes they took.
fn messages(bytes: &[u8], whole: &mut impl FnMut(Head, &[u8]) -> io::Result<()>) -> io::Result<usize> {
    let mut used = 0;
    while let Some(rest) = bytes.get(used..)
        && let Some(head) = Head::of(rest)
        && let Some(message) = rest.get(..head.body().end)
    {
        whole(head, message)?;
        used += message.len();
    }
    Ok(used)
}

fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
