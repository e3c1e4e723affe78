//! Whether traces are recorded, and where to.

use std::fmt;
use std::path::PathBuf;

use super::Origin;

/// Whether traces are recorded, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Who collects spans; `None`: the gateway takes part in no trace.
    pub collector: Option<Collector>,
    /// Of how many of the requests that belong to no trace one is begun: 0 to 1.
    pub sample: f64,
    /// What the gateway is called in them.
    pub service: String,
}

/// A collector that takes OTLP over HTTP. It prints without what is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Collector {
    /// Its origin.
    pub origin: Origin,
    /// What stands before `/v1/traces` in its path; starts with a `/` and does not end with one, or is empty.
    pub base: String,
    /// Names and values of the headers that it is to be sent.
    pub headers: Vec<(String, String)>,
    /// The certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, base, ca_file, headers: _ } = self;
        let mut shown = f.debug_struct("Collector");
        shown.field("origin", origin).field("base", base).field("ca_file", ca_file).finish_non_exhaustive()
    }
}
