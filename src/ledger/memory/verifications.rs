//! Which phone a verification belongs to: learned from Sendly's answers, bounded, and forgotten after a while.
//!
//! A resend names its verification and no phone, and may answer another id. So each id leads to a phone and to the *root*:
//! the first id under which the gateway met the verification, which is the one that its cooldown counts against.
//!
//! An old id makes room for a new one: an id that is not known here is looked up at Sendly. What is lost with it is its root, and
//! so at worst one cooldown; its phone's limits are not, and no id is forgotten while a limit counts it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::entries::{OfVerification, TURNS};
use super::shards::{Locked, Logged, SHARDS, Shards};
use crate::clock::Moment;
use crate::ledger::Known;
use crate::phone::Phone;
use crate::policy::subject::Verification;

/// When an id was learned is kept in turns of 11 minutes, in microseconds. The longest that anything is remembered (31 days) is a quarter
/// of all turns.
const TURN: u64 = 11 * 60 * 1_000_000;

/// The most turns that anything is remembered for.
const MAX_REMEMBERED: u64 = TURNS / 4;

/// What two ids of one verification are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Joined {
    /// Both.
    pub(in crate::ledger) known: Known,
    /// What the one that was answered was rooted in before, if that was another: its charges have to follow.
    pub(in crate::ledger) moved: Option<Verification>,
    /// Whether that is news of the one that was asked for, and of the one that was answered.
    pub(in crate::ledger) news: [bool; 2],
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Verifications {
    pub(super) shards: Shards<OfVerification>,
    most_per_shard: AtomicUsize,
    /// For how many turns an id is remembered.
    remembered: AtomicU64,
}

impl Verifications {
    /// Remembers at most about `most` ids, each for `remember` and up to two turns longer.
    pub(super) fn new(most: usize, remember: Duration) -> Self {
        let new = Self { shards: Shards::new(), most_per_shard: 0.into(), remembered: 0.into() };
        new.set_bounds(most, remember);
        new
    }

    /// Remembers so many, and for so long, from now on.
    pub(super) fn set_bounds(&self, most: usize, remember: Duration) {
        let remember = u64::try_from(remember.as_micros()).unwrap_or(u64::MAX);
        self.most_per_shard.store(most.div_ceil(SHARDS).max(1), Ordering::Relaxed);
        self.remembered.store(remember.div_ceil(TURN).min(MAX_REMEMBERED), Ordering::Relaxed);
    }

    /// What is known of an id.
    pub(super) fn find(&self, id: Verification, now: Moment) -> Option<Known> {
        self.known(&self.shards.lock_itself(id), id, now)
    }

    /// Learns that `id` is a verification of this phone. What it is rooted in stays, if it is known. Returns what is known now, and
    /// whether that is news.
    pub(super) fn learn(&self, id: Verification, phone: Phone, now: Moment) -> (Known, bool) {
        let mut locked = self.shards.lock_itself(id);
        let root = self.known(&locked, id, now).map_or(id, |known| known.root);
        let known = Known { phone, root };
        (known, self.put(&mut locked, known, id, now))
    }

    /// Knows again what was learned then.
    pub(super) fn restore(&self, id: Verification, known: Known, learned: Moment, now: Moment) {
        if !self.is_old(turn_of(learned), now) {
            self.put(&mut self.shards.lock_itself(id), known, id, learned);
        }
    }

    /// Learns that `asked` and `answered` are two ids of one verification.
    pub(super) fn join(&self, asked: Verification, answered: Verification, phone: Phone, now: Moment) -> Joined {
        let (known, is_news) = self.learn(asked, phone, now);
        if asked == answered {
            return Joined { known, moved: None, news: [is_news, false] };
        }
        let mut locked = self.shards.lock_itself(answered);
        let before = self.known(&locked, answered, now).map_or(answered, |other| other.root);
        let news = [is_news, self.put(&mut locked, known, answered, now)];
        Joined { known, moved: (before != known.root).then_some(before), news }
    }

    /// What an entry says of this id, and when that was learned, to the turn.
    pub(super) fn told(
        &self,
        id: Verification,
        entry: &OfVerification,
        root: Option<Verification>,
        now: Moment,
    ) -> Option<(Known, Moment)> {
        let (phone, learned) = entry.whose()?;
        let at = now - Duration::from_micros(age(learned, now) * TURN);
        (!self.is_old(learned, now)).then(|| (Known { phone, root: root.unwrap_or(id) }, at))
    }

    /// Whether what is known of an id is still to be known; forgets it if not.
    pub(super) fn is_remembered(&self, entry: &mut OfVerification, now: Moment) -> bool {
        let young = entry.whose().is_some_and(|(_, learned)| !self.is_old(learned, now));
        if !young {
            entry.set_whose(None);
        }
        young
    }

    fn known(&self, locked: &Locked<'_, OfVerification>, id: Verification, now: Moment) -> Option<Known> {
        let (phone, learned) = locked.entry()?.whose()?;
        (!self.is_old(learned, now)).then(|| Known { phone, root: locked.root().unwrap_or(id) })
    }

    /// Returns whether that is news.
    pub(super) fn put(
        &self,
        locked: &mut Locked<'_, OfVerification>,
        known: Known,
        id: Verification,
        now: Moment,
    ) -> bool {
        let (whose, root) = ((known.phone, turn_of(now)), Some(known.root).filter(|root| *root != id));
        if locked.entry().is_some_and(|entry| entry.whose() == Some(whose)) && locked.root() == root {
            return false;
        }
        if locked.entry().is_none() {
            let age = |entry: &OfVerification| entry.whose().map(|(_, learned)| age(learned, now));
            let most = self.most_per_shard.load(Ordering::Relaxed);
            // Two, where there are too many: after a reload that lowered the bound they become fewer.
            for _ in 0..2 {
                if locked.neighbours() >= most {
                    locked.evict_one(|entry| age(entry).filter(|_| entry.log().is_empty()));
                }
            }
        }
        locked.change(|entry| entry.set_whose(Some(whose)));
        locked.set_root(root);
        true
    }

    fn is_old(&self, learned: u64, now: Moment) -> bool {
        age(learned, now) > self.remembered.load(Ordering::Relaxed)
    }
}

const fn turn_of(now: Moment) -> u64 {
    now.as_micros() / TURN % TURNS
}

/// In turns. They start again after four times as long as anything is remembered, and the far half of them is the future: a clock
/// that is behind finds nothing old.
const fn age(learned: u64, now: Moment) -> u64 {
    let age = (turn_of(now) + TURNS - learned) % TURNS;
    if age < TURNS / 2 { age } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Retention;
    use crate::policy::subject::HashKey;

    const START: Moment = Moment::from_micros(1_795_424_400_000_000);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const A_TURN: Duration = Duration::from_micros(TURN);

    fn id(text: &str) -> Verification {
        HashKey::new([1; 16]).verification(text)
    }

    fn phone(digits: &str) -> Phone {
        digits.parse().unwrap()
    }

    fn sweep(verifications: &Verifications, now: Moment) {
        for shard in 0..SHARDS {
            verifications.shards.sweep(
                shard,
                Retention::default(),
                now,
                |entry| verifications.is_remembered(entry, now),
                |_, _, _| (),
            );
        }
    }

    #[test]
    fn an_id_is_its_own_root_until_it_is_joined() {
        let verifications = Verifications::new(10_000, DAY);
        assert_eq!(verifications.find(id("a"), START), None);
        verifications.learn(id("a"), phone("+15550100123"), START);
        assert_eq!(verifications.find(id("a"), START).unwrap().root, id("a"));
        let Joined { known, moved, .. } = verifications.join(id("a"), id("b"), phone("+15550100123"), START);
        assert_eq!((known.root, moved), (id("a"), Some(id("b"))));
        assert_eq!(verifications.find(id("b"), START), Some(known));
        let Joined { known, .. } = verifications.join(id("b"), id("c"), phone("+15550100123"), START);
        assert_eq!(known.root, id("a"), "a third id is rooted in the first");
        let again = verifications.join(id("c"), id("a"), phone("+15550100123"), START);
        assert_eq!(again, Joined { known, moved: None, news: [false, false] });
    }

    #[test]
    fn an_id_is_forgotten_a_turn_after_its_time_and_no_sooner() {
        let verifications = Verifications::new(10_000, DAY);
        verifications.learn(id("a"), phone("+15550100123"), START);
        verifications.join(id("a"), id("b"), phone("+15550100123"), START);
        for behind in [DAY, Duration::ZERO] {
            let now = START + (DAY - behind);
            sweep(&verifications, now);
            assert!(verifications.find(id("a"), now).is_some() && verifications.find(id("b"), now).is_some());
        }
        let now = START + DAY + A_TURN * 2;
        assert!(verifications.find(id("a"), now).is_none() && verifications.find(id("b"), now).is_none());
        assert_eq!(verifications.shards.len(), 2);
        sweep(&verifications, now);
        assert_eq!(verifications.shards.len(), 0);
        verifications.learn(id("b"), phone("+15550100123"), now);
        assert_eq!(verifications.find(id("b"), now).unwrap().root, id("b"), "its root is forgotten with it");
    }

    #[test]
    fn what_was_learned_before_a_reload_is_remembered_as_the_reload_says() {
        let verifications = Verifications::new(10_000, DAY);
        verifications.learn(id("a"), phone("+15550100123"), START);
        verifications.set_bounds(10_000, DAY * 31);
        let late = START + DAY * 30;
        sweep(&verifications, late);
        assert!(verifications.find(id("a"), late).is_some());
        verifications.set_bounds(10_000, DAY * 29);
        assert!(verifications.find(id("a"), late).is_none());
    }

    #[test]
    fn fewer_ids_are_kept_once_fewer_may_be() {
        let verifications = Verifications::new(64 * SHARDS, DAY);
        let learn = |many: std::ops::Range<u64>| {
            for nth in many {
                verifications.learn(id(&nth.to_string()), phone("+15550100123"), START);
            }
        };
        learn(0..20_000);
        assert!(verifications.shards.len() > 50 * SHARDS);
        verifications.set_bounds(8 * SHARDS, DAY);
        learn(20_000..40_000);
        sweep(&verifications, START);
        learn(40_000..60_000);
        // A few more: an old one that is not near the new one is not looked for.
        assert!(verifications.shards.len() <= 9 * SHARDS, "{}", verifications.shards.len());
    }

    #[test]
    fn a_clock_that_is_behind_forgets_nothing() {
        let verifications = Verifications::new(10_000, DAY);
        verifications.learn(id("a"), phone("+15550100123"), START);
        sweep(&verifications, START - DAY);
        assert!(verifications.find(id("a"), START - DAY).is_some());
    }

    #[test]
    fn an_id_that_is_seen_again_lives_on() {
        let verifications = Verifications::new(10_000, DAY);
        verifications.learn(id("a"), phone("+15550100123"), START);
        verifications.learn(id("a"), phone("+15550100123"), START + DAY / 4);
        sweep(&verifications, START + DAY + A_TURN * 2);
        assert!(verifications.find(id("a"), START + DAY + A_TURN * 2).is_some());
    }

    #[test]
    fn old_ids_make_room_for_new_ones() {
        let verifications = Verifications::new(16 * SHARDS, DAY);
        let moment = |nth: u64| START + Duration::from_secs(nth);
        for nth in 0..40_000 {
            verifications.learn(id(&nth.to_string()), phone("+15550100123"), moment(nth));
        }
        assert!(verifications.shards.len() <= 16 * SHARDS, "{}", verifications.shards.len());
        let known = |nth: u64| verifications.find(id(&nth.to_string()), moment(40_000)).is_some();
        assert!(known(39_999));
        assert!((0..30_000).all(|nth| !known(nth)), "those are not the oldest");
    }
}
