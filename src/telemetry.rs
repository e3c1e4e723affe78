//! Log lines: one stream on standard error, as JSON or for people. What other crates log goes the same way, as far as it may.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::clock::Clock;
use crate::config::{Log, LogFormat};

/// The filter of the process' log, once there is one. Logging is the process', whatever runs in it, and so is this.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging, for the whole process.
///
/// The filter decides what the gateway's own modules say. Of other crates it can only take away: below `info`, pingora and
/// hyper show requests and answers as they came, with phones, API keys and codes, and so might any crate that reads them one
/// day; pingora quotes a header that it cannot read in a warning, too. So nobody else is heard below `info`, and pingora is
/// heard only about errors, whatever the filter asks for. What it says as the server of the admin listener is not heard at all:
/// those errors quote requests, and there a phone stands in the path and a token in a header.
///
/// # Errors
/// The filter is none, or logging has been started before.
pub fn start(log: &Log, clock: Clock) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(parse(&log.filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_timer(Timer(clock)).with_target(true);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let heard = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_heard)).with(lines);
    heard.try_init().map_err(|error| error.to_string())?;
    // It was started just now, and so for the first time.
    let _ = FILTER.set(handle);
    Ok(())
}

/// What the log lets through; `None` before it was started.
pub fn filter() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Lets this through from now on. Whether each request gets its line was settled when the gateway started.
///
/// # Errors
/// The filter is none, or logging was not started.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let new = parse(filter)?;
    let handle = FILTER.get().ok_or("logging was not started")?;
    handle.reload(new).map_err(|error| error.to_string())
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log.filter: {error}"))
}

/// See [`start`].
fn may_be_heard(line: &Metadata<'_>) -> bool {
    if line.target() == "pingora_core::apps::http_app" {
        return false;
    }
    let from = line.target().split("::").next().unwrap_or_default();
    let most = match from {
        "sendly_gateway" | "access" => Level::TRACE,
        pingora if pingora.starts_with("pingora") => Level::ERROR,
        _ => Level::INFO,
    };
    *line.level() <= most
}

struct Timer(Clock);

impl FormatTime for Timer {
    fn format_time(&self, line: &mut format::Writer<'_>) -> std::fmt::Result {
        write!(line, "{}", self.0.now())
    }
}
