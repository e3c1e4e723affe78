//! What the sandbox answers: successes, and the one table from a refusal to its status, code and words.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::api::code;

/// An answer, before it is a response.
#[derive(Clone, Debug)]
pub(super) struct SandboxReply {
    pub(super) status: StatusCode,
    body: Option<Value>,
    pub(super) leaves: Leaves,
}

/// How an answer leaves, over a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// As it should.
    AtOnce,
    /// When a test releases it, or after a minute.
    WhenReleased,
    /// Not at all: the connection is closed.
    Never,
}

impl SandboxReply {
    pub(super) const fn new(status: StatusCode, body: Value) -> Self {
        Self { status, body: Some(body), leaves: Leaves::AtOnce }
    }

    /// 204, and no body.
    pub(super) const fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, leaves: Leaves::AtOnce }
    }

    pub(super) fn leaving(self, leaves: Leaves) -> Self {
        Self { leaves, ..self }
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status;
        if let Some(body) = self.body {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *response.body_mut() = body.to_string().into();
        }
        response
    }
}

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SandboxRefusal {
    InvalidRequest(&'static str),
    InvalidPhone,
    InvalidIdempotencyKey,
    InvalidCode { remaining: u32 },
    InvalidState(&'static str),
    UnsupportedDestination,
    Unauthorized,
    InvalidApiKey,
    InsufficientCredits,
    InsufficientPermissions,
    NotFound,
    Timeout,
    Expired,
    TooLarge,
    IdempotencyKeyMismatch,
    RateLimited { message: &'static str, retry_after: u64 },
    MaxAttempts,
    Internal,
    DeliveryFailed,
}

impl From<SandboxRefusal> for SandboxReply {
    fn from(refusal: SandboxRefusal) -> SandboxReply {
        let (status, error, message) = refusal.row();
        let mut body = json!({ "error": error, "message": message });
        let context = match refusal {
            SandboxRefusal::InvalidCode { remaining } => Some(("remaining_attempts", u64::from(remaining))),
            SandboxRefusal::RateLimited { retry_after, .. } => Some(("retryAfter", retry_after)),
            _ => None,
        };
        if let (Some((name, value)), Some(fields)) = (context, body.as_object_mut()) {
            fields.insert(name.to_owned(), value.into());
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        SandboxReply::new(status, body)
    }
}

impl SandboxRefusal {
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            SandboxRefusal::InvalidRequest(why) => (400, code::INVALID_REQUEST, why),
            SandboxRefusal::InvalidPhone => {
                (400, code::INVALID_PHONE_FORMAT, "The phone number must be in E.164 format, such as +15551234567.")
            }
            SandboxRefusal::InvalidIdempotencyKey => {
                (400, "invalid_idempotency_key", "Idempotency-Key must be 1-255 printable ASCII characters.")
            }
            SandboxRefusal::InvalidCode { .. } => (400, "invalid_code", "The code is wrong."),
            SandboxRefusal::InvalidState(why) => (400, "invalid_state", why),
            SandboxRefusal::UnsupportedDestination => {
                (400, "unsupported_destination", "This destination is not supported.")
            }
            SandboxRefusal::Unauthorized => (401, "unauthorized", "Send your API key as Authorization: Bearer sk_...."),
            SandboxRefusal::InvalidApiKey => (401, "invalid_api_key", "The API key is invalid."),
            SandboxRefusal::InsufficientCredits => {
                (402, "insufficient_credits", "Not enough credits to send this code.")
            }
            SandboxRefusal::InsufficientPermissions => {
                (403, "insufficient_permissions", "This API key lacks the scope verify:read.")
            }
            SandboxRefusal::NotFound => (404, code::NOT_FOUND, "Not found."),
            SandboxRefusal::Timeout => (408, code::REQUEST_TIMEOUT, "The request's body did not arrive in time."),
            SandboxRefusal::Expired => (410, "expired", "The verification has expired."),
            SandboxRefusal::TooLarge => (413, code::PAYLOAD_TOO_LARGE, "The request's body is too large."),
            SandboxRefusal::IdempotencyKeyMismatch => {
                (422, "idempotency_key_mismatch", "This Idempotency-Key came with another body before.")
            }
            SandboxRefusal::RateLimited { message, .. } => (429, code::RATE_LIMIT_EXCEEDED, message),
            SandboxRefusal::MaxAttempts => {
                (429, "max_attempts_exceeded", "Too many wrong codes for this verification.")
            }
            SandboxRefusal::Internal => (500, code::INTERNAL_ERROR, "Something went wrong."),
            SandboxRefusal::DeliveryFailed => {
                (500, code::DELIVERY_FAILED, "The code could not be handed to a carrier.")
            }
        }
    }
}
