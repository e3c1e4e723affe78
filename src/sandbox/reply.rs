//! What the sandbox answers: successes, and the one table from a refusal to its status, code and words.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::api::code;

/// An answer, before it is a response.
#[derive(Clone, Debug)]
pub(super) struct Reply {
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

impl Reply {
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
pub(super) enum Refusal {
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

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        let (status, error, message) = refusal.row();
        let mut body = json!({ "error": error, "message": message });
        let context = match refusal {
            Refusal::InvalidCode { remaining } => Some(("remaining_attempts", u64::from(remaining))),
            Refusal::RateLimited { retry_after, .. } => Some(("retryAfter", retry_after)),
            _ => None,
        };
        if let (Some((name, value)), Some(fields)) = (context, body.as_object_mut()) {
            fields.insert(name.to_owned(), value.into());
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Reply::new(status, body)
    }
}

impl Refusal {
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Refusal::InvalidRequest(why) => (400, code::INVALID_REQUEST, why),
            Refusal::InvalidPhone => {
                (400, code::INVALID_PHONE_FORMAT, "The phone number must be in E.164 format, such as +15551234567.")
            }
            Refusal::InvalidIdempotencyKey => {
                (400, "invalid_idempotency_key", "Idempotency-Key must be 1-255 printable ASCII characters.")
            }
            Refusal::InvalidCode { .. } => (400, "invalid_code", "The code is wrong."),
            Refusal::InvalidState(why) => (400, "invalid_state", why),
            Refusal::UnsupportedDestination => (400, "unsupported_destination", "This destination is not supported."),
            Refusal::Unauthorized => (401, "unauthorized", "Send your API key as Authorization: Bearer sk_...."),
            Refusal::InvalidApiKey => (401, "invalid_api_key", "The API key is invalid."),
            Refusal::InsufficientCredits => (402, "insufficient_credits", "Not enough credits to send this code."),
            Refusal::InsufficientPermissions => {
                (403, "insufficient_permissions", "This API key lacks the scope verify:read.")
            }
            Refusal::NotFound => (404, code::NOT_FOUND, "Not found."),
            Refusal::Timeout => (408, code::REQUEST_TIMEOUT, "The request's body did not arrive in time."),
            Refusal::Expired => (410, "expired", "The verification has expired."),
            Refusal::TooLarge => (413, code::PAYLOAD_TOO_LARGE, "The request's body is too large."),
            Refusal::IdempotencyKeyMismatch => {
                (422, "idempotency_key_mismatch", "This Idempotency-Key came with another body before.")
            }
            Refusal::RateLimited { message, .. } => (429, code::RATE_LIMIT_EXCEEDED, message),
            Refusal::MaxAttempts => (429, "max_attempts_exceeded", "Too many wrong codes for this verification."),
            Refusal::Internal => (500, code::INTERNAL_ERROR, "Something went wrong."),
            Refusal::DeliveryFailed => (500, code::DELIVERY_FAILED, "The code could not be handed to a carrier."),
        }
    }
}
