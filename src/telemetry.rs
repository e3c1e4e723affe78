//! Log lines: one stream on standard error, as JSON or for people. What pingora logs goes the same way.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::Clock;
use crate::config::{Log, LogFormat};

/// Starts logging, for the whole process.
///
/// # Errors
/// The filter is none, or logging has been started before.
pub fn start(log: &Log, clock: Clock) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| format!("log.filter: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_timer(Timer(clock))
        .with_target(true);
    let started = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).finish().try_init(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).finish().try_init(),
    };
    started.map_err(|error| error.to_string())
}

struct Timer(Clock);

impl FormatTime for Timer {
    fn format_time(&self, line: &mut format::Writer<'_>) -> std::fmt::Result {
        write!(line, "{}", self.0.now())
    }
}
