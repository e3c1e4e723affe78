//! Asking Sendly for the phone of a verification that the gateway does not know.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::watch;

use super::Gateway;
use super::evidence::{self, Asked};
use super::outcome_table;
use super::reply::Reply;
use super::settings::Settings;
use crate::api::{API, Operation, body};
use crate::http1::fields::Fields;
use crate::ledger::Known;
use crate::ledger::redis::Waits;
use crate::metrics::Found;
use crate::policy::subject::{Account, Verification};
use crate::trace::{self, Context};
use crate::upstream::{Answer, Call, Outcome, Sendly};

/// Look-ups that are under way.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    asking: DashMap<u128, watch::Receiver<Option<Whose>>>,
}

/// Whose verification it is.
#[derive(Clone, Debug)]
pub(crate) enum Whose {
    /// This phone's.
    Known(Known),
    /// Nobody's: Sendly does not know it, and this is what it says.
    Nobody(Answer),
    /// Sendly does not accept the key, and this is what it says.
    Refused(Answer),
    /// It could not be found out: the key may not read, or Sendly did not answer. With what the owner of an unproven key is told.
    Unknown(Reply),
}

/// The headers that a look-up takes over from the request that needs it: whose key it is made with.
const ON_BEHALF: [&str; 2] = ["authorization", "x-organization-id"];

/// And, besides, which trace it belongs to.
const IN_TRACE: [&str; 2] = ["traceparent", "tracestate"];

impl Gateway {
    /// Looks up whose verification this is, once for all who ask at once with the same key. A failure is not remembered.
    pub(crate) fn look_up(
        self: &Arc<Self>,
        settings: &Arc<Settings>,
        account: Account,
        (asked, id): (Verification, &str),
        fields: Fields<'_>,
        trace: Option<Context>,
    ) -> impl Future<Output = Whose> + use<> {
        let [authorization, organization] = ON_BEHALF.map(|name| fields.first(name).unwrap_or_default());
        let question = self.hash_key.hash(b"lookup", [id.as_bytes(), authorization, organization]);
        let mut answer = match self.lookups.asking.entry(question) {
            Entry::Occupied(asking) => asking.get().clone(),
            Entry::Vacant(vacant) => {
                let (sender, receiver) = watch::channel(None);
                vacant.insert(receiver.clone());
                // In a task of its own: the others wait for it, also if the one who asked first is torn down.
                let (gateway, settings) = (Arc::clone(self), Arc::clone(settings));
                let traced = trace.and_then(Context::call);
                let path = format!("{API}/verify/{id}");
                let call = on_behalf(&settings.upstream.sendly, &path, fields, traced.as_deref());
                let mut waits = Waits::of_this_request();
                tokio::spawn(async move {
                    let asking = Asking { gateway: &gateway, question };
                    let whose = {
                        let mut asks = pin!(gateway.ask_sendly(&settings, (account, asked), call, traced));
                        poll_fn(|context| waits.poll(asks.as_mut(), context)).await
                    };
                    drop(asking);
                    sender.send_replace(Some(whose));
                });
                receiver
            }
        };
        async move {
            let whose = answer.wait_for(Option::is_some).await;
            whose
                .ok()
                .and_then(|whose| whose.clone())
                .unwrap_or_else(|| Whose::Unknown(Reply::key_not_proven(Duration::from_secs(1))))
        }
    }

    async fn ask_sendly(
        &self,
        settings: &Settings,
        (account, asked): (Account, Verification),
        call: Call,
        traced: Option<Box<trace::TracedCall>>,
    ) -> Whose {
        let began = self.clock.now();
        let outcome = settings.upstream.sendly.call(call, settings.config.upstream.lookup_timeout).await;
        let now = self.clock.now();
        self.called(settings, traced, ("GET", Operation::Get), (began, now), outcome.told());
        if let Outcome::Answered(answer) = &outcome {
            self.metrics.upstream(Operation::Get, answer.status.as_u16(), now.since(began));
        }
        self.learn_of_key(settings, account, evidence::of_outcome(Asked::LOOKUP, &outcome), now).await;
        let (whose, found) = match outcome {
            Outcome::Answered(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                (Whose::Refused(answer), Found::Unavailable)
            }
            Outcome::Answered(answer) if answer.status == StatusCode::FORBIDDEN => {
                // That is its last word: the key may not read.
                self.admission.shown().insert(asked, account);
                (Whose::Unknown(outcome_table::reply(Outcome::Answered(answer))), Found::Unavailable)
            }
            Outcome::Answered(answer) if answer.status == StatusCode::NOT_FOUND => {
                (Whose::Nobody(answer), Found::Nobody)
            }
            Outcome::Answered(answer) if answer.status.is_success() => match body::read_shown(&answer.body) {
                body::Shown { id: Some(id), phone: Some(phone), .. } => {
                    let answered = self.hash_key.verification(&id);
                    self.admission.shown().insert(asked, account);
                    self.admission.shown().insert(answered, account);
                    (Whose::Known(self.ledger.join(&settings.policy, asked, answered, phone, now).await), Found::Phone)
                }
                _ => (Whose::Unknown(self.unproved(Some(account))), Found::Unavailable),
            },
            outcome => (Whose::Unknown(self.unproven_reply(account, outcome)), Found::Unavailable),
        };
        self.metrics.lookup(found);
        whose
    }
}

/// A look-up under way. It ends even if its task panics: the next one who asks starts anew.
struct Asking<'g> {
    gateway: &'g Gateway,
    question: u128,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.gateway.lookups.asking.remove(&self.question);
    }
}

/// A call to this path on the key of the request that needs it.
pub(crate) fn on_behalf(sendly: &Sendly, path: &str, fields: Fields<'_>, traced: Option<&trace::TracedCall>) -> Call {
    let mut on_behalf = HeaderMap::new();
    for name in ON_BEHALF {
        if let Some(value) = fields.first(name).and_then(|value| header::HeaderValue::from_bytes(value).ok()) {
            on_behalf.insert(name, value);
        }
    }
    for name in IN_TRACE {
        for value in fields.all(name).filter_map(|value| header::HeaderValue::from_bytes(value).ok()) {
            on_behalf.append(name, value);
        }
    }
    on_behalf.insert(
        header::USER_AGENT,
        header::HeaderValue::from_static(concat!("sendly-gateway/", env!("CARGO_PKG_VERSION"))),
    );
    sendly.compose(&Method::GET, path, &on_behalf, traced, &[])
}
