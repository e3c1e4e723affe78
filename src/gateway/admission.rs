//! Which requests may go on to Sendly: those of keys that Sendly has accepted at once, a few of the others at a time.
//!
//! An unproven key's first request takes a failure slot ([`Unproven`]) and goes; others with the same key wait until that one is over,
//! since it may prove the key. Requests with other unproven keys wait for a slot. Nobody waits for longer than [`WAIT`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SetOnce};

use super::downstream::Caller;
use super::evidence::Asked;
use super::reply::Reply;
use super::settings::Settings;
use super::shown::ShownTo;
use super::unproven::{Denied, Unproven, UnprovenCounts};
use super::{Gateway, Request};
use crate::clock::Moment;
use crate::ledger::memory::MAX_PROVEN;
use crate::metrics::{KeySizes, Unserved};
use crate::policy::subject::Account;
use crate::throttle::network;

/// How long a request waits at most for the proof of its key, or for a slot. Not `limits_wait`, which is about codes: without waiting here at
/// all, keys that are new at the same time would be turned away.
const WAIT: Duration = Duration::from_secs(2);

/// Requests that wait, at most: in all, and from one client.
const MAX_WAITING: usize = 1_024;
const MAX_WAITING_PER_CLIENT: usize = 256;

/// Clients that are remembered before those of them that ask for nothing are forgotten.
const MAX_CLIENTS: usize = 4_096;

/// Unproven requests of one client that are at Sendly at the same time, at most.
const MAX_PER_CLIENT: usize = 8;

/// What is known of keys that Sendly has not accepted, and those who wait for it.
#[derive(Debug)]
pub(crate) struct Admission {
    table: Mutex<Unproven>,
    /// What each key's requests wait for: the end of the one that is at Sendly.
    keys: Mutex<HashMap<Account, Arc<SetOnce<ProofEnd>>>>,
    clients: Mutex<HashMap<Option<IpAddr>, Arc<ClientShare>>>,
    /// A slot is free, or whoever waits for one has to look why there is none.
    slots: Notify,
    waiting: AtomicUsize,
    shown: ShownTo,
}

/// One client's share.
#[derive(Debug)]
struct ClientShare {
    at_sendly: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// How a request ended that others with its key wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProofEnd {
    /// The next one may try.
    TryAgain,
    /// Sendly cannot say anything of the key now.
    NoProof,
}

/// The leave of an unproven request to go to Sendly. Dropping it gives its slot back.
#[derive(Debug)]
pub(crate) struct Pass {
    admission: Arc<Admission>,
    account: Option<Account>,
    key: Option<Arc<SetOnce<ProofEnd>>>,
    proof_failed: AtomicBool,
    _share: Option<OwnedSemaphorePermit>,
}

impl Pass {
    /// Sendly says nothing of the key: those who wait for its proof wait in vain.
    pub(crate) fn proof_failed(&self) {
        self.proof_failed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Self { admission, account, key, proof_failed, .. } = self;
        {
            let mut keys = admission.keys.lock();
            if let Some(account) = account {
                keys.remove(account);
            }
            admission.table.lock().leave(*account);
        }
        if let Some(key) = key {
            let ended = if *proof_failed.get_mut() { ProofEnd::NoProof } else { ProofEnd::TryAgain };
            // It is set once, by this one.
            let _ = key.set(ended);
        }
        admission.slots.notify_one();
    }
}

/// One of those who wait, counted.
struct AdmissionWait<'a> {
    admission: &'a Admission,
    client: Arc<ClientShare>,
}

impl Drop for AdmissionWait<'_> {
    fn drop(&mut self) {
        self.admission.waiting.fetch_sub(1, Ordering::Relaxed);
        self.client.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(max_failed: usize) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Unproven::new(max_failed)),
            keys: Mutex::default(),
            clients: Mutex::default(),
            slots: Notify::new(),
            waiting: AtomicUsize::new(0),
            shown: ShownTo::new(),
        })
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Unproven> {
        self.table.lock()
    }

    pub(crate) fn set_max_failed(&self, max_failed: usize) {
        self.table.lock().set_max_failed(max_failed);
    }

    /// Forgets what nothing can need any more. `longest`: for how long a code counts.
    pub(crate) fn sweep(&self, now: Moment, longest: Duration) {
        self.table.lock().sweep(now, longest);
        self.clients.lock().retain(|_, client| client.is_busy());
    }

    pub(crate) fn kept(&self, now: Moment) -> UnprovenCounts {
        self.table.lock().kept(now)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Which accounts have been shown which ids.
    pub(crate) const fn shown(&self) -> &ShownTo {
        &self.shown
    }

    fn client(&self, address: Option<IpAddr>) -> Arc<ClientShare> {
        let new = || ClientShare { at_sendly: Arc::new(Semaphore::new(MAX_PER_CLIENT)), waiting: AtomicUsize::new(0) };
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.retain(|_, client| client.is_busy());
        }
        Arc::clone(clients.entry(address.map(network)).or_insert_with(|| Arc::new(new())))
    }

    /// Counts one more that waits, if there is room.
    fn wait(&self, client: &Arc<ClientShare>) -> Option<AdmissionWait<'_>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let of_client = client.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = AdmissionWait { admission: self, client: Arc::clone(client) };
        (self.waiting() <= MAX_WAITING && of_client < MAX_WAITING_PER_CLIENT).then_some(waiting)
    }

    fn enter(
        self: &Arc<Self>,
        account: Option<Account>,
        share: &mut Option<OwnedSemaphorePermit>,
        now: Moment,
    ) -> Result<Pass, Denied> {
        let mut keys = self.keys.lock();
        self.table.lock().enter(account, now)?;
        let key = account.map(|account| {
            let ended: Arc<SetOnce<ProofEnd>> = Arc::default();
            keys.insert(account, Arc::clone(&ended));
            ended
        });
        Ok(Pass {
            admission: Arc::clone(self),
            account,
            key,
            proof_failed: AtomicBool::new(false),
            _share: share.take(),
        })
    }
}

impl ClientShare {
    /// Whether a request of it is at Sendly, or on its way there.
    fn is_busy(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || self.at_sendly.available_permits() < MAX_PER_CLIENT
    }
}

/// The key of a request that streams to Sendly.
#[derive(Debug, Default)]
pub(crate) struct AdmittedKey {
    /// `None` without a key.
    pub(crate) account: Option<Account>,
    /// Held while the answer may still prove or disprove the key; `None` if the key is proven.
    pub(crate) pass: Option<Pass>,
    /// What the answer can say of the key.
    pub(crate) asked: Asked,
}

impl Gateway {
    /// Whether a request with this key needs no leave. The hot path: nearly all requests do not.
    pub(crate) fn is_served_at_once(&self, settings: &Settings, account: Account, now: Moment) -> bool {
        settings.config.accounts.allow.is_empty() && self.ledger.is_proven(account, now)
    }

    /// Lets a request go on: at once if Sendly has accepted its key, with a [`Pass`] otherwise.
    ///
    /// # Errors
    /// What its caller is told.
    pub(crate) async fn admit_key(
        &self,
        settings: &Settings,
        account: Option<Account>,
        client: Option<IpAddr>,
    ) -> Result<Option<Pass>, Reply> {
        let allow = &settings.config.accounts.allow;
        if !allow.is_empty() && !account.is_some_and(|account| allow.contains(&account)) {
            self.metrics.unserved(Unserved::NotAllowed);
            return Err(Reply::key_not_allowed());
        }
        let now = self.clock.now();
        if account.is_some_and(|account| self.ledger.is_proven(account, now)) {
            return Ok(None);
        }
        // Boxed: it is large, and seldom needed.
        Box::pin(self.admit_unproven(account, client, now)).await
    }

    async fn admit_unproven(
        &self,
        account: Option<Account>,
        client: Option<IpAddr>,
        now: Moment,
    ) -> Result<Option<Pass>, Reply> {
        let is_proven = |now| account.is_some_and(|account| self.ledger.is_proven(account, now));
        if let Some(word) = account.and_then(|account| self.admission.table.lock().refusal(account, now)) {
            self.metrics.unserved(Unserved::Refused);
            return Err(Reply::key_refused(word));
        }
        if let Some(account) = account
            && self.ledger.finds_proof(account, now).await
        {
            return Ok(None);
        }
        let client = self.admission.client(client);
        let mut waiting = None;
        let enter = async {
            let mut share = None;
            loop {
                let mut slot = std::pin::pin!(self.admission.slots.notified());
                // Before it is looked: what is freed in between must not be missed.
                slot.as_mut().enable();
                let now = self.clock.now();
                if is_proven(now) {
                    return Ok(None);
                }
                if share.is_none() {
                    share = Arc::clone(&client.at_sendly).try_acquire_owned().ok();
                }
                let denied =
                    if share.is_some() { self.admission.enter(account, &mut share, now) } else { Err(Denied::NoSlot) };
                match denied {
                    Ok(pass) => return Ok(Some(pass)),
                    Err(Denied::Refused(word)) => {
                        self.metrics.unserved(Unserved::Refused);
                        return Err(Reply::key_refused(word));
                    }
                    Err(Denied::Locked(wait)) => {
                        // Others wait for what does not come.
                        self.admission.slots.notify_one();
                        self.metrics.unserved(Unserved::Locked);
                        return Err(Reply::key_not_proven(wait));
                    }
                    Err(Denied::KeyInFlight) => {
                        // It needs no slot of its own for now: one that was freed is another's.
                        drop(share.take());
                        let ended = account.and_then(|account| self.admission.keys.lock().get(&account).cloned());
                        self.admission.slots.notify_one();
                        waiting = self.wait_or_busy(waiting, &client)?;
                        let Some(ended) = ended else { continue };
                        if *ended.wait().await == ProofEnd::NoProof && !is_proven(self.clock.now()) {
                            return Err(self.unproved(account));
                        }
                    }
                    Err(Denied::NoSlot) => {
                        waiting = self.wait_or_busy(waiting, &client)?;
                        match share {
                            None => share = Arc::clone(&client.at_sendly).acquire_owned().await.ok(),
                            Some(_) => slot.await,
                        }
                    }
                }
            }
        };
        let entered = tokio::time::timeout(WAIT, enter).await;
        entered.unwrap_or_else(|_| Err(self.busy()))
    }

    fn wait_or_busy<'a>(
        &'a self,
        waiting: Option<AdmissionWait<'a>>,
        client: &Arc<ClientShare>,
    ) -> Result<Option<AdmissionWait<'a>>, Reply> {
        match waiting.or_else(|| self.admission.wait(client)) {
            Some(waiting) => Ok(Some(waiting)),
            None => Err(self.busy()),
        }
    }

    fn busy(&self) -> Reply {
        self.metrics.unserved(Unserved::Busy);
        Reply::key_not_proven(Duration::from_secs(1))
    }

    /// What a caller is told for whose key nothing could be found out, or something that speaks against it.
    pub(crate) fn unproved(&self, account: Option<Account>) -> Reply {
        let now = self.clock.now();
        if let Some(word) = account.and_then(|account| self.admission.table.lock().refusal(account, now)) {
            self.metrics.unserved(Unserved::Refused);
            return Reply::key_refused(word);
        }
        self.metrics.unserved(Unserved::Unproved);
        Reply::key_not_proven(Duration::from_secs(1))
    }

    /// Lets a request through that streams to Sendly.
    pub(crate) async fn admit_streamed(
        &self,
        settings: &Settings,
        caller: &impl Caller,
        (method, path): (&Method, &str),
        request: &mut Request,
    ) -> Result<AdmittedKey, Reply> {
        let mut keys = caller.fields().all("authorization");
        let key = keys.next();
        let account = key.map(|key| self.hash_key.account(key));
        request.account = request.account.or(account);
        let asked = Asked::of(request.operation, method, path, key.is_some() && keys.next().is_none());
        let pass = self.admit_key(settings, account, request.client).await?;
        Ok(AdmittedKey { account, pass, asked })
    }

    pub(crate) fn key_sizes(&self) -> KeySizes {
        let UnprovenCounts { in_flight, failures, refused, open } = self.admission.kept(self.clock.now());
        KeySizes {
            proven: self.memory.proven_keys(),
            proven_max: MAX_PROVEN,
            failures,
            failures_max: self.settings().config.accounts.max_failed,
            in_flight,
            waiting: self.admission.waiting(),
            refused,
            open,
        }
    }
}
