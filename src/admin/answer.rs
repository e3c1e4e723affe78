//! What the admin listener answers.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// An answer, whole.
#[derive(Debug)]
pub(super) struct AdminAnswer {
    status: StatusCode,
    content_type: &'static str,
    more: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// The text exposition format that `prometheus` writes.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

impl AdminAnswer {
    fn new(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, more: Vec::new(), body }
    }

    pub(super) fn text(status: StatusCode, text: &str) -> Self {
        Self::new(status, TEXT, text.into())
    }

    pub(super) fn html(text: String) -> Self {
        Self::new(StatusCode::OK, HTML, text.into())
    }

    pub(super) fn exposition(text: Vec<u8>) -> Self {
        Self::new(StatusCode::OK, EXPOSITION, text)
    }

    /// JSON that is written already.
    pub(super) fn document(text: &str) -> Self {
        Self::new(StatusCode::OK, JSON, text.into())
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::document(&format!("{value}\n"))
    }

    /// An error, in the shape that Sendly's have.
    pub(super) fn error(status: StatusCode, error: &str, message: &str) -> Self {
        let mut answer = Self::json(&json!({ "error": error, "message": message }));
        answer.status = status;
        answer
    }

    /// With one more header. What a header cannot hold is left out.
    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.more.extend(HeaderValue::try_from(value).map(|value| (name, value)));
        self
    }

    pub(super) fn into_response(self, is_head: bool) -> Response<Vec<u8>> {
        let length = self.body.len();
        let mut response = Response::new(if is_head { Vec::new() } else { self.body });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(self.more);
        response
    }
}
