//! Which headers go on to the other side.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// By these the gateway judges a request or tells it from another. Nobody gets one past its reading by naming it in `Connection`.
const ESSENTIAL: [&str; 4] = ["authorization", "content-type", "idempotency-key", "x-organization-id"];

/// The headers that concern one connection (RFC 9110, 7.6.1), whatever `Connection` names included.
#[derive(Debug, Default)]
pub(super) struct HopByHop<'h> {
    named: Vec<&'h str>,
}

impl<'h> HopByHop<'h> {
    /// Those of a message with these `Connection` headers.
    pub(super) fn of(connection: impl IntoIterator<Item = &'h HeaderValue>) -> Self {
        let tokens = connection.into_iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        // `keep-alive`, the usual one, needs no place in the list.
        Self { named: tokens.map(str::trim).filter(|name| !name.is_empty() && !is_hop_by_hop(name)).collect() }
    }

    /// Whether a header, its name in lower case, stays behind.
    pub(super) fn has(&self, name: &str) -> bool {
        is_hop_by_hop(name) || self.names(name)
    }

    /// Takes them out of these headers.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        let found: Vec<HeaderName> = headers.keys().filter(|name| self.has(name.as_str())).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }

    fn names(&self, name: &str) -> bool {
        self.named.iter().any(|named| named.eq_ignore_ascii_case(name)) && !ESSENTIAL.contains(&name)
    }
}

/// Whether a header, its name in lower case, concerns one connection in any message.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "transfer-encoding"
            | "te"
            | "trailer"
            | "upgrade"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
    )
}

/// The headers of a client's request that go on to Sendly with a body that was read in full.
pub(super) fn forwardable(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let stays = HopByHop::of(headers.get_all(header::CONNECTION));
    // The gateway writes its own of the first three; and it reads the answer, which must come as it is.
    let own = |name: &str| matches!(name, "host" | "content-length" | "accept-encoding" | "expect");
    headers.iter().filter(move |(name, _)| !own(name.as_str()) && !stays.has(name.as_str()))
}

/// The names in these headers by which some servers read another method or path than the request has. What was judged is what
/// Sendly shall read.
pub fn misleading(headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    const MISLEADING: [&str; 5] =
        ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];
    // To a server that hands headers on as variables (CGI, WSGI), `_` and `-` are the same.
    let same = |(a, b): (u8, u8)| a == b || (a == b'-' && b == b'_');
    headers.keys().filter(move |name| {
        let name = name.as_str();
        name.starts_with('x')
            && MISLEADING.iter().any(|other| other.len() == name.len() && other.bytes().zip(name.bytes()).all(same))
    })
}

#[cfg(test)]
mod tests {
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
        let mut names: Vec<_> = forwardable(&headers).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "content-type", "idempotency-key", "x-organization-id"]);
    }

    #[test]
    fn headers_that_speak_of_another_request_are_found_however_they_are_spelled() {
        let mut headers = HeaderMap::new();
        for name in ["X-HTTP-Method-Override", "x_http-method_override", "X-Original-URL", "x-forwarded-for", "x-http"]
        {
            headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("PUT"));
        }
        let mut found: Vec<_> = misleading(&headers).map(HeaderName::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, ["x-http-method-override", "x-original-url", "x_http-method_override"]);
    }
}
