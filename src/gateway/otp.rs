//! One limited request, read top to bottom: read → place → decide → exchange → settle → learn → reply.
//!
//! The exchange with Sendly runs in a task of its own and to its end, whatever the client does meanwhile: its outcome settles
//! the charge, and its answer waits for whoever asks for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use pingora::proxy::Session;

use super::exchange::{self, Answer, Loss, Outcome as Exchanged};
use super::lookup::Whose;
use super::reply::Reply;
use super::retries::{Ending, Fingerprint, Place, Publisher, Ticket};
use super::session::{self, NoBody};
use super::{Gateway, Request};
use crate::clock::Moment;
use crate::ledger::{Reservation, Settlement, Verdict};
use crate::metrics::Outcome;
use crate::phone::Phone;
use crate::policy::{Key, Kind, Obstacle, Subject};
use crate::sendly::{Operation, body, code, path};

/// Sendly's longest documented window: no hold lasts longer, whatever an answer says.
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ORGANIZATION: HeaderName = HeaderName::from_static("x-organization-id");

/// Serves a send or a resend. Returns `Ok(true)`: the client has been answered, or is gone.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    session: &mut Session,
    request: &mut Request,
    call: &path::Call<'_>,
) -> pingora::Result<bool> {
    let body = match session::read_body(session, gateway.config.clients.body_timeout).await {
        Ok(body) => body,
        Err(NoBody::Refused(reply)) => return reject(session, request, &reply).await,
        Err(NoBody::Broken(error)) => return Err(error),
    };
    let ask = match Ask::read(session, call, body) {
        Ok(ask) => ask,
        Err(reply) => return reject(session, request, &reply).await,
    };
    let account = session::account(session, &gateway.config.hash_key);
    request.account = Some(account);
    request.phone = ask.to;

    let ticket = match gateway.retries.place(ask.fingerprint(gateway)) {
        Place::Retry(ticket) => {
            request.outcome = Outcome::Retry;
            ticket
        }
        Place::New(ticket, publisher) => {
            let (subject, decided) = decide(gateway, session, request, &ask).await;
            match decided {
                Decided::Go(reservation) => {
                    request.outcome = Outcome::Allowed;
                    tokio::spawn(carry_out(Arc::clone(gateway), ask, subject, reservation, publisher));
                }
                Decided::Stop(reply) => publisher.publish(reply, Ending::Nothing),
            }
            ticket
        }
    };
    deliver(session, request, ticket).await?;
    Ok(true)
}

/// A send or a resend, read and found to be clear.
struct Ask {
    kind: Kind,
    /// The id in a resend's path.
    id: Option<String>,
    /// The phone in a send's body.
    to: Option<Phone>,
    call: exchange::Call,
}

impl Ask {
    /// Understands a request, or says what is wrong with it.
    fn read(session: &Session, call: &path::Call<'_>, body: Bytes) -> Result<Self, Box<Reply>> {
        let headers = &session.req_header().headers;
        // By these a request is judged, or told apart from others: there must be no second reading of them.
        for name in [header::AUTHORIZATION, header::CONTENT_TYPE, IDEMPOTENCY_KEY, ORGANIZATION] {
            if headers.get_all(&name).iter().count() > 1 {
                return Err(Reply::invalid_request(&format!("{name} may stand in a request once.")).into());
            }
        }
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Err(Reply::invalid_request("The body may not be encoded.").into());
        }
        if let Some(name) = exchange::MISLEADING.iter().find(|name| headers.contains_key(*name)) {
            return Err(Reply::invalid_request(&format!("{name} is not honoured here.")).into());
        }
        let (kind, to) = match call.operation {
            Operation::Resend => (Kind::Resend, None),
            _ if !is_json(headers) => {
                return Err(Reply::invalid_request("The Content-Type of a send must be application/json.").into());
            }
            _ => (Kind::Send, Some(body::read_send(&body).map_err(Reply::unclear)?)),
        };
        Ok(Self {
            kind,
            to,
            id: (kind == Kind::Resend).then(|| call.id().to_owned()),
            call: exchange::Call {
                method: Method::POST,
                path: call.path.clone().into_owned(),
                headers: exchange::forwardable(headers),
                body,
            },
        })
    }

    fn operation(&self) -> Operation {
        match self.kind {
            Kind::Send => Operation::Send,
            Kind::Resend => Operation::Resend,
        }
    }

    fn fingerprint(&self, gateway: &Gateway) -> Fingerprint {
        let header = |name: HeaderName| self.call.headers.get(name).map_or(b"".as_slice(), |value| value.as_bytes());
        let key = header(IDEMPOTENCY_KEY);
        let parts =
            [header(header::AUTHORIZATION), header(ORGANIZATION), self.call.path.as_bytes(), &self.call.body, key];
        // Sendly takes 1 to 255 printable ASCII characters. What is no key names nothing.
        let keyed = (1..=255).contains(&key.len()) && key.iter().all(|byte| (b' '..=b'~').contains(byte));
        Fingerprint { hash: gateway.config.hash_key.hash(b"exchange", parts), keyed }
    }
}

/// `application/json`, in UTF-8 if it says so.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    essence && parts.all(utf8)
}

enum Decided {
    Go(Reservation),
    Stop(Reply),
}

/// Finds out whom the code counts against, and asks the ledger for it.
async fn decide(gateway: &Arc<Gateway>, session: &Session, request: &mut Request, ask: &Ask) -> (Subject, Decided) {
    let account = gateway.config.hash_key.account(session.get_header_bytes(header::AUTHORIZATION));
    let mut subject = Subject { phone: ask.to, verification: None, account };
    if let Some(id) = &ask.id {
        subject.verification = Some(gateway.config.hash_key.verification(id));
        match gateway.whose(id, &ask.call.headers).await {
            Whose::Known(known) => {
                subject.phone = Some(known.phone);
                subject.verification = Some(known.root);
            }
            Whose::Nobody(answer) => {
                request.outcome = Outcome::Rejected;
                return (subject, Decided::Stop(answer.into()));
            }
            // Per verification alone; its answer names the phone, which is charged then.
            Whose::Unknown => {}
        }
    }
    request.phone = subject.phone;
    let policy = &gateway.policy;
    let (decision, verdict) = gateway.ledger.reserve(policy, &subject, ask.kind, gateway.clock.now()).await;
    gateway.metrics.decision(policy, &decision);
    let decided = match (verdict, decision.refusal) {
        (Verdict::Reserved(reservation), _) => Decided::Go(reservation),
        (Verdict::Refused, Some(refusal)) => {
            request.outcome = Outcome::Refused;
            request.refused_by = Some(match refusal.by {
                Obstacle::Limit(place) => {
                    policy.limits().get(place).map(|limit| limit.name.clone()).unwrap_or_default()
                }
                Obstacle::Hold => "hold".to_owned(),
            });
            let fields = gateway.config.replies.ratelimit_headers;
            Decided::Stop(Reply::refused(policy, &refusal, session::user_agent(session), fields))
        }
        (Verdict::NoRoom | Verdict::Refused, _) => {
            request.outcome = Outcome::NoRoom;
            tracing::error!("there is no room to count another key: raise memory.max_keys");
            Decided::Stop(Reply::no_room())
        }
    };
    (subject, decided)
}

/// The exchange with Sendly, to its end.
async fn carry_out(gateway: Arc<Gateway>, ask: Ask, subject: Subject, reservation: Reservation, publisher: Publisher) {
    let _under_way = gateway.work.begin();
    let began = gateway.clock.now();
    let (kind, operation) = (ask.kind, ask.operation());
    let outcome = gateway.sendly.call(ask.call, gateway.config.upstream.exchange_timeout).await;
    let now = gateway.clock.now();
    if let Exchanged::Answered(Answer { status, .. }) | Exchanged::Cut(status) = &outcome {
        gateway.metrics.upstream(operation, status.as_u16(), now.since(began));
    }

    let (settlement, reason) = settlement(&outcome);
    let charged_at = reservation.at();
    if let Exchanged::Answered(answer) = &outcome
        && let Some(wait) = sendlys_own_limit(answer)
        && let Some(key) = subject.phone.map(Key::Phone).or(subject.verification.map(Key::Verification))
    {
        // Before the charge is given back: in between, another code could slip through.
        gateway.ledger.hold(key, now + wait).await;
    }
    reservation.settle(settlement);
    gateway.metrics.settlement(settlement_name(settlement), reason);
    if let Exchanged::Answered(answer) = &outcome
        && answer.status.is_success()
    {
        learn(&gateway, &subject, kind, charged_at, settlement, answer, now).await;
    }
    let ending = ending(&outcome);
    publisher.publish(reply(outcome), ending);
}

/// Which charges are kept: those whose code went out, or may have. With the reason, for the metric.
fn settlement(outcome: &Exchanged) -> (Settlement, &'static str) {
    use Settlement::{GiveBack, Keep};
    match outcome {
        Exchanged::NotSent => (GiveBack, "not_sent"),
        Exchanged::Lost(Loss::Timeout) => (Keep, "timeout"),
        Exchanged::Lost(Loss::Broken) => (Keep, "broken"),
        Exchanged::Cut(status) if may_be_out(*status) => (Keep, "cut"),
        Exchanged::Cut(_) => (GiveBack, "rejected"),
        Exchanged::Answered(answer) => match answer.status {
            status if status.is_success() && is_replay(answer) => (GiveBack, "replayed"),
            status if status.is_success() => (Keep, "success"),
            StatusCode::TOO_MANY_REQUESTS if says(answer, code::RATE_LIMIT_EXCEEDED) => (GiveBack, "sendly_limit"),
            status if status.is_client_error() || status.is_redirection() => (GiveBack, "rejected"),
            StatusCode::INTERNAL_SERVER_ERROR if says(answer, code::DELIVERY_FAILED) => (GiveBack, "delivery_failed"),
            _ => (Keep, "server_error"),
        },
    }
}

/// Whether a status alone, of an answer that broke off, leaves it open that a code went out.
fn may_be_out(status: StatusCode) -> bool {
    !(status.is_redirection() || status.is_client_error())
}

fn settlement_name(settlement: Settlement) -> &'static str {
    match settlement {
        Settlement::Keep => "kept",
        Settlement::GiveBack => "given_back",
    }
}

/// Whether an answer's `error` is this.
fn says(answer: &Answer, code: &str) -> bool {
    body::read_failure(&answer.body).error == code
}

/// Sendly replayed an answer that it had recorded under the request's `Idempotency-Key`: no code went out.
fn is_replay(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// How long Sendly will refuse this phone, if that is what it said.
fn sendlys_own_limit(answer: &Answer) -> Option<Duration> {
    if answer.status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let failure = body::read_failure(&answer.body);
    let wait = failure.retry_after.filter(|_| failure.error == code::RATE_LIMIT_EXCEEDED)?;
    Some(Duration::from_secs(wait).min(LONGEST_HOLD))
}

/// Learns from a success, before anyone sees it: whose the id is, and what could not be charged before.
async fn learn(
    gateway: &Gateway,
    subject: &Subject,
    kind: Kind,
    charged_at: Moment,
    settlement: Settlement,
    answer: &Answer,
    now: Moment,
) {
    let body::Shown { id: Some(id), phone } = body::read_shown(&answer.body) else { return };
    // A send's answer need not repeat the phone that the send named.
    let Some(phone) = phone.or(subject.phone) else { return };
    let (policy, ledger) = (&gateway.policy, &gateway.ledger);
    let answered = gateway.config.hash_key.verification(&id);
    let root = match subject.verification {
        Some(asked) => {
            let (known, joined) = gateway.verifications.join(asked, answered, phone, now);
            if let Some(other) = joined {
                ledger.absorb(policy, Key::Verification(known.root), Key::Verification(other)).await;
            }
            known.root
        }
        None => gateway.verifications.learn(answered, phone, now).root,
    };
    if settlement == Settlement::GiveBack {
        return;
    }
    let unknown_before: [(bool, Key); 2] =
        [(subject.phone != Some(phone), Key::Phone(phone)), (subject.verification.is_none(), Key::Verification(root))];
    for (_, key) in unknown_before.into_iter().filter(|(unknown, _)| *unknown) {
        ledger.record(policy, key, kind, charged_at).await;
    }
}

/// What a retry of this exchange may be told.
fn ending(outcome: &Exchanged) -> Ending {
    match outcome {
        Exchanged::NotSent => Ending::Nothing,
        Exchanged::Cut(status) if !may_be_out(*status) => Ending::Passing,
        Exchanged::Lost(_) | Exchanged::Cut(_) => Ending::Unknown,
        Exchanged::Answered(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => Ending::Passing,
        Exchanged::Answered(answer) if answer.status.is_server_error() => Ending::Passing,
        Exchanged::Answered(_) => Ending::Final,
    }
}

fn reply(outcome: Exchanged) -> Reply {
    match outcome {
        Exchanged::Answered(answer) => answer.into(),
        Exchanged::Cut(status) if !may_be_out(status) => Reply::refused_and_broken_off(),
        Exchanged::Cut(_) | Exchanged::Lost(Loss::Broken) => Reply::broken_off(),
        Exchanged::NotSent => Reply::unreachable(),
        Exchanged::Lost(Loss::Timeout) => Reply::upstream_timeout(),
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Reply { status: answer.status, headers: answer.headers, body: answer.body }
    }
}

/// Waits for the answer and gives it to the client, if it is still there.
async fn deliver(session: &mut Session, request: &mut Request, mut ticket: Ticket) -> pingora::Result<()> {
    let early = tokio::select! {
        biased;
        ended = ticket.ended() => Some(ended),
        () = session::gone(session) => None,
    };
    let ended = match early {
        Some(ended) => ended,
        None => {
            // Gone, or it has only closed its sending side: a retry may adopt the exchange, and the answer is tried all the
            // same when it comes.
            ticket.give_up();
            session.set_keepalive(None);
            ticket.ended().await
        }
    };
    if request.outcome == Outcome::Allowed && matches!(ended.ending, Ending::Unknown | Ending::Nothing) {
        request.outcome = Outcome::Failed;
    }
    session::write(session, &ended.reply).await?;
    ticket.delivered();
    Ok(())
}

async fn reject(session: &mut Session, request: &mut Request, reply: &Reply) -> pingora::Result<bool> {
    request.outcome = Outcome::Rejected;
    session::write(session, reply).await?;
    Ok(true)
}
