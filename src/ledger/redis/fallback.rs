//! A decision without Redis: what the configuration says for that.

use super::backlog::{BacklogEntry, Tokened};
use super::{Redis, Token, Verdict, charge_of};
use crate::clock::Moment;
use crate::ledger::{Charge, memory};
use crate::policy::{Decision, Kind, OnOutage, Policy, Subject};

impl Redis {
    /// Decides by what this gateway knows. Where Redis may have charged the code all the same, it is told what became of it.
    pub(crate) fn decide_alone(
        &self,
        policy: &Policy,
        subject: &Subject,
        kind: Kind,
        now: Moment,
        token: Token,
        may_be_charged: bool,
    ) -> (Decision, Verdict) {
        let at = self.time.at(now);
        let (decision, verdict) = match self.on_outage {
            OnOutage::Refuse => (Decision::default(), Verdict::Away),
            OnOutage::Local => charged(self.warm.reserve(policy, subject, kind, at), token),
            OnOutage::Allow => match charged(self.warm.reserve(&policy.lenient(), subject, kind, at), token) {
                (decision, Verdict::NoRoom) => {
                    let nothing = Charge { phone: None, verification: None, account: None, at, kind };
                    (decision, Verdict::Charged(nothing, token))
                }
                other => other,
            },
        };
        match &verdict {
            // Redis knows the token, if it charged it: it is not charged twice.
            Verdict::Charged(charge, token) => {
                self.leave(BacklogEntry::Charge(Tokened { token: *token, charge: *charge }))
            }
            _ if may_be_charged => {
                let charge = charge_of(policy, subject, kind, at, &policy.keys(subject));
                self.leave(BacklogEntry::GiveBack(Tokened { token, charge }));
            }
            _ => {}
        }
        (decision, verdict)
    }
}

fn charged((decision, verdict): (Decision, memory::Verdict), token: Token) -> (Decision, Verdict) {
    let verdict = match verdict {
        memory::Verdict::Charged(charge) => Verdict::Charged(charge, token),
        memory::Verdict::Refused(refusal) => Verdict::Refused(refusal),
        memory::Verdict::NoRoom => Verdict::NoRoom,
    };
    (decision, verdict)
}
