//! The proxy: what a request is, and which way it goes.
//!
//! Sends and resends are answered by `gateway/limited.rs` in an exchange of their own. Everything else streams through pingora's proxy path
//! as it came, except that answers which show a verification's phone are read on their way, so that the phone is known before
//! the client can use the id.

pub(crate) mod admission;
pub(crate) mod admission_gate;
pub mod caps;
mod client_address;
pub(crate) mod downstream;
pub(crate) mod evidence;
pub(crate) mod exemptions;
mod holds;
mod identity;
pub(crate) mod limited;
mod lookup;
pub mod operators;
mod outcome_table;
mod patience;
mod persistence;
mod proving;
mod refusals;
pub(crate) mod reply;
pub(crate) mod retries;
pub mod settings;
mod shown;
pub(crate) mod slots;
mod store;
pub(crate) mod successor;
mod traces;
mod uncharged;
mod unproven;
mod waiting;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::api::{Operation, body};
use crate::clock::{Clock, Moment};
use crate::config::{self, Config};
use crate::ledger::durable::{self, Durable};
use crate::ledger::memory::{Bounds, Dropped, Memory};
use crate::ledger::redis::Reason;
use crate::ledger::{self, Ledger};
use crate::log::access::{AccessEntry, AccessLog};
use crate::metrics::{Metrics, Outcome, ReloadResult, Shared, Sizes, Swept, TurnedAway};
use crate::phone::Phone;
use crate::policy::Per;
use crate::policy::subject::{Account, HashKey};
use crate::trace::Context;
use admission::Admission;
use admission_gate::Gate;
use downstream::Caller;
use exemptions::Exemptions;
use persistence::Saving;
use reply::Reply;
use retries::Retries;
use settings::Settings;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// One gateway: its settings, what it knows, and its way to Sendly. Shared by all requests.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) settings: ArcSwap<Settings>,
    /// What is stored was hashed with it, so it never changes.
    pub(crate) hash_key: HashKey,
    pub(crate) exemptions: Exemptions,
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    memory: Arc<Memory>,
    /// Who is told what happens to it.
    pub(crate) durable: Arc<Durable>,
    saving: Saving,
    pub(crate) gate: Gate,
    /// Connections of clients.
    connections: TaskTracker,
    caps: caps::Caps,
    pub(crate) retries: Retries,
    lookups: lookup::Lookups,
    admission: Arc<Admission>,
    pub(crate) metrics: Metrics,
    access: AccessLog,
    traces: traces::Traces,
    work: TaskTracker,
    /// Whether the process wants no more clients. It stays so.
    draining: AtomicBool,
    /// Whether it was said since the last sweep that there is no room: once, however many ask.
    said_full: AtomicBool,
    /// The same of room for answers.
    said_full_of_answers: AtomicBool,
    /// The same of proxies that do not say in a way that can be read who their client is.
    said_unread: AtomicBool,
}

impl Gateway {
    /// A gateway that has seen nothing yet: not even what its state tells ([`restore`](Self::restore)).
    ///
    /// # Errors
    /// What is wrong with the way to Sendly, or with the folder of the state.
    pub fn new(mut config: Config, clock: Clock) -> Result<Arc<Self>, String> {
        if let (Some(dir), Some(drawn)) = (config.state.dir.as_deref(), config.hash_key.drawn_bytes()) {
            config.hash_key = durable::hash_key(dir, drawn).map_err(|error| format!("state.dir: {error}"))?;
        }
        let metrics = Metrics::new(clock.now()).map_err(|error| error.to_string())?;
        let settings = Settings::new(config, &metrics, &clock)?;
        let config = settings.config();
        let memory = Arc::new(Memory::new(bounds(&config.memory)));
        let exemptions = Exemptions::new(&config.exempt);
        let durable = Arc::new(Durable::new(Arc::clone(&memory)));
        Ok(Arc::new(Self {
            hash_key: config.hash_key.clone(),
            ledger: store::ledger(config, &durable, &clock)?,
            memory,
            durable,
            saving: Saving::default(),
            gate: Gate::default(),
            connections: TaskTracker::default(),
            caps: caps::Caps::default(),
            retries: Retries::new(config.retries, clock.clone()),
            lookups: lookup::Lookups::default(),
            admission: Admission::new(config.accounts.max_failed),
            metrics,
            access: AccessLog::new(&config.log),
            traces: traces::Traces::default(),
            work: TaskTracker::default(),
            draining: AtomicBool::new(false),
            said_full: AtomicBool::new(false),
            said_full_of_answers: AtomicBool::new(false),
            said_unread: AtomicBool::new(false),
            exemptions,
            clock,
            settings: ArcSwap::from_pointee(settings),
        }))
    }

    /// What is in force now, for whatever begins now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// What would follow from another configuration. It reads files, and waits for them.
    ///
    /// # Errors
    /// What is wrong with the way to Sendly.
    pub fn prepare(&self, config: Config) -> Result<Settings, String> {
        self.settings().succeed(config, &self.metrics, &self.clock)
    }

    /// Puts other settings in force: every request whose head has not been read yet is theirs. Returns of each limit that asks for codes
    /// which may have been forgotten already, when it will have counted all that it asks for.
    pub fn adopt(&self, settings: Settings) -> Vec<(String, Moment)> {
        let settings = Arc::new(settings);
        let before = self.settings.swap(Arc::clone(&settings));
        let config = settings.config();
        self.memory.set_bounds(bounds(&config.memory));
        self.retries.set(config.retries);
        self.admission.set_max_failed(config.accounts.max_failed);
        self.exemptions.configure(&config.exempt);
        if !Arc::ptr_eq(&before.upstream, &settings.upstream) {
            before.upstream.sendly.retire();
        }
        self.access.switch(&config.log);
        settings.policy.catching_up(&before.policy, self.clock.now())
    }

    /// A reload of the configuration came to this.
    pub fn reloaded(&self, result: ReloadResult) {
        self.metrics.reloaded(result, self.clock.now());
    }

    /// The requests and exchanges that are under way.
    pub fn work(&self) -> &TaskTracker {
        &self.work
    }

    /// From now on the process wants no more clients: `/readyz` says so, and answers over HTTP/1 close their connections.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process wants no more clients.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The connections of clients that are open.
    pub fn connections(&self) -> &TaskTracker {
        &self.connections
    }

    /// The key under which it hashes ids and accounts, if that was drawn; and what tells whether another key is the same.
    pub fn key(&self) -> (Option<[u8; 16]>, [u8; 16]) {
        (self.hash_key.drawn_bytes(), durable::key_check(&self.hash_key))
    }

    /// The metrics as text, sizes brought up to date.
    pub fn expose(&self) -> Vec<u8> {
        self.metrics.sizes(self.sizes());
        self.metrics.capped(&self.capped());
        self.metrics.keys(self.key_sizes());
        if let Some(saved) = self.saved() {
            self.metrics.saved(saved);
        }
        let state = self.shared_ledger();
        let outages = state.map_or_else(Default::default, |state| state.outages);
        self.metrics.shared_ledger(&Shared {
            is_up: state.is_none_or(|state| state.away.is_none()),
            outages: Reason::ALL.iter().map(|reason| reason.name()).zip(outages).collect(),
            backlog: state.map_or(0, |state| state.backlog),
            merged: state.map_or(0, |state| state.merged),
            lost: state.map_or(0, |state| state.lost),
        });
        self.metrics.expose()
    }

    /// How much it keeps now.
    pub fn sizes(&self) -> Sizes {
        let (access_lines_dropped, lines_dropped) = self.access.dropped();
        let spans = self.traces.fates();
        Sizes {
            in_flight: self.work.len(),
            tracked: self.memory.tracked(),
            capacity: self.memory.max_keys(),
            uncounted: self.memory.uncounted(),
            verifications: self.memory.verifications(),
            kept_answers: self.retries.kept(),
            max_kept_answers: self.retries.max_kept(),
            unclaimed: self.retries.unclaimed(),
            access_lines_dropped,
            lines_dropped,
            account_holds: self.memory.holds().many(),
            waiting: self.ledger.waiting().now(),
            waits: self.ledger.waiting().ended(),
            spans: [spans.exported, spans.failed, spans.dropped],
        }
    }

    /// Clients are shown a certificate that expires then, in seconds since the Unix epoch.
    pub fn shows_certificate(&self, expires: i64) {
        self.metrics.certificate_expires(expires);
    }

    /// Finds Sendly's addresses anew. Returns whether any is known.
    pub async fn resolve(&self) -> bool {
        self.settings().upstream.peer.resolve().await
    }

    /// Waits until it was tried to reach the ledger that gateways share, if there is one.
    pub async fn has_tried_ledger(&self) {
        if let Ledger::Redis(redis) = &self.ledger {
            redis.tried().await;
        }
    }

    /// How it stands with the ledger that gateways share, if there is one.
    pub fn shared_ledger(&self) -> Option<ledger::redis::RedisState> {
        match &self.ledger {
            Ledger::Memory(_) | Ledger::Durable(_) => None,
            Ledger::Redis(redis) => Some(redis.state()),
        }
    }

    /// Whether it knows where Sendly is.
    pub fn is_ready(&self) -> bool {
        self.settings.load().knows_upstream()
    }

    /// Drops whatever nothing can need any more. A shard at a time, and the others get their turn in between.
    pub async fn sweep(&self) {
        let began = self.clock.now();
        self.forget_past_limits(began);
        let mut swept = Swept::default();
        for shard in 0..self.memory.shards() {
            // Anew for each: a reload may have come, and need what the limits before it did not.
            let settings = self.settings();
            let Dropped { keys, verifications } =
                self.durable.sweep_one(shard, &settings.policy, self.ledger.time(self.clock.now()));
            swept.keys += keys;
            swept.verifications += verifications;
            tokio::task::yield_now().await;
        }
        let settings = self.settings();
        (swept.answers, swept.throttles) = (self.retries.sweep(), settings.throttles.sweep());
        settings.upstream.sendly.sweep();
        self.admission.sweep(self.clock.now(), settings.policy.retention(Per::Phone).longest());
        self.exemptions.sweep(self.clock.now());
        self.memory.holds().sweep(self.clock.now());
        self.said_full.store(false, Ordering::Relaxed);
        self.said_full_of_answers.store(false, Ordering::Relaxed);
        self.said_unread.store(false, Ordering::Relaxed);
        let ended = self.clock.now();
        self.metrics.swept(swept, ended.since(began), ended);
    }

    /// How often to [`sweep`](Self::sweep).
    pub fn sweep_every(&self) -> Duration {
        self.settings.load().config.memory.sweep_every
    }

    /// Logs are kept for limits that a reload has replaced, too, until none of their windows could still hold a code. Then no longer.
    fn forget_past_limits(&self, now: Moment) {
        let is_over = |settings: &Settings| settings.policy.has_past_until(now);
        if is_over(&self.settings.load()) {
            self.settings.rcu(|settings| match is_over(settings) {
                true => Arc::new(settings.without_past()),
                false => Arc::clone(settings),
            });
        }
    }

    /// A request's header has come.
    pub(crate) fn begin(&self, request: &mut Request) {
        request.began = self.clock.now();
        request.under_way = Some(self.work.token());
    }

    /// Finds out who calls, and asks whether there are too many requests, and the throttles. Returns what a caller is told that is refused.
    pub(crate) fn throttle(&self, settings: &Settings, caller: &impl Caller, request: &mut Request) -> Option<Reply> {
        let fields = caller.fields();
        request.client = self.client(caller.peer(), fields, &settings.config.clients);
        request.trace = match &settings.tracer {
            Some(tracer) => tracer.begin(fields.all("traceparent")),
            None if self.access.is_on() => Context::passing(fields.all("traceparent")),
            None => None,
        };
        if self.work.len() > settings.config.clients.max_requests {
            return Some(self.turn_request_away(request, TurnedAway::Requests));
        }
        if settings.throttles.is_empty() {
            return None;
        }
        // Without a key it is the account of nobody: Sendly will say so.
        let account = self.hash_key.account(fields.first("authorization").unwrap_or_default());
        request.account = Some(account);
        let slow = settings.throttles.check(request.operation, account, request.client).err()?;
        settings.series.throttled(slow.place);
        (request.outcome, request.refused_by) = (Outcome::Throttled, Some(slow.name.into()));
        Some(Reply::throttled(&slow, downstream::user_agent(fields)))
    }

    /// Tells of a request that is over: what its client was told, with which status, if any, and how much.
    pub(crate) fn tell(&self, request: &Request, method: &str, status: u16, bytes: usize) {
        if request.under_way.is_none() {
            return;
        }
        let at = request.told.unwrap_or_else(|| self.clock.now());
        let took = at.since(request.began);
        self.metrics.request(request.operation, request.outcome, took);
        self.served(request, method, status, at);
        if !self.access.is_on() {
            return;
        }
        self.access.tell(&AccessEntry {
            at,
            method,
            operation: request.operation,
            outcome: request.outcome,
            status,
            phone: request.phone,
            account: request.account,
            refused_by: request.refused_by.as_deref(),
            client: request.client,
            trace: request.trace.map(Context::trace),
            took,
            bytes,
        });
    }

    /// Learns whose phone an answer shows, and that a check confirmed it. Called before any client can see the answer.
    pub(crate) fn learn(&self, operation: Operation, account: Option<Account>, body: &[u8]) {
        let now = self.clock.now();
        let body::Shown { id, phone, is_verified } = body::read_shown(body);
        let verification = id.map(|id| self.hash_key.verification(&id));
        if let (Some(verification), Some(phone)) = (verification, phone) {
            self.ledger.overhear(verification, phone, now);
            if let Some(account) = account {
                self.admission.shown().insert(verification, account);
            }
        }
        if operation == Operation::Check && is_verified {
            self.metrics.confirmed(verification, phone);
        }
    }
}

/// What is known of one request, from its header to its log line.
#[derive(Debug, Default)]
pub struct Request {
    pub(crate) began: Moment,
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) client: Option<IpAddr>,
    pub(crate) trace: Option<Context>,
    pub(crate) account: Option<Account>,
    pub(crate) phone: Option<Phone>,
    /// The limit or throttle that refused.
    pub(crate) refused_by: Option<Arc<str>>,
    /// When its client was told, where the request went on after that.
    pub(crate) told: Option<Moment>,
    /// There from the moment that its header was read.
    pub(crate) under_way: Option<TaskTrackerToken>,
}

/// Reads the files that a configuration names, and returns what is wrong with each.
pub fn examine(config: &Config) -> Vec<String> {
    settings::examine(config, &Clock::system())
}

fn bounds(memory: &config::Memory) -> Bounds {
    Bounds {
        keys: memory.max_keys,
        when_full: memory.when_full,
        verifications: memory.max_verifications,
        remember: memory.remember_verifications,
    }
}
