//! Finding out whether Sendly accepts a key, and what follows from it.

use std::sync::Arc;

use http::StatusCode;

use super::Gateway;
use super::admission::Pass;
use super::evidence::{self, Asked, Evidence};
use super::lookup::{Whose, on_behalf};
use super::outcome_table;
use super::reply::Reply;
use super::settings::Settings;
use super::unproven::OpenCode;
use crate::api::{API, Operation};
use crate::clock::Moment;
use crate::http1::fields::Fields;
use crate::metrics::Unserved;
use crate::policy::Key;
use crate::policy::subject::{Account, Verification};
use crate::trace::Context;
use crate::upstream::Outcome;

impl Gateway {
    /// Proves an unproven key with a call that costs nothing, on the caller's own key.
    ///
    /// # Errors
    /// What its caller is told: Sendly refuses the key, or says nothing of it.
    pub(crate) fn prove<'g>(
        &'g self,
        settings: &'g Settings,
        (account, pass): (Account, &'g Pass),
        fields: Fields<'_>,
        trace: Option<Context>,
    ) -> impl Future<Output = Result<(), Reply>> + use<'g> {
        let traced = trace.and_then(Context::call);
        let path = format!("{API}/verify?limit=1");
        let call = on_behalf(&settings.upstream.sendly, &path, fields, traced.as_deref());
        async move {
            let began = self.clock.now();
            let outcome = settings.upstream.sendly.call(call, settings.config.upstream.lookup_timeout).await;
            let now = self.clock.now();
            self.called(settings, traced, ("GET", Operation::List), (began, now), outcome.told());
            if let Outcome::Answered(answer) = &outcome {
                self.metrics.upstream(Operation::List, answer.status.as_u16(), now.since(began));
            }
            self.learn_of_key(settings, account, evidence::of_outcome(Asked::CODE, &outcome), now).await;
            if self.ledger.is_proven(account, now) {
                return Ok(());
            }
            pass.proof_failed();
            Err(self.unproven_reply(account, outcome))
        }
    }

    /// What a caller is told whose key was not proven by this: what Sendly would have said to a send, so that a failure tells no more of a
    /// phone or an id than a send itself.
    pub(crate) fn unproven_reply(&self, account: Account, outcome: Outcome) -> Reply {
        // Anything else is no answer to a send: a page of a proxy's, or of a stand-in that knows no such route.
        let says_why = |status: StatusCode| matches!(status.as_u16(), 401..=403 | 429) || status.is_server_error();
        match outcome {
            Outcome::Answered(answer) if !says_why(answer.status) => self.unproved(Some(account)),
            outcome => {
                self.metrics.unserved(Unserved::Unproved);
                outcome_table::reply(outcome)
            }
        }
    }

    /// Looks whether a refusal may be told: only to a proven key, and of an id only to a key that Sendly shows it to, or that may not read.
    /// `unshown`: an id that Sendly is not known to have shown to this key.
    ///
    /// # Errors
    /// What its caller is told instead.
    pub(crate) fn check_before_refusal<'g>(
        self: &'g Arc<Self>,
        settings: &'g Arc<Settings>,
        (account, pass): (Account, Option<&'g Pass>),
        unshown: Option<(Verification, &str)>,
        fields: Fields<'_>,
        trace: Option<Context>,
    ) -> impl Future<Output = Result<(), Reply>> + use<'g> {
        let looking = unshown.map(|unshown| self.look_up(settings, account, unshown, fields, trace));
        let proving = pass.map(|pass| self.prove(settings, (account, pass), fields, trace));
        async move {
            let Some(looking) = looking else {
                return match proving {
                    Some(proving) => proving.await,
                    None => Ok(()),
                };
            };
            match looking.await {
                Whose::Nobody(answer) | Whose::Refused(answer) => Err(outcome_table::reply(Outcome::Answered(answer))),
                Whose::Known(_) | Whose::Unknown(_) if self.ledger.is_proven(account, self.clock.now()) => Ok(()),
                Whose::Known(_) => Err(self.unproved(Some(account))),
                Whose::Unknown(reply) => {
                    if let Some(pass) = pass {
                        pass.proof_failed();
                    }
                    Err(reply)
                }
            }
        }
    }

    /// Learns from an answer what Sendly says of a key. To be called before its pass is given back.
    pub(crate) async fn learn_of_key(&self, settings: &Settings, account: Account, evidence: Evidence, now: Moment) {
        if let Some(code) = self.note_evidence(Some(account), evidence, now) {
            self.charge_open(settings, account, code).await;
        }
    }

    /// The same, where nothing can be waited for: a code that has to be charged is charged by a task of its own.
    pub(crate) fn judge_key(self: &Arc<Self>, account: Option<Account>, evidence: Evidence) {
        if let (Some(code), Some(account)) = (self.note_evidence(account, evidence, self.clock.now()), account) {
            let gateway = Arc::clone(self);
            tokio::spawn(async move { gateway.charge_open(&gateway.settings(), account, code).await });
        }
    }

    /// Returns a code of this key that has to be charged now.
    fn note_evidence(&self, account: Option<Account>, evidence: Evidence, now: Moment) -> Option<OpenCode> {
        match (evidence, account) {
            (Evidence::Accepted, Some(account)) if !self.ledger.is_proven(account, now) => {
                self.ledger.accept_key(account, now);
                return self.admission.table().accept(account);
            }
            (Evidence::Refused(word), Some(account)) => {
                self.ledger.reject_key(account, now);
                self.admission.table().refuse(account, word, now);
                self.metrics.key_failed();
            }
            (Evidence::Refused(_) | Evidence::Failed, _) => {
                self.admission.table().fail(now);
                self.metrics.key_failed();
            }
            (Evidence::LockedOut(wait), _) => self.admission.table().lock(now + wait),
            (Evidence::Silent | Evidence::Accepted, _) => {}
        }
        None
    }

    /// Charges a code that went out, or may have, before its key was proven.
    pub(crate) async fn charge_open(&self, settings: &Settings, account: Account, code: OpenCode) {
        let OpenCode { phone, verification, kind, at } = code;
        let is_exempt = self.exemptions.cover(phone, self.clock.now());
        let account = Some(Key::Account(account)).filter(|_| !is_exempt);
        let keys = [phone.map(Key::Phone), verification.map(Key::Verification), account];
        for key in keys.into_iter().flatten() {
            self.ledger.record(&settings.policy, key, kind, at).await;
        }
    }

    /// Whether this key has to be proved before a code is sent on it.
    pub(crate) fn has_to_be_proved(&self, account: Account) -> bool {
        self.admission.table().has_to_be_proved(account)
    }

    /// Remembers a code of an unproven key whose outcome is not known.
    pub(crate) fn keep_open(&self, account: Account, code: OpenCode) {
        self.admission.table().keep_open(account, code);
    }
}
