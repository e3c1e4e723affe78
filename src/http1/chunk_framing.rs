//! Where a request's body in chunks ends (RFC 9112, 7.1), followed as its bytes pass.
//!
//! Strictly: lines end in CRLF, a size is of hexadecimal digits, and nothing that another reader could take for an end is passed. What
//! this takes, pingora takes too, and finds the same end.

/// A size of more digits than a `u64` has is padding at best.
const MAX_DIGITS: u8 = 16;

/// What the extensions of one body may have, and its trailers, in bytes. pingora takes lines of up to 8 KiB.
const MAX_EXTENSIONS: usize = 4 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

/// A body as far as it has passed.
#[derive(Debug)]
pub(crate) struct ChunkFraming {
    place: Position,
    extensions: usize,
    trailers: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// A chunk's size, of which so many digits have passed.
    Size(u8, u64),
    /// What may stand behind the size: blanks, and then an extension.
    Blank(u64),
    Extension(u64),
    /// The line feed behind the size.
    SizeEnd(u64),
    /// A chunk's data, of which so many bytes are left.
    Data(u64),
    DataReturn,
    DataFeed,
    /// A line of trailers: its first byte, the rest, the line feed.
    TrailerStart,
    Trailer,
    TrailerFeed,
    /// The very last line feed.
    LastFeed,
    Over,
}

/// It is no body in chunks.
#[derive(Debug)]
pub(crate) struct MalformedChunk;

impl Default for ChunkFraming {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkFraming {
    /// At the beginning of a body.
    pub(crate) fn new() -> Self {
        Self { place: Position::Size(0, 0), extensions: 0, trailers: 0 }
    }

    /// Whether all of it has passed.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.place, Position::Over)
    }

    /// How many of the next bytes belong to the body for certain.
    pub(crate) fn certain(&self) -> usize {
        match self.place {
            Position::Data(left) => usize::try_from(left).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Follows what passes next. Returns how many of these bytes belong to the body.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<usize, MalformedChunk> {
        let mut passed = 0;
        while !self.is_over() {
            let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) else { break };
            if let Position::Data(left) = self.place {
                let taken = rest.len().min(self.certain());
                let left = left - taken as u64;
                self.place = if left == 0 { Position::DataReturn } else { Position::Data(left) };
                passed += taken;
            } else if let Some(byte) = rest.first() {
                self.place = self.behind(*byte)?;
                passed += 1;
            }
        }
        Ok(passed)
    }

    fn behind(&mut self, byte: u8) -> Result<Position, MalformedChunk> {
        let next = match (self.place, byte) {
            (Position::Size(digits, size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(MalformedChunk)?;
                Position::Size(digits + 1, size << 4 | u64::from(digit))
            }
            (Position::Size(1.., size) | Position::Blank(size) | Position::Extension(size), b'\r') => {
                Position::SizeEnd(size)
            }
            (Position::Size(1.., size) | Position::Blank(size), b' ' | b'\t') => {
                self.extension(Position::Blank(size))?
            }
            (Position::Size(1.., size) | Position::Blank(size), b';') => self.extension(Position::Extension(size))?,
            (Position::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => self.extension(Position::Extension(size))?,
            (Position::SizeEnd(0), b'\n') => Position::TrailerStart,
            (Position::SizeEnd(size), b'\n') => Position::Data(size),
            (Position::DataReturn, b'\r') => Position::DataFeed,
            (Position::DataFeed, b'\n') => Position::Size(0, 0),
            (Position::TrailerStart, b'\r') => Position::LastFeed,
            (Position::TrailerStart, b'!'..=b'~') | (Position::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.trailers += 1;
                if self.trailers > MAX_TRAILERS {
                    return Err(MalformedChunk);
                }
                Position::Trailer
            }
            (Position::Trailer, b'\r') => Position::TrailerFeed,
            (Position::TrailerFeed, b'\n') => Position::TrailerStart,
            (Position::LastFeed, b'\n') => Position::Over,
            _ => return Err(MalformedChunk),
        };
        Ok(next)
    }

    fn extension(&mut self, place: Position) -> Result<Position, MalformedChunk> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(MalformedChunk) } else { Ok(place) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Follows a text in pieces of this size. Returns where its body ends, if it has one.
    fn end(text: &[u8], size: usize) -> Option<usize> {
        let (mut framing, mut passed) = (ChunkFraming::new(), 0);
        for piece in text.chunks(size) {
            let count = framing.follow(piece).ok()?;
            passed += count;
            if count < piece.len() {
                break;
            }
        }
        framing.is_over().then_some(passed)
    }

    #[test]
    fn a_body_ends_behind_its_last_empty_line_and_not_a_byte_further() {
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "1\r\na\r\nA \t\r\n0\r\n\r\n56789\r\n0;x\r\n\r\n",
            "000000000000000B;a=\"b\";c\r\n0123456789a\r\n0\r\na: b\r\nc:\r\n\r\n",
        ] {
            for behind in ["", "POST / HTTP/1.1\r\n", "0\r\n\r\n"] {
                let text = [body, behind].concat();
                for size in [1, 2, 3, 7, text.len()] {
                    assert_eq!(end(text.as_bytes(), size), Some(body.len()), "{text:?} in pieces of {size}");
                }
            }
        }
    }

    #[test]
    fn what_could_end_elsewhere_for_another_reader_is_no_body() {
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_EXTENSIONS));
        let long_trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(5000));
        for text in [
            "\r\n\r\n",
            "3\nabc\n0\n\n",
            "3\r\nabc0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "0x1\r\n",
            "1 1\r\n",
            "10000000000000000\r\n",
            "1;a\nb\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "1;\0\r\na\r\n0\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na: b\rc\r\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\n\n",
            long_extension.as_str(),
            long_trailers.as_str(),
        ] {
            for size in [1, text.len()] {
                let mut framing = ChunkFraming::new();
                let is_malformed = text.as_bytes().chunks(size).any(|piece| framing.follow(piece).is_err());
                assert!(is_malformed, "{:?} in pieces of {size}", &text[..text.len().min(40)]);
            }
        }
    }

    proptest! {
        /// pingora and the own client's reader are over httparse: where this one finds an end, so does that.
        #[test]
        fn sizes_are_read_as_httparse_reads_them(line in "[0-9a-fA-F]{0,18}[ \t]{0,2}(;[a-z=\"]{0,5})?\r\n") {
            let mut framing = ChunkFraming::new();
            let own = framing.follow(line.as_bytes()).ok().map(|_| framing.certain());
            let theirs = httparse::parse_chunk_size(line.as_bytes());
            match (own, theirs) {
                (Some(size), Ok(httparse::Status::Complete((length, theirs)))) => {
                    prop_assert_eq!(length, line.len());
                    prop_assert_eq!(u64::try_from(size).unwrap(), theirs);
                }
                (Some(_), other) => prop_assert!(false, "{:?}: {:?}", line, other),
                (None, _) => {}
            }
        }

        #[test]
        fn a_body_of_any_chunks_is_followed_to_its_end(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            size in 1_usize..70,
            behind in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let length = text.len();
            text.extend_from_slice(&behind);
            prop_assert_eq!(end(&text, size), Some(length));
        }
    }
}
