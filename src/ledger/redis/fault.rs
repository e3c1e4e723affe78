//! Why a call to Redis failed.

use std::time::Duration;

use redis_rs::{ErrorKind, RedisError};

use super::circuit::Reason;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// Whether it may have been carried out all the same.
    pub(crate) may_be_done: bool,
    /// In words, for the log. No key and no argument stands in them.
    pub(crate) text: String,
}

impl Fault {
    /// It was not asked.
    pub(crate) fn away() -> Self {
        Self { reason: Reason::Unreachable, may_be_done: false, text: "there is no connection".to_owned() }
    }

    pub(crate) fn late(bound: Duration) -> Self {
        Self { reason: Reason::Timeout, may_be_done: true, text: format!("no answer within {bound:?}") }
    }

    /// Its answer is none.
    pub(crate) fn wrong(what: &str) -> Self {
        Self { reason: Reason::Error, may_be_done: true, text: format!("an answer that is none: {what}") }
    }

    pub(crate) fn of(error: &RedisError) -> Self {
        let text = error.to_string();
        let reason = match error.code().unwrap_or_default() {
            // Older servers tell of what a script met within a text of their own.
            _ if text.contains("OOM") => Reason::Memory,
            "READONLY" | "MISCONF" | "NOREPLICAS" => Reason::ReadOnly,
            _ if text.contains("READONLY") => Reason::ReadOnly,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Reason::Auth,
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" => Reason::Unavailable,
            _ if error.kind() == ErrorKind::AuthenticationFailed => Reason::Auth,
            _ if error.is_timeout() => Reason::Timeout,
            _ if error.is_io_error() || error.is_connection_dropped() || error.is_cluster_error() => {
                Reason::Unreachable
            }
            _ if error.kind() == ErrorKind::MasterNameNotFoundBySentinel => Reason::Unavailable,
            _ => Reason::Error,
        };
        // A server that says why has done nothing: a script that may not write fails at its first write.
        let may_be_done = matches!(reason, Reason::Timeout | Reason::Unreachable);
        Self { reason, may_be_done, text }
    }
}
