//! Log lines: one stream on standard error, as JSON or for people. What other crates log goes the same way, as far as it may; and so
//! does a panic.

pub mod access;
mod alike;
mod panics;
pub(crate) mod timestamp;
pub(crate) mod writer;

use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::clock::Clock;
use crate::config::{Log, LogFormat};

use alike::Alike;
pub use timestamp::Stamp;
pub use writer::{About, Lines};

/// The log, once it was started. Logging is the process', whatever runs in it, and so is this.
static LOG: OnceLock<Process> = OnceLock::new();

struct Process {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: Arc<Lines>,
}

/// A log that was started. Dropping it ends it: what it has is written, for which a second at most is waited.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct Open(Arc<Lines>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Starts logging, for the whole process.
///
/// The filter decides what the gateway's own modules say. Of other crates it can only take away: below `info`, pingora and
/// hyper show requests and answers as they came, with phones, API keys and codes, and so might any crate that reads them one
/// day; pingora quotes a header that it cannot read in a warning, too. So nobody else is heard below `info`, and pingora is
/// heard only about errors, whatever the filter asks for. What it says as the server of the admin listener is not heard at all:
/// those errors quote requests, and there a phone stands in the path and a token in a header.
///
/// Nobody who has a line waits for a reader of it (`log/writer.rs`).
///
/// # Errors
/// The filter is none, logging has been started before, or the system gives no thread.
pub fn start(log: &Log, clock: Clock) -> Result<Open, String> {
    let (filter, handle) = reload::Layer::new(parse(&log.filter)?);
    // `Stderr` is locked for all of a `write_all`, here and wherever else it is written to: no line is put into another.
    let lines = Lines::to(io::stderr()).map_err(|error| format!("the log: {error}"))?;
    let open = Open(Arc::clone(&lines));
    let (writer, form) = (Arc::clone(&lines), log.format);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || EventLine(Arc::clone(&writer), form))
        .with_timer(Timer(clock.clone()))
        .with_target(true)
        // It would write to standard error by itself, and wait for a reader.
        .log_internal_errors(false);
    let layer = match log.format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let heard = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_heard));
    let heard = heard.with(Alike::new(clock)).with(layer);
    heard.try_init().map_err(|error| error.to_string())?;
    panics::tell_of(Arc::clone(&lines));
    // It was started just now, and so for the first time.
    let _ = LOG.set(Process { filter: handle, lines });
    Ok(open)
}

/// Where lines go; `None` before the log was started.
pub fn lines() -> Option<Arc<Lines>> {
    Some(Arc::clone(&LOG.get()?.lines))
}

/// What the log lets through; `None` before it was started.
pub fn filter() -> Option<String> {
    LOG.get()?.filter.with_current(ToString::to_string).ok()
}

/// Lets this through from now on. Whether each request gets its line was settled when the gateway started.
///
/// # Errors
/// The filter is none, or logging was not started.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let new = parse(filter)?;
    let log = LOG.get().ok_or("logging was not started")?;
    log.filter.reload(new).map_err(|error| error.to_string())
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

/// Tells at the end of a line how many that are alike were left out before it.
fn end_line(line: &mut Vec<u8>, form: LogFormat, suppressed: u64) {
    let (end, told) = match form {
        _ if suppressed == 0 => return,
        LogFormat::Json => ("}\n", format!(",\"suppressed\":{suppressed}}}\n")),
        LogFormat::Text => ("\n", format!(" suppressed={suppressed}\n")),
    };
    if line.ends_with(end.as_bytes()) {
        line.truncate(line.len() - end.len());
        line.extend_from_slice(told.as_bytes());
    }
}

/// Takes a line, which comes in one piece. Whether there was room for it is nothing that would concern who had it.
struct EventLine(Arc<Lines>, LogFormat);

impl io::Write for EventLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let suppressed = alike::suppressed();
        self.0.add(About::Gateway, |bytes, _| {
            bytes.extend_from_slice(line);
            end_line(bytes, self.1, suppressed);
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
