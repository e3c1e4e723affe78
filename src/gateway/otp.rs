//! One limited request, read top to bottom: read → place → decide → exchange → settle → learn → reply.
//!
//! The exchange with Sendly runs to its end, whatever the client does meanwhile: its outcome settles the charge, and its answer
//! waits for whoever asks for it.

use std::pin::pin;
use std::sync::Arc;

use http::Method;
use pingora::proxy::Session;

use super::exchange::{self, Answer, Outcome as Exchanged};
use super::head::Head;
use super::lookup::Whose;
use super::meaning::{self, Meaning};
use super::reply::Reply;
use super::retries::{Click, Ending, Place, Ticket};
use super::session::{self, NoBody};
use super::{Gateway, Request};
use crate::clock::Moment;
use crate::ledger::{Reservation, Settlement, Verdict};
use crate::metrics::{Fate, Outcome};
use crate::phone::Phone;
use crate::policy::{Key, Kind, Subject};
use crate::sendly::{Operation, body, path};

/// Serves a send or a resend. Returns `Ok(true)`: the client has been answered, or is gone.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    session: &mut Session,
    request: &mut Request,
    call: &path::Call,
) -> pingora::Result<bool> {
    let hash_key = &gateway.config.hash_key;
    let head = match Head::read(&session.req_header().headers, call.operation, hash_key) {
        Ok(head) => head,
        Err(reply) => return reject(session, request, reply).await,
    };
    let body = match session::read_body(session, gateway.config.clients.body_timeout).await {
        Ok(body) => body,
        Err(NoBody::Refused(reply)) => return reject(session, request, reply).await,
        Err(NoBody::Late) => {
            request.outcome = Outcome::Rejected;
            session::close_with(session, Reply::body_timeout()).await?;
            return Ok(true);
        }
        Err(NoBody::Broken(error)) => return Err(error),
    };
    let mut subject = Subject { phone: None, verification: None, account: head.account };
    request.account = Some(head.account);
    let kind = match call.operation {
        Operation::Resend => Kind::Resend,
        _ => match body::read_send(&body) {
            Ok(to) => {
                subject.phone = Some(to);
                Kind::Send
            }
            Err(unclear) => return reject(session, request, Reply::unclear(unclear)).await,
        },
    };
    request.phone = subject.phone;

    let path = call.path(session.req_header().uri.path());
    let mut click = match gateway.retries.place(head.fingerprint(path, &body)) {
        Place::New(click) => click,
        Place::Retry(ticket) => return repeat(session, request, ticket).await,
    };

    if kind == Kind::Resend {
        let id = call.id(session.req_header().uri.path());
        let asked = hash_key.verification(id);
        let whose = match gateway.ledger.whose(asked, gateway.clock.now()).await {
            Some(known) => Whose::Known(known),
            None => {
                let asking = gateway.look_up(asked, id, &session.req_header().headers);
                watch(session, asking, || click.give_up()).await
            }
        };
        subject.verification = Some(asked);
        match whose {
            Whose::Known(known) => {
                subject.phone = Some(known.phone);
                subject.verification = Some(known.root);
            }
            Whose::Nobody(answer) => {
                request.outcome = Outcome::Rejected;
                let reply = meaning::reply(Exchanged::Answered(answer));
                return stop(session, click, reply).await;
            }
            // Per verification alone; its answer names the phone, which is charged then.
            Whose::Unknown => {}
        }
        request.phone = subject.phone;
    }

    let asked = gateway.clock.read();
    let now = asked.moment();
    let (decision, verdict) = gateway.ledger.reserve(&gateway.policy, &subject, kind, now).await;
    gateway.metrics.decision(&decision, gateway.clock.read().since(asked));
    let reservation = match verdict {
        Verdict::Reserved(reservation) => reservation,
        Verdict::Refused(refusal) => {
            request.outcome = Outcome::Refused;
            request.refused_by = Some(gateway.refusals.name(refusal.by));
            gateway.metrics.refused(&refusal, kind, subject.phone);
            let reply = gateway.refusals.reply(&refusal, session::user_agent(session));
            return stop(session, click, reply).await;
        }
        Verdict::NoRoom => {
            request.outcome = Outcome::NoRoom;
            tracing::error!("there is no room to count another key: raise memory.max_keys");
            return stop(session, click, Reply::no_room()).await;
        }
    };

    request.outcome = Outcome::Allowed;
    let header = session.req_header();
    let call = gateway.sendly.compose(&Method::POST, call.path(header.uri.path()), &header.headers, &body);
    let exchange = carry_out(gateway, call, &subject, kind, reservation, now);
    let (reply, ending) = watch(session, exchange, || click.give_up()).await;
    if matches!(ending, Ending::Unknown | Ending::Nothing) {
        request.outcome = Outcome::Failed;
    }
    // Before the client is told: whoever asks after that must not find it in flight still.
    click.end(reply.clone(), ending);
    session::write(session, reply).await?;
    click.delivered();
    Ok(true)
}

/// Waits for what comes to its end whatever the client does, and says once the client has gone: then a retry may take its place.
/// pingora drops no request because its client has gone, over HTTP/1 or HTTP/2; only what drops every task ends it early.
async fn watch<T>(session: &mut Session, work: impl Future<Output = T>, gone: impl FnOnce()) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = session::gone(session) => {}
    }
    // Gone, or it has only closed its sending side: the answer is tried all the same when it comes.
    gone();
    session.set_keepalive(None);
    work.await
}

/// Ends a click of which Sendly was not asked for a code.
async fn stop(session: &mut Session, mut click: Click<'_>, reply: Reply) -> pingora::Result<bool> {
    click.refuse(&reply);
    session::write(session, reply).await?;
    click.delivered();
    Ok(true)
}

/// Gives a retry the answer of the exchange that it repeats.
async fn repeat(session: &mut Session, request: &mut Request, mut ticket: Ticket<'_>) -> pingora::Result<bool> {
    request.outcome = Outcome::Retry;
    let reply = watch(session, ticket.answer(), || ticket.give_up()).await;
    session::write(session, reply).await?;
    ticket.delivered();
    Ok(true)
}

/// The exchange with Sendly, to its end.
async fn carry_out(
    gateway: &Gateway,
    call: exchange::Call,
    subject: &Subject,
    kind: Kind,
    reservation: Reservation,
    began: Moment,
) -> (Reply, Ending) {
    let _under_way = gateway.work.begin();
    let operation = match kind {
        Kind::Send => Operation::Send,
        Kind::Resend => Operation::Resend,
    };
    let outcome = gateway.sendly.call(call, gateway.config.upstream.exchange_timeout).await;
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
    let mut phone = subject.phone;
    if let Exchanged::Answered(answer) = &outcome
        && answer.status.is_success()
    {
        phone = learn(gateway, subject, kind, charged_at, settlement, answer, now).await;
    }
    let fate = match settlement {
        Settlement::Keep => Fate::Sent,
        Settlement::GiveBack => Fate::GivenBack,
    };
    gateway.metrics.code(fate, kind, phone);
    (meaning::reply(outcome), ending)
}

/// Learns from a success, before anyone sees it: whose the id is, and what could not be charged before.
/// Returns where the code went.
async fn learn(
    gateway: &Gateway,
    subject: &Subject,
    kind: Kind,
    charged_at: Moment,
    settlement: Settlement,
    answer: &Answer,
    now: Moment,
) -> Option<Phone> {
    let body::Shown { id, phone } = body::read_shown(&answer.body);
    // A send's answer need not repeat the phone that the send named.
    let shown = phone.or(subject.phone);
    let (Some(id), Some(phone)) = (id, shown) else { return shown };
    let (policy, ledger) = (&gateway.policy, &gateway.ledger);
    let answered = gateway.config.hash_key.verification(&id);
    let root = match subject.verification {
        Some(asked) => ledger.join(policy, asked, answered, phone, now).await.root,
        None => ledger.learn(answered, phone, now).root,
    };
    if settlement == Settlement::GiveBack {
        return shown;
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
    shown
}

async fn reject(session: &mut Session, request: &mut Request, reply: Reply) -> pingora::Result<bool> {
    request.outcome = Outcome::Rejected;
    session::refuse(session, reply).await?;
    Ok(true)
}
