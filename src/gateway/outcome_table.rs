//! What an exchange's outcome means: for its charge, for a retry of it, and for the client. One table.

use std::time::Duration;

use http::StatusCode;

use super::reply::Reply;
use super::retries::Ending;
use crate::api::{body, code};
use crate::metrics::SettlementReason;
use crate::upstream::{Answer, Loss, Outcome};

/// Sendly's longest documented window: no hold lasts longer, whatever an answer says.
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// What an outcome means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// Why its charge is kept or given back.
    pub(crate) reason: SettlementReason,
    /// What a retry may be told.
    pub(crate) ending: Ending,
}

/// The table.
pub(crate) fn of(outcome: &Outcome) -> Meaning {
    use Ending::{Final, Nothing, Passing, Unknown};
    use SettlementReason as Why;
    let (reason, ending) = match outcome {
        Outcome::NotSent => (Why::NotSent, Nothing),
        Outcome::Lost(Loss::Timeout) => (Why::Timeout, Unknown),
        Outcome::Lost(Loss::Broken) => (Why::Broken, Unknown),
        Outcome::Cut(status) if may_be_out(*status) => (Why::Cut, Unknown),
        Outcome::Cut(_) => (Why::Rejected, Passing),
        Outcome::Answered(answer) => match answer.status {
            status if status.is_success() && is_replay(answer) => (Why::Replayed, Final),
            status if status.is_success() => (Why::Success, Final),
            StatusCode::TOO_MANY_REQUESTS if says(answer, code::RATE_LIMIT_EXCEEDED) => (Why::SendlyLimit, Passing),
            StatusCode::TOO_MANY_REQUESTS => (Why::Rejected, Passing),
            status if !may_be_out(status) => (Why::Rejected, Passing),
            StatusCode::INTERNAL_SERVER_ERROR if says(answer, code::DELIVERY_FAILED) => (Why::DeliveryFailed, Passing),
            // What may be out is not asked for again by a retry.
            _ => (Why::ServerError, Unknown),
        },
    };
    Meaning { reason, ending }
}

/// Whether a status alone leaves it open that a code went out.
fn may_be_out(status: StatusCode) -> bool {
    !(status.is_redirection() || status.is_client_error())
}

/// Whether an answer's `error` is this.
fn says(answer: &Answer, code: &str) -> bool {
    body::read_failure(&answer.body).error == code
}

/// Sendly replayed an answer that it had recorded under the request's `Idempotency-Key`: no code went out.
fn is_replay(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// How long Sendly will refuse this phone, if that is what it said.
pub(crate) fn hold(answer: &Answer) -> Option<Duration> {
    if answer.status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let failure = body::read_failure(&answer.body);
    let wait = failure.retry_after.filter(|_| failure.error == code::RATE_LIMIT_EXCEEDED)?;
    Some(Duration::from_secs(wait).min(LONGEST_HOLD))
}

/// What the client is told.
pub(crate) fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Answered(Answer { status, headers, body }) => Reply { status, headers, body },
        Outcome::Cut(status) if !may_be_out(status) => Reply::refused_and_broken_off(),
        Outcome::Cut(_) | Outcome::Lost(Loss::Broken) => Reply::broken_off(),
        Outcome::NotSent => Reply::unreachable(),
        Outcome::Lost(Loss::Timeout) => Reply::upstream_timeout(),
    }
}
