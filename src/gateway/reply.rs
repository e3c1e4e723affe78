//! The one table from what happened to what the client is told.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::unproven::Word;
use crate::api::sdk::Wording;
use crate::api::{body, code, sdk};
use crate::throttle::Slow;

/// The most that an answer may have that is kept for a retry, head and body, in bytes. Sendly's have less than 2 KiB.
const MAX_KEPT: usize = 4 * 1024;

/// A whole answer to a client.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without `Content-Length`.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Sendly's error shape. No top-level `code`: two SDKs would take it for `error`.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    message: &'a str,
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// Where an answer's wait stands: in its body, in its header.
#[derive(Default)]
struct WaitFields {
    body: Option<u64>,
    header: Option<u64>,
}

impl WaitFields {
    fn both(wait: Duration) -> Self {
        Self { body: Some(whole_seconds(wait)), header: Some(whole_seconds(wait)) }
    }
}

impl Reply {
    /// An error in Sendly's shape.
    pub(crate) fn error(status: StatusCode, error: &str, message: &str) -> Self {
        Self::build(status, error, message, &WaitFields::default())
    }

    fn build(status: StatusCode, error: &str, message: &str, waits: &WaitFields) -> Self {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = waits.header {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // A struct of strings and a number always serialises.
        let body = serde_json::to_vec(&ErrorBody { error, message, retry_after: waits.body });
        Self { status, headers, body: body.unwrap_or_default().into() }
    }

    /// A throttle's refusal.
    pub(crate) fn throttled(slow: &Slow<'_>, user_agent: &str) -> Self {
        let Wording { code, wait_in_body, wait_in_header } =
            sdk::wording(code::RATE_LIMIT_EXCEEDED, user_agent, slow.retry_after);
        let seconds = whole_seconds(slow.retry_after);
        let waits = WaitFields { body: wait_in_body.then_some(seconds), header: wait_in_header.then_some(seconds) };
        let message = format!("Too many requests (throttle {}).", slow.name);
        Self::build(StatusCode::TOO_MANY_REQUESTS, code, &message, &waits)
    }

    /// Words a 429 of Sendly's own so that this client does not sleep through it and buy. All else stays as Sendly wrote it.
    pub(crate) fn reword(&mut self, user_agent: &str) {
        if self.status != StatusCode::TOO_MANY_REQUESTS {
            return;
        }
        let body::ApiFailure { error, retry_after, .. } = body::read_failure(&self.body);
        let (instead, wording) = sdk::rewording(&error, user_agent, retry_after.map(Duration::from_secs));
        if !wording.wait_in_header {
            self.headers.remove(RETRY_AFTER);
        }
        if instead.is_none() && wording.wait_in_body {
            return;
        }
        let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(&self.body) else { return };
        if let Some(error) = instead {
            fields.insert("error".to_owned(), error.into());
        }
        if !wording.wait_in_body {
            fields.retain(|name, _| !matches!(name.as_str(), "retryAfter" | "retry_after"));
        }
        if let Ok(body) = serde_json::to_vec(&fields) {
            self.body = body.into();
        }
    }

    /// A key of the code is new, and there is no room for another.
    pub(crate) fn no_room() -> Self {
        let message = "The gateway tracks as many phone numbers as it is configured for. Nothing was sent.";
        let waits = WaitFields::both(Duration::from_secs(10));
        Self::build(StatusCode::SERVICE_UNAVAILABLE, code::AT_CAPACITY, message, &waits)
    }

    /// There is no room to keep this request's answer for its retries.
    pub(crate) fn no_room_for_answers() -> Self {
        let message = "The gateway keeps as many answers for retries as it is configured for. Nothing was sent.";
        let waits = WaitFields::both(Duration::from_secs(10));
        Self::build(StatusCode::SERVICE_UNAVAILABLE, code::AT_CAPACITY, message, &waits)
    }

    /// What is kept for retries instead of this answer, if it is too large for that: that it was given, and nothing is to be repeated.
    pub(crate) fn too_large_to_keep(&self) -> Option<Self> {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        if self.body.len() + headers <= MAX_KEPT {
            return None;
        }
        // No SDK repeats a 409. A failure keeps its status, and so what an SDK makes of it.
        let status = if self.status.is_success() { StatusCode::CONFLICT } else { self.status };
        let message = "This request was answered before, and the answer was too large to be kept for a retry.";
        Some(Self::error(status, code::ANSWER_TOO_LARGE, message))
    }

    /// The ledger that gateways share cannot be asked, and the configuration says to refuse then.
    pub(crate) fn ledger_away() -> Self {
        let message = "The gateway cannot count codes at the moment. Nothing was sent.";
        let waits = WaitFields::both(Duration::from_secs(1));
        Self::build(StatusCode::SERVICE_UNAVAILABLE, code::LEDGER_AWAY, message, &waits)
    }

    /// There are as many requests, or connections to Sendly, as there may be.
    pub(crate) fn overloaded() -> Self {
        let message = "The gateway serves as many requests as it is configured for. Nothing was sent.";
        let waits = WaitFields::both(Duration::from_secs(1));
        Self::build(StatusCode::SERVICE_UNAVAILABLE, code::OVERLOADED, message, &waits)
    }

    /// A path that reads as the verify family and is none of its routes.
    pub(crate) fn not_a_route() -> Self {
        let message = "No such route. Verifications stand under /api/v1/verify, spelled exactly so.";
        Self::error(StatusCode::NOT_FOUND, code::NOT_FOUND, message)
    }

    /// A method that the route does not know.
    pub(crate) fn wrong_method(allowed: &'static str) -> Self {
        let mut reply = Self::error(
            StatusCode::METHOD_NOT_ALLOWED,
            code::METHOD_NOT_ALLOWED,
            &format!("This route answers to {allowed}."),
        );
        reply.headers.insert(ALLOW, HeaderValue::from_static(allowed));
        reply
    }

    /// A target that is no path, or not in ASCII (RFC 9112, 3.2).
    pub(crate) fn invalid_target() -> Self {
        Self::invalid_request("The request's target must be a path, or an http URL, in ASCII.")
    }

    /// A request whose end is not where every reader would see it.
    pub(crate) fn unclear_framing() -> Self {
        Self::invalid_request(
            "A request has one Content-Length, a decimal number without leading zeros, or one Transfer-Encoding, which is chunked.",
        )
    }

    /// A request that cannot be judged as it stands.
    pub(crate) fn invalid_request(message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, message)
    }

    /// A send whose body does not name one phone.
    pub(crate) fn unclear(unclear: body::Unclear) -> Self {
        use body::Unclear::{DuplicateKey, NoPhone, NotAnObject, NotE164};
        match unclear {
            NotAnObject => Self::invalid_request("The body must be one JSON object in UTF-8."),
            DuplicateKey => Self::invalid_request("No key may stand in the body twice, in whatever letter case."),
            NoPhone => Self::invalid_request("to is required: a phone number in E.164 format, as a string."),
            NotE164 => Self::error(
                StatusCode::BAD_REQUEST,
                code::INVALID_PHONE_FORMAT,
                "to must be a phone number in E.164 format, such as +15551234567.",
            ),
        }
    }

    /// A send to what cannot be a number.
    pub(crate) fn impossible_phone() -> Self {
        Self::error(
            StatusCode::BAD_REQUEST,
            code::INVALID_PHONE_FORMAT,
            "to must be a number that can be: no 0 behind the country code unless numbers there begin so, and a possible length.",
        )
    }

    /// No API key, or none that could be read in one way.
    pub(crate) fn unauthorized() -> Self {
        let message = "Authorization must be Bearer and an API key.";
        Self::error(StatusCode::UNAUTHORIZED, code::UNAUTHORIZED, message)
    }

    /// Sendly refused this key a short while ago, with this word.
    pub(crate) fn key_refused(word: Word) -> Self {
        let error = match word {
            Word::Unauthorized => code::UNAUTHORIZED,
            Word::InvalidApiKey => code::INVALID_API_KEY,
        };
        Self::error(StatusCode::UNAUTHORIZED, error, "Sendly does not accept this API key.")
    }

    /// The configuration does not list this key.
    pub(crate) fn key_not_allowed() -> Self {
        let message = "This gateway does not serve this API key.";
        Self::error(StatusCode::UNAUTHORIZED, code::INVALID_API_KEY, message)
    }

    /// Sendly has not accepted this key yet, and cannot be asked before this time is over.
    pub(crate) fn key_not_proven(wait: Duration) -> Self {
        let message = "Sendly has not confirmed this API key yet, and cannot be asked now. Nothing was sent.";
        Self::build(StatusCode::SERVICE_UNAVAILABLE, code::KEY_NOT_PROVEN, message, &WaitFields::both(wait))
    }

    /// The body did not arrive in time.
    pub(crate) fn body_timeout() -> Self {
        let message = "The request's body did not arrive in time.";
        Self::error(StatusCode::REQUEST_TIMEOUT, code::REQUEST_TIMEOUT, message)
    }

    /// The head did not arrive in time.
    pub(crate) fn head_timeout() -> Self {
        let message = "The request's head did not arrive in time.";
        Self::error(StatusCode::REQUEST_TIMEOUT, code::REQUEST_TIMEOUT, message)
    }

    /// The head is more than a request may have.
    pub(crate) fn head_too_large() -> Self {
        let message = "The head of a request may have 16 KiB and 100 fields.";
        Self::error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, code::HEADERS_TOO_LARGE, message)
    }

    /// The body is more than the gateway judges.
    pub(crate) fn body_too_large() -> Self {
        let message = "The body of a send or resend may have 32 KiB.";
        Self::error(StatusCode::PAYLOAD_TOO_LARGE, code::PAYLOAD_TOO_LARGE, message)
    }

    /// Sendly could not be reached: nothing was sent.
    pub(crate) fn unreachable() -> Self {
        let message = "Sendly could not be reached. Nothing was sent.";
        Self::error(StatusCode::BAD_GATEWAY, code::UPSTREAM_UNREACHABLE, message)
    }

    /// Sendly broke off before it had answered in full.
    pub(crate) fn broken_off() -> Self {
        let message = "Sendly broke off before it had answered. The request may have been carried out.";
        Self::error(StatusCode::BAD_GATEWAY, code::UPSTREAM_UNREACHABLE, message)
    }

    /// Sendly refused, and broke off before it had said why.
    pub(crate) fn refused_and_broken_off() -> Self {
        let message = "Sendly refused the request, and broke off before it had said why. Nothing was sent.";
        Self::error(StatusCode::BAD_GATEWAY, code::UPSTREAM_UNREACHABLE, message)
    }

    /// Sendly did not answer in time.
    pub(crate) fn upstream_timeout() -> Self {
        let message = "Sendly did not answer in time. The request may have been carried out.";
        Self::error(StatusCode::GATEWAY_TIMEOUT, code::UPSTREAM_TIMEOUT, message)
    }

    /// Something broke in the gateway.
    pub(crate) fn internal() -> Self {
        Self::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            code::INTERNAL_ERROR,
            "The gateway failed to serve this request.",
        )
    }
}

/// Rounded up, so that whoever waits this long is let through; and at least 1, since SDKs take 0 for 60.
pub(crate) fn whole_seconds(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_json_with_error_and_message_and_no_code() {
        use body::Unclear::{DuplicateKey, NoPhone, NotAnObject, NotE164};
        let unclear = [DuplicateKey, NoPhone, NotAnObject, NotE164].map(Reply::unclear);
        let others = [
            Reply::not_a_route(),
            Reply::wrong_method("POST"),
            Reply::impossible_phone(),
            Reply::unauthorized(),
            Reply::head_timeout(),
            Reply::body_timeout(),
            Reply::head_too_large(),
            Reply::body_too_large(),
            Reply::unreachable(),
            Reply::broken_off(),
            Reply::refused_and_broken_off(),
            Reply::upstream_timeout(),
            Reply::internal(),
            Reply::no_room(),
            Reply::overloaded(),
            Reply::no_room_for_answers(),
            Reply::ledger_away(),
            Reply::key_refused(Word::Unauthorized),
            Reply::key_not_allowed(),
            Reply::key_not_proven(Duration::ZERO),
        ];
        for reply in unclear.iter().chain(&others) {
            let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert!(body["error"].is_string() && body["message"].is_string() && body.get("code").is_none(), "{body}");
            assert_eq!(reply.headers.get("content-type").unwrap(), "application/json");
        }
    }

    #[test]
    fn the_documentation_tells_how_large_a_kept_answer_may_be() {
        let page = include_str!("../../docs/failure-modes.md").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains(&format!("An answer of more than {} KiB is told to its own client", MAX_KEPT / 1024)));
    }
}
