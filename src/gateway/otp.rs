//! One limited request, read top to bottom: read → place → decide → exchange → settle → learn → reply.
//!
//! The exchange with Sendly runs in a task of its own and to its end, whatever the client does meanwhile: its outcome settles
//! the charge, and its answer waits for whoever asks for it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use pingora::proxy::Session;

use super::exchange::{self, Answer, Outcome as Exchanged};
use super::lookup::Whose;
use super::meaning::{self, Meaning};
use super::reply::Reply;
use super::retries::{Ending, Fingerprint, Place, Publisher, Ticket};
use super::session::{self, NoBody};
use super::{Gateway, Request};
use crate::clock::Moment;
use crate::ledger::{Reservation, Settlement, Verdict};
use crate::metrics::Outcome;
use crate::phone::Phone;
use crate::policy::subject::Account;
use crate::policy::{Key, Kind, Obstacle, Subject};
use crate::sendly::{Operation, body, path};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ORGANIZATION: HeaderName = HeaderName::from_static("x-organization-id");

/// Serves a send or a resend. Returns `Ok(true)`: the client has been answered, or is gone.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    session: &mut Session,
    request: &mut Request,
    call: &path::Call<'_>,
) -> pingora::Result<bool> {
    if let Some(reply) = unfit(session, call.operation) {
        return reject(session, request, &reply).await;
    }
    let body = match session::read_body(session, gateway.config.clients.body_timeout).await {
        Ok(body) => body,
        Err(NoBody::Refused(reply)) => return reject(session, request, &reply).await,
        Err(NoBody::Late) => {
            request.outcome = Outcome::Rejected;
            session::close_with(session, &Reply::body_timeout()).await?;
            return Ok(true);
        }
        Err(NoBody::Broken(error)) => return Err(error),
    };
    let account = session::account(session, &gateway.config.hash_key);
    request.account = Some(account);
    let ask = match Ask::read(call, account, body) {
        Ok(ask) => ask,
        Err(reply) => return reject(session, request, &reply).await,
    };
    request.phone = ask.to;

    let ticket = match gateway.retries.place(ask.fingerprint(gateway, session, call)) {
        Place::Retry(ticket) => {
            request.outcome = Outcome::Retry;
            ticket
        }
        Place::New(ticket, publisher) => {
            let (subject, decided) = decide(gateway, session, request, &ask).await;
            match decided {
                Decided::Go(reservation) => {
                    request.outcome = Outcome::Allowed;
                    let headers = &session.req_header().headers;
                    let asked = gateway.sendly.compose(&Method::POST, &call.path, headers, &ask.body);
                    tokio::spawn(carry_out(Arc::clone(gateway), ask, asked, subject, reservation, publisher));
                }
                Decided::Stop(reply) => publisher.publish(reply, Ending::Nothing),
            }
            ticket
        }
    };
    deliver(session, request, ticket).await?;
    Ok(true)
}

/// Why a request cannot be judged, as far as its header tells.
fn unfit(session: &Session, operation: Operation) -> Option<Reply> {
    let headers = &session.req_header().headers;
    // By these a request is judged, or told apart from others: there must be no second reading of them.
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE, IDEMPOTENCY_KEY, ORGANIZATION] {
        if headers.get_all(&name).iter().count() > 1 {
            return Some(Reply::invalid_request(&format!("{name} may stand in a request once.")));
        }
    }
    if !is_bearer(session.get_header_bytes(header::AUTHORIZATION)) {
        return Some(Reply::unauthorized());
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Some(Reply::invalid_request("The body may not be encoded."));
    }
    if let Some(name) = exchange::misleading(headers).next() {
        return Some(Reply::invalid_request(&format!("{name} is not honoured here.")));
    }
    (operation == Operation::Send && !is_json(headers))
        .then(|| Reply::invalid_request("The Content-Type of a send must be application/json."))
}

/// A send or a resend, read and found to be clear.
struct Ask {
    kind: Kind,
    /// The id in a resend's path.
    id: Option<String>,
    /// The phone in a send's body.
    to: Option<Phone>,
    account: Account,
    body: Bytes,
}

impl Ask {
    /// Understands a request, or says what is wrong with it.
    fn read(call: &path::Call<'_>, account: Account, body: Bytes) -> Result<Self, Reply> {
        let (kind, to) = match call.operation {
            Operation::Resend => (Kind::Resend, None),
            _ => (Kind::Send, Some(body::read_send(&body).map_err(Reply::unclear)?)),
        };
        Ok(Self { kind, to, account, id: (kind == Kind::Resend).then(|| call.id().to_owned()), body })
    }

    fn operation(&self) -> Operation {
        match self.kind {
            Kind::Send => Operation::Send,
            Kind::Resend => Operation::Resend,
        }
    }

    fn fingerprint(&self, gateway: &Gateway, session: &Session, call: &path::Call<'_>) -> Fingerprint {
        let header = |name: HeaderName| session.get_header_bytes(name);
        let key = header(IDEMPOTENCY_KEY);
        let parts = [header(header::AUTHORIZATION), header(ORGANIZATION), call.path.as_bytes(), &self.body, key];
        // Sendly takes 1 to 255 printable ASCII characters. What is no key names nothing.
        let keyed = (1..=255).contains(&key.len()) && key.iter().all(|byte| (b' '..=b'~').contains(byte));
        Fingerprint { hash: gateway.config.hash_key.hash(b"exchange", parts), keyed }
    }
}

/// `Bearer` and one token (RFC 6750, 2.1). Whatever else two servers may read as different keys, and so count apart.
fn is_bearer(authorization: &[u8]) -> bool {
    let mut words = authorization.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let token = |word: &[u8]| word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte));
    words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
        && words.next().is_some_and(token)
        && words.next().is_none()
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
    let mut subject = Subject { phone: ask.to, verification: None, account: ask.account };
    if let Some(id) = &ask.id {
        subject.verification = Some(gateway.config.hash_key.verification(id));
        match gateway.whose(id, &session.req_header().headers).await {
            Whose::Known(known) => {
                subject.phone = Some(known.phone);
                subject.verification = Some(known.root);
            }
            Whose::Nobody(answer) => {
                request.outcome = Outcome::Rejected;
                return (subject, Decided::Stop(meaning::reply(Exchanged::Answered(answer))));
            }
            // Per verification alone; its answer names the phone, which is charged then.
            Whose::Unknown => {}
        }
    }
    request.phone = subject.phone;
    let policy = &gateway.policy;
    let (decision, verdict) = gateway.ledger.reserve(policy, &subject, ask.kind, gateway.clock.now()).await;
    gateway.metrics.decision(policy, &decision);
    let decided = match verdict {
        Verdict::Reserved(reservation) => Decided::Go(reservation),
        Verdict::Refused(refusal) => {
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
        Verdict::NoRoom => {
            request.outcome = Outcome::NoRoom;
            tracing::error!("there is no room to count another key: raise memory.max_keys");
            Decided::Stop(Reply::no_room())
        }
    };
    (subject, decided)
}

/// The exchange with Sendly, to its end.
async fn carry_out(
    gateway: Arc<Gateway>,
    ask: Ask,
    asked: exchange::Call,
    subject: Subject,
    reservation: Reservation,
    publisher: Publisher,
) {
    let _under_way = gateway.work.begin();
    let began = gateway.clock.now();
    let (kind, operation) = (ask.kind, ask.operation());
    let outcome = gateway.sendly.call(asked, gateway.config.upstream.exchange_timeout).await;
    let now = gateway.clock.now();
    if let Exchanged::Answered(Answer { status, .. }) | Exchanged::Cut(status) = &outcome {
        gateway.metrics.upstream(operation, status.as_u16(), now.since(began));
    }

    let Meaning { settlement, reason, ending } = meaning::of(&outcome);
    let charged_at = reservation.at();
    if let Exchanged::Answered(answer) = &outcome
        && let Some(wait) = meaning::hold(answer)
        && let Some(key) = subject.phone.map(Key::Phone).or(subject.verification.map(Key::Verification))
    {
        // Before the charge is given back: in between, another code could slip through.
        gateway.ledger.hold(key, now + wait).await;
    }
    reservation.settle(settlement);
    gateway.metrics.settlement(settlement.name(), reason);
    if let Exchanged::Answered(answer) = &outcome
        && answer.status.is_success()
    {
        learn(&gateway, &subject, kind, charged_at, settlement, answer, now).await;
    }
    publisher.publish(meaning::reply(outcome), ending);
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
        Some(asked) => ledger.join(policy, asked, answered, phone, now).await.root,
        None => ledger.learn(answered, phone, now).root,
    };
    if settlement == Settlement::GiveBack {
        return;
    }
    match subject.phone {
        Some(charged) if charged == phone => {}
        // Sendly sent it elsewhere than it was asked to, as to another spelling of one number: both are one from now on.
        Some(charged) if kind == Kind::Send => ledger.absorb(policy, Key::Phone(phone), Key::Phone(charged)).await,
        _ => ledger.record(policy, Key::Phone(phone), kind, charged_at).await,
    }
    if subject.verification.is_none() {
        ledger.record(policy, Key::Verification(root), kind, charged_at).await;
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
    session::refuse(session, reply).await?;
    Ok(true)
}
