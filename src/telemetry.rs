//! Log lines: one stream on standard error, as JSON or for people. What other crates log goes the same way, as far as it may.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::clock::Clock;
use crate::config::{Log, LogFormat};

/// What decides what is heard, and can be changed.
#[derive(Clone, Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Filters by these directives from now on.
    ///
    /// # Errors
    /// They are none.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        self.0.reload(filter(directives)?).map_err(|error| format!("log.filter: {error}"))
    }
}

fn filter(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives).map_err(|error| format!("log.filter: {error}"))
}

/// Starts logging, for the whole process.
///
/// The filter decides what the gateway's own modules say. Of other crates it can only take away: below `info`, pingora and
/// hyper show requests and answers as they came, with phones, API keys and codes, and so might any crate that reads them one
/// day; pingora quotes a header that it cannot read in a warning, too. So nobody else is heard below `info`, and pingora is
/// heard only about errors, whatever the filter asks for.
///
/// # Errors
/// The filter is none, or logging has been started before.
pub fn start(log: &Log, clock: Clock) -> Result<Filter, String> {
    let (filter, handle) = reload::Layer::new(filter(&log.filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_timer(Timer(clock)).with_target(true);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let heard = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_heard)).with(lines);
    heard.try_init().map_err(|error| error.to_string())?;
    Ok(Filter(handle))
}

/// See [`start`].
fn may_be_heard(line: &Metadata<'_>) -> bool {
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
