//! Clients of whom a trusted proxy said nothing that could be read.

use prometheus::IntCounter;

use super::Metrics;
use super::register::{Register, Result};

/// Where it was not to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// `X-Forwarded-For`, or a header of one's own.
    Header,
    /// `Forwarded`.
    Forwarded,
    /// The PROXY protocol: the connection was closed.
    ProxyProtocol,
}

impl Unread {
    const ALL: [Unread; 3] = [Unread::Header, Unread::Forwarded, Unread::ProxyProtocol];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Unread::Header => "header",
            Unread::Forwarded => "forwarded",
            Unread::ProxyProtocol => "proxy_protocol",
        }
    }
}

/// In the order of [`Unread::ALL`].
#[derive(Debug)]
pub(super) struct Addresses([IntCounter; Unread::ALL.len()]);

impl Addresses {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let unread = register.counters(
            "clients_unread_total",
            "Requests and connections of which a trusted proxy said in no way that can be read whose they are, by where it says so.",
            &["source"],
        )?;
        Ok(Self(Unread::ALL.map(|source| unread.with_label_values(&[source.name()]))))
    }
}

impl Metrics {
    /// A trusted proxy did not say in a way that can be read who its client is.
    pub fn client_unread(&self, source: Unread) {
        if let Some(counter) = self.addresses.0.get(source as usize) {
            counter.inc();
        }
    }
}
