//! Requests that wait for open charges to be settled: one line per key, first come, first served.
//!
//! An open charge may turn out never to have been, so a limit that is full only because of such charges refuses nobody for good:
//! the request waits until one of them is settled, and is judged then. Only the first of a line asks the ledger, and whoever comes
//! while a line stands joins its end, so that nobody is overtaken.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Charge, Ledger, Verdict};
use crate::clock::Moment;
use crate::policy::{Decision, Key, Kind, Obstacle, Policy, Refusal, Subject};

/// How many requests wait for one key at most.
pub const MAX_PER_KEY: usize = 256;

/// How many wait in all at most.
pub const MAX_WAITING: usize = 8192;

/// What a request is told that has waited in vain: by then the exchanges that it waited for have moved on.
const TOLD: Duration = Duration::from_secs(1);

/// How often the first of a line asks again by itself: time alone may make room, and what happens to charges in Redis is not always
/// told here.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The code may go out.
    Allowed,
    /// A limit refuses for good, or the ledger can take no more.
    Refused,
    /// Nothing was settled in time.
    TimedOut,
    /// Too many wait already.
    Crowded,
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allowed, Self::Refused, Self::TimedOut, Self::Crowded];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Crowded => "crowded",
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Waiting {
    now: AtomicUsize,
    arrivals: AtomicU64,
    lines: Mutex<HashMap<Key, Queue>>,
    ended: [AtomicU64; Ended::ALL.len()],
}

/// Those who wait for one key, by when they came.
type Queue = BTreeMap<u64, Arc<Notify>>;

/// A place in a line. Dropping it leaves the line.
#[derive(Debug)]
pub struct Place {
    waiting: Arc<Waiting>,
    key: Key,
    /// When it came, among all that ever waited.
    number: u64,
    called: Arc<Notify>,
}

impl Waiting {
    /// How many wait now.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// How many waits have ended, by how.
    pub fn ended(&self) -> [(&'static str, u64); Ended::ALL.len()] {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ended::ALL.map(|ended| (ended.name(), self.ended.get(ended as usize).map_or(0, count)))
    }

    /// The key of this request for which others wait, if they do for any.
    pub fn line_of(&self, policy: &Policy, subject: &Subject) -> Option<Key> {
        if self.now() == 0 {
            return None;
        }
        let lines = self.lines.lock();
        policy.keys(subject).into_iter().find(|key| lines.contains_key(key))
    }

    /// A charge of these keys has been settled.
    pub(super) fn settled(&self, charge: &Charge) {
        // A request joins its line before it asks the ledger. So if nobody stands in one now, whoever comes next sees what is settled.
        if self.now() == 0 {
            return;
        }
        charge.keys().for_each(|key| self.changed(key));
    }

    /// Something has changed that the first who waits for this key may have waited for.
    pub(super) fn changed(&self, key: Key) {
        if self.now() > 0
            && let Some((_, first)) = self.lines.lock().get(&key).and_then(Queue::first_key_value)
        {
            first.notify_one();
        }
    }

    /// Joins the line of a key: its end, or the place that a number from another line gives. `None`: too many wait.
    pub fn join(self: &Arc<Self>, key: Key, number: Option<u64>) -> Option<Place> {
        let mut lines = self.lines.lock();
        let line = lines.entry(key);
        let length = if let Entry::Occupied(line) = &line { line.get().len() } else { 0 };
        if length >= MAX_PER_KEY || self.now() >= MAX_WAITING {
            return None;
        }
        let number = number.unwrap_or_else(|| self.arrivals.fetch_add(1, Ordering::Relaxed));
        let called = Arc::new(Notify::new());
        line.or_default().insert(number, Arc::clone(&called));
        self.now.fetch_add(1, Ordering::Relaxed);
        Some(Place { waiting: Arc::clone(self), key, number, called })
    }

    fn count(&self, ended: Ended) {
        if let Some(count) = self.ended.get(ended as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Place {
    /// Whether nobody of its line came sooner.
    fn is_first(&self) -> bool {
        let lines = self.waiting.lines.lock();
        lines.get(&self.key).and_then(Queue::first_key_value).is_none_or(|(number, _)| *number >= self.number)
    }

    /// Waits until nobody of its line came sooner.
    async fn is_next(&self) {
        while !self.is_first() {
            self.called.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.waiting.lines.lock();
        if let Some(line) = lines.get_mut(&self.key) {
            line.remove(&self.number);
            match line.first_key_value() {
                Some((_, first)) => first.notify_one(),
                None => drop(lines.remove(&self.key)),
            }
        }
        self.waiting.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request asks for, and by which limits it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The limits.
    pub policy: &'a Policy,
    /// Whom the code counts against.
    pub subject: &'a Subject,
    /// What it counts as.
    pub kind: Kind,
}

impl Ledger {
    /// Judges one more code and charges it, as [`reserve`](Self::reserve) does, unless only open charges stand in its way, or others
    /// wait already for one of its keys. Then it is to [wait](Self::wait_and_reserve).
    pub async fn reserve_at_once(&self, asked: Asked<'_>, now: Moment) -> Option<(Decision, Verdict)> {
        let Asked { policy, subject, kind } = asked;
        if self.waiting().line_of(policy, subject).is_some() {
            return None;
        }
        let (decision, verdict) = self.reserve(policy, subject, kind, now).await;
        (!decision.is_unsettled).then_some((decision, verdict))
    }

    /// Waits for open charges, for as long as `patience` at most, and judges and charges the code then. In vain: it is refused, and
    /// told to come back in a second. `now` tells the time for as long as this process may judge, and what is held while it does; then no
    /// more.
    pub async fn wait_and_reserve<G: Send>(
        &self,
        asked: Asked<'_>,
        patience: Duration,
        now: impl Fn() -> Option<(Moment, G)> + Send,
    ) -> (Decision, Verdict) {
        let Asked { policy, subject, kind } = asked;
        let waiting = self.waiting();
        let mut late = pin!(tokio::time::sleep(patience));
        let (mut key, mut place): (_, Option<Place>) = (waiting.line_of(policy, subject), None);
        let mut judged = Decision::default();
        let ended = loop {
            if let Some(key) = key.filter(|_| !patience.is_zero())
                && place.as_ref().is_none_or(|place| place.key != key)
            {
                // It leaves the one line before it joins the other, where its number keeps its place.
                let number = place.take().map(|place| place.number);
                let Some(joined) = waiting.join(key, number) else { break Ended::Crowded };
                place = Some(joined);
            }
            if let Some(place) = &place {
                tokio::select! {
                    biased;
                    () = &mut late => break Ended::TimedOut,
                    () = place.is_next() => {}
                }
            }
            let Some((now, judging)) = now() else { break Ended::TimedOut };
            let (decision, verdict) = self.reserve(policy, subject, kind, now).await;
            drop(judging);
            if !decision.is_unsettled {
                let ended = if matches!(verdict, Verdict::Reserved(_)) { Ended::Allowed } else { Ended::Refused };
                waiting.count(ended);
                return (decision, verdict);
            }
            judged = decision;
            let blocking = decision.waits_for(policy, subject);
            if patience.is_zero() || blocking.is_none() {
                break Ended::TimedOut;
            }
            if let (Some(place), true) = (&place, key == blocking) {
                tokio::select! {
                    biased;
                    // However often it is called.
                    () = &mut late => break Ended::TimedOut,
                    () = place.called.notified() => {}
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                }
            }
            key = blocking;
        };
        waiting.count(ended);
        // One that was never the first has not been judged: it would take the place of those before it.
        let met = key.map_or(&[][..], |key| policy.met(key.per(), kind)).iter();
        let place = match judged.refusal.map(|refusal| refusal.by) {
            Some(Obstacle::Limit(place) | Obstacle::Unsettled(place)) => place,
            Some(Obstacle::Hold | Obstacle::AccountHold) | None => {
                met.filter(|rule| rule.enforced).map(|rule| rule.place).next().unwrap_or(0)
            }
        };
        let refusal = Refusal { by: Obstacle::Unsettled(place), retry_after: TOLD };
        (Decision { refusal: Some(refusal), is_unsettled: true, ..judged }, Verdict::Refused(refusal))
    }
}
