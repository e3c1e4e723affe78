//! Who reaches Redis again when it is away, tells it then what it has missed, and tells it what nobody could wait for.
//!
//! There is one keeper to a gateway, so one that tries: with pauses that grow, and that differ from those of other gateways.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::backlog::BacklogEntry;
use super::protocol::{self, Contents, ScriptCall};
use super::{Fault, Redis, random};
use crate::policy::{Key, Policy};

/// The first pause between two tries, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked at while nobody asks: so that an outage is known before a client has to wait for it, and so is data that is
/// not what it was.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How much is told at a time.
const AT_ONCE: usize = 64;

/// Keeps a ledger for as long as there is one.
pub(crate) async fn keep(redis: Weak<Redis>, changed: Arc<Notify>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(kept) = redis.upgrade() else { return };
        let done = kept.keep_once().await;
        drop(kept);
        if done {
            pause = FIRST_PAUSE;
            // Whichever comes first.
            let _ = tokio::time::timeout(LOOK_EVERY, changed.notified()).await;
        } else {
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Between half of it and all of it.
fn jittered(pause: Duration) -> Duration {
    let part = (random() % 1024) as u32;
    pause / 2 + pause * part / 2048
}

impl Redis {
    /// Tells Redis what it does not know yet, before this process ends: if it is away, that is tried once more.
    pub async fn finish(self: &Arc<Self>) {
        if self.state().backlog > 0 {
            self.keep_once().await;
        }
    }

    /// This gateway goes on where another ended, which may have taken with it what it had yet to tell. If Redis is away, it is told all
    /// that there is once it is back.
    pub fn has_taken_over(&self, policy: &Policy) {
        self.note_retention(policy);
        self.owes_all.store(!self.circuit.is_up(), Ordering::Release);
    }

    /// Does what there is to do, one at a time. Returns whether nothing is left.
    async fn keep_once(self: &Arc<Self>) -> bool {
        let _turn = self.keeping.lock().await;
        match self.circuit.is_up() {
            true => self.look_after().await,
            false => self.recover().await,
        }
    }

    /// Tries to reach Redis, and tells it what it has missed. Returns whether it can be asked again.
    async fn recover(self: &Arc<Self>) -> bool {
        let turn = self.circuit.turn();
        let reached = self.reach().await;
        if let Err(fault) = &reached {
            self.failed(fault, turn);
        }
        // Whoever waits for the first try need wait no longer. It is set once, and asking for that twice is no error.
        let _ = self.tried.set(());
        reached.is_ok()
    }

    /// Looks whether Redis is as it was, and tells it what waits. Returns whether nothing is left to do.
    async fn look_after(self: &Arc<Self>) -> bool {
        self.attempt(self.look_at_data()).await.is_some() && self.tell_all().await
    }

    async fn look_at_data(self: &Arc<Self>) -> Result<(), Fault> {
        let is_other = self.probe().await?;
        if is_other {
            tracing::warn!("Redis holds other data than before: it is told all that this gateway knows");
        }
        if is_other || self.owes_all.load(Ordering::Acquire) {
            self.owes_all.store(true, Ordering::Release);
            self.tell_everything().await?;
            self.owes_all.store(false, Ordering::Release);
        }
        Ok(())
    }

    async fn reach(self: &Arc<Self>) -> Result<(), Fault> {
        self.link.connect().await?;
        self.look_at_data().await?;
        let merged = self.merged.load(Ordering::Relaxed);
        let (since, _) = self.circuit.state();
        self.backlog.lock().recall(since);
        if !self.tell_all().await {
            return Err(Fault::late(self.bound));
        }
        // Others have to know of this gateway before it has anything in flight.
        self.exchange_in_flight().await?;
        if let Some(away) = self.circuit.close(self.clock.now()) {
            let merged = self.merged.load(Ordering::Relaxed) - merged;
            tracing::info!(away_seconds = away.as_secs_f64(), merged, "Redis is back");
        }
        // What was decided without it in this very moment.
        self.changed.notify_one();
        Ok(())
    }

    /// Finds out whether Redis takes writes, what time it has, and whether it holds other data than when it was reached last.
    async fn probe(&self) -> Result<bool, Fault> {
        let drawn = random().to_be_bytes();
        let mut is_other = false;
        for name in &self.data_names {
            let found = if self.time.is_watched() {
                self.look_at_clock(&drawn).await?
            } else {
                let call = ScriptCall::new("probe", vec![name.clone()], self.numbers(self.clock.now())).with(&drawn);
                protocol::bytes(self.call(&call).await?.first())?.to_vec()
            };
            let before = self.data.lock().insert(name.clone(), found.clone());
            is_other |= before.is_some_and(|before| before != found);
        }
        Ok(is_other)
    }

    /// Tells all that waits, in its order. Returns whether nothing is left.
    async fn tell_all(self: &Arc<Self>) -> bool {
        loop {
            let taken = self.backlog.lock().take(AT_ONCE);
            if taken.is_empty() {
                return true;
            }
            if !self.tell_at_once(&taken).await {
                self.backlog.lock().put_back(taken);
                return false;
            }
            self.backlog.lock().has_told();
        }
    }

    async fn tell_at_once(self: &Arc<Self>, entries: &[BacklogEntry]) -> bool {
        let mut tasks = JoinSet::new();
        for entry in entries {
            let (redis, entry) = (Arc::clone(self), entry.clone());
            tasks.spawn(async move { redis.tell_again(&entry).await });
        }
        tasks.join_all().await.into_iter().all(|told| told)
    }

    /// Tells all that the ledger in memory holds.
    async fn tell_everything(self: &Arc<Self>) -> Result<(), Fault> {
        // Each of these is told by its token, and on the server's time.
        let own = self.backlog.lock().of_own_time();
        let mut proven = Vec::new();
        self.warm.proofs.each(|account, _| proven.push(account));
        for account in proven {
            self.tell_accepted(account).await?;
        }
        for shard in 0..self.warm.shards() {
            let (kept, ids) = self.warm.copy_one(shard, self.time.at(self.clock.now()));
            for (id, known) in ids {
                self.tell_known(id, known).await?;
            }
            let mut tasks = JoinSet::new();
            for mut kept in kept {
                kept.charges.retain(|(at, _)| !own.contains(&(kept.key, *at)));
                let redis = Arc::clone(self);
                tasks.spawn(async move {
                    let at = redis.time.at(redis.clock.now());
                    let phone = match kept.key {
                        Key::Verification(id) => redis.warm.whose(id, at).map(|known| known.phone),
                        _ => None,
                    };
                    let contents =
                        Contents { charges: kept.charges, held_until: kept.held_until, ..Contents::default() };
                    let retention = redis.kept(kept.key);
                    redis.tell_contents(&redis.names.key(kept.key, phone), &contents, retention).await
                });
                if tasks.len() >= AT_ONCE
                    && let Some(told) = tasks.join_next().await
                {
                    told.unwrap_or_else(|_| Err(Fault::away()))?;
                }
            }
            for told in tasks.join_all().await {
                told?;
            }
        }
        Ok(())
    }
}
