//! How it stands with the ledger that gateways share. One in memory is always there.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::register::{Register, Result};

/// How it stands with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared<'s> {
    /// Whether it can be asked.
    pub is_up: bool,
    /// How often it could not, by why.
    pub outages: Vec<(&'s str, u64)>,
    /// What it has yet to be told.
    pub backlog: usize,
    /// Codes of an outage that it has been told.
    pub merged: u64,
    /// What it will never be told.
    pub lost: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OfLedger {
    up: IntGauge,
    outages: IntCounterVec,
    backlog: IntGauge,
    merged: IntCounter,
    lost: IntCounter,
}

impl OfLedger {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        Ok(Self {
            up: register.gauge("ledger_up", "Whether the ledger that gateways share can be asked; 1 where none is.")?,
            outages: register.counters(
                "ledger_outages_total",
                "How often the ledger that gateways share went away, by why.",
                &["reason"],
            )?,
            backlog: register.gauge("ledger_backlog", "What the shared ledger has yet to be told.")?,
            merged: register
                .counter("ledger_merged_total", "Codes that the shared ledger was told after they went out.")?,
            lost: register.counter("ledger_lost_total", "What the shared ledger will never be told.")?,
        })
    }

    pub(super) fn set(&self, shared: &Shared<'_>) {
        let raise = |total: &IntCounter, to: u64| total.inc_by(to.saturating_sub(total.get()));
        self.up.set(i64::from(shared.is_up));
        for (reason, outages) in &shared.outages {
            raise(&self.outages.with_label_values(&[reason]), *outages);
        }
        self.backlog.set(i64::try_from(shared.backlog).unwrap_or(i64::MAX));
        raise(&self.merged, shared.merged);
        raise(&self.lost, shared.lost);
    }
}
