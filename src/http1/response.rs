//! A response, read as its bytes come: what its head says, how long its body is, and whether its connection can be used again.
//!
//! Syntax is httparse's, as hyper's is. What a second reader could frame in another way is refused.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::answer::Answer;
use super::buffer::Buffer;
use super::chunked::ChunkDecoder;
use super::error::ReadError;
use super::hop_by_hop::{HopByHop, is_hop_by_hop};

/// The most that a head may have, in bytes and in headers.
const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;

/// Answers before the answer (1xx) that are put up with.
const MAX_INTERIM: usize = 16;

/// What is known after some bytes.
#[derive(Debug)]
pub(crate) enum Progress {
    /// More bytes have to come.
    More,
    /// The whole response, and whether its connection can carry another exchange.
    Whole(Answer, bool),
    /// The status, if the head was whole, and why the rest cannot be read.
    Failed(Option<StatusCode>, ReadError),
}

/// A response as far as it has come.
pub(crate) struct ResponseReader {
    /// The response to `HEAD` has no body.
    bodiless: bool,
    max_body: usize,
    interim: usize,
    head: Option<AnswerHead>,
}

struct AnswerHead {
    status: StatusCode,
    headers: HeaderMap,
    keep_alive: bool,
    body: AnswerBody,
}

/// How the end of a body is known.
enum AnswerBody {
    Length(usize),
    Chunks(ChunkDecoder),
    ToEnd,
}

impl ResponseReader {
    /// Reads the response to a request with this method. Its body may have `max_body` bytes.
    pub(crate) fn new(method: &Method, max_body: usize) -> Self {
        Self { bodiless: method == Method::HEAD, max_body, interim: 0, head: None }
    }

    /// Understands what has come so far; and, if the connection was closed (`ended`), what that means.
    pub(crate) fn step(&mut self, buffer: &mut Buffer, ended: bool) -> Progress {
        let mut head = match self.head.take().map_or_else(|| self.read_head(buffer), |head| Ok(Some(head))) {
            Ok(Some(head)) => head,
            Ok(None) if ended => return Progress::Failed(None, ReadError::Incomplete),
            Ok(None) => return Progress::More,
            Err(flaw) => return Progress::Failed(None, flaw),
        };
        match head.body.step(buffer, self.max_body, ended) {
            Ok(Some(body)) => {
                // Bytes beyond the answer: this and the other side do not agree on where it ended.
                let reusable = head.keep_alive && buffer.unread().is_empty() && !ended;
                Progress::Whole(Answer { status: head.status, headers: head.headers, body }, reusable)
            }
            Ok(None) if ended => Progress::Failed(Some(head.status), ReadError::Incomplete),
            Ok(None) => {
                self.head = Some(head);
                Progress::More
            }
            Err(flaw) => Progress::Failed(Some(head.status), flaw),
        }
    }

    /// What is known if the connection broke: not even a body that ends with it is whole then.
    pub(crate) fn broken(self) -> Progress {
        Progress::Failed(self.head.map(|head| head.status), ReadError::Incomplete)
    }

    /// The head of the answer itself: interim ones are skipped.
    fn read_head(&mut self, buffer: &mut Buffer) -> Result<Option<AnswerHead>, ReadError> {
        loop {
            let Some((length, head)) = head(buffer.unread(), self.bodiless)? else { return Ok(None) };
            buffer.consume(length);
            match head.status.as_u16() {
                101 => return Err(ReadError::Upgrade),
                100..=199 if self.interim == MAX_INTERIM => return Err(ReadError::Malformed("interim answers")),
                100..=199 => self.interim += 1,
                _ => return Ok(Some(head)),
            }
        }
    }
}

impl AnswerBody {
    fn step(&mut self, buffer: &mut Buffer, max: usize, ended: bool) -> Result<Option<Bytes>, ReadError> {
        match self {
            AnswerBody::Length(length) if *length > max => Err(ReadError::TooLong),
            AnswerBody::Length(length) => {
                let body = buffer.unread().get(..*length).map(Bytes::copy_from_slice);
                buffer.consume(if body.is_some() { *length } else { 0 });
                Ok(body)
            }
            AnswerBody::Chunks(chunks) => Ok(chunks.step(buffer, max)?.map(Bytes::from)),
            AnswerBody::ToEnd if buffer.unread().len() > max => Err(ReadError::TooLong),
            AnswerBody::ToEnd => {
                let body = ended.then(|| Bytes::copy_from_slice(buffer.unread()));
                buffer.consume(if ended { usize::MAX } else { 0 });
                Ok(body)
            }
        }
    }
}

/// A head and its length, if it is there.
fn head(unread: &[u8], bodiless: bool) -> Result<Option<(usize, AnswerHead)>, ReadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, unread, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if unread.len() < MAX_HEAD => return Ok(None),
        _ => return Err(ReadError::Malformed("head")),
    };
    let status =
        response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(ReadError::Malformed("status"))?;
    let mut framing = AnswerFraming { old: response.version != Some(1), ..AnswerFraming::default() };
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    let mut connection = Vec::new();
    // One allocation for all values, and not the connection's buffer: an answer may be kept for long.
    let bytes = Bytes::copy_from_slice(unread.get(..length).unwrap_or_default());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ReadError::Malformed("header name"))?;
        // Within `bytes`: httparse's values lie within what it was given.
        let start = field.value.as_ptr().addr().wrapping_sub(unread.as_ptr().addr());
        let value = if start < length { bytes.slice(start..start + field.value.len()) } else { Bytes::new() };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| ReadError::Malformed("header value"))?;
        if name == header::CONTENT_LENGTH {
            framing.length(&value);
        } else if name == header::TRANSFER_ENCODING {
            framing.encoding(&value);
        } else if name == header::CONNECTION {
            connection.push(value);
        } else if !is_hop_by_hop(name.as_str().as_bytes()) {
            headers.try_append(name, value).map_err(|_| ReadError::Malformed("headers"))?;
        }
    }
    let says = |word: &str| {
        let tokens = connection.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        tokens.map(str::trim).any(|token| token.eq_ignore_ascii_case(word))
    };
    let keep_alive = if framing.old { says("keep-alive") && !says("close") } else { !says("close") };
    if !connection.is_empty() {
        HopByHop::of(connection.iter().map(HeaderValue::as_bytes)).strip(&mut headers);
    }
    let none = bodiless || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let body = if none { AnswerBody::Length(0) } else { framing.body()? };
    Ok(Some((length, AnswerHead { status, headers, keep_alive, body })))
}

/// What the headers say of how long the body is.
#[derive(Default)]
struct AnswerFraming {
    /// HTTP/1.0.
    old: bool,
    length: Option<Option<u64>>,
    chunked: Option<bool>,
}

impl AnswerFraming {
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

    fn body(self) -> Result<AnswerBody, ReadError> {
        match (self.chunked, self.length) {
            (None, None) => Ok(AnswerBody::ToEnd),
            (None, Some(Some(length))) => Ok(AnswerBody::Length(usize::try_from(length).unwrap_or(usize::MAX))),
            (Some(true), None) if !self.old => Ok(AnswerBody::Chunks(ChunkDecoder::new())),
            // Two lengths, or a length and chunks, or a coding that is not chunked: a second reader may see another end.
            _ => Err(ReadError::Malformed("framing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_ANSWER: usize = 64 * 1024;

    /// What is known after these pieces, and then the end.
    fn read(pieces: &[&[u8]]) -> Progress {
        let (mut reading, mut buffer) = (ResponseReader::new(&Method::POST, MAX_ANSWER), Buffer::new());
        for piece in pieces {
            for byte in piece.chunks(4096) {
                buffer.room();
                let room = buffer.room();
                let count = room.len().min(byte.len());
                room[..count].copy_from_slice(&byte[..count]);
                buffer.add(count);
                let rest = &byte[count..];
                buffer.room()[..rest.len()].copy_from_slice(rest);
                buffer.add(rest.len());
                assert!(buffer.unread().len() <= MAX_HEAD + 2 * 4096, "{} bytes are kept", buffer.unread().len());
                match reading.step(&mut buffer, false) {
                    Progress::More => {}
                    over => return over,
                }
            }
        }
        reading.step(&mut buffer, true)
    }

    fn shown(step: &Progress) -> String {
        format!("{step:?}")
    }

    fn whole(text: &str) -> (u16, String, bool) {
        match read(&[text.as_bytes()]) {
            Progress::Whole(answer, reusable) => {
                (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap(), reusable)
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn failed(text: &str) -> (Option<u16>, ReadError) {
        match read(&[text.as_bytes()]) {
            Progress::Failed(status, flaw) => (status.map(|status| status.as_u16()), flaw),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn the_end_of_an_answer_is_where_its_head_says() {
        for (rest, body, reusable) in [
            ("200 OK\r\ncontent-length: 2\r\n\r\nab", "ab", true),
            ("200 OK\r\ncontent-length: 2, 2\r\nContent-Length: 2\r\n\r\nab", "ab", true),
            ("200\r\ncontent-length: 0\r\n\r\n", "", true),
            ("200 OK\r\ncontent-length: 2\r\n\r\nabc", "ab", false),
            ("200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nab", "ab", false),
            ("204 No Content\r\ncontent-length: 2\r\n\r\n", "", true),
            ("304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", "", true),
            ("200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n01;x=\"y\"\r\nb\r\n0\r\n\r\n", "ab", true),
            ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n2 \t\r\nab\r\n0\r\ntrailer: 1\r\n\r\n", "ab", true),
            ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore", "", false),
            ("200 OK\r\n\r\nab", "ab", false),
        ] {
            assert_eq!(
                whole(&format!("HTTP/1.1 {rest}")),
                (rest[..3].parse().unwrap(), body.into(), reusable),
                "{rest}"
            );
        }
    }

    #[test]
    fn http_1_0_keeps_a_connection_only_if_it_says_so() {
        assert!(!whole("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").2);
        assert!(whole("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 0\r\n\r\n").2);
        assert!(!whole("HTTP/1.0 200 OK\r\nconnection: keep-alive, close\r\ncontent-length: 0\r\n\r\n").2);
    }

    #[test]
    fn what_comes_before_the_answer_is_skipped_and_bounded() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let early = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
        assert_eq!(whole(&(early.repeat(MAX_INTERIM) + answer)).0, 200);
        assert_eq!(failed(&(early.repeat(MAX_INTERIM + 1) + answer)), (None, ReadError::Malformed("interim answers")));
        assert_eq!(failed("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"), (None, ReadError::Upgrade));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        for fields in [
            "content-length: 1\r\ncontent-length: 2",
            "content-length: 1, 2",
            "content-length: 1,",
            "content-length: +1",
            "content-length: -1",
            "content-length: 0x1",
            "content-length: ",
            "content-length: 18446744073709551616",
            "content-length: \u{e9}",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: ",
        ] {
            let flaw = failed(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n1\r\na\r\n0\r\n\r\n"));
            assert_eq!(flaw, (None, ReadError::Malformed("framing")), "{fields}");
        }
        let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(failed(old), (None, ReadError::Malformed("framing")));
    }

    #[test]
    fn a_body_that_is_not_whole_leaves_the_status() {
        let chunked = "transfer-encoding: chunked\r\n\r\n";
        for rest in [
            "content-length: 2\r\n\r\na".to_owned(),
            chunked.to_owned(),
            format!("{chunked}2\r\nab\r\n0\r\n"),
            format!("{chunked}2\r\nab\r\n0\r\n\r"),
            format!("{chunked}2\r\nabc\r\n0\r\n\r\n"),
            format!("{chunked}g\r\n"),
            format!("{chunked}\r\n"),
            format!("{chunked}1\na\n0\n\n"),
            format!("{chunked}1 1\r\na\r\n0\r\n\r\n"),
            format!("{chunked}00000000000000001\r\na\r\n0\r\n\r\n"),
            format!("{chunked}ffffffffffffffff\r\na"),
            format!("{chunked}0\r\ntrailer\r\n\r\n"),
            format!("{chunked}0\r\na: b\n\r\n"),
            format!("{chunked}0\r\n{}\r\n", "a: b\r\n".repeat(101)),
            format!("{chunked}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000)),
            format!("{chunked}{}0\r\n\r\n", "1;xxxxxxxxx\r\na\r\n".repeat(2_000)),
        ] {
            let (status, _) = failed(&format!("HTTP/1.1 201 Created\r\n{rest}"));
            assert_eq!(status, Some(201), "{rest}");
        }
    }

    #[test]
    fn a_body_may_be_so_long_and_no_longer() {
        let chunked = |many: usize| {
            format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", "10\r\n0123456789abcdef\r\n".repeat(many / 16))
        };
        let most = "x".repeat(MAX_ANSWER);
        let length = |many: usize| format!("content-length: {many}\r\n\r\n{most}x");
        for rest in [format!("\r\n{most}"), length(MAX_ANSWER), chunked(MAX_ANSWER)] {
            assert_eq!(
                whole(&format!("HTTP/1.1 200 OK\r\n{rest}").replace("\n\r\n\r\n", "\n\r\n")).1.len(),
                MAX_ANSWER
            );
        }
        for rest in [format!("a: b\r\n\r\n{most}x"), length(MAX_ANSWER + 1), chunked(MAX_ANSWER + 16)] {
            assert_eq!(failed(&format!("HTTP/1.1 200 OK\r\n{rest}")), (Some(200), ReadError::TooLong));
        }
    }

    #[test]
    fn a_head_may_be_so_long_and_no_longer() {
        let fields = |many: usize| format!("HTTP/1.1 204 No Content\r\n{}\r\n", "a: b\r\n".repeat(many));
        assert_eq!(whole(&fields(MAX_FIELDS)).0, 204);
        assert_eq!(failed(&fields(MAX_FIELDS + 1)), (None, ReadError::Malformed("head")));
        let long = |many: usize| format!("HTTP/1.1 204 No Content\r\na: {}\r\n\r\n", "x".repeat(many));
        assert_eq!(whole(&long(MAX_HEAD - 100)).0, 204);
        assert_eq!(failed(&long(MAX_HEAD)), (None, ReadError::Malformed("head")));
    }

    #[test]
    fn headers_that_concern_the_connection_stay_behind() {
        let text = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\n\
                    Content-Type: text/plain\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nUpgrade: h2c\r\ncontent-length: 0\r\n\r\n";
        let Progress::Whole(answer, true) = read(&[text.as_bytes()]) else { panic!("{text}") };
        let mut headers: Vec<_> =
            answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        headers.sort_unstable();
        let expected: [(&str, &[u8]); 3] =
            [("content-type", b"text/plain"), ("set-cookie", b"a"), ("set-cookie", b"b")];
        assert_eq!(headers, expected);
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let (mut reading, mut buffer) = (
            ResponseReader::new(&Method::HEAD, MAX_ANSWER),
            Buffer::from(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".as_slice()),
        );
        assert!(matches!(reading.step(&mut buffer, false), Progress::Whole(_, true)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096), chunked in any::<bool>()) {
            read(&[&bytes]);
            let head = if chunked { "transfer-encoding: chunked" } else { "content-length: 999" };
            read(&[format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes(), &bytes]);
            read(&[b"HTTP/1.1 200 OK\r\n", &bytes]);
        }

        #[test]
        fn how_the_bytes_are_cut_changes_nothing(
            text in "HTTP/1.1 (103 E\r\n\r\nHTTP/1.1 )?20[014] O\r\n(content-length: [0-9]\r\n|transfer-encoding: chunked\r\n|x: y\r\n)\
                     \r\n([0-3]|1\r\na\r\n|0\r\n|\r\n|a: b\r\n){0,9}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            let (cut, at_once) = (read(&pieces), read(&[bytes]));
            // What is beyond the answer may not have come yet: whether the connection stands is known when it is taken again.
            match (&cut, &at_once) {
                (Progress::Whole(cut, _), Progress::Whole(at_once, _)) => {
                    prop_assert_eq!(format!("{cut:?}"), format!("{at_once:?}"));
                }
                _ => prop_assert_eq!(shown(&cut), shown(&at_once)),
            }
        }
    }
}
