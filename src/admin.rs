//! The listener for operators: metrics and probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::gateway::Gateway;

/// Whether the process wants traffic. A latch: once dropped, it stays so.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on, no more traffic is wanted.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// See the module's documentation.
pub struct Admin {
    gateway: Arc<Gateway>,
    draining: Draining,
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The text exposition format that `prometheus` writes.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Admin {
    /// An admin for this gateway.
    pub fn new(gateway: Arc<Gateway>, draining: Draining) -> Self {
        Self { gateway, draining }
    }

    fn answer(&self, path: &str) -> (StatusCode, &'static str, Vec<u8>) {
        match path {
            "/metrics" => (StatusCode::OK, EXPOSITION, self.gateway.expose()),
            "/livez" => (StatusCode::OK, TEXT, b"ok\n".to_vec()),
            "/readyz" => match self.not_ready() {
                None => (StatusCode::OK, TEXT, b"ok\n".to_vec()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n").into_bytes()),
            },
            _ => (StatusCode::NOT_FOUND, TEXT, b"here are /metrics, /livez and /readyz\n".to_vec()),
        }
    }

    fn not_ready(&self) -> Option<&'static str> {
        if self.draining.has_begun() {
            return Some("draining");
        }
        (!self.gateway.is_ready()).then_some("no address of the upstream is known")
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let header = session.req_header();
        let head = header.method == Method::HEAD;
        let (status, content_type, body) = if head || header.method == Method::GET {
            self.answer(header.uri.path())
        } else {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, b"GET or HEAD\n".to_vec())
        };
        let length = body.len();
        let mut response = Response::new(if head { Vec::new() } else { body });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
