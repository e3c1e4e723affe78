//! What pingora asks a gateway about a request that it has read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::{HttpPeer, Peer as _};

use super::body_watch::BodyWatch;
use super::passthrough::{self, Passthrough};
use super::session::{self, Streamed};
use crate::api::Operation;
use crate::api::path::{self, Reading};
use crate::gateway::downstream::Caller as _;
use crate::gateway::reply::Reply;
use crate::gateway::settings::Settings;
use crate::gateway::{Gateway, Request, limited};
use crate::metrics::{Outcome, TurnedAway};
use crate::trace::Context;

/// A request that pingora has read, and the settings that it began with.
#[derive(Debug)]
pub(crate) struct Streaming {
    gateway: Arc<Gateway>,
    settings: Arc<Settings>,
    request: Request,
    passed: Passthrough,
    method: Method,
    /// Of a body that passes through over HTTP/2.
    watch: Option<Arc<BodyWatch>>,
}

impl Drop for Streaming {
    /// A request that was ended from outside, as one whose body was late, or that panicked, has its line all the same.
    fn drop(&mut self) {
        if self.request.under_way.is_some() {
            self.request.outcome = if self.watch.is_some() { Outcome::Rejected } else { Outcome::Failed };
            self.gateway.tell(&self.request, self.method.as_str(), 0, 0);
        }
    }
}

/// pingora's view of a gateway.
#[derive(Debug)]
pub(crate) struct Proxy(pub Arc<Gateway>);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Streaming;

    fn new_ctx(&self) -> Streaming {
        Streaming {
            gateway: Arc::clone(&self.0),
            settings: self.0.settings(),
            request: Request::default(),
            passed: Passthrough::default(),
            method: Method::default(),
            watch: None,
        }
    }

    async fn request_filter(&self, session: &mut Session, streaming: &mut Streaming) -> pingora::Result<bool> {
        let (gateway, Streaming { settings, request, passed, method, watch, .. }) = (&self.0, streaming);
        *method = session.req_header().method.clone();
        gateway.begin(request);
        session::prepare(session, &settings.config.clients, gateway.is_draining());

        if !session::has_clear_length(session) {
            return early(session, request, Outcome::Rejected, Reply::unclear_framing()).await;
        }
        let Some(raw) = session::path(session) else {
            return early(session, request, Outcome::Rejected, Reply::invalid_target()).await;
        };
        let reading = path::read(&session.req_header().method, raw);
        if let Reading::Verify(call) = &reading {
            request.operation = call.operation;
        }
        let mut caller = Streamed::new(session);
        if let Some(reply) = gateway.throttle(settings, &caller, request) {
            Box::pin(caller.refuse(reply)).await?;
            return Ok(true);
        }
        match reading {
            Reading::Verify(call) => match call.operation {
                Operation::Send | Operation::Resend => {
                    // Boxed: what passes, which is nearly all that comes here, should not have room for it. This future is moved.
                    Box::pin(limited::serve(gateway, settings, &mut caller, request, &call)).await?;
                    Ok(true)
                }
                _ => {
                    passed.path = call.respelled;
                    pass(gateway, settings, session, (request, passed), watch).await
                }
            },
            Reading::Other => pass(gateway, settings, session, (request, passed), watch).await,
            Reading::NotARoute => early(session, request, Outcome::Rejected, Reply::not_a_route()).await,
            Reading::WrongMethod(allowed) => {
                early(session, request, Outcome::Rejected, Reply::wrong_method(allowed)).await
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, streaming: &mut Streaming) -> pingora::Result<Box<HttpPeer>> {
        streaming.settings.upstream.peer.choose(self.0.clock.now())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        streaming: &mut Streaming,
        mut error: Box<pingora::Error>,
    ) -> Box<pingora::Error> {
        // Nothing was sent. Another of Sendly's addresses may be better.
        let another = streaming.settings.upstream.peer.has_another();
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
        Streaming { settings, request, passed, .. }: &mut Streaming,
    ) -> pingora::Result<()> {
        passed.sent_upstream = Some(self.0.clock.now());
        passed.traced = request.trace.and_then(Context::call);
        passthrough::request(upstream, settings.upstream.peer.host(), request.operation, passed)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        upstream: &mut ResponseHeader,
        Streaming { request, passed, .. }: &mut Streaming,
    ) -> pingora::Result<()> {
        if upstream.status.is_informational() {
            return Ok(());
        }
        if let Some(sent) = passed.sent_upstream {
            self.0.metrics.upstream(request.operation, upstream.status.as_u16(), self.0.clock.now().since(sent));
        }
        passed.answered = Some(upstream.status.as_u16());
        passed.capture = passthrough::Capture::of(request.operation, upstream);
        passed.judge_head(&self.0, upstream);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        _streaming: &mut Streaming,
    ) -> pingora::Result<()> {
        if self.0.is_draining() {
            session.set_keepalive(None);
        }
        passthrough::response(answer, session.req_header().version)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        Streaming { watch, .. }: &mut Streaming,
    ) -> pingora::Result<()> {
        if let Some(watch) = watch {
            watch.came(body.as_ref().map_or(0, Bytes::len), end, self.0.clock.now());
        }
        passthrough::end_once(body, end);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        Streaming { request, passed, .. }: &mut Streaming,
    ) -> pingora::Result<Option<Duration>> {
        if let Some(whole) = passthrough::hold_back(&mut passed.capture, body, end) {
            passed.read_captured(&self.0, request.operation, &whole);
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut http::HeaderMap,
        Streaming { request, passed, .. }: &mut Streaming,
    ) -> pingora::Result<Option<Bytes>> {
        // Trailers end an HTTP/2 body without an end of its own.
        let held = passed.capture.take().map(passthrough::Capture::into_body);
        if let Some(whole) = &held {
            passed.read_captured(&self.0, request.operation, whole);
        }
        Ok(held)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &pingora::Error,
        Streaming { request, passed, .. }: &mut Streaming,
    ) -> FailToProxy {
        let (outcome, reply) = passthrough::failure(error, passed.sent_upstream.is_some());
        request.outcome = outcome;
        passed.failure = passthrough::loss(error, passed.sent_upstream.is_some(), passed.answered.is_some());
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
    fn suppress_error_log(&self, _session: &Session, _streaming: &Streaming, _error: &pingora::Error) -> bool {
        true
    }

    /// pingora's own log lines name a request by this. Neither paths nor queries belong there: they may hold phones.
    fn request_summary(&self, _session: &Session, streaming: &Streaming) -> String {
        format!("operation: {}", streaming.request.operation.name())
    }

    async fn logging(&self, session: &mut Session, _error: Option<&pingora::Error>, streaming: &mut Streaming) {
        let Streaming { settings, request, passed, .. } = streaming;
        passed.end_judging(&self.0, request.outcome);
        if let Some(sent) = passed.sent_upstream {
            let (method, told) = (session.req_header().method.as_str(), (passed.answered, passed.failure));
            let call = (method, request.operation);
            self.0.called(settings, passed.traced.take(), call, (sent, self.0.clock.now()), told);
        }
        self.0.tell(
            request,
            session.req_header().method.as_str(),
            session::told(session).map_or(0, |status| status.as_u16()),
            session.body_bytes_sent(),
        );
        request.under_way = None;
    }
}

/// Lets a request pass, if its key may, and if there is a connection to Sendly for it. Returns whether it was answered instead.
async fn pass(
    gateway: &Arc<Gateway>,
    settings: &Settings,
    session: &mut Session,
    (request, passed): (&mut Request, &mut Passthrough),
    watch: &mut Option<Arc<BodyWatch>>,
) -> pingora::Result<bool> {
    let method = session.req_header().method.clone();
    let caller = Streamed::new(session);
    let path = passed.path.as_deref().unwrap_or_else(|| caller.path());
    match gateway.admit_streamed(settings, &caller, (&method, path), request).await {
        Ok(key) => passed.key = key,
        Err(reply) => return early(session, request, Outcome::Rejected, reply).await,
    }
    passed.to_sendly = gateway.passing_slot(settings).await;
    if passed.to_sendly.is_none() {
        let reply = gateway.turn_request_away(request, TurnedAway::Upstream);
        Box::pin(session::refuse(session, reply)).await?;
        return Ok(true);
    }
    session::expect_continue(session).await?;
    if session.is_http2() && !session.is_body_done() {
        *watch = BodyWatch::current();
        if let Some(watch) = watch {
            watch.begin(&settings.config.clients, gateway.clock.now());
        }
    }
    Ok(false)
}

/// Answers before the body was read.
async fn early(session: &mut Session, request: &mut Request, outcome: Outcome, reply: Reply) -> pingora::Result<bool> {
    request.outcome = outcome;
    Box::pin(session::refuse(session, reply)).await?;
    Ok(true)
}
