//! Which requests are plain: sends and resends of HTTP/1.1 that can be read in one way only, with a body of a known length.
//!
//! Syntax is httparse's, as pingora's is. Whatever is not plain is not judged here at all.

use arrayvec::ArrayVec;
use http::Method;

use crate::gateway::fields::{Field, Span};
use crate::sendly::Operation;
use crate::sendly::body::MAX_REQUEST;
use crate::sendly::path::{self, Call};

/// The most that a head may have to be read here, in bytes and in fields.
pub(super) const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 32;

/// A plain request.
#[derive(Debug)]
pub(super) struct Plain {
    /// What it asks for.
    pub(super) call: Call,
    /// Its path, without a query, as it came.
    pub(super) path: Span,
    pub(super) fields: ArrayVec<Field, MAX_FIELDS>,
    /// The lengths of its head and its body, in bytes.
    pub(super) head: usize,
    pub(super) body: usize,
}

impl Plain {
    /// The length of all of it.
    pub(super) const fn length(&self) -> usize {
        self.head + self.body
    }
}

/// What the beginning of what came is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and none is kept")]
pub(super) enum Head {
    /// Not a whole head yet.
    Partial,
    /// A plain request's.
    Plain(Plain),
    /// Another's; and the length of the whole request, where its head alone tells that.
    Other(Option<usize>),
}

/// What fields say of a request, as far as it matters here.
#[derive(Debug, Default)]
struct Says {
    hosts: usize,
    length: Option<usize>,
    /// It has more than one length, or one that is none.
    unclear: bool,
    /// Its end cannot be told from its length.
    open: bool,
    /// It asks for something that is pingora's to see to.
    more: bool,
}

/// Reads the head that these bytes begin with.
pub(super) fn read(bytes: &[u8]) -> Head {
    let mut found = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(bytes, &mut found) {
        Ok(httparse::Status::Complete(head)) if head <= MAX_HEAD => head,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Head::Partial,
        _ => return Head::Other(None),
    };
    let says = Says::read(request.headers);
    let (Some(method), Some(target)) = (request.method, request.path) else { return Head::Other(None) };
    if says.unclear || says.open || request.version != Some(1) || method == "CONNECT" {
        return Head::Other(None);
    }
    let body = says.length.unwrap_or(0);
    let other = Head::Other(head.checked_add(body));
    if method != "POST" || says.more || says.hosts != 1 || body > MAX_REQUEST {
        return other;
    }
    plain(bytes, target, request.headers, head, body).map_or(other, Head::Plain)
}

fn plain(bytes: &[u8], target: &str, headers: &[httparse::Header<'_>], head: usize, body: usize) -> Option<Plain> {
    let path = target.split('?').next().filter(|path| path.starts_with('/'))?;
    // Of these, readers may make different things; pingora's reading is the one that goes on.
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return None;
    }
    let path::Reading::Verify(call) = path::read(&Method::POST, path) else { return None };
    if !matches!(call.operation, Operation::Send | Operation::Resend) {
        return None;
    }
    let part = |part: &[u8]| Span::of_part(bytes, part);
    let mut fields = ArrayVec::new();
    for header in headers {
        fields.push(Field { name: part(header.name.as_bytes())?, value: part(header.value)? });
    }
    Some(Plain { call, path: part(path.as_bytes())?, fields, head, body })
}

impl Says {
    fn read(headers: &[httparse::Header<'_>]) -> Self {
        let mut says = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // Told apart by their lengths first: most are none of these.
            match header.name.len() {
                4 if is("host") => {
                    says.hosts += 1;
                    says.more |= header.value.is_empty() || header.value.contains(&b'@');
                }
                14 if is("content-length") => {
                    let length = digits(header.value);
                    says.unclear |= length.is_none() || says.length.is_some();
                    says.length = length;
                }
                17 if is("transfer-encoding") => says.open = true,
                7 if is("upgrade") => says.open = true,
                6 if is("expect") => says.more = true,
                10 if is("connection") => says.more |= !header.value.eq_ignore_ascii_case(b"keep-alive"),
                // They concern the connection, and so nobody but pingora.
                2 if is("te") => says.more = true,
                7 if is("trailer") => says.more = true,
                _ => {}
            }
        }
        says
    }
}

/// A length (RFC 9112, 6.2), which has no more digits than anybody needs.
fn digits(value: &[u8]) -> Option<usize> {
    if value.is_empty() || value.len() > 12 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "Host: gateway\r\n";

    fn head(line: &str, fields: &str) -> String {
        format!("{line}\r\n{fields}\r\n")
    }

    fn other(text: &str) -> Option<usize> {
        match read(text.as_bytes()) {
            Head::Other(length) => length,
            head => panic!("{text:?}: {head:?}"),
        }
    }

    #[test]
    fn sends_and_resends_with_a_length_are_plain() {
        for (line, path, operation) in [
            ("POST /api/v1/verify HTTP/1.1", "/api/v1/verify", Operation::Send),
            ("POST /api/v1//verify?x=1 HTTP/1.1", "/api/v1//verify", Operation::Send),
            ("POST /api/v1/verify/ver_1/resend HTTP/1.1", "/api/v1/verify/ver_1/resend", Operation::Resend),
        ] {
            let text = head(line, &format!("{HOST}x-a: b\r\nCONTENT-length: 17\r\nConnection: Keep-Alive\r\n"));
            let Head::Plain(plain) = read(text.as_bytes()) else { panic!("{line} is plain") };
            assert_eq!((plain.call.operation, plain.head, plain.body), (operation, text.len(), 17));
            assert_eq!(plain.path.of(text.as_bytes()), path.as_bytes());
            let (name, value) = (plain.fields[1].name.of(text.as_bytes()), plain.fields[1].value.of(text.as_bytes()));
            assert_eq!((name, value), (b"x-a".as_slice(), b"b".as_slice()));
        }
        let bodiless = head("POST /api/v1/verify/ver_1/resend HTTP/1.1", HOST);
        assert!(matches!(read(bodiless.as_bytes()), Head::Plain(Plain { body: 0, .. })));
    }

    #[test]
    fn a_head_is_partial_until_its_last_byte() {
        let text = head("POST /api/v1/verify HTTP/1.1", &format!("{HOST}content-length: 17\r\n"));
        for end in 1..text.len() {
            assert!(matches!(read(&text.as_bytes()[..end]), Head::Partial), "{end}");
        }
    }

    #[test]
    fn what_is_no_plain_send_goes_on_with_the_length_that_it_says() {
        let send = "POST /api/v1/verify HTTP/1.1";
        for (line, fields) in [
            ("GET /api/v1/verify HTTP/1.1", HOST.to_owned()),
            ("POST /api/v1/messages HTTP/1.1", format!("{HOST}content-length: 5\r\n")),
            ("POST /api/v1/verify/ver_1/check HTTP/1.1", format!("{HOST}content-length: 5\r\n")),
            ("POST /api/v1/verify/ HTTP/1.1", HOST.to_owned()),
            ("POST http://gateway/api/v1/verify HTTP/1.1", HOST.to_owned()),
            ("POST /api/v1/verify#x HTTP/1.1", HOST.to_owned()),
            (send, String::new()),
            (send, format!("{HOST}{HOST}")),
            (send, "Host: a@b\r\n".to_owned()),
            (send, format!("{HOST}expect: 100-continue\r\ncontent-length: 5\r\n")),
            (send, format!("{HOST}connection: close\r\n")),
            (send, format!("{HOST}connection: keep-alive, x\r\n")),
            (send, format!("{HOST}te: trailers\r\n")),
            (send, format!("{HOST}content-length: 65537\r\n")),
        ] {
            let text = head(line, &fields);
            let body = fields.split("content-length: ").nth(1).map_or(0, |rest| rest.trim().parse().unwrap());
            assert_eq!(other(&text), Some(text.len() + body), "{text:?}");
        }
    }

    #[test]
    fn what_has_no_length_that_all_agree_on_is_left_to_pingora_with_its_connection() {
        for (version, fields) in [
            ("1.1", "transfer-encoding: chunked\r\n"),
            ("1.1", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
            ("1.1", "content-length: 5\r\ncontent-length: 5\r\n"),
            ("1.1", "content-length: 5, 5\r\n"),
            ("1.1", "content-length: +5\r\n"),
            ("1.1", "content-length:\r\n"),
            ("1.1", "content-length: 18446744073709551616\r\n"),
            ("1.1", "upgrade: h2c\r\n"),
            ("1.0", "content-length: 5\r\n"),
        ] {
            let text = head(&format!("POST /api/v1/verify HTTP/{version}"), &format!("{HOST}{fields}"));
            assert_eq!(other(&text), None, "{text:?}");
        }
        for text in ["CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", "nonsense\r\n\r\n", "GET / HTTP/1.1\r\n bad\r\n\r\n"] {
            assert_eq!(other(text), None, "{text:?}");
        }
        assert_eq!(other(&"POST /api/v1/verify HTTP/1.1\r\n".repeat(600)), None, "not a head");
        assert_eq!(other(&head("POST /api/v1/verify HTTP/1.1", &"x: y\r\n".repeat(33))), None, "too many fields");
    }
}
