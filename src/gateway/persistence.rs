//! What of the gateway's memory outlives its process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Gateway;
use super::settings::Settings;
use crate::ledger::journal::{Journal, Standing};
use crate::metrics::{Restored, Saved};
use crate::policy::Per;
use crate::policy::window::UNSETTLED;

/// For how much longer than it says an id may be remembered: two of the turns in which its age is counted.
const TURNS: Duration = Duration::from_secs(22 * 60);

/// By how much a wall clock may be corrected without a word.
const SET: Duration = Duration::from_secs(1);

/// Whether it was said that the state cannot be saved.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    is_failing: AtomicBool,
}

impl Saving {
    /// Says it once, and once that it can be again.
    fn tell(&self, tended: Result<(), String>) {
        let was_failing = self.is_failing.swap(tended.is_err(), Ordering::Relaxed);
        match tended {
            Err(error) if !was_failing => {
                tracing::error!(error, "the state cannot be saved: traffic goes on, and it is tried again");
            }
            Ok(()) if was_failing => tracing::info!("the state is saved again"),
            _ => {}
        }
    }
}

impl Gateway {
    /// Takes over what the folder of its state tells of, if it has one; and writes what happens there from now on. To be called once, before
    /// it serves; it waits for the disk.
    ///
    /// # Errors
    /// What is wrong with the folder itself. What is wrong with its files is told, and what is intact of them is used.
    pub fn restore(&self) -> Result<(), String> {
        let settings = self.settings();
        let Some(dir) = settings.config.state.dir.as_deref() else { return Ok(()) };
        let began = self.clock.now();
        let opened = self.durable.restore(dir, &self.hash_key, &settings.policy, &self.clock);
        let restored = opened.map_err(|error| format!("state.dir: {error}"))?;
        let took = self.clock.now().since(began);
        let (keys, verifications) = (self.memory.tracked(), self.memory.verifications());
        tracing::info!(keys, verifications, records = restored.records, ?took, "the state is restored");
        if restored.damaged > 0 {
            tracing::warn!(bytes = restored.damaged, "some of the state is damaged: what is intact of it is used");
        }
        for file in &restored.unreadable {
            tracing::error!(file, "a file of the state cannot be read");
        }
        if restored.of_the_future > 0 {
            let records = restored.of_the_future;
            tracing::warn!(
                records,
                "the wall clock was put back: what the state tells of a time that is yet to come counts as of now"
            );
        } else if restored.is_of_another_boot {
            tracing::info!(
                "the state is of another boot of the machine, or does not say of which: it is as old as the wall clock says"
            );
        }
        if restored.set_by > SET {
            tracing::warn!(by = ?restored.set_by, "the wall clock was set since the state was written: what it tells keeps its age");
        }
        if restored.is_of_another_key {
            tracing::warn!("hash_key is not what it was: what the state tells of ids and accounts means nothing now");
        }
        self.metrics.restored(Restored { records: restored.records, damaged: restored.damaged, took });
        // A first file, so that nothing has to wait for one.
        self.save_now();
        Ok(())
    }

    /// Has what was written of its state outlive the machine too. To be called once a second or so; it waits for the disk, and lets
    /// others go on meanwhile.
    pub async fn save(self: &Arc<Self>) {
        if self.durable.journal().is_some() {
            let gateway = Arc::clone(self);
            // It fails only where the process ends.
            let _ = tokio::task::spawn_blocking(move || gateway.save_now()).await;
        }
    }

    pub(crate) fn save_now(&self) {
        if let Some(journal) = self.durable.journal() {
            self.note_wall_clock(journal);
            self.saving.tell(journal.tend(self.clock.now(), horizon(&self.settings())));
        }
    }

    fn note_wall_clock(&self, journal: &Journal) {
        if let Some(ahead) = self.clock.wall_clock_ahead()
            && journal.note_wall_clock(self.clock.now(), ahead)
        {
            tracing::info!(
                micros = ahead.as_micros(),
                "the wall clock was set: counts keep their age, and the state tells by how much"
            );
        }
    }

    /// Saves its state for the last time, and leaves its folder to another process. It waits for the disk.
    pub fn finish_saving(&self) {
        if let Some(journal) = self.durable.journal() {
            self.note_wall_clock(journal);
            self.saving.tell(journal.finish(self.clock.now(), horizon(&self.settings())));
        }
    }

    /// How much of its state is saved, if any is kept.
    pub fn saved(&self) -> Option<Saved> {
        let Standing { bytes, written, waiting, lost, failures, saved } = self.durable.journal()?.standing();
        Some(Saved { bytes, written, waiting, lost, failures, at: saved })
    }
}

/// For how long anything may count that is written now.
fn horizon(settings: &Settings) -> Duration {
    let windows = [Per::Phone, Per::Verification, Per::Account].map(|per| settings.policy.retention(per).longest());
    let longest = windows.into_iter().max().unwrap_or_default() + UNSETTLED;
    // What counts for longer is told anew by the sweep that comes after its window.
    let longest = longest + settings.config.memory.sweep_every;
    longest.max(settings.config.memory.remember_verifications + TURNS)
}
