//! One call to Sendly over a pooled connection: the request goes, and its outcome comes back as far as it can be known.
//!
//! A request is sent again by itself only if its connection turned out to be closed before a byte of it was written.

pub(crate) mod client;
mod connect;
mod connection;
pub(crate) mod headers;
pub(crate) mod max_age;
pub(crate) mod peer;
mod pool;

use std::fmt;
use std::time::Duration;

use http::uri::Authority;
use http::{Method, StatusCode};

use crate::clock::Clock;
use crate::config::{Origin, Upstream};
pub use crate::http1::answer::Answer;
use crate::http1::fields::Fields;
use crate::tls_roots::Authorities;
use crate::trace::{self, CallFailure};
pub use headers::is_misleading;

/// What is known of a call when it is over.
#[derive(Debug)]
pub enum Outcome {
    /// Sendly answered, in full.
    Answered(Answer),
    /// Sendly answered, but its answer broke off or was too long: only the status is known.
    Cut(StatusCode),
    /// No connection came about: nothing was sent.
    NotSent,
    /// The request may have left, and no answer came.
    Lost(Loss),
}

impl Outcome {
    /// The status of the answer, and why it is not whole, as far as that is so.
    pub(crate) fn told(&self) -> (Option<u16>, Option<CallFailure>) {
        match self {
            Outcome::Answered(answer) => (Some(answer.status.as_u16()), None),
            Outcome::Cut(status) => (Some(status.as_u16()), Some(CallFailure::Cut)),
            Outcome::NotSent => (None, Some(CallFailure::NotSent)),
            Outcome::Lost(Loss::Timeout) => (None, Some(CallFailure::Timeout)),
            Outcome::Lost(Loss::Broken) => (None, Some(CallFailure::Broken)),
        }
    }
}

/// How an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It did not come in time.
    Timeout,
    /// The connection broke.
    Broken,
}

/// A call to make, with all that it needs. It shows nothing of itself: an API key is in it, and maybe a phone.
/// `None` is a call whose path or method HTTP cannot carry: it is never sent.
pub struct Call(Option<client::WireCall>);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// Sendly, reached over a pool of HTTP/1.1 connections.
pub struct Sendly {
    host: Authority,
    client: client::Client,
}

impl fmt::Debug for Sendly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sendly").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Sendly {
    /// A client for this upstream. Nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with the certificate authorities or the origin's name.
    pub fn new(upstream: &Upstream, clock: Clock) -> Result<Self, String> {
        Self::trusting(upstream, &authorities(upstream)?, clock)
    }

    /// The same with certificate authorities that have been read already.
    ///
    /// # Errors
    /// What is wrong with the origin's name.
    pub fn trusting(upstream: &Upstream, authorities: &Authorities, clock: Clock) -> Result<Self, String> {
        let client = client::Client::new(upstream, authorities, clock)?;
        Ok(Self { host: authority(&upstream.origin)?, client })
    }

    /// A call to this canonical path, with those of a client's headers that go on to Sendly, what is to be said of its trace, and a body
    /// that was read in full.
    pub fn compose<'f>(
        &self,
        method: &Method,
        path: &str,
        fields: impl Into<Fields<'f>>,
        traced: Option<&trace::TracedCall>,
        body: &[u8],
    ) -> Call {
        Call(client::WireCall::compose(&self.host, method, path, fields.into(), traced, body))
    }

    /// Makes a call and waits for its outcome, at most for `patience`.
    pub async fn call(&self, call: Call, patience: Duration) -> Outcome {
        let Call(Some(call)) = call else { return Outcome::NotSent };
        // A connection comes about, or fails, well before that: the request had left.
        tokio::time::timeout(patience, self.client.call(call)).await.unwrap_or(Outcome::Lost(Loss::Timeout))
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self) {
        self.client.sweep();
    }

    /// Another has taken its place: it ends the calls that it has, and keeps no connection.
    pub fn retire(&self) {
        self.client.retire();
    }
}

/// The certificate authorities that vouch for this upstream; those errors are [`Authorities::of`]'s.
pub(crate) fn authorities(upstream: &Upstream) -> Result<Authorities, String> {
    Authorities::of(upstream.origin.tls, upstream.ca_file.as_deref())
}

/// `host` or `host:port`, with the brackets that an IPv6 address needs.
pub fn authority(origin: &Origin) -> Result<Authority, String> {
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    let default = if origin.tls { 443 } else { 80 };
    let text = if origin.port == default { host } else { format!("{host}:{}", origin.port) };
    text.parse().map_err(|error| format!("{text} is no host: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_named_as_a_host_header_names_it() {
        let name = |tls, host: &str, port| authority(&Origin { tls, host: host.into(), port }).unwrap().to_string();
        assert_eq!(name(true, "sendly.live", 443), "sendly.live");
        assert_eq!(name(false, "127.0.0.1", 9000), "127.0.0.1:9000");
        assert_eq!(name(true, "::1", 8443), "[::1]:8443");
    }
}
