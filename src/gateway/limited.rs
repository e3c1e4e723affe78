//! One limited request, read top to bottom: read → place → decide → exchange → settle → learn → reply.
//!
//! Between its steps a request lets others who are ready go first ([`yield_to_ready_tasks`]), so that each step is taken by many at a time.
//!
//! The exchange with Sendly runs to its end, whatever the client does meanwhile: its outcome settles the charge, and its answer
//! waits for whoever asks for it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Method, StatusCode};

use super::admission::Pass;
use super::admission_gate::Entered;
use super::downstream::{Caller, NoBody, user_agent};
use super::evidence;
use super::identity::Head;
use super::lookup::Whose;
use super::outcome_table::{self, Meaning};
use super::patience::Patience;
use super::reply::Reply;
use super::retries::{Ending, Place};
use super::settings::Settings;
use super::uncharged::{reject, repeat, serve_there, stop, turn_away};
use super::unproven::OpenCode;
use super::{Gateway, Request};
use crate::api::{Operation, body, path};
use crate::clock::Moment;
use crate::ledger::redis::Waits;
use crate::ledger::waiting::Asked;
use crate::ledger::{Reservation, Settlement, Verdict};
use crate::metrics::{Fate, Outcome, SettlementReason, TurnedAway};
use crate::phone::Phone;
use crate::policy::{Key, Kind, Policy, Subject};
use crate::trace::{self, Context};
use crate::upstream::{self, Answer, Outcome as Exchanged};
use crate::yielding::yield_to_ready_tasks;

/// Serves a send or a resend: the client has been answered then.
///
/// # Errors
/// The client could not be read, or not be told.
pub(crate) async fn serve<C: Caller>(
    gateway: &Arc<Gateway>,
    settings: &Arc<Settings>,
    caller: &mut C,
    request: &mut Request,
    call: &path::ApiCall,
) -> Result<(), C::Error> {
    let hash_key = &gateway.hash_key;
    let head = match Head::read(caller.fields(), call.operation, hash_key) {
        Ok(head) => head,
        Err(reply) => return reject(caller, request, reply).await,
    };
    match caller.read_body(settings.config.clients.body_timeout).await {
        Ok(()) => {}
        Err(NoBody::Refused(reply)) => return reject(caller, request, reply).await,
        Err(NoBody::Late) => {
            request.outcome = Outcome::Rejected;
            return caller.close_with(Reply::body_timeout()).await;
        }
        Err(NoBody::Broken(error)) => return Err(error),
    }
    let account = head.account;
    let mut subject = Subject { phone: None, verification: None, account };
    request.account = Some(account);
    let kind = match call.operation {
        Operation::Resend => Kind::Resend,
        _ => match body::read_send(caller.body()) {
            Ok(to) if settings.config.phones.strict && !to.is_possible() => {
                return reject(caller, request, Reply::impossible_phone()).await;
            }
            Ok(to) => {
                subject.phone = Some(to);
                Kind::Send
            }
            Err(unclear) => return reject(caller, request, Reply::unclear(unclear)).await,
        },
    };
    request.phone = subject.phone;

    let timer = pin!(None);
    let mut patience = Patience::new(settings.config.upstream.answer_within, timer, &gateway.clock);
    let served = {
        let mut waits = Waits::default();
        let limited = (call, head, kind, subject);
        let mut serving = pin!(serve_within(gateway, settings, caller, request, limited, &mut patience));
        poll_fn(|context| waits.poll(serving.as_mut(), context)).await
    };
    if let Some(told_at) = patience.told_at() {
        (request.outcome, request.told) = (Outcome::Failed, Some(told_at));
    }
    served
}

/// The same, from the end of its body on: for as long as the client is patient, and then without it.
async fn serve_within<C: Caller>(
    gateway: &Arc<Gateway>,
    settings: &Arc<Settings>,
    caller: &mut C,
    request: &mut Request,
    (call, head, kind, mut subject): (&path::ApiCall, Head, Kind, Subject),
    patience: &mut Patience<'_>,
) -> Result<(), C::Error> {
    let (hash_key, account) = (&gateway.hash_key, head.account);
    let mut inside = match patience.watch(caller, gateway.gate.enter(), || {}).await {
        // It has been told that its answer is late, and nothing was sent: a retry of it is judged.
        _ if patience.told_at().is_some() => return Ok(()),
        Entered::Here(inside) => inside,
        Entered::There(successor) => {
            request.under_way = None;
            return successor.serve(caller, patience).await.map(drop);
        }
    };
    let fingerprint = head.fingerprint(call.path(caller.path()), caller.body());
    if gateway.retries.may_have_twin(fingerprint) {
        gateway.retries.twin_to_leave(fingerprint).await;
    }
    let mut click = match gateway.retries.place(fingerprint) {
        Place::New(click) => click,
        Place::Retry(ticket) => return repeat(caller, request, ticket, patience).await,
        Place::Full => {
            request.outcome = Outcome::NoRoom;
            if !gateway.said_full_of_answers.swap(true, Ordering::Relaxed) {
                tracing::error!("there is no room to keep another answer for its retries: raise retries.max_kept");
            }
            return caller.tell(&Reply::no_room_for_answers()).await;
        }
    };

    // The leave of a key that Sendly has not accepted yet.
    let mut pass = None;
    if !gateway.is_served_at_once(settings, account, request.began) {
        // Boxed, as all that is seldom needed and large: each connection has room for what is not.
        let admitting = Box::pin(gateway.admit_key(settings, Some(account), request.client));
        match patience.watch(caller, admitting, || click.give_up()).await {
            Ok(admitted) => pass = admitted,
            Err(reply) => return turn_away(caller, request, patience, click, reply).await,
        }
    }
    // Before anything is charged, and for the look-up too. It is given back where the exchange has ended.
    let slot = match gateway.try_sendly_slot(settings) {
        None => patience.watch(caller, gateway.sendly_slot(settings), || click.give_up()).await,
        slot => slot,
    };
    let Some(slot) = slot else {
        let reply = gateway.turn_request_away(request, TurnedAway::Upstream);
        return stop(caller, patience, click, reply, Ending::Nothing).await;
    };
    let mut asked_id = None;
    if kind == Kind::Resend {
        let id = call.id(caller.path());
        let asked = hash_key.verification(id);
        asked_id = Some(asked);
        let whose = match gateway.ledger.whose(asked, request.began).await {
            Some(known) => Whose::Known(known),
            None => {
                click.is_in_flight();
                let asking = gateway.look_up(settings, account, (asked, id), caller.fields(), request.trace);
                patience.watch(caller, asking, || click.give_up()).await
            }
        };
        subject.verification = Some(asked);
        if pass.is_some() && gateway.ledger.is_proven(account, request.began) {
            // By the look-up.
            pass = None;
        }
        match whose {
            Whose::Known(known) => {
                subject.phone = Some(known.phone);
                subject.verification = Some(known.root);
            }
            Whose::Nobody(answer) | Whose::Refused(answer) => {
                return turn_away(caller, request, patience, click, outcome_table::reply(Exchanged::Answered(answer)))
                    .await;
            }
            Whose::Unknown(reply) if pass.is_some() => {
                return turn_away(caller, request, patience, click, reply).await;
            }
            // Per verification alone; its answer names the phone, which is charged then.
            Whose::Unknown(_) => {}
        }
        request.phone = subject.phone;
    }

    if let Some(unproven) = &pass
        && gateway.has_to_be_proved(account)
    {
        let proving = Box::pin(gateway.prove(settings, (account, unproven), caller.fields(), request.trace));
        match patience.watch(caller, proving, || click.give_up()).await {
            Ok(()) => pass = None,
            Err(reply) => return turn_away(caller, request, patience, click, reply).await,
        }
    }
    let (now, is_exempt, decision, took, verdict) = loop {
        // It may have waited for long, and another process may judge by now.
        let Some(judging) = gateway.gate.judge() else {
            drop(inside);
            match patience.watch(caller, gateway.gate.enter(), || click.give_up()).await {
                Entered::Here(again) => inside = again,
                // It has been told that its answer is late, and nothing was sent: a retry of it is judged.
                Entered::There(_) if patience.told_at().is_some() => {
                    return stop(caller, patience, click, Reply::upstream_timeout(), Ending::Nothing).await;
                }
                Entered::There(successor) => {
                    request.under_way = None;
                    drop((slot, pass));
                    return serve_there(&successor, caller, patience, click).await;
                }
            }
            continue;
        };
        let asked = gateway.clock.read();
        let mut now = asked.moment();
        let is_exempt = gateway.exemptions.cover(subject.phone, now);
        let policy = if is_exempt { &settings.exempting } else { &settings.policy };
        let judged = Asked { policy, subject: &subject, kind };
        let decided = match gateway.held(policy, &subject, kind, now).await {
            Some((decision, refusal)) => Some((decision, Verdict::Refused(refusal))),
            None => gateway.ledger.reserve_at_once(judged, now).await,
        };
        drop(judging);
        let (decision, took, verdict) = match decided {
            Some((decision, verdict)) => (decision, Some(gateway.clock.read().since(asked)), verdict),
            None => {
                let waiting = Box::pin(gateway.wait_and_reserve(settings, judged));
                let (decision, verdict) = patience.watch(caller, waiting, || click.give_up()).await;
                if matches!(verdict, Verdict::Refused(_)) && gateway.gate.is_closed() {
                    continue;
                }
                now = gateway.clock.now();
                // How long others take to be settled says nothing about the ledger.
                (decision, None, verdict)
            }
        };
        // A refusal tells of a phone or an id: only to a key that Sendly accepts, and of an id that Sendly shows to that key.
        let unshown = match verdict {
            Verdict::Reserved(_) => break (now, is_exempt, decision, took, verdict),
            _ => asked_id.filter(|id| !gateway.admission.shown().contains(*id, account)),
        };
        if pass.is_none() && unshown.is_none() {
            break (now, is_exempt, decision, took, verdict);
        }
        let unshown = unshown.map(|id| (id, call.id(caller.path())));
        let checking =
            gateway.check_before_refusal(settings, (account, pass.as_ref()), unshown, caller.fields(), request.trace);
        match patience.watch(caller, Box::pin(checking), || click.give_up()).await {
            Ok(()) if pass.is_none() => break (now, is_exempt, decision, took, verdict),
            Ok(()) => pass = None,
            Err(reply) => return turn_away(caller, request, patience, click, reply).await,
        }
    };
    gateway.metrics.decision(&settings.series, &decision, is_exempt, took);
    let reservation = match verdict {
        Verdict::Reserved(reservation) => reservation,
        Verdict::Refused(refusal) => {
            request.outcome = Outcome::Refused;
            request.refused_by = Some(settings.refusals.name(refusal.by));
            gateway.metrics.refused(&settings.series, &refusal, kind, &subject);
            let agent = user_agent(caller.fields());
            let (reply, ending) = (settings.refusals.reply(&refusal, agent), click.refused(agent));
            return stop(caller, patience, click, reply, ending).await;
        }
        Verdict::NoRoom => {
            request.outcome = Outcome::NoRoom;
            if !gateway.said_full.swap(true, Ordering::Relaxed) {
                tracing::error!("there is no room to count another key: raise memory.max_keys");
            }
            return stop(caller, patience, click, Reply::no_room(), Ending::Nothing).await;
        }
        Verdict::Away => {
            request.outcome = Outcome::Failed;
            return stop(caller, patience, click, Reply::ledger_away(), Ending::Nothing).await;
        }
    };

    request.outcome = Outcome::Allowed;
    click.is_asked_for();
    yield_to_ready_tasks().await;
    let traced = request.trace.and_then(Context::call);
    let (path, fields) = (call.path(caller.path()), caller.fields());
    let call = settings.upstream.sendly.compose(&Method::POST, path, fields, traced.as_deref(), caller.body());
    // Pinned where it is made: it is large.
    let exchange = pin!(carry_out(gateway, settings, (call, traced), &subject, kind, (reservation, pass), now));
    let (mut reply, mut ending) = patience.watch(caller, exchange, || click.give_up()).await;
    drop(slot);
    if reply.status == StatusCode::TOO_MANY_REQUESTS {
        let agent = user_agent(caller.fields());
        reply.reword(agent);
        if click.refused(agent) == Ending::Refused {
            ending = Ending::Refused;
        }
    }
    if matches!(ending, Ending::Unknown | Ending::Nothing) {
        request.outcome = Outcome::Failed;
    }
    yield_to_ready_tasks().await;
    // Before the client is told: whoever asks after that must not find it in flight still.
    click.end(reply, ending);
    if let Some(reply) = click.answer()
        && patience.tell(caller, reply).await?
    {
        click.delivered();
    }
    Ok(())
}

/// The exchange with Sendly, to its end.
async fn carry_out(
    gateway: &Gateway,
    settings: &Settings,
    (call, traced): (upstream::Call, Option<Box<trace::TracedCall>>),
    subject: &Subject,
    kind: Kind,
    (reservation, pass): (Reservation, Option<Pass>),
    began: Moment,
) -> (Reply, Ending) {
    let _under_way = gateway.work.token();
    let operation = match kind {
        Kind::Send => Operation::Send,
        Kind::Resend => Operation::Resend,
    };
    let outcome = settings.upstream.sendly.call(call, settings.config.upstream.exchange_timeout).await;
    yield_to_ready_tasks().await;
    let now = gateway.clock.now();
    gateway.called(settings, traced, ("POST", operation), (began, now), outcome.told());
    if let Exchanged::Answered(Answer { status, .. }) | Exchanged::Cut(status) = &outcome {
        gateway.metrics.upstream(operation, status.as_u16(), now.since(began));
    }

    let Meaning { mut reason, ending } = outcome_table::of(&outcome);
    let charged_at = reservation.at();
    if pass.is_some() || evidence::may_disprove(&outcome) {
        let evidence = evidence::of_outcome(evidence::Asked::CODE, &outcome);
        gateway.learn_of_key(settings, subject.account, evidence, now).await;
    }
    if pass.is_some() && ending == Ending::Unknown && !gateway.ledger.is_proven(subject.account, now) {
        // Of a key that may be made up: it is charged once the key turns out to be good.
        let Subject { phone, verification, account } = *subject;
        gateway.keep_open(account, OpenCode { phone, verification, kind, at: charged_at });
        reason = SettlementReason::Unproven;
    }
    if let Exchanged::Answered(answer) = &outcome
        && let Some(wait) = outcome_table::hold(answer)
    {
        // Before the charge is given back: in between, another code could slip through.
        gateway.hold(subject, wait, now).await;
    }
    let success = match &outcome {
        Exchanged::Answered(answer) if answer.status.is_success() => Some(answer),
        _ => None,
    };
    // It went to an exempt phone, which its id did not tell: its account is given back what it was charged, and the rest is charged anew.
    let is_charged_anew = reason.is_kept()
        && subject.phone.is_none()
        && success.is_some_and(|answer| gateway.exemptions.cover(body::read_shown(&answer.body).phone, now));
    let settlement = if reason.is_kept() { Settlement::Keep } else { Settlement::GiveBack };
    reservation.settle(if is_charged_anew { Settlement::GiveBack } else { settlement }).await;
    gateway.metrics.settlement(reason);
    let mut phone = subject.phone;
    if let Some(answer) = success {
        let charged = Subject { verification: subject.verification.filter(|_| !is_charged_anew), ..*subject };
        let policy = &settings.policy;
        phone = learn(gateway, policy, (subject, &charged), (kind, charged_at), settlement, answer, now).await;
    }
    let fate = match settlement {
        Settlement::Keep => Fate::Sent,
        Settlement::GiveBack => Fate::GivenBack,
    };
    gateway.metrics.code(&settings.series, fate, kind, phone);
    // Now that all of it is known, others with this key may go.
    drop(pass);
    (outcome_table::reply(outcome), ending)
}

/// Learns from a success, before anyone sees it: whose the id is, and what is not charged yet, or no more. Returns where the code went.
async fn learn(
    gateway: &Gateway,
    policy: &Policy,
    (subject, charged): (&Subject, &Subject),
    (kind, charged_at): (Kind, Moment),
    settlement: Settlement,
    answer: &Answer,
    now: Moment,
) -> Option<Phone> {
    let body::Shown { id, phone, .. } = body::read_shown(&answer.body);
    // A send's answer need not repeat the phone that the send named.
    let shown = phone.or(subject.phone);
    let (Some(id), Some(phone)) = (id, shown) else { return shown };
    let ledger = &gateway.ledger;
    let answered = gateway.hash_key.verification(&id);
    for id in [Some(answered), subject.verification].into_iter().flatten() {
        gateway.admission.shown().insert(id, subject.account);
    }
    let root = match subject.verification {
        Some(asked) => ledger.join(policy, asked, answered, phone, now).await.root,
        None => ledger.learn(answered, phone, now).await.root,
    };
    if settlement == Settlement::GiveBack {
        return shown;
    }
    match charged.phone {
        Some(charged) if charged == phone => {}
        // Sendly sent it elsewhere than it was asked to, as to another spelling of one number: both are one from now on.
        Some(charged) if kind == Kind::Send => {
            ledger.absorb(policy, Key::Phone(phone), Key::Phone(charged), now).await;
        }
        _ => ledger.record(policy, Key::Phone(phone), kind, charged_at).await,
    }
    if charged.verification.is_none() {
        ledger.record(policy, Key::Verification(root), kind, charged_at).await;
    }
    shown
}
