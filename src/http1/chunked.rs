//! A body in chunks (RFC 9112, 7.1), put together.

use super::buffer::Buffer;
use super::error::ReadError;

/// What chunk extensions may have over a whole body, and what trailers may have, in bytes. hyper's bounds.
const MAX_EXTENSIONS: usize = 16 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

/// The digits of a chunk's size. More than a `u64` has are padding at best.
const MAX_DIGITS: usize = 16;

const MAX_TRAILER_FIELDS: usize = 100;

/// A body as far as it has come.
pub(crate) struct ChunkDecoder {
    body: Vec<u8>,
    extensions: usize,
    next: ChunkStep,
}

enum ChunkStep {
    Size,
    Data(usize),
    DataEnd,
    Trailers,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkDecoder {
    /// At the beginning of a body.
    pub(crate) fn new() -> Self {
        Self { body: Vec::new(), extensions: 0, next: ChunkStep::Size }
    }

    /// Takes what has come. Returns the body once it is whole. It may have `max` bytes.
    pub(crate) fn step(&mut self, buffer: &mut Buffer, max: usize) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            let unread = buffer.unread();
            match self.next {
                ChunkStep::Size => {
                    let Some(line) = line(unread)? else {
                        let most = MAX_DIGITS + MAX_EXTENSIONS;
                        return if unread.len() > most { Err(ReadError::Malformed("chunk size")) } else { Ok(None) };
                    };
                    let (size, extension) = size(line).ok_or(ReadError::Malformed("chunk size"))?;
                    self.extensions += extension;
                    if self.extensions >= MAX_EXTENSIONS {
                        return Err(ReadError::Malformed("chunk extensions"));
                    }
                    // A sum of two numbers that are far from overflowing.
                    if size > max || self.body.len() + size > max {
                        return Err(ReadError::TooLong);
                    }
                    self.next = if size == 0 { ChunkStep::Trailers } else { ChunkStep::Data(size) };
                    buffer.consume(line.len() + 2);
                }
                ChunkStep::Data(left) => {
                    let data = unread.get(..left.min(unread.len())).unwrap_or_default();
                    if data.is_empty() {
                        return Ok(None);
                    }
                    self.body.extend_from_slice(data);
                    self.next =
                        if data.len() == left { ChunkStep::DataEnd } else { ChunkStep::Data(left - data.len()) };
                    buffer.consume(data.len());
                }
                ChunkStep::DataEnd => match unread {
                    [b'\r', b'\n', ..] => {
                        buffer.consume(2);
                        self.next = ChunkStep::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(ReadError::Malformed("chunk end")),
                },
                ChunkStep::Trailers => {
                    let Some(length) = trailers(unread)? else { return Ok(None) };
                    buffer.consume(length);
                    return Ok(Some(std::mem::take(&mut self.body)));
                }
            }
        }
    }
}

/// The first line, without its end.
fn line(unread: &[u8]) -> Result<Option<&[u8]>, ReadError> {
    let Some(end) = unread.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = unread.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    line.filter(|line| !line.contains(&b'\r')).map(Some).ok_or(ReadError::Malformed("chunk size"))
}

/// The size in a chunk's first line, and how long its extension is.
fn size(line: &[u8]) -> Option<(usize, usize)> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at_checked(digits).filter(|_| (1..=MAX_DIGITS).contains(&digits))?;
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let blank = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let extension = match rest.get(blank..)? {
        [] => 0,
        [b';', extension @ ..] => extension.len(),
        _ => return None,
    };
    Some((usize::try_from(size).unwrap_or(usize::MAX), extension + blank))
}

/// How long the trailers are, and the empty line after them. What they say is of no use to anyone.
fn trailers(unread: &[u8]) -> Result<Option<usize>, ReadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    // httparse ends a line at a bare LF too. Where chunks end, hyper does not.
    let ends_lines = |length| {
        let mut lines = unread.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
        lines.all(|line| line.ends_with(b"\r\n"))
    };
    match httparse::parse_headers(unread, &mut fields) {
        Ok(httparse::Status::Complete((length, _))) if length <= MAX_TRAILERS && ends_lines(length) => Ok(Some(length)),
        Ok(httparse::Status::Partial) if unread.len() < MAX_TRAILERS => Ok(None),
        _ => Err(ReadError::Malformed("trailers")),
    }
}
