//! What an answer of Sendly's says of the API key that it was asked with.
//!
//! A success proves a key only where Sendly looks at the key: on sends, resends, checks and reads of verifications, and on messages.
//! What is public (health, documentation) would prove any key.

use std::time::Duration;

use http::{Method, StatusCode};

use super::unproven::{WINDOW, Word};
use crate::api::{API, Operation, body, code};
use crate::upstream::{Answer, Outcome};

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Sendly accepted the key.
    Accepted,
    /// Sendly does not know the key.
    Refused(Word),
    /// Sendly answered 401, and does not say that it is the key's fault: it may count it all the same.
    Failed,
    /// Sendly has locked out the gateway's address, for this long.
    LockedOut(Duration),
    /// Nothing.
    Silent,
}

/// What a request asked for, as far as its answer may say something of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Sendly looks at the key of such a request before all else.
    pub(crate) needs_key: bool,
    /// It reads one verification.
    pub(crate) is_get: bool,
}

impl Asked {
    /// A request to this path. `has_one_key`: it carries one `Authorization`, which can be read in one way.
    pub(crate) fn of(operation: Operation, method: &Method, path: &str, has_one_key: bool) -> Self {
        let needs_key = match operation {
            Operation::Send | Operation::Resend | Operation::Check | Operation::Get | Operation::List => true,
            Operation::Other => is_of_messages(path),
            Operation::Profiles | Operation::Sessions => false,
        };
        // A preflight is answered without a key.
        let is_plain = *method == Method::GET || *method == Method::POST;
        Self { needs_key: needs_key && is_plain && has_one_key, is_get: operation == Operation::Get }
    }

    /// A send or a resend.
    pub(crate) const CODE: Self = Self { needs_key: true, is_get: false };

    /// The look-up of a verification.
    pub(crate) const LOOKUP: Self = Self { needs_key: true, is_get: true };
}

/// `/api/v1/messages` and what stands below it, spelled so that no server can read another path.
fn is_of_messages(path: &str) -> bool {
    let below = path.strip_prefix(API).and_then(|path| path.strip_prefix("/messages"));
    below.is_some_and(|below| {
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        below.is_empty() || below.strip_prefix('/').is_some_and(|below| below.split('/').all(is_word))
    })
}

/// Of an exchange that is over.
pub(crate) fn of_outcome(asked: Asked, outcome: &Outcome) -> Evidence {
    match outcome {
        Outcome::Answered(Answer { status, headers, body }) => {
            let content_type = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
            // A stand-in for Sendly may not say what its body is.
            let is_json = content_type.map_or(body.is_empty() || body.starts_with(b"{"), is_json);
            of_answer(asked, *status, is_json, body)
        }
        Outcome::Cut(StatusCode::UNAUTHORIZED) => Evidence::Failed,
        Outcome::Cut(_) | Outcome::NotSent | Outcome::Lost(_) => Evidence::Silent,
    }
}

/// Whether an exchange may say anything against its key, or against all that are not proven.
pub(crate) fn may_disprove(outcome: &Outcome) -> bool {
    let (Outcome::Answered(Answer { status, .. }) | Outcome::Cut(status)) = outcome else { return false };
    matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
}

/// Of an answer. `is_json`: its header says that its body is JSON.
pub(crate) fn of_answer(asked: Asked, status: StatusCode, is_json: bool, body: &[u8]) -> Evidence {
    if status.is_success() {
        return of_success(asked, status, is_json);
    }
    let error = || if is_json { body::read_failure(body).error } else { String::new() };
    match status {
        StatusCode::UNAUTHORIZED => match error().as_str() {
            code::INVALID_API_KEY => Evidence::Refused(Word::InvalidApiKey),
            code::UNAUTHORIZED if asked.needs_key => Evidence::Refused(Word::Unauthorized),
            _ => Evidence::Failed,
        },
        StatusCode::TOO_MANY_REQUESTS if is_json => {
            let failure = body::read_failure(body);
            if failure.error != code::TOO_MANY_FAILED_KEYS {
                return Evidence::Silent;
            }
            Evidence::LockedOut(failure.retry_after.map_or(WINDOW, Duration::from_secs).min(WINDOW))
        }
        _ if !asked.needs_key => Evidence::Silent,
        StatusCode::PAYMENT_REQUIRED if !error().is_empty() => Evidence::Accepted,
        StatusCode::FORBIDDEN if matches!(error().as_str(), "insufficient_permissions" | "verification_required") => {
            Evidence::Accepted
        }
        StatusCode::NOT_FOUND if asked.is_get && error() == code::NOT_FOUND => Evidence::Accepted,
        _ => Evidence::Silent,
    }
}

/// Of a success, whose body need not be known.
pub(crate) fn of_success(asked: Asked, status: StatusCode, is_json: bool) -> Evidence {
    if status.is_success() && is_json && asked.needs_key { Evidence::Accepted } else { Evidence::Silent }
}

/// Whether a body of this type is JSON.
pub(crate) fn is_json(content_type: &[u8]) -> bool {
    const JSON: &[u8] = b"application/json";
    let essence = content_type.get(..JSON.len());
    let rest = content_type.get(JSON.len()..).unwrap_or_default().trim_ascii_start();
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case(JSON)) && matches!(rest.first(), None | Some(b';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: Asked, status: u16, error: &str) -> Evidence {
        let body = format!("{{\"error\":\"{error}\",\"retryAfter\":120}}");
        of_answer(asked, StatusCode::from_u16(status).unwrap(), true, body.as_bytes())
    }

    #[test]
    fn a_stand_in_that_does_not_say_what_its_body_is_proves_a_key_as_well() {
        let of = |body: &'static str| {
            let answer = Answer { status: StatusCode::CREATED, headers: http::HeaderMap::new(), body: body.into() };
            of_outcome(Asked::CODE, &Outcome::Answered(answer))
        };
        assert_eq!(of(r#"{"id":"ver_1"}"#), Evidence::Accepted);
        assert_eq!(of(""), Evidence::Accepted);
        assert_eq!(of("<html>"), Evidence::Silent);
    }

    #[test]
    fn an_answer_says_of_a_key_what_the_design_says() {
        let (code, lookup) = (Asked::CODE, Asked::LOOKUP);
        for (asked, status, error, evidence) in [
            (code, 201, "", Evidence::Accepted),
            (code, 402, "insufficient_credits", Evidence::Accepted),
            (code, 403, "insufficient_permissions", Evidence::Accepted),
            (code, 403, "verification_required", Evidence::Accepted),
            (code, 403, "forbidden", Evidence::Silent),
            (code, 404, "not_found", Evidence::Silent),
            (lookup, 404, "not_found", Evidence::Accepted),
            (lookup, 404, "no_route", Evidence::Silent),
            (code, 401, "invalid_api_key", Evidence::Refused(Word::InvalidApiKey)),
            (code, 401, "unauthorized", Evidence::Refused(Word::Unauthorized)),
            (code, 401, "else", Evidence::Failed),
            (code, 429, "rate_limit_exceeded", Evidence::Silent),
            (code, 429, "too_many_failed_key_attempts", Evidence::LockedOut(Duration::from_secs(120))),
            (code, 500, "internal_error", Evidence::Silent),
            (code, 302, "", Evidence::Silent),
            (code, 400, "invalid_request", Evidence::Silent),
        ] {
            assert_eq!(of(asked, status, error), evidence, "{status} {error}");
        }
        assert_eq!(of_answer(code, StatusCode::OK, false, b"<html>"), Evidence::Silent, "that is not Sendly's JSON");
        assert_eq!(of_answer(code, StatusCode::UNAUTHORIZED, false, b"<html>"), Evidence::Failed);
        assert_eq!(of_outcome(code, &Outcome::Cut(StatusCode::UNAUTHORIZED)), Evidence::Failed);
    }

    #[test]
    fn what_is_public_proves_no_key() {
        let other = |method: &Method, path| Asked::of(Operation::Other, method, path, true);
        assert_eq!(of(other(&Method::GET, "/api/v1/health"), 200, ""), Evidence::Silent);
        assert_eq!(of(other(&Method::OPTIONS, "/api/v1/messages"), 200, ""), Evidence::Silent, "a preflight");
        for path in
            ["/api/v1/messages/../health", "/api/v1/messages//health", "/api/v1/messages%2f", "/api/v1/messagesx"]
        {
            assert_eq!(of(other(&Method::GET, path), 200, ""), Evidence::Silent, "{path}");
        }
        for path in ["/api/v1/messages", "/api/v1/messages/msg_1", "/api/v1/messages/batch"] {
            assert_eq!(of(other(&Method::GET, path), 200, ""), Evidence::Accepted, "{path}");
        }
        let two_keys = Asked::of(Operation::List, &Method::GET, "/api/v1/verify", false);
        assert_eq!(of(two_keys, 200, ""), Evidence::Silent, "which of two keys was accepted is not known");
        assert_eq!(of(other(&Method::GET, "/api/v1/health"), 401, "unauthorized"), Evidence::Failed);
        assert_eq!(
            of(other(&Method::GET, "/api/v1/health"), 401, "invalid_api_key"),
            Evidence::Refused(Word::InvalidApiKey)
        );
    }

    #[test]
    fn json_is_told_by_its_type() {
        for (content_type, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json ;x", true),
            ("application/jsonp", false),
            ("text/html", false),
            ("", false),
        ] {
            assert_eq!(is_json(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
