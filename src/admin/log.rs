//! What the log lets through, while it runs.

use http::StatusCode;
use serde_json::json;

use super::answer::Answer;
use super::{Asked, phones};
use crate::config::file::is_log_filter;
use crate::gateway::Gateway;
use crate::log;
use crate::metrics::Change;

/// `GET /v1/log`.
pub(super) fn filter() -> Answer {
    match log::filter() {
        Some(filter) => Answer::json(&json!({ "filter": filter })),
        None => not_started(),
    }
}

/// `PUT /v1/log`.
pub(super) fn set(gateway: &Gateway, asked: &Asked) -> Answer {
    let body: Option<serde_json::Value> = serde_json::from_slice(&asked.body).ok();
    let filter = body.as_ref().and_then(|body| body.get("filter")?.as_str()).filter(|filter| is_log_filter(filter));
    let Some(filter) = filter else {
        let message = r#"Expected {"filter":"info"}: a level (off, error, warn, info, debug, trace), or levels of modules such as "info,sendly_gateway=debug"."#;
        return Answer::error(StatusCode::BAD_REQUEST, "invalid_request", message);
    };
    if log::filter().is_none() {
        return not_started();
    }
    // Before the change: it may be one that hides this.
    phones::audit(gateway, asked, Change::LogFilter, None, filter);
    match log::set_filter(filter) {
        Ok(()) => self::filter(),
        Err(error) => Answer::error(StatusCode::BAD_REQUEST, "invalid_request", &error),
    }
}

fn not_started() -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "This process does not log.")
}
