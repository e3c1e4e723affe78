//! A Sendly that answers at once, in as few instructions as it can: what the proxies are measured in front of must not be what
//! is measured.
//!
//! It remembers nothing: a verification's id is its phone's digits, so that the answer to any request can be told from the
//! request alone, here and by the load that checks it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memmem;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};

use crate::http::Wire;
use crate::template::Template;

/// What any `GET` is answered.
pub(crate) const LIST: &str = r#"{"data":[{"id":"msg_0123456789abcdef","status":"delivered","segments":1}],"total":1}"#;

/// What a send or a resend is answered.
pub(crate) const VERIFICATION: &str =
    r#"{"id":"ver_{id}","status":"pending","phone":"+{phone}","expires_at":"2026-11-24T00:10:00.000Z","sandbox":true}"#;

/// The token of its listener; its connections have those above.
pub(crate) const TOKEN: usize = 1 << 32;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Upstream {
    listener: TcpListener,
    registry: Registry,
    wires: Vec<Option<Wire>>,
    seen: Arc<AtomicU64>,
    verification: Template,
    list: Template,
}

/// What others may know of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicU64>,
}

impl Seen {
    /// How many requests came so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

impl Upstream {
    /// Listens on a free port.
    pub(crate) fn bind(registry: Registry) -> io::Result<Self> {
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        // With the 128 that std has, a proxy that opens thousands at once has some of them reset, and answers 502.
        rustix::net::listen(&listener, 4096)?;
        registry.register(&mut listener, Token(TOKEN), Interest::READABLE)?;
        let head = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
        Ok(Self {
            listener,
            registry,
            wires: Vec::new(),
            seen: Arc::default(),
            verification: Template::message(&head("201 Created"), VERIFICATION),
            list: Template::message(&head("200 OK"), LIST),
        })
    }

    pub(crate) fn seen(&self) -> io::Result<Seen> {
        Ok(Seen { address: self.listener.local_addr()?, count: Arc::clone(&self.seen) })
    }

    /// Closes all connections.
    pub(crate) fn close(&mut self) {
        self.wires.fill_with(|| None);
    }

    /// Does what an event with one of its tokens calls for.
    pub(crate) fn ready(&mut self, token: usize, scratch: &mut [u8]) -> io::Result<()> {
        let Some(index) = token.checked_sub(TOKEN + 1) else { return self.accept() };
        let Some(place) = self.wires.get_mut(index) else { return Ok(()) };
        let Some(wire) = place else { return Ok(()) };
        // A proxy that closes is no news; one that breaks off is found out by the load.
        if !serve(wire, scratch, &self.seen, &mut self.verification, &mut self.list).unwrap_or(false) {
            *place = None;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let free = self.wires.iter().position(Option::is_none).unwrap_or(self.wires.len());
            let wire = Wire::new(stream, &self.registry, TOKEN + 1 + free)?;
            match self.wires.get_mut(free) {
                Some(place) => *place = Some(wire),
                None => self.wires.push(Some(wire)),
            }
        }
    }
}

fn serve(
    wire: &mut Wire,
    scratch: &mut [u8],
    seen: &AtomicU64,
    verification: &mut Template,
    list: &mut Template,
) -> io::Result<bool> {
    // At most one is asked at a time, but a proxy that asked two would be answered both.
    let mut asked = arrayvec::ArrayVec::<Option<u64>, 8>::new();
    let open = wire.receive(scratch, |head, message| {
        let body = message.get(head.body()).unwrap_or_default();
        asked.try_push(phone(head.line(message), body)?).map_err(io::Error::other)
    })?;
    for asked in asked {
        seen.fetch_add(1, Ordering::Release);
        match asked {
            Some(phone) => wire.send(verification.of(phone))?,
            None => wire.send(list.of(0))?,
        }
    }
    Ok(open)
}

/// Whom a code is for; `None` if none is asked for.
fn phone(line: &str, body: &[u8]) -> io::Result<Option<u64>> {
    let Some(rest) = line.strip_prefix("POST /api/v1/verify") else { return Ok(None) };
    let phone = match rest.strip_prefix("/ver_") {
        Some(id) => id.get(..32).and_then(|id| u64::from_str_radix(id, 16).ok()),
        None => to(body),
    };
    Ok(Some(phone.ok_or(io::ErrorKind::InvalidData)?))
}

fn to(body: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"to\":\"+";
    let digits = body.get(memmem::find(body, MARK)? + MARK.len()..)?;
    let digits = digits.get(..memchr::memchr(b'"', digits)?)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
