//! All that a gateway leaves to the process that takes over from it, and how that one takes it.
//!
//! The counts and the ids go as the records of the journal, at first all of them and then whatever still happens here: exchanges that
//! took too long to be waited for are settled there. With them go the answers that wait for a retry and the exemptions for a while. What
//! does not go: throttles (they begin with a whole burst) and the metrics (counters begin at zero, as after a restart).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Gateway;
use super::exemptions::Until;
use super::relay::Heir;
pub use super::retries::News;
pub use super::retries::estate::Kept;
use crate::clock::{Moment, Shift};
use crate::ledger::Ledger;
use crate::ledger::journal::Journal;
use crate::ledger::journal::record::{Found, Record, Records};
use crate::phone::Phone;

/// How long exchanges with Sendly are waited for, while nobody else is let in: most take less. One that takes longer is settled all the same,
/// and the process that takes over is told of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process that tells what it knows.
#[derive(Debug)]
pub struct Teller {
    /// Whether ids and accounts mean the same here.
    pub same_key: bool,
    /// By how much this process' clock is ahead of its. None, before it has said anything of its clock.
    shift: Shift,
}

impl Teller {
    /// One that has said nothing of its clock yet: an 0.1 never does, and its wall clock is believed.
    pub fn new(same_key: bool) -> Self {
        Self { same_key, shift: Shift::NONE }
    }
}

impl Gateway {
    /// Lets no code be judged any more, and waits for exchanges that are under way, but not for long.
    pub async fn pause(&self) {
        self.stop_judging().await;
        let _ = tokio::time::timeout(PATIENCE, self.gate.is_empty()).await;
    }

    /// Lets no code be judged any more. Once it returns, whatever was charged is written. It takes a moment; with Redis its timeout at most.
    pub async fn stop_judging(&self) {
        self.gate.close();
        self.gate.has_judged().await;
    }

    /// Goes on as if nothing had been. It waits for the disk: what waited for the folder stands in it before the next code goes out.
    pub fn go_on(&self) {
        self.durable.disinherit();
        self.retries.disinherit();
        if self.durable.journal().is_some_and(Journal::resume) {
            self.save_now();
        }
        self.gate.open();
    }

    /// Leaves all requests for codes to another process, from now on.
    pub fn leave_to(&self, heir: Arc<Heir>) {
        self.gate.lead_to(heir);
    }

    /// Whether another process has taken over.
    pub fn has_left(&self) -> bool {
        self.gate.leads_away()
    }

    /// Tells all that is counted and known, and from then on whatever happens. To be called while it is paused.
    pub fn bequeath(&self, heir: impl Fn(&Record) + Send + Sync + 'static) {
        self.durable.bequeath(self.clock.now(), heir);
    }

    /// From now on tells of exchanges in flight what a retry could want to know. To be called while it is paused, before
    /// [`kept_answers`](Self::kept_answers).
    pub fn bequeath_exchanges(&self, heir: impl Fn(News) + Send + Sync + 'static) {
        self.retries.bequeath(heir);
    }

    /// The answers that wait for a retry, each with the hash of a key that an SDK made up, if it has one.
    pub fn kept_answers(&self) -> Vec<(Option<u128>, Kept)> {
        self.retries.leave_behind()
    }

    /// Phones that are exempt for a while, and until when.
    pub fn exempt_for_a_while(&self) -> impl Iterator<Item = (Phone, Moment)> {
        self.exemptions.list(self.clock.now()).into_iter().filter_map(|(phone, until)| match until {
            Until::Moment(end) => Some((phone, end)),
            Until::Configured => None,
        })
    }

    /// By which clock records are told, for those that this process tells.
    pub fn clock_record(&self) -> Option<Record> {
        self.clock.anchor().map(Record::Clock)
    }

    /// Takes over records. `anew`: whether they stand in no folder yet that is this gateway's.
    ///
    /// # Errors
    /// They are none.
    pub fn inherit(&self, records: &[u8], teller: &mut Teller, anew: bool) -> Result<(), &'static str> {
        let (settings, now) = (self.settings(), self.clock.now());
        let same_key = teller.same_key;
        for found in Records::of(records) {
            let Found::Record(record) = found else { return Err("a record is damaged") };
            if let Record::Clock(clock) = &record {
                let shift = self.clock.anchor().and_then(|own| own.ahead_of(clock));
                teller.shift = shift.unwrap_or_default();
                continue;
            }
            let record = record.on(teller.shift);
            if anew {
                self.durable.inherit_and_write(&settings.policy, &record, same_key, now);
            } else {
                self.durable.inherit(&settings.policy, &record, same_key, now);
            }
        }
        Ok(())
    }

    /// Only this process judges from now on: what its folder told of another time counts no more. It waits for the disk.
    pub fn discard_earlier_state(&self) {
        match self.durable.journal().map(Journal::discard_earlier) {
            Some(Ok(files)) if !files.is_empty() => {
                tracing::warn!(?files, "what these files told is replaced by what the old process knew");
            }
            Some(Err(error)) => tracing::error!(error, "a file of the state that counts no more cannot be deleted"),
            _ => {}
        }
    }

    /// All is taken over.
    pub fn has_inherited(&self) {
        if let Ledger::Redis(redis) = &self.ledger {
            redis.has_inherited(&self.settings().policy);
        }
    }

    /// Tells the ledger that gateways share, if there is one, what it does not know yet: once more, before this process ends.
    pub async fn finish_telling(&self) {
        if let Ledger::Redis(redis) = &self.ledger {
            redis.finish().await;
        }
    }

    /// Says what the ledger that gateways share has not been told: it ends with this process.
    pub fn says_what_is_untold(&self) {
        let untold = self.shared_ledger().map_or(0, |ledger| ledger.backlog);
        if untold > 0 {
            tracing::warn!(untold, "Redis is away: what it has yet to be told is lost");
        }
    }

    /// Keeps an answer of another process for its retry.
    pub fn inherit_answer(&self, key: Option<u128>, kept: Kept, teller: &Teller) {
        self.retries.inherit(key, kept, teller.shift);
    }

    /// Takes in what another process tells of its exchanges in flight.
    pub fn hear(&self, news: News) {
        self.retries.hear(news);
    }

    /// That process tells nothing any more: it has ended.
    pub fn nobody_tells_any_more(&self) {
        self.retries.nobody_tells_any_more();
    }

    /// Exempts a phone for as long as another process would have.
    pub fn inherit_exemption(&self, phone: Phone, until: Moment, teller: &Teller) {
        // There is room for as many as that one could have; what the configuration exempts needs no exemption.
        let _ = self.exemptions.put(phone, until.on(teller.shift), self.clock.now());
    }

    /// Writes what happens into the folder of its state from now on. `is_its_own`: the process that this one takes over from wrote there.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub fn succeed(&self, dir: &Path, is_its_own: bool) -> Result<(), String> {
        let opened = self.durable.succeed(dir, &self.hash_key, is_its_own, &self.clock);
        opened.map_err(|error| format!("state.dir: {error}"))?;
        self.metrics.restored(crate::metrics::Restored::default());
        // A first file, so that nothing has to wait for one.
        self.save_now();
        Ok(())
    }
}
