//! An answer, understood byte by byte as it comes (RFC 9112), without a socket: what its head says, how long its body is, and
//! whether its connection can be used again.
//!
//! Syntax is httparse's, as hyper's is. What a second reader could frame in another way is refused.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::Answer;
use super::buffer::Buffer;
use super::chunks::Chunks;
use super::fields::{HopByHop, is_hop_by_hop};
use crate::sendly::body::MAX_ANSWER;

/// The most that a head may have, in bytes and in headers.
const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;

/// Answers before the answer (1xx) that are put up with.
const MAX_INTERIM: usize = 16;

/// Why an answer cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It ends before its end.
    Incomplete,
    /// Its body is longer than [`MAX_ANSWER`].
    TooLong,
    /// This part of it is not HTTP, or can be read in two ways.
    Malformed(&'static str),
    /// It changes the protocol, which nobody asked for.
    Upgrade,
}

/// What is known after some bytes.
#[derive(Debug)]
pub(super) enum Step {
    /// That there must be more.
    More,
    /// All of it; and whether the connection stands for another exchange.
    Whole(Answer, bool),
    /// The status, if its head was whole, and what became of the rest.
    Failed(Option<StatusCode>, Flaw),
}

/// An answer as far as it has come.
pub(super) struct Reading {
    /// Whether it is one to `HEAD`, and so has no body.
    bodiless: bool,
    interim: usize,
    head: Option<Head>,
}

struct Head {
    status: StatusCode,
    headers: HeaderMap,
    keep_alive: bool,
    body: Body,
}

/// How the end of a body is known.
enum Body {
    Length(usize),
    Chunks(Chunks),
    ToEnd,
}

impl Reading {
    /// The answer to a request with this method.
    pub(super) fn of(method: &Method) -> Self {
        Self { bodiless: method == Method::HEAD, interim: 0, head: None }
    }

    /// Understands what has come so far; and, if the connection has `ended`, what that means.
    pub(super) fn step(&mut self, buffer: &mut Buffer, ended: bool) -> Step {
        let mut head = match self.head.take().map_or_else(|| self.read_head(buffer), |head| Ok(Some(head))) {
            Ok(Some(head)) => head,
            Ok(None) if ended => return Step::Failed(None, Flaw::Incomplete),
            Ok(None) => return Step::More,
            Err(flaw) => return Step::Failed(None, flaw),
        };
        match head.body.step(buffer, ended) {
            Ok(Some(body)) => {
                // Bytes beyond the answer: this and the other side do not agree on where it ended.
                let reusable = head.keep_alive && buffer.unread().is_empty() && !ended;
                Step::Whole(Answer { status: head.status, headers: head.headers, body }, reusable)
            }
            Ok(None) if ended => Step::Failed(Some(head.status), Flaw::Incomplete),
            Ok(None) => {
                self.head = Some(head);
                Step::More
            }
            Err(flaw) => Step::Failed(Some(head.status), flaw),
        }
    }

    /// The head of the answer itself: interim ones are skipped.
    fn read_head(&mut self, buffer: &mut Buffer) -> Result<Option<Head>, Flaw> {
        loop {
            let Some((length, head)) = head(buffer.unread(), self.bodiless)? else { return Ok(None) };
            buffer.consume(length);
            match head.status.as_u16() {
                101 => return Err(Flaw::Upgrade),
                100..=199 if self.interim == MAX_INTERIM => return Err(Flaw::Malformed("interim answers")),
                100..=199 => self.interim += 1,
                _ => return Ok(Some(head)),
            }
        }
    }
}

impl Body {
    fn step(&mut self, buffer: &mut Buffer, ended: bool) -> Result<Option<Bytes>, Flaw> {
        match self {
            Body::Length(length) if *length > MAX_ANSWER => Err(Flaw::TooLong),
            Body::Length(length) => {
                let body = buffer.unread().get(..*length).map(Bytes::copy_from_slice);
                buffer.consume(if body.is_some() { *length } else { 0 });
                Ok(body)
            }
            Body::Chunks(chunks) => Ok(chunks.step(buffer)?.map(Bytes::from)),
            Body::ToEnd if buffer.unread().len() > MAX_ANSWER => Err(Flaw::TooLong),
            Body::ToEnd => {
                let body = ended.then(|| Bytes::copy_from_slice(buffer.unread()));
                buffer.consume(if ended { usize::MAX } else { 0 });
                Ok(body)
            }
        }
    }
}

/// A head and its length, if it is there.
fn head(unread: &[u8], bodiless: bool) -> Result<Option<(usize, Head)>, Flaw> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, unread, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if unread.len() < MAX_HEAD => return Ok(None),
        _ => return Err(Flaw::Malformed("head")),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Flaw::Malformed("status"))?;
    let mut framing = Framing { old: response.version != Some(1), ..Framing::default() };
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    let mut connection = Vec::new();
    // One allocation for all values, and not the connection's buffer: an answer may be kept for long.
    let bytes = Bytes::copy_from_slice(unread.get(..length).unwrap_or_default());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Flaw::Malformed("header name"))?;
        // Within `bytes`: httparse's values lie within what it was given.
        let start = field.value.as_ptr().addr().wrapping_sub(unread.as_ptr().addr());
        let value = if start < length { bytes.slice(start..start + field.value.len()) } else { Bytes::new() };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Flaw::Malformed("header value"))?;
        if name == header::CONTENT_LENGTH {
            framing.length(&value);
        } else if name == header::TRANSFER_ENCODING {
            framing.encoding(&value);
        } else if name == header::CONNECTION {
            connection.push(value);
        } else if !is_hop_by_hop(name.as_str()) {
            headers.try_append(name, value).map_err(|_| Flaw::Malformed("headers"))?;
        }
    }
    let says = |word: &str| {
        let tokens = connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        tokens.map(str::trim).any(|token| token.eq_ignore_ascii_case(word))
    };
    let keep_alive = if framing.old { says("keep-alive") && !says("close") } else { !says("close") };
    if !connection.is_empty() {
        HopByHop::of(&connection).strip(&mut headers);
    }
    let none = bodiless || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let body = if none { Body::Length(0) } else { framing.body()? };
    Ok(Some((length, Head { status, headers, keep_alive, body })))
}

/// What the headers say of how long the body is.
#[derive(Default)]
struct Framing {
    /// HTTP/1.0.
    old: bool,
    length: Option<Option<u64>>,
    chunked: Option<bool>,
}

impl Framing {
    /// More than one length may be told, in one header or several, if it is the same one.
    fn length(&mut self, value: &HeaderValue) {
        let one = |text: &str| {
            let text = text.trim();
            (text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u64>().ok()).flatten()
        };
        let Ok(text) = value.to_str() else {
            self.length = Some(None);
            return;
        };
        for length in text.split(',').map(one) {
            let agrees = self.length.is_none_or(|other| other == length);
            self.length = Some(length.filter(|_| agrees));
        }
    }

    fn encoding(&mut self, value: &HeaderValue) {
        let is_chunked = value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        self.chunked = Some(is_chunked && self.chunked.is_none());
    }

    fn body(self) -> Result<Body, Flaw> {
        match (self.chunked, self.length) {
            (None, None) => Ok(Body::ToEnd),
            (None, Some(Some(length))) => Ok(Body::Length(usize::try_from(length).unwrap_or(usize::MAX))),
            (Some(true), None) if !self.old => Ok(Body::Chunks(Chunks::new())),
            // Two lengths, or a length and chunks, or a coding that is not chunked: a second reader may see another end.
            _ => Err(Flaw::Malformed("framing")),
        }
    }
}
