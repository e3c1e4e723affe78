//! How a key stands with its limits, for people who ask; and a policy that lets an exempt phone pass.

use std::time::Duration;

use super::{Policy, Record, Rule};
use crate::clock::Moment;

/// How a key stands with one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit's place in the policy.
    pub place: usize,
    /// How many of the codes in its window are known. All of them, up to its max; a limit that was passed over (a shadow, or one
    /// that an exempt phone met) may have had more.
    pub used: usize,
    /// How long until it lets one more through; `None` if it does now.
    pub wait: Option<Duration>,
}

impl Policy {
    /// How the key of this record stands with every limit that counts for it, whatever that counts.
    pub fn standing(&self, record: &Record<'_>, now: Moment) -> Vec<Standing> {
        let own = self.limits.iter().enumerate().filter(|(_, limit)| limit.per == record.per);
        let standing = |(place, limit)| {
            let rule = Rule::of(place, limit);
            let (used, wait) = record.log.map_or((0, None), |log| (log.used(&rule, now), log.full(&rule, now)));
            Standing { place, used, wait }
        };
        own.map(standing).collect()
    }

    /// This policy for an exempt phone: the phone and its verification are judged and charged, but nothing refuses, and nothing is charged
    /// to the account, whose other phones would pay for it. Sendly's own hold refuses as ever, and so does the want of room.
    #[must_use]
    pub fn for_exempt_phones(&self) -> Self {
        Self { spares_accounts: true, ..self.lenient() }
    }

    /// This policy with the same limits, judged, counted and charged, of which none refuses. Sendly's own hold does as ever, and so does the
    /// want of room.
    #[must_use]
    pub fn lenient(&self) -> Self {
        let mut lenient = self.clone();
        for rules in [&mut lenient.phone, &mut lenient.verification, &mut lenient.account] {
            let all = rules.sends.iter_mut().chain(&mut rules.resends);
            all.for_each(|rule| rule.enforced = false);
        }
        lenient
    }
}
