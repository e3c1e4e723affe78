//! What a gateway tells its successor, and how the successor takes it over.
//!
//! Counts and ids go as records of the journal: first all that are kept, then whatever still happens here, since exchanges that took too
//! long to be waited for are settled in the old process. The answers that wait for a retry and the exemptions for a while go with them.
//! Throttles begin with a whole burst, and counters at zero, as after a restart.

use std::path::Path;
use std::time::Duration;

use crate::clock::{Moment, Shift};
use crate::gateway::Gateway;
use crate::gateway::exemptions::Until;
use crate::gateway::retries::snapshot::Kept;
use crate::ledger::journal::Journal;
use crate::ledger::journal::record::{Found, Record, Records};
use crate::phone::Phone;

/// How long exchanges with Sendly are waited for while no request is let in: most take less. One that takes longer is settled all the
/// same, and the successor is told of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process that sends a snapshot.
#[derive(Debug)]
pub struct Sender {
    /// Whether ids and accounts have the same hashes here.
    pub same_key: bool,
    /// By how much this process' clock is ahead of its own.
    shift: Shift,
}

impl Sender {
    /// A sender that has told nothing of its clock yet: an 0.1 never does, and its wall clock is believed.
    pub fn new(same_key: bool) -> Self {
        Self { same_key, shift: Shift::NONE }
    }
}

/// Lets no code be judged any more, and waits for exchanges in flight, but not for long.
pub(crate) async fn pause(gateway: &Gateway) {
    gateway.gate.stop_judging().await;
    let _ = tokio::time::timeout(PATIENCE, gateway.gate.is_empty()).await;
}

/// Goes on as if there had been no hand-over. It blocks on the disk: what waited for the folder stands in it before the next code goes out.
pub(super) fn resume(gateway: &Gateway) {
    gateway.durable.end_stream();
    gateway.retries.end_stream();
    if gateway.durable.journal().is_some_and(Journal::resume) {
        gateway.save_now();
    }
    gateway.gate.open();
}

/// Phones that are exempt for a while, and until when.
pub(super) fn temporary_exemptions(gateway: &Gateway) -> impl Iterator<Item = (Phone, Moment)> {
    gateway.exemptions.list(gateway.clock.now()).into_iter().filter_map(|(phone, until)| match until {
        Until::Moment(end) => Some((phone, end)),
        Until::Configured => None,
    })
}

/// Takes over records. `anew`: they stand in no folder of this gateway's yet.
///
/// # Errors
/// A record is damaged.
pub fn take_records(gateway: &Gateway, records: &[u8], sender: &mut Sender, anew: bool) -> Result<(), &'static str> {
    let (settings, now) = (gateway.settings(), gateway.clock.now());
    let same_key = sender.same_key;
    for found in Records::of(records) {
        let Found::Record(record) = found else { return Err("a record is damaged") };
        if let Record::Clock(clock) = &record {
            let shift = gateway.clock.anchor().and_then(|own| own.ahead_of(clock));
            sender.shift = shift.unwrap_or_default();
            continue;
        }
        let record = record.on(sender.shift);
        if anew {
            gateway.durable.take_and_write(&settings.policy, &record, same_key, now);
        } else {
            gateway.durable.take(&settings.policy, &record, same_key, now);
        }
    }
    Ok(())
}

/// Keeps an answer of another process for its retry.
pub(super) fn take_answer(gateway: &Gateway, key: Option<u128>, kept: Kept, sender: &Sender) {
    gateway.retries.take(key, kept, sender.shift);
}

/// Exempts a phone for as long as another process would have.
pub(super) fn take_exemption(gateway: &Gateway, phone: Phone, until: Moment, sender: &Sender) {
    // There is room for as many as that one could have; what the configuration exempts needs no exemption.
    let _ = gateway.exemptions.put(phone, until.on(sender.shift), gateway.clock.now());
}

/// Only this process judges from now on: what its folder told of another time counts no more. It blocks on the disk.
pub(super) fn discard_earlier_state(gateway: &Gateway) {
    match gateway.durable.journal().map(Journal::discard_earlier) {
        Some(Ok(files)) if !files.is_empty() => {
            tracing::warn!(?files, "what these files told is replaced by what the old process knew");
        }
        Some(Err(error)) => tracing::error!(error, "a file of the state that counts no more cannot be deleted"),
        _ => {}
    }
}

/// Writes what happens into the folder of the state from now on. `is_its_own`: the old process wrote there.
///
/// # Errors
/// What is wrong with the folder.
pub(super) fn take_folder(gateway: &Gateway, dir: &Path, is_its_own: bool) -> Result<(), String> {
    let opened = gateway.durable.take_folder(dir, &gateway.hash_key, is_its_own, &gateway.clock);
    opened.map_err(|error| format!("state.dir: {error}"))?;
    gateway.metrics.restored(crate::metrics::Restored::default());
    // A first file, so that nothing has to wait for one.
    gateway.save_now();
    Ok(())
}
