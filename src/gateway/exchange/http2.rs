//! HTTP/2, where it is asked for: hyper-util's client, all calls over one connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client as Pooled};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tower_service::Service;

use super::{Answer, Loss, Outcome, connect, fields};
use crate::clock::{Clock, Moment};
use crate::config::Upstream;
use crate::gateway::max_age::MaxAge;
use crate::http1::fields::Fields;
use crate::http1::hop_by_hop::HopByHop;
use crate::sendly::body::MAX_ANSWER;
use crate::tls_roots::Authorities;
use crate::trace;

/// A request.
pub(super) struct Call(Request<Full<Bytes>>);

/// Sendly over HTTP/2.
pub(super) struct Client {
    builder: Builder,
    connector: Connector,
    current: Mutex<Current>,
    scheme: Scheme,
    max_age: MaxAge,
    clock: Clock,
}

/// A client whose one connection serves all calls that begin before its end.
struct Current {
    pooled: Pooled<Connector, Full<Bytes>>,
    end: Moment,
}

impl Client {
    /// # Errors
    /// TLS cannot be had.
    pub(super) fn new(upstream: &Upstream, authorities: &Authorities, clock: Clock) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = authorities.client_config()?;
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http2().wrap_connector(tcp);
        let mut builder = Pooled::builder(TokioExecutor::new());
        builder
            .http2_only(true)
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(upstream.idle_timeout)
            .pool_max_idle_per_host(upstream.max_idle)
            // All calls share a connection: one that is dead would lose them all, each in its own time.
            .http2_keep_alive_interval(upstream.idle_timeout)
            .http2_keep_alive_timeout(upstream.connect_timeout);
        let connector = Connector { https, timeout: connect::timeout(upstream) };
        let scheme = if upstream.origin.tls { Scheme::HTTPS } else { Scheme::HTTP };
        let max_age = MaxAge::new(upstream.max_age);
        let current = Current { pooled: builder.build(connector.clone()), end: max_age.end_of_connection(clock.now()) };
        Ok(Self { builder, connector, current: Mutex::new(current), scheme, max_age, clock })
    }

    /// `None` where the path is none, or a field cannot be one.
    pub(super) fn compose(
        &self,
        host: &Authority,
        method: &Method,
        path: &str,
        fields: Fields<'_>,
        traced: Option<&trace::Call>,
        body: &[u8],
    ) -> Option<Call> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(host.clone());
        uri.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::from_parts(uri).ok()?;
        let into = request.headers_mut();
        for (name, value) in fields::forwardable(fields, traced) {
            into.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        into.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        into.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if method == Method::POST {
            into.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Some(Call(request))
    }

    /// The client for a call that begins now. One that another takes the place of ends its calls, and closes its connection.
    fn pooled(&self) -> Pooled<Connector, Full<Bytes>> {
        let now = self.clock.now();
        let mut current = self.current.lock();
        if now >= current.end {
            current.pooled = self.builder.build(self.connector.clone());
            current.end = self.max_age.end_of_connection(now);
        }
        current.pooled.clone()
    }

    /// Makes a call. It is sent again by itself only if its connection turned out to be closed before a byte of it was written.
    pub(super) async fn call(&self, call: Call) -> Outcome {
        let pooled = self.pooled();
        let response = match pooled.request(call.0).await {
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
        let (mut parts, body) = response.into_parts();
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(body) => {
                HopByHop::default().strip(&mut parts.headers);
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
