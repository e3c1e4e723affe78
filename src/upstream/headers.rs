//! Which headers go on to the other side. Names may be in any letter case.

use crate::http1::fields::Fields;
use crate::http1::hop_by_hop::{HopByHop, is_one_of};
use crate::trace;

/// The gateway writes its own of these, but for the last: what it has judged is JSON, and so is what it reads of the answer, which must
/// come as it is.
const OWN: [&str; 6] = ["host", "content-length", "accept-encoding", "accept", "content-type", "expect"];

/// The headers that go on to Sendly with a body that was read in full: those of a client's request, and what is to be said of the
/// call in its trace.
pub(crate) fn forwardable<'f>(
    fields: Fields<'f>,
    traced: Option<&'f trace::TracedCall>,
) -> impl Iterator<Item = (&'f [u8], &'f [u8])> {
    let stays = HopByHop::of(fields.all("connection"));
    let is_replaced = move |name: &[u8]| traced.is_some_and(|call| call.replaces(name));
    let theirs =
        fields.iter().filter(move |(name, _)| !is_one_of(name, &OWN) && !stays.has(name) && !is_replaced(name));
    theirs.chain(traced.map(|call| (b"traceparent".as_slice(), call.traceparent().as_str().as_bytes())))
}

/// Whether this is a name by which some servers read another method or path than the request has. What was judged is what Sendly
/// shall read.
pub fn is_misleading(name: &[u8]) -> bool {
    const MISLEADING: [&str; 5] =
        ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];
    // To a server that hands headers on as variables (CGI, WSGI), `_` and `-` are the same.
    let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'-' && b == b'_');
    matches!(name, [b'x' | b'X', ..])
        && MISLEADING.iter().any(|other| other.len() == name.len() && other.bytes().zip(name.iter().copied()).all(same))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn only_what_concerns_the_connection_is_left_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer k"),
            ("content-type", "application/json"),
            ("connection", "keep-alive, X-Private, Authorization"),
            ("connection", "x-organization-id , X-Too"),
            ("x-private", "1"),
            ("x-too", "1"),
            ("x-organization-id", "org"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip"),
            ("expect", "100-continue"),
            ("content-length", "5"),
            ("host", "gateway"),
            ("idempotency-key", "i"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut names: Vec<_> = forwardable((&headers).into(), None).map(|(name, _)| name).collect();
        names.sort_unstable();
        // Of `Content-Type` the gateway writes its own.
        let expected = ["authorization", "idempotency-key", "x-organization-id"];
        assert_eq!(names, expected.map(str::as_bytes));
    }

    #[test]
    fn headers_that_speak_of_another_request_are_found_however_they_are_spelled() {
        let names =
            ["X-HTTP-Method-Override", "x_http-method_override", "X-Original-URL", "x-forwarded-for", "x-http", "x"];
        let found: Vec<_> = names.into_iter().filter(|name| is_misleading(name.as_bytes())).collect();
        assert_eq!(found, ["X-HTTP-Method-Override", "x_http-method_override", "X-Original-URL"]);
    }
}
