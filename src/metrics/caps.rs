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
    /// A stream, beyond `clients.max_streams`.
    Streams,
    /// A request, beyond `clients.max_requests`.
    Requests,
    /// A request that needs a connection to Sendly, beyond `upstream.max_connections`.
    Upstream,
}

impl TurnedAway {
    /// All of them, in the order of their discriminants.
    pub const ALL: [TurnedAway; 6] = [
        TurnedAway::Connections,
        TurnedAway::Address,
        TurnedAway::Admin,
        TurnedAway::Streams,
        TurnedAway::Requests,
        TurnedAway::Upstream,
    ];

    const fn name(self) -> &'static str {
        match self {
            TurnedAway::Connections => "connections",
            TurnedAway::Address => "address",
            TurnedAway::Admin => "admin",
            TurnedAway::Streams => "streams",
            TurnedAway::Requests => "requests",
            TurnedAway::Upstream => "upstream",
        }
    }
}

/// What a client did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Its TLS handshake, or the beginning of HTTP/2.
    Handshake,
    /// A request's head.
    Head,
    /// A request's body.
    Body,
    /// Reading what it is sent.
    Read,
}

impl Late {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Late; 4] = [Late::Handshake, Late::Head, Late::Body, Late::Read];

    const fn name(self) -> &'static str {
        match self {
            Late::Handshake => "handshake",
            Late::Head => "head",
            Late::Body => "body",
            Late::Read => "read",
        }
    }
}

/// What is capped, as it stands: how much there is, and the cap.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capped {
    /// Connections of clients.
    pub connections: (usize, usize),
    /// Requests and exchanges under way, at most.
    pub max_requests: usize,
    /// Keys of throttles.
    pub throttle_keys: (usize, usize),
    /// Connections to Sendly in use.
    pub to_sendly: (usize, usize),
    /// What was turned away, in the order of [`TurnedAway::ALL`].
    pub turned_away: [u64; TurnedAway::ALL.len()],
    /// Which clients were late, in the order of [`Late::ALL`].
    pub late: [u64; Late::ALL.len()],
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OfCaps {
    connections: [IntGauge; 2],
    max_requests: IntGauge,
    throttle_keys: [IntGauge; 2],
    to_sendly: [IntGauge; 2],
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
            // `in_flight` tells how many there are.
            max_requests: register.gauge("in_flight_max", "How many requests and exchanges there may be.")?,
            throttle_keys: [
                register.gauge(
                    "throttle_keys",
                    "API keys and addresses of which throttles know how much they have attempted.",
                )?,
                register.gauge("throttle_keys_max", "How many there may be.")?,
            ],
            to_sendly: [
                register.gauge("upstream_connections", "Connections to Sendly that are in use.")?,
                register.gauge("upstream_connections_max", "How many there may be.")?,
            ],
            turned_away: TurnedAway::ALL.map(|reason| turned_away.with_label_values(&[reason.name()])),
            late: Late::ALL.map(|phase| late.with_label_values(&[phase.name()])),
        })
    }

    pub(super) fn set(&self, capped: &Capped) {
        set(&self.connections, capped.connections);
        self.max_requests.set(i64::try_from(capped.max_requests).unwrap_or(i64::MAX));
        set(&self.throttle_keys, capped.throttle_keys);
        set(&self.to_sendly, capped.to_sendly);
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
