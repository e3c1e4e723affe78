//! What an exchange's outcome means: for its charge, for a retry of it, and for the client. One table.

use std::time::Duration;

use http::StatusCode;

use super::reply::Reply;
use super::retries::Ending;
use crate::api::{body, code};
use crate::ledger::Settlement;
use crate::upstream::{Answer, Loss, Outcome};

/// Sendly's longest documented window: no hold lasts longer, whatever an answer says.
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// What an outcome means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// Charges are kept whose code went out, or may have.
    pub(crate) settlement: Settlement,
    /// Why, for the metric.
    pub(crate) reason: &'static str,
    /// What a retry may be told.
    pub(crate) ending: Ending,
}

/// The table.
pub(crate) fn of(outcome: &Outcome) -> Meaning {
    use Ending::{Final, Nothing, Passing, Unknown};
    use Settlement::{GiveBack, Keep};
    let (settlement, reason, ending) = match outcome {
        Outcome::NotSent => (GiveBack, "not_sent", Nothing),
        Outcome::Lost(Loss::Timeout) => (Keep, "timeout", Unknown),
        Outcome::Lost(Loss::Broken) => (Keep, "broken", Unknown),
        Outcome::Cut(status) if may_be_out(*status) => (Keep, "cut", Unknown),
        Outcome::Cut(_) => (GiveBack, "rejected", Passing),
        Outcome::Answered(answer) => match answer.status {
            status if status.is_success() && is_replay(answer) => (GiveBack, "replayed", Final),
            status if status.is_success() => (Keep, "success", Final),
            StatusCode::TOO_MANY_REQUESTS if says(answer, code::RATE_LIMIT_EXCEEDED) => {
                (GiveBack, "sendly_limit", Passing)
            }
            StatusCode::TOO_MANY_REQUESTS => (GiveBack, "rejected", Passing),
            status if !may_be_out(status) => (GiveBack, "rejected", Passing),
            StatusCode::INTERNAL_SERVER_ERROR if says(answer, code::DELIVERY_FAILED) => {
                (GiveBack, "delivery_failed", Passing)
            }
            // What may be out is not asked for again by a retry.
            _ => (Keep, "server_error", Unknown),
        },
    };
    Meaning { settlement, reason, ending }
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
