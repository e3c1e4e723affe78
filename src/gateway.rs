//! The proxy: what a request is, and which way it goes.
//!
//! Sends and resends are answered by `gateway/otp.rs` in an exchange of their own. Everything else streams through pingora's proxy path
//! as it came, except that answers which show a verification's phone are read on their way, so that the phone is known before
//! the client can use the id.

mod buffer;
mod caller;
pub mod exchange;
mod fields;
pub mod front;
mod head;
mod lookup;
mod meaning;
mod otp;
mod passing;
mod peer;
mod refusals;
mod reply;
pub mod retries;
mod session;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::{HttpPeer, Peer as _};

use crate::access::{AccessLog, Entry, TraceId};
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::memory::{Bounds, Dropped, Memory};
use crate::metrics::{Metrics, Outcome, Sizes, Swept};
use crate::phone::Phone;
use crate::policy::Policy;
use crate::policy::subject::Account;
use crate::sendly::path::{self, Reading};
use crate::sendly::{Operation, body};
use crate::throttle::Throttles;
use crate::work::{UnderWay, Work};
use caller::Caller;
use refusals::Refusals;
use reply::Reply;
use retries::Retries;
use session::Streamed;

/// One gateway: its policy, what it knows, and its way to Sendly. Shared by all requests.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    policy: Policy,
    clock: Clock,
    ledger: Ledger,
    memory: Arc<Memory>,
    throttles: Throttles,
    retries: Retries,
    refusals: Refusals,
    lookups: lookup::Lookups,
    sendly: exchange::Sendly,
    peer: peer::Peer,
    metrics: Metrics,
    access: AccessLog,
    work: Work,
}

impl Gateway {
    /// A gateway that has seen nothing yet.
    ///
    /// # Errors
    /// What is wrong with the way to Sendly, or with the access log.
    pub fn new(config: Config, clock: Clock) -> Result<Arc<Self>, String> {
        let policy = Policy::new(config.limits.clone());
        let memory = Arc::new(Memory::new(Bounds {
            keys: config.memory.max_keys,
            when_full: config.memory.when_full,
            verifications: config.memory.max_verifications,
            remember: config.memory.remember_verifications,
        }));
        let throttles = config.throttles.iter().map(|throttle| throttle.name.as_str());
        Ok(Arc::new(Self {
            metrics: Metrics::new(&policy, throttles, config.tariff.clone()).map_err(|error| error.to_string())?,
            access: AccessLog::start(&config.log)?,
            work: Work::default(),
            ledger: Ledger::Memory(Arc::clone(&memory)),
            memory,
            throttles: Throttles::new(&config.throttles, &clock),
            retries: Retries::new(config.retries, clock.clone()),
            refusals: Refusals::new(&policy, config.replies.ratelimit_headers),
            lookups: lookup::Lookups::default(),
            sendly: exchange::Sendly::new(&config.upstream, clock.clone())?,
            peer: peer::Peer::new(&config.upstream)?,
            policy,
            clock,
            config,
        }))
    }

    /// The requests and exchanges that are under way.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// What it tells of each request.
    pub fn access(&self) -> &AccessLog {
        &self.access
    }

    /// The metrics as text, sizes brought up to date.
    pub fn expose(&self) -> Vec<u8> {
        self.metrics.sizes(Sizes {
            in_flight: self.work.count(),
            tracked: self.memory.tracked(),
            capacity: self.memory.max_keys(),
            uncounted: self.memory.uncounted(),
            verifications: self.memory.verifications(),
            kept_answers: self.retries.kept(),
            unclaimed: self.retries.unclaimed(),
            lines_dropped: self.access.dropped(),
        });
        self.metrics.expose()
    }

    /// Clients are shown a certificate that expires then, in seconds since the Unix epoch.
    pub fn shows_certificate(&self, expires: i64) {
        self.metrics.certificate_expires(expires);
    }

    /// Finds Sendly's addresses anew. Returns whether any is known.
    pub async fn resolve(&self) -> bool {
        self.peer.resolve().await
    }

    /// Whether it knows where Sendly is.
    pub fn is_ready(&self) -> bool {
        self.peer.is_known()
    }

    /// Drops whatever nothing can need any more. A shard at a time, and the others get their turn in between.
    pub async fn sweep(&self) {
        let began = self.clock.now();
        let mut swept = Swept::default();
        for shard in 0..self.memory.shards() {
            let Dropped { keys, verifications } = self.memory.sweep_one(shard, &self.policy, self.clock.now());
            swept.keys += keys;
            swept.verifications += verifications;
            tokio::task::yield_now().await;
        }
        (swept.answers, swept.throttles) = (self.retries.sweep(), self.throttles.sweep());
        self.sendly.sweep();
        let ended = self.clock.now();
        self.metrics.swept(swept, ended.since(began), ended);
    }

    /// How often to [`sweep`](Self::sweep).
    pub fn sweep_every(&self) -> Duration {
        self.config.memory.sweep_every
    }

    /// A request's header has come.
    fn begin(&self, request: &mut Request) {
        request.began = self.clock.now();
        request.under_way = Some(self.work.begin());
    }

    /// Finds out who calls, and asks the throttles. Returns what a caller is told whom one of them refuses.
    fn throttle(&self, caller: &impl Caller, request: &mut Request) -> Option<Reply> {
        let fields = caller.fields();
        request.client = caller::client(caller.peer(), fields, &self.config.clients.trusted_proxies);
        if self.access.is_on() {
            request.trace = TraceId::of(fields.all("traceparent"));
        }
        if self.throttles.is_empty() {
            return None;
        }
        // Without a key it is the account of nobody: Sendly will say so.
        let account = self.config.hash_key.account(fields.first("authorization").unwrap_or_default());
        request.account = Some(account);
        let slow = self.throttles.check(request.operation, account, request.client).err()?;
        self.metrics.throttled(slow.place);
        (request.outcome, request.refused_by) = (Outcome::Throttled, Some(slow.name.into()));
        Some(Reply::throttled(&slow, caller::user_agent(fields)))
    }

    /// Tells of a request that is over: what its client was told, with which status, if any, and how much.
    fn tell(&self, request: &Request, method: &str, status: u16, bytes: usize) {
        if request.under_way.is_none() {
            return;
        }
        let at = self.clock.now();
        let took = at.since(request.began);
        self.metrics.request(request.operation, request.outcome, took);
        if !self.access.is_on() {
            return;
        }
        self.access.tell(&Entry {
            at,
            method,
            operation: request.operation,
            outcome: request.outcome,
            status,
            phone: request.phone,
            account: request.account,
            refused_by: request.refused_by.as_deref(),
            client: request.client,
            trace: request.trace,
            took,
            bytes,
        });
    }

    /// Learns whose phone an answer shows, and that a check confirmed it. Called before any client can see the answer.
    fn learn(&self, operation: Operation, body: &[u8], now: Moment) {
        let body::Shown { id, phone } = body::read_shown(body);
        let verification = id.map(|id| self.config.hash_key.verification(&id));
        if let (Some(verification), Some(phone)) = (verification, phone) {
            self.ledger.learn(verification, phone, now);
        }
        if operation == Operation::Check && body::is_verified(body) {
            self.metrics.confirmed(verification, phone);
        }
    }
}

/// What is known of one request, from its header to its log line.
#[derive(Debug, Default)]
pub struct Request {
    began: Moment,
    operation: Operation,
    outcome: Outcome,
    client: Option<IpAddr>,
    trace: Option<TraceId>,
    account: Option<Account>,
    phone: Option<Phone>,
    /// The limit or throttle that refused.
    refused_by: Option<Arc<str>>,
    /// The canonical path, where it differs from what came.
    path: Option<String>,
    capture: Option<passing::Capture>,
    sent_upstream: Option<Moment>,
    /// There from the moment that its header was read.
    under_way: Option<UnderWay>,
}

/// pingora's view of a gateway.
#[derive(Debug)]
pub struct Proxy(pub Arc<Gateway>);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request::default()
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> pingora::Result<bool> {
        let gateway = &self.0;
        gateway.begin(request);
        session::prepare(session, &gateway.config.clients);

        let Some(raw) = session::path(session) else {
            return early(session, request, Outcome::Rejected, Reply::invalid_target()).await;
        };
        let reading = path::read(&session.req_header().method, raw);
        if let Reading::Verify(call) = &reading {
            request.operation = call.operation;
        }
        let mut caller = Streamed::new(session);
        if let Some(reply) = gateway.throttle(&caller, request) {
            caller.refuse(reply).await?;
            return Ok(true);
        }
        match reading {
            Reading::Verify(call) => match call.operation {
                Operation::Send | Operation::Resend => {
                    otp::serve(gateway, &mut caller, request, &call).await?;
                    Ok(true)
                }
                _ => {
                    request.path = call.respelled;
                    session::expect_continue(session).await?;
                    Ok(false)
                }
            },
            Reading::Other => {
                session::expect_continue(session).await?;
                Ok(false)
            }
            Reading::NotARoute => early(session, request, Outcome::Rejected, Reply::not_a_route()).await,
            Reading::WrongMethod(allowed) => {
                early(session, request, Outcome::Rejected, Reply::wrong_method(allowed)).await
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, _request: &mut Request) -> pingora::Result<Box<HttpPeer>> {
        self.0.peer.choose()
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        _request: &mut Request,
        mut error: Box<pingora::Error>,
    ) -> Box<pingora::Error> {
        // Nothing was sent. Another of Sendly's addresses may be better.
        let another = self.0.peer.has_another();
        error.set_retry(another);
        if another {
            tracing::warn!(address = %peer.address(), kind = error.etype().as_str(), "this address cannot be reached");
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Request,
    ) -> pingora::Result<()> {
        request.sent_upstream = Some(self.0.clock.now());
        passing::request(upstream, self.0.peer.host(), request)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        upstream: &mut ResponseHeader,
        request: &mut Request,
    ) -> pingora::Result<()> {
        if upstream.status.is_informational() {
            return Ok(());
        }
        if let Some(sent) = request.sent_upstream {
            self.0.metrics.upstream(request.operation, upstream.status.as_u16(), self.0.clock.now().since(sent));
        }
        request.capture = passing::Capture::of(request.operation, upstream);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        _request: &mut Request,
    ) -> pingora::Result<()> {
        passing::response(answer, session.req_header().version)
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        request: &mut Request,
    ) -> pingora::Result<Option<Duration>> {
        if let Some(whole) = passing::hold_back(&mut request.capture, body, end) {
            self.0.learn(request.operation, &whole, self.0.clock.now());
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut http::HeaderMap,
        request: &mut Request,
    ) -> pingora::Result<Option<Bytes>> {
        // Trailers end an HTTP/2 body without an end of its own.
        let held = request.capture.take().map(passing::Capture::into_body);
        if let Some(whole) = &held {
            self.0.learn(request.operation, whole, self.0.clock.now());
        }
        Ok(held)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &pingora::Error, request: &mut Request) -> FailToProxy {
        let (outcome, reply) = passing::failure(error, request.sent_upstream.is_some());
        request.outcome = outcome;
        if outcome == Outcome::Failed {
            let (operation, source) = (request.operation.name(), error.esource().as_str());
            tracing::warn!(operation, source, kind = error.etype().as_str(), "a request failed");
        }
        let error_code = match reply {
            // An answer has begun: another inside that one would only confuse.
            Some(reply) if session::told(session).is_none() => {
                let status = reply.status.as_u16();
                session::close_with(session, reply).await.map_or(0, |()| status)
            }
            _ => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// pingora's own line shows the bytes that it could not read, and they may hold a phone. The gateway has one of its own.
    fn suppress_error_log(&self, _session: &Session, _request: &Request, _error: &pingora::Error) -> bool {
        true
    }

    /// pingora's own log lines name a request by this. Neither paths nor queries belong there: they may hold phones.
    fn request_summary(&self, _session: &Session, request: &Request) -> String {
        format!("operation: {}", request.operation.name())
    }

    async fn logging(&self, session: &mut Session, _error: Option<&pingora::Error>, request: &mut Request) {
        self.0.tell(
            request,
            session.req_header().method.as_str(),
            session::told(session).map_or(0, |status| status.as_u16()),
            session.body_bytes_sent(),
        );
    }
}

/// Answers before the body was read.
async fn early(session: &mut Session, request: &mut Request, outcome: Outcome, reply: Reply) -> pingora::Result<bool> {
    request.outcome = outcome;
    session::refuse(session, reply).await?;
    Ok(true)
}
