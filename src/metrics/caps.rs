//! What has a cap: how much of it there is, how much was turned away, and which clients were late.

use prometheus::{IntCounter, IntGauge};

use super::register::{Register, Result};

/// Why something was turned away at a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// A connection, beyond `clients.max_connections`.
    Connections,
    /// A connection, beyond `clients.max_per_address`.
    Address,
    /// A connection to the admin listener.
    Admin,
}

impl TurnedAway {
    /// All of them, in the order of their discriminants.
    pub const ALL: [TurnedAway; 3] = [TurnedAway::Connections, TurnedAway::Address, TurnedAway::Admin];

    const fn name(self) -> &'static str {
        match self {
            TurnedAway::Connections => "connections",
            TurnedAway::Address => "address",
            TurnedAway::Admin => "admin",
        }
    }
}

/// What a client did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Its TLS handshake.
    Handshake,
}

impl Late {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Late; 1] = [Late::Handshake];

    const fn name(self) -> &'static str {
        match self {
            Late::Handshake => "handshake",
        }
    }
}

/// What is capped, as it stands: how much there is, and the cap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capped {
    /// Connections of clients.
    pub connections: (usize, usize),
    /// What was turned away, in the order of [`TurnedAway::ALL`].
    pub turned_away: [u64; TurnedAway::ALL.len()],
    /// Which clients were late, in the order of [`Late::ALL`].
    pub late: [u64; Late::ALL.len()],
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OfCaps {
    connections: [IntGauge; 2],
    turned_away: [IntCounter; TurnedAway::ALL.len()],
    late: [IntCounter; Late::ALL.len()],
}

impl OfCaps {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let turned_away = register.counters(
            "turned_away_total",
            "Connections and requests that were turned away at a cap, by which.",
            &["cap"],
        )?;
        let late = register.counters(
            "late_clients_total",
            "Connections and requests that were ended because the client was late, by what it was late with.",
            &["phase"],
        )?;
        Ok(Self {
            connections: [
                register.gauge("connections", "Connections of clients that are open.")?,
                register.gauge("connections_max", "How many there may be.")?,
            ],
            turned_away: TurnedAway::ALL.map(|reason| turned_away.with_label_values(&[reason.name()])),
            late: Late::ALL.map(|phase| late.with_label_values(&[phase.name()])),
        })
    }

    pub(super) fn set(&self, capped: &Capped) {
        set(&self.connections, capped.connections);
        raise(&self.turned_away, &capped.turned_away);
        raise(&self.late, &capped.late);
    }
}

fn set([now, most]: &[IntGauge; 2], (count, cap): (usize, usize)) {
    now.set(i64::try_from(count).unwrap_or(i64::MAX));
    most.set(i64::try_from(cap).unwrap_or(i64::MAX));
}

fn raise(counters: &[IntCounter], totals: &[u64]) {
    for (counter, total) in counters.iter().zip(totals) {
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
