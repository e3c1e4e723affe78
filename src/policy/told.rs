//! A decision that a store has made by itself: read from what it tells of each rule.

use std::time::Duration;

use super::window::Log;
use super::{Decision, Kind, Obstacle, Per, Policy, Refusal, Rule};

/// What a store tells of a rule that a code met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It lets the code through.
    Free,
    /// The same, and the code takes it to 80 % of its max or more.
    Near,
    /// It is reached, for so long.
    Full(Duration),
    /// The same, and it would not be without charges that are not settled yet.
    Unsettled(Duration),
}

impl Told {
    /// The same, where the log of the key is known: a limit may be full only of charges that are open there.
    pub fn with(self, rule: &Rule, log: &Log) -> Self {
        let Told::Full(wait) = self else { return self };
        // What is told shows when it was judged, on the clock of the store.
        let now = log.leaves(rule).map(|leaves| leaves - wait);
        let is_firm = now.is_none_or(|now| log.is_full_of_settled(rule, now));
        if is_firm { self } else { Told::Unsettled(wait) }
    }
}

impl Policy {
    /// The rules per this that a code of this kind meets, in the config's order.
    pub fn met(&self, per: Per, kind: Kind) -> &[Rule] {
        self.rules(per).met(kind)
    }

    /// Whether any limit refuses; and so whether Sendly's hold counts.
    pub const fn holds(&self) -> bool {
        self.enforces
    }

    /// The decision over a code of this kind. Of each key, in the order in which [`judge`](Self::judge) takes them: whom it counts
    /// for, how long Sendly still refuses it, and what those rules tell that it [met](Self::met).
    pub fn decision<'t>(&self, keys: impl IntoIterator<Item = (Per, Duration, &'t [Told])>, kind: Kind) -> Decision {
        let mut decision = Decision::default();
        for (per, held, told) in keys {
            if self.enforces && !held.is_zero() {
                decision.refuse(Refusal { by: Obstacle::Hold, retry_after: held }, true);
            }
            for (rule, told) in self.met(per, kind).iter().zip(told) {
                decision.met.insert(rule.place);
                match told {
                    Told::Free => {}
                    Told::Near => decision.near.insert(rule.place),
                    Told::Full(retry_after) | Told::Unsettled(retry_after) => {
                        decision.reached.insert(rule.place);
                        if rule.enforced {
                            let by = Obstacle::Limit(rule.place);
                            let is_firm = matches!(told, Told::Full(_));
                            decision.refuse(Refusal { by, retry_after: *retry_after }, is_firm);
                        }
                    }
                }
            }
        }
        decision
    }
}
