//! What the log lets through, while it runs.

use http::StatusCode;
use serde_json::json;

use super::answer::AdminAnswer;
use super::{AdminRequest, phones};
use crate::config::file::is_log_filter;
use crate::gateway::Gateway;
use crate::log;
use crate::metrics::Change;

/// `GET /v1/log`.
pub(super) fn filter() -> AdminAnswer {
    match log::filter() {
        Some(filter) => AdminAnswer::json(&json!({ "filter": filter })),
        None => not_started(),
    }
}

/// `PUT /v1/log`.
pub(super) fn set(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let body: Option<serde_json::Value> = serde_json::from_slice(&asked.body).ok();
    let filter = body.as_ref().and_then(|body| body.get("filter")?.as_str()).filter(|filter| is_log_filter(filter));
    let Some(filter) = filter else {
        let message = r#"Expected {"filter":"info"}: a level (off, error, warn, info, debug, trace), or levels of modules such as "info,sendly_gateway=debug"."#;
        return AdminAnswer::error(StatusCode::BAD_REQUEST, "invalid_request", message);
    };
    if log::filter().is_none() {
        return not_started();
    }
    // Before the change: it may be one that hides this.
    phones::audit(gateway, asked, Change::LogFilter, None, filter);
    match log::set_filter(filter) {
        Ok(()) => self::filter(),
        Err(error) => AdminAnswer::error(StatusCode::BAD_REQUEST, "invalid_request", &error),
    }
}

fn not_started() -> AdminAnswer {
    AdminAnswer::error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "This process does not log.")
}
