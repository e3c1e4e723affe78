//! The headers that concern one connection, and so do not go on to the other side. Names may be in any letter case.

use http::HeaderMap;
use http::header::HeaderName;

/// The headers that concern one connection in any message (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
];

/// By these the gateway judges a request or tells it from another. Nobody gets one past its reading by naming it in `Connection`.
const ESSENTIAL: [&str; 4] = ["authorization", "content-type", "idempotency-key", "x-organization-id"];

/// The headers that concern one connection, whatever `Connection` names included.
#[derive(Debug, Default)]
pub(crate) struct HopByHop<'h> {
    named: Vec<&'h str>,
}

impl<'h> HopByHop<'h> {
    /// Those of a message with these `Connection` headers.
    pub(crate) fn of(connection: impl IntoIterator<Item = &'h [u8]>) -> Self {
        let tokens = connection.into_iter().filter_map(|value| std::str::from_utf8(value).ok());
        let tokens = tokens.flat_map(|value| value.split(','));
        // `keep-alive`, the usual one, needs no place in the list.
        Self {
            named: tokens.map(str::trim).filter(|name| !name.is_empty() && !is_hop_by_hop(name.as_bytes())).collect(),
        }
    }

    /// Whether a header stays behind.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        is_hop_by_hop(name) || self.names(name)
    }

    /// Takes them out of these headers.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        let found: Vec<HeaderName> =
            headers.keys().filter(|name| self.has(name.as_str().as_bytes())).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }

    fn names(&self, name: &[u8]) -> bool {
        is_one_of(name, &self.named) && !is_one_of(name, &ESSENTIAL)
    }
}

/// Whether the name is one of these.
pub(crate) fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| other.as_bytes().eq_ignore_ascii_case(name))
}

/// Whether a header concerns one connection in any message.
pub(crate) fn is_hop_by_hop(name: &[u8]) -> bool {
    is_one_of(name, &HOP_BY_HOP)
}
