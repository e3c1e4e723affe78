//! The naive model: every charge ever taken, in a list, and limits that count it.
//!
//! It forgets nothing, bounds nothing and sorts nothing, so that there is nothing in it to get wrong.

use std::collections::HashSet;
use std::time::Duration;

use sendly_gateway::clock::Moment;
use sendly_gateway::policy::window::UNSETTLED;
use sendly_gateway::policy::{Decision, Key, Kind, Limit, Mode, Obstacle, Refusal, Subject};

#[derive(Clone, Debug)]
struct Charge {
    key: Key,
    kind: Kind,
    at: Moment,
    /// Not given back.
    there: bool,
    /// It may yet be.
    open: bool,
}

#[derive(Clone, Debug)]
pub struct Model {
    limits: Vec<Limit>,
    /// What some limit counts is in the list: one of those above, or one that they take turns with.
    counted: Vec<Limit>,
    charges: Vec<Charge>,
    holds: Vec<(Key, Moment)>,
    /// The last sweep: nothing is judged as of an earlier moment.
    swept: Moment,
}

/// The places of a reservation's charges in the list.
pub type Charged = Vec<usize>;

/// A decision, with its sets written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub met: Vec<usize>,
    pub reached: Vec<usize>,
    pub refusal: Option<Refusal>,
    pub is_unsettled: bool,
}

impl From<Decision> for Judgement {
    fn from(decision: Decision) -> Self {
        let places = |set: sendly_gateway::policy::LimitSet| (0..40).filter(|place| set.contains(*place)).collect();
        Self {
            met: places(decision.met),
            reached: places(decision.reached),
            refusal: decision.refusal,
            is_unsettled: decision.is_unsettled,
        }
    }
}

impl Model {
    pub fn new(limits: Vec<Limit>) -> Self {
        let counted = limits.clone();
        Self { limits, counted, charges: Vec::new(), holds: Vec::new(), swept: Moment::from_micros(0) }
    }

    /// Judges by other limits from now on.
    pub fn reload(&mut self, limits: Vec<Limit>) {
        self.counted.extend(limits.iter().cloned());
        self.counted.dedup();
        self.limits = limits;
    }

    pub fn reserve(&mut self, subject: &Subject, kind: Kind, now: Moment) -> (Judgement, Option<(Moment, Charged)>) {
        let judgement = self.judge(subject, kind, now);
        if judgement.refusal.is_some() {
            return (judgement, None);
        }
        let at = subject.keys().into_iter().map(|key| self.time(key, now)).max().unwrap();
        let charged = subject.keys().into_iter().filter_map(|key| self.charge(key, kind, at, true)).collect();
        (judgement, Some((at, charged)))
    }

    pub fn give_back(&mut self, charged: Charged) {
        for place in charged {
            assert!(std::mem::take(&mut self.charges[place].there), "given back twice");
        }
    }

    pub fn keep(&mut self, charged: &Charged) {
        charged.iter().for_each(|place| self.charges[*place].open = false);
    }

    pub fn record(&mut self, key: Key, kind: Kind, at: Moment) {
        self.charge(key, kind, at, false);
    }

    pub fn hold(&mut self, key: Key, until: Moment) {
        self.holds.push((key, until));
    }

    pub fn absorb(&mut self, into: Key, from: Key) {
        self.charges.iter_mut().filter(|charge| charge.key == from).for_each(|charge| charge.key = into);
        self.holds.iter_mut().filter(|(key, _)| *key == from).for_each(|(key, _)| *key = into);
    }

    pub fn clear(&mut self, key: Key) {
        self.charges.iter_mut().filter(|charge| charge.key == key).for_each(|charge| charge.there = false);
        self.holds.retain(|(held, _)| *held != key);
    }

    /// Of each limit that counts for a key: its place, how many of its max are used, and how long it refuses.
    pub fn look(&self, key: Key, now: Moment) -> Vec<(usize, usize, Option<Duration>)> {
        let own = self.limits.iter().enumerate().filter(|(_, limit)| limit.per == key.per());
        let used = |limit: &Limit| self.count(key, limit, self.time(key, now)).min(limit.max as usize);
        own.map(|(place, limit)| (place, used(limit), self.wait(key, limit, now))).collect()
    }

    pub fn sweep(&mut self, now: Moment) {
        self.swept = self.swept.max(now);
    }

    /// How many keys some limit still needs, and how many are held.
    pub fn needed(&self, now: Moment) -> usize {
        let now = now.max(self.swept);
        let charged = self.charges.iter().filter(|charge| charge.there);
        let needed = charged.filter(|charge| {
            self.limits.iter().any(|limit| {
                limit.per == charge.key.per()
                    && limit.counts.includes(charge.kind)
                    && (charge.at > now || now.since(charge.at) < limit.window)
            })
        });
        let held = self.holds.iter().filter(|(_, until)| *until > now).map(|(key, _)| *key);
        let distinct = |keys: &mut dyn Iterator<Item = Key>| keys.collect::<HashSet<_>>().len();
        distinct(&mut needed.map(|charge| charge.key)) + distinct(&mut held.into_iter())
    }

    fn charge(&mut self, key: Key, kind: Kind, at: Moment, open: bool) -> Option<usize> {
        let counted = self.counted.iter().any(|limit| limit.per == key.per() && limit.counts.includes(kind));
        counted.then(|| {
            self.charges.push(Charge { key, kind, at, there: true, open });
            self.charges.len() - 1
        })
    }

    fn judge(&self, subject: &Subject, kind: Kind, now: Moment) -> Judgement {
        let (mut met, mut reached, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for key in subject.keys() {
            let limits = || self.limits.iter().enumerate().filter(|(_, limit)| limit.per == key.per());
            let holds = self.holds.iter().filter(|(held, until)| *held == key && *until > now.max(self.swept));
            if let Some(until) = holds.map(|(_, until)| *until).max()
                && self.limits.iter().any(|limit| limit.mode == Mode::Enforce)
            {
                refusals.push((true, Refusal { by: Obstacle::Hold, retry_after: until.since(now) }));
            }
            for (place, limit) in limits().filter(|(_, limit)| limit.counts.includes(kind)) {
                met.push(place);
                if let Some(retry_after) = self.wait(key, limit, now) {
                    reached.push(place);
                    if limit.mode == Mode::Enforce {
                        let is_firm = self.is_full_of_settled(key, limit, now);
                        refusals.push((is_firm, Refusal { by: Obstacle::Limit(place), retry_after }));
                    }
                }
            }
        }
        met.sort_unstable();
        reached.sort_unstable();
        // Those that stand whatever becomes of open charges, if there are any; of them the first of the longest.
        let last = refusals.into_iter().rev().max_by_key(|(is_firm, refusal)| (*is_firm, refusal.retry_after));
        let is_unsettled = last.is_some_and(|(is_firm, _)| !is_firm);
        Judgement { met, reached, refusal: last.map(|(_, refusal)| refusal), is_unsettled }
    }

    fn is_full_of_settled(&self, key: Key, limit: &Limit, now: Moment) -> bool {
        let time = self.time(key, now);
        let mut settled = self.clone();
        settled.charges.retain(|charge| !charge.open || charge.at + UNSETTLED <= time);
        settled.count(key, limit, time) >= limit.max as usize
    }

    /// How long until the limit has room: tried at each moment at which a charge leaves its window.
    fn wait(&self, key: Key, limit: &Limit, now: Moment) -> Option<Duration> {
        let full = |at: Moment| self.count(key, limit, at) >= limit.max as usize;
        let time = self.time(key, now);
        full(time).then(|| {
            let leaving = self.there(key).map(|charge| charge.at + limit.window).filter(|leaves| *leaves > time);
            leaving.filter(|leaves| !full(*leaves)).min().unwrap().since(now)
        })
    }

    fn count(&self, key: Key, limit: &Limit, now: Moment) -> usize {
        let inside = |charge: &&Charge| charge.at > now - limit.window && charge.at <= now;
        self.there(key).filter(|charge| limit.counts.includes(charge.kind)).filter(inside).count()
    }

    /// Time does not go back behind what a key was charged at, or behind a sweep.
    fn time(&self, key: Key, now: Moment) -> Moment {
        self.there(key).map(|charge| charge.at).fold(now.max(self.swept), Moment::max)
    }

    fn there(&self, key: Key) -> impl Iterator<Item = &Charge> {
        self.charges.iter().filter(move |charge| charge.there && charge.key == key)
    }
}
