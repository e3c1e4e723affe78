//! The head of each request of HTTP/1 is read here first, whoever serves the request then.
//!
//! Syntax is httparse's, as pingora's is. What is judged here is how long the head may be, where the request ends, and whose it is: a head
//! that could be read in two ways is refused, so pingora meets none that it would refuse itself, before any hook of the gateway's runs.

use std::mem::MaybeUninit;

use http::HeaderValue;
use http::header::HOST;
use pingora::http::RequestHeader;
use pingora::protocols::http::authority::validate_request_authority;

use super::plain::{self, Plain, USUAL_FIELDS};
use crate::api;
use crate::api::body::MAX_REQUEST;
use crate::gateway::reply::Reply;
use crate::http1::fields;

/// The most that a head may have, in bytes and in fields.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 100;

/// The methods that pass.
const METHODS: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";

/// What the beginning of what came is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and none is kept")]
pub(crate) enum RequestHead {
    /// Not a whole head yet.
    Partial,
    /// A plain request's.
    Plain(Plain),
    /// Another's.
    Passing(Framing),
    /// None that is served.
    Refused(RefusedHead),
}

/// Where a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It has so many bytes.
    Length(usize),
    /// Its head has so many bytes, and its body stands in chunks.
    Chunked(usize),
}

/// A head that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefusedHead {
    /// As the log tells it; nothing, where it cannot be read.
    pub(crate) method: &'static str,
    flaw: HeadFlaw,
}

/// Why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadFlaw {
    Malformed,
    TooLarge,
    Framing,
    Host,
    Target,
    Connect,
}

impl RefusedHead {
    /// What the client is told.
    pub(crate) fn reply(self) -> Reply {
        match self.flaw {
            HeadFlaw::Malformed => Reply::invalid_request("The request's head cannot be read."),
            HeadFlaw::TooLarge => Reply::head_too_large(),
            HeadFlaw::Framing => Reply::unclear_framing(),
            HeadFlaw::Host => Reply::invalid_request(
                "A request has one Host, without a user, and it is the target's own where the target names one.",
            ),
            HeadFlaw::Target => Reply::invalid_target(),
            HeadFlaw::Connect => Reply::wrong_method(METHODS),
        }
    }
}

/// What fields say of a request, as far as it matters here.
#[derive(Debug, Default)]
struct Says<'h> {
    hosts: usize,
    host: Option<&'h [u8]>,
    length: Option<usize>,
    codings: usize,
    is_chunked: bool,
    /// It has more than one length, or one that is none.
    is_unclear: bool,
    /// It asks for something that is pingora's to see to.
    more: bool,
}

/// Reads the head that these bytes begin with.
pub(crate) fn read(bytes: &[u8]) -> RequestHead {
    let mut found = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut found) {
        Err(httparse::Error::TooManyHeaders) => read_many(bytes),
        parsed => judge(bytes, parsed, &request),
    }
}

#[cold]
fn read_many(bytes: &[u8]) -> RequestHead {
    let mut found = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut found);
    judge(bytes, parsed, &request)
}

fn judge(bytes: &[u8], parsed: httparse::Result<usize>, request: &httparse::Request<'_, '_>) -> RequestHead {
    let refused = |method, flaw| RequestHead::Refused(RefusedHead { method, flaw });
    let head = match parsed {
        Ok(httparse::Status::Complete(head)) if head <= MAX_HEAD => head,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return RequestHead::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return refused("", HeadFlaw::TooLarge),
        Err(_) => return refused("", HeadFlaw::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return refused("", HeadFlaw::Malformed);
    };
    let says = Says::read(request.headers);
    let body = says.length.unwrap_or(0);
    let is_plain = method == "POST"
        && version == 1
        && says.hosts == 1
        && says.codings == 0
        && !says.is_unclear
        && !says.more
        && body <= MAX_REQUEST;
    if is_plain && let Some(plain) = plain::plain(bytes, target, request.headers, head, body) {
        return RequestHead::Plain(plain);
    }
    match says.framing(head, version).and_then(|framing| check_target(method, target, version, &says).map(|()| framing))
    {
        Ok(framing) => RequestHead::Passing(framing),
        Err(flaw) => refused(api::method(method), flaw),
    }
}

impl<'h> Says<'h> {
    fn read(headers: &[httparse::Header<'h>]) -> Self {
        let mut says = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // Told apart by their lengths first: most are none of these.
            match header.name.len() {
                4 if is("host") => {
                    says.hosts += 1;
                    says.host = Some(header.value);
                    says.more |= header.value.is_empty() || header.value.contains(&b'@');
                }
                14 if is("content-length") => {
                    let length = fields::content_length(header.value);
                    says.is_unclear |= length.is_none() || says.length.is_some();
                    says.length = length;
                }
                17 if is("transfer-encoding") => {
                    says.codings += 1;
                    says.is_chunked = header.value.eq_ignore_ascii_case(b"chunked");
                }
                7 if is("upgrade") => says.more = true,
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

    /// Where the request ends whose head has so many bytes.
    fn framing(&self, head: usize, version: u8) -> Result<Framing, HeadFlaw> {
        match (self.codings, self.length) {
            _ if self.is_unclear => Err(HeadFlaw::Framing),
            (0, length) => head.checked_add(length.unwrap_or(0)).map(Framing::Length).ok_or(HeadFlaw::Framing),
            // With a length beside it, or before HTTP/1.1, some servers would not read the chunks (RFC 9112, 6.1).
            (1, None) if self.is_chunked && version == 1 => Ok(Framing::Chunked(head)),
            _ => Err(HeadFlaw::Framing),
        }
    }
}

/// Whether it is clear what the request asks for, and of which host.
fn check_target(method: &str, target: &str, version: u8, says: &Says<'_>) -> Result<(), HeadFlaw> {
    // Also OPTIONS, which it does not say itself, and what is spelled in a way of its own: those are told apart later.
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?|[]".contains(&byte);
    let has_user = says.host.is_some_and(|host| host.contains(&b'@'));
    // Of HTTP/1.1 one is wanted (RFC 9112, 3.2).
    if says.hosts > 1 || says.hosts == 0 && version > 0 || has_user {
        return Err(HeadFlaw::Host);
    }
    if method == "CONNECT" {
        return Err(HeadFlaw::Connect);
    }
    if target.starts_with('/') && target.bytes().all(is_usual) {
        return Ok(());
    }
    check_odd_target(method, target, says.host)
}

/// The same with pingora's own functions, or it would refuse the request after this.
#[cold]
fn check_odd_target(method: &str, target: &str, host: Option<&[u8]>) -> Result<(), HeadFlaw> {
    let mut header = RequestHeader::build(method, target.as_bytes(), Some(1)).map_err(|_| HeadFlaw::Target)?;
    if let Some(host) = host {
        let host = HeaderValue::from_bytes(host).map_err(|_| HeadFlaw::Host)?;
        header.insert_header(HOST, host).map_err(|_| HeadFlaw::Host)?;
    }
    validate_request_authority(&header).map_err(|_| HeadFlaw::Host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Operation;

    const HOST: &str = "Host: gateway\r\n";
    const SEND: &str = "POST /api/v1/verify HTTP/1.1";

    fn head(line: &str, fields: &str) -> String {
        format!("{line}\r\n{fields}\r\n")
    }

    fn passing(text: &str) -> Framing {
        match read(text.as_bytes()) {
            RequestHead::Passing(framing) => framing,
            head => panic!("{text:?}: {head:?}"),
        }
    }

    fn refused(text: &str) -> (u16, &'static str) {
        match read(text.as_bytes()) {
            RequestHead::Refused(refused) => (refused.reply().status.as_u16(), refused.method),
            head => panic!("{text:?}: {head:?}"),
        }
    }

    #[test]
    fn sends_and_resends_with_a_length_are_plain() {
        for (line, path, operation) in [
            (SEND, "/api/v1/verify", Operation::Send),
            ("POST /api/v1//verify?x=1 HTTP/1.1", "/api/v1//verify", Operation::Send),
            ("POST /api/v1/verify/ver_1/resend HTTP/1.1", "/api/v1/verify/ver_1/resend", Operation::Resend),
        ] {
            let text = head(line, &format!("{HOST}x-a: b\r\nCONTENT-length: 17\r\nConnection: Keep-Alive\r\n"));
            let RequestHead::Plain(plain) = read(text.as_bytes()) else { panic!("{line} is plain") };
            assert_eq!((plain.call.operation, plain.head, plain.body), (operation, text.len(), 17));
            assert_eq!(plain.path.of(text.as_bytes()), path.as_bytes());
            let (name, value) = (plain.fields[1].name.of(text.as_bytes()), plain.fields[1].value.of(text.as_bytes()));
            assert_eq!((name, value), (b"x-a".as_slice(), b"b".as_slice()));
        }
        let bodiless = head("POST /api/v1/verify/ver_1/resend HTTP/1.1", HOST);
        assert!(matches!(read(bodiless.as_bytes()), RequestHead::Plain(Plain { body: 0, .. })));
    }

    #[test]
    fn a_head_is_partial_until_its_last_byte() {
        for fields in [format!("{HOST}content-length: 17\r\n"), format!("{HOST}{}", "x: y\r\n".repeat(60))] {
            let text = head(SEND, &fields);
            for end in 1..text.len() {
                assert!(matches!(read(&text.as_bytes()[..end]), RequestHead::Partial), "{end}");
            }
        }
    }

    #[test]
    fn what_is_no_plain_send_goes_on_with_its_length() {
        for (line, fields) in [
            ("GET /api/v1/verify HTTP/1.1", HOST.to_owned()),
            ("POST /api/v1/messages HTTP/1.1", format!("{HOST}content-length: 5\r\n")),
            ("POST /api/v1/verify/ver_1/check HTTP/1.1", format!("{HOST}content-length: 5\r\n")),
            ("POST /api/v1/verify/ HTTP/1.1", HOST.to_owned()),
            ("POST http://gateway/api/v1/verify HTTP/1.1", HOST.to_owned()),
            ("POST /api/v1/verify#x HTTP/1.1", HOST.to_owned()),
            ("POST x:/api/v1/verify HTTP/1.1", HOST.to_owned()),
            ("OPTIONS * HTTP/1.1", HOST.to_owned()),
            ("POST /api/v1/verify HTTP/1.0", "content-length: 5\r\n".to_owned()),
            (SEND, format!("{HOST}upgrade: h2c\r\n")),
            (SEND, format!("{HOST}expect: 100-continue\r\ncontent-length: 5\r\n")),
            (SEND, format!("{HOST}connection: close\r\n")),
            (SEND, format!("{HOST}connection: keep-alive, x\r\n")),
            (SEND, format!("{HOST}te: trailers\r\n")),
            (SEND, format!("{HOST}content-length: 65537\r\n")),
            (SEND, format!("{HOST}{}", "x: y\r\n".repeat(99))),
        ] {
            let text = head(line, &fields);
            let body = fields.split("content-length: ").nth(1).map_or(0, |rest| rest.trim().parse().unwrap());
            assert_eq!(passing(&text), Framing::Length(text.len() + body), "{text:?}");
        }
        for coding in ["chunked", "Chunked", "  chunked "] {
            let text = head(SEND, &format!("{HOST}transfer-encoding:{coding}\r\n"));
            assert_eq!(passing(&text), Framing::Chunked(text.len()), "{text:?}");
        }
    }

    #[test]
    fn framing_that_could_be_read_in_two_ways_is_refused() {
        for (version, fields) in [
            ("1.1", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
            ("1.1", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
            ("1.1", "transfer-encoding: gzip, chunked\r\n"),
            ("1.1", "transfer-encoding: chunked, identity\r\n"),
            ("1.1", "transfer-encoding: identity\r\n"),
            ("1.1", "transfer-encoding:\r\n"),
            ("1.0", "transfer-encoding: chunked\r\n"),
            ("1.1", "content-length: 5\r\ncontent-length: 5\r\n"),
            ("1.1", "content-length: 5\r\ncontent-length: 6\r\n"),
            ("1.1", "content-length: 5, 5\r\n"),
            ("1.1", "content-length: 05\r\n"),
            ("1.1", "content-length: +5\r\n"),
            ("1.1", "content-length: -5\r\n"),
            ("1.1", "content-length: 0x5\r\n"),
            ("1.1", "content-length:\r\n"),
            ("1.1", "content-length: 18446744073709551616\r\n"),
            ("1.1", "host: gateway\r\n"),
        ] {
            for target in ["/api/v1/verify", "/api/v1/messages"] {
                let text = head(&format!("POST {target} HTTP/{version}"), &format!("{HOST}{fields}"));
                assert_eq!(refused(&text), (400, "POST"), "{text:?}");
            }
        }
    }

    #[test]
    fn a_target_and_a_host_that_name_different_servers_are_refused() {
        for (line, fields) in [
            ("GET http://other/api/v1/messages HTTP/1.1", HOST),
            ("GET http://gateway:81/ HTTP/1.1", HOST),
            ("GET http://a@gateway/ HTTP/1.1", HOST),
            ("GET http://gateway\\x/ HTTP/1.1", HOST),
            ("GET http:gateway HTTP/1.1", HOST),
            ("GET / HTTP/1.1", "Host: a@gateway\r\n"),
            ("GET / HTTP/1.1", "Host: a\r\nhost: b\r\n"),
            ("GET / HTTP/1.1", "x: y\r\n"),
            ("GET http://gateway/ HTTP/1.1", "x: y\r\n"),
        ] {
            assert_eq!(refused(&head(line, fields)), (400, "GET"), "{line}");
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "nonsense\r\n\r\n",
            "GET / HTTP/1.1\r\n bad\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(refused(text), (400, ""), "{text:?}");
        }
        assert_eq!(refused(&format!("{SEND}\r\n").repeat(600)), (400, ""), "not a head");
        assert_eq!(refused("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n"), (405, "CONNECT"));
    }

    #[test]
    fn a_head_may_have_16_kib_and_100_fields() {
        let padded = |length: usize| {
            let text = head("GET / HTTP/1.1", &format!("{HOST}x: \r\n"));
            text.replace("x: ", &format!("x: {}", "y".repeat(length - text.len())))
        };
        assert_eq!(passing(&padded(MAX_HEAD)), Framing::Length(MAX_HEAD));
        assert_eq!(refused(&padded(MAX_HEAD + 1)), (431, ""));
        assert_eq!(refused(&padded(MAX_HEAD + 9)[..MAX_HEAD]), (431, ""), "it need not end");
        let many = |count: usize| head("GET / HTTP/1.1", &format!("{HOST}{}", "x: y\r\n".repeat(count - 1)));
        assert_eq!(passing(&many(100)), Framing::Length(many(100).len()));
        assert_eq!(refused(&many(101)), (431, ""));
    }
}
