//! The access log: a line for each request, which no request waits for.
//!
//! A request puts its line together by itself, without allocating, and adds it to the lines of the log (`log/writer.rs`), in the
//! form and the order of all others.

mod line;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{About, Lines};
use crate::config::{Log, LogFormat};
use crate::log;
pub use line::AccessEntry;
use line::{Form, Line};

/// See the module's documentation.
#[derive(Debug)]
pub struct AccessLog {
    form: Form,
    is_on: AtomicBool,
    /// The process'; none where logging was not started.
    lines: Option<Arc<Lines>>,
}

impl AccessLog {
    /// The log that a configuration asks for: none if `log.access` is off, or if the log's filter does not let `access` through at level
    /// `info`.
    pub fn new(log: &Log) -> Self {
        let form = match log.format {
            LogFormat::Json => Form::Json,
            LogFormat::Text => Form::Text { colours: io::stderr().is_terminal() },
        };
        let access = Self { form, is_on: AtomicBool::new(false), lines: log::lines() };
        access.switch(log);
        access
    }

    /// Switches it on or off, as another configuration asks, and the filter as it is now. Its form stays.
    pub fn switch(&self, log: &Log) {
        let is_on = log.access && self.lines.is_some() && tracing::enabled!(target: "access", tracing::Level::INFO);
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Tells of a request. It never waits for a reader.
    pub fn tell(&self, entry: &AccessEntry<'_>) {
        let (form, Some(lines)) = (self.form, &self.lines) else { return };
        let rest = Line::of(form, entry);
        match rest.whole() {
            Some(rest) => {
                lines.add(About::Request, |bytes, stamp| {
                    bytes.extend_from_slice(form.before_stamp());
                    bytes.extend_from_slice(stamp.of(entry.at));
                    bytes.extend_from_slice(rest);
                });
            }
            None => lines.lose(About::Request, 1),
        }
    }

    /// How many lines the log has dropped so far: of requests, and others.
    pub fn dropped(&self) -> (u64, u64) {
        let dropped = |about| self.lines.as_ref().map_or(0, |lines| lines.dropped(about));
        (dropped(About::Request), dropped(About::Gateway))
    }
}
