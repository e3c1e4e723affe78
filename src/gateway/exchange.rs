//! One call to Sendly over a pooled client: the request goes, and its outcome comes back as far as it can be known.
//!
//! The client is hyper-util's, with rustls. It sends a request again by itself only if its connection turned out to be closed
//! before a byte of it was written.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower_service::Service;

use crate::config::{Origin, Upstream};
use crate::sendly::body::MAX_ANSWER;

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

/// How an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It did not come in time.
    Timeout,
    /// The connection broke.
    Broken,
}

/// Sendly's whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, but for those that concern only the connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A call to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Its canonical path.
    pub path: String,
    /// Its headers; see [`forwardable`].
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Sendly, reached over a pool of connections.
#[derive(Debug)]
pub struct Sendly {
    client: Client<Connector, Full<Bytes>>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
}

impl Sendly {
    /// A client for this upstream. Nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with the certificate authorities or the origin's name.
    pub fn new(upstream: &Upstream) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = tls_config(upstream)?;
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(upstream.idle_timeout)
            .pool_max_idle_per_host(upstream.max_idle)
            .build(Connector { https, timeout: connect_timeout(upstream) });
        let authority = authority(&upstream.origin)?;
        let host = HeaderValue::try_from(authority.as_str()).map_err(|error| error.to_string())?;
        let scheme = if upstream.origin.tls { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Self { client, scheme, authority, host })
    }

    /// Makes a call and waits for its outcome, at most for `patience`.
    pub async fn call(&self, call: Call, patience: Duration) -> Outcome {
        let Some(request) = self.request(call) else { return Outcome::NotSent };
        match tokio::time::timeout(patience, self.send(request)).await {
            Ok(outcome) => outcome,
            // A connection comes about, or fails, well before that: the request had left.
            Err(_) => Outcome::Lost(Loss::Timeout),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Outcome {
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => {
                tracing::warn!(error = %chain(&error), "Sendly could not be reached");
                return Outcome::NotSent;
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "Sendly broke off before it answered");
                return Outcome::Lost(Loss::Broken);
            }
        };
        if response.status().is_informational() {
            tracing::warn!(
                status = response.status().as_u16(),
                "Sendly answered with an upgrade that nobody asked for"
            );
            return Outcome::Lost(Loss::Broken);
        }
        let (mut parts, body) = response.into_parts();
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(body) => {
                strip_hop_by_hop(&mut parts.headers);
                parts.headers.remove(header::CONTENT_LENGTH);
                Outcome::Answered(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
            }
            Err(error) => {
                let too_long = error.is::<LengthLimitError>();
                tracing::warn!(status = parts.status.as_u16(), too_long, "Sendly's answer was cut");
                Outcome::Cut(parts.status)
            }
        }
    }

    fn request(&self, call: Call) -> Option<Request<Full<Bytes>>> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(PathAndQuery::try_from(call.path).ok()?);
        let mut request = Request::new(Full::new(call.body));
        *request.method_mut() = call.method;
        *request.uri_mut() = Uri::from_parts(uri).ok()?;
        *request.headers_mut() = call.headers;
        request.headers_mut().insert(header::HOST, self.host.clone());
        // The gateway reads the answer: it must come as it is.
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Some(request)
    }
}

/// The headers of a client's request that go on to Sendly with a body that was read in full.
pub fn forwardable(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    strip_hop_by_hop(&mut headers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    headers
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

/// RFC 9110, 7.6.1: these concern one connection, and so does whatever `Connection` names.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Nobody gets a header past the gateway's reading by naming it here.
        .filter(|name| !ESSENTIAL.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    const HOP_BY_HOP: [HeaderName; 6] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    for name in HOP_BY_HOP.into_iter().chain([header::PROXY_AUTHORIZATION, HeaderName::from_static("proxy-connection")])
    {
        headers.remove(name);
    }
}

const ESSENTIAL: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-organization-id"),
];

/// `host` or `host:port`, with the brackets that an IPv6 address needs.
pub fn authority(origin: &Origin) -> Result<Authority, String> {
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    let default = if origin.tls { 443 } else { 80 };
    let text = if origin.port == default { host } else { format!("{host}:{}", origin.port) };
    text.parse().map_err(|error| format!("{text} is no host: {error}"))
}

fn tls_config(upstream: &Upstream) -> Result<ClientConfig, String> {
    let roots = if upstream.origin.tls { roots(upstream.ca_file.as_deref())? } else { RootCertStore::empty() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let certificates: Vec<CertificateDer<'static>> = match ca_file {
        Some(file) => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|error| format!("{}: {error}", file.display()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(match ca_file {
            Some(file) => format!("{}: no certificate in it ({ignored} unreadable)", file.display()),
            None => "the system has no certificate authorities; install ca-certificates, or name a ca_file".to_owned(),
        });
    }
    Ok(roots)
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// TCP and TLS together within one time limit, so that whatever takes longer than that was never sent.
#[derive(Clone, Debug)]
struct Connector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

/// Also where both may take equally long, connecting ends well before the exchange: which of the two timers spoke first is how
/// the gateway knows whether the request had left.
fn connect_timeout(upstream: &Upstream) -> Duration {
    upstream.connect_timeout.min(upstream.exchange_timeout * 7 / 8)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.timeout, self.https.call(uri));
        Box::pin(
            async move { connecting.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) },
        )
    }
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
            ("x-private", "1"),
            ("x-organization-id", "org"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("content-length", "5"),
            ("host", "gateway"),
            ("idempotency-key", "i"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let forwarded = forwardable(&headers);
        let mut names: Vec<_> = forwarded.keys().map(HeaderName::as_str).collect();
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

    #[test]
    fn an_origin_is_named_as_a_host_header_names_it() {
        let name = |tls, host: &str, port| authority(&Origin { tls, host: host.into(), port }).unwrap().to_string();
        assert_eq!(name(true, "sendly.live", 443), "sendly.live");
        assert_eq!(name(false, "127.0.0.1", 9000), "127.0.0.1:9000");
        assert_eq!(name(true, "::1", 8443), "[::1]:8443");
    }
}
