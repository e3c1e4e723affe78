//! Which phone a verification belongs to: learned from Sendly's answers, bounded, and forgotten after a while.
//!
//! A resend names its verification and no phone, and may answer another id. So each id leads to a phone and to the *root*:
//! the first id under which the gateway met the verification, which is the one that its cooldown counts against.
//!
//! An old id makes room for a new one: an id that is not known here is looked up at Sendly. What is lost with it is its root, and
//! so at worst one cooldown; its phone's limits are not, and no id is forgotten while a limit counts it.

use std::time::Duration;

use super::entries::{OfVerification, TURNS};
use super::shards::{Locked, Logged, SHARDS, Shards};
use crate::clock::Moment;
use crate::ledger::Known;
use crate::phone::Phone;
use crate::policy::subject::Verification;

/// When an id was learned is kept in turns: so many of them are how long it is remembered.
const REMEMBERED: u64 = TURNS / 4;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Verifications {
    pub(super) shards: Shards<OfVerification>,
    most_per_shard: usize,
    /// How long a turn is, in microseconds.
    turn: u64,
}

impl Verifications {
    /// Remembers at most about `most` ids, each for `remember` and up to 1/4096 of that longer.
    pub(super) fn new(most: usize, remember: Duration) -> Self {
        let remember = u64::try_from(remember.as_micros()).unwrap_or(u64::MAX);
        Self {
            shards: Shards::new(),
            most_per_shard: most.div_ceil(SHARDS).max(1),
            turn: remember.div_ceil(REMEMBERED).max(1),
        }
    }

    /// What is known of an id.
    pub(super) fn find(&self, id: Verification, now: Moment) -> Option<Known> {
        self.known(&self.shards.lock_itself(id), id, now)
    }

    /// Learns that `id` is a verification of this phone. What it is rooted in stays, if it is known.
    pub(super) fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        let mut locked = self.shards.lock_itself(id);
        let root = self.known(&locked, id, now).map_or(id, |known| known.root);
        self.put(&mut locked, Known { phone, root }, id, now);
        Known { phone, root }
    }

    /// Learns that `asked` and `answered` are two ids of one verification. Returns what both are now, and the root that
    /// `answered` had before, if it was another: its charges have to follow.
    pub(super) fn join(
        &self,
        asked: Verification,
        answered: Verification,
        phone: Phone,
        now: Moment,
    ) -> (Known, Option<Verification>) {
        let known = self.learn(asked, phone, now);
        if asked == answered {
            return (known, None);
        }
        let mut locked = self.shards.lock_itself(answered);
        let before = self.known(&locked, answered, now).map_or(answered, |other| other.root);
        self.put(&mut locked, known, answered, now);
        (known, (before != known.root).then_some(before))
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

    fn put(&self, locked: &mut Locked<'_, OfVerification>, known: Known, id: Verification, now: Moment) {
        if locked.entry().is_none() && locked.neighbours() >= self.most_per_shard {
            let age = |entry: &OfVerification| entry.whose().map(|(_, learned)| self.age(learned, now));
            locked.evict_one(|entry| age(entry).filter(|_| entry.log().is_empty()));
        }
        locked.change(|entry| entry.set_whose(Some((known.phone, self.turn_of(now)))));
        locked.set_root(Some(known.root).filter(|root| *root != id));
    }

    const fn turn_of(&self, now: Moment) -> u64 {
        now.as_micros() / self.turn % TURNS
    }

    /// In turns. They start again after four times as long as anything is remembered, and the far half of them is the future:
    /// a clock that is behind finds nothing old.
    const fn age(&self, learned: u64, now: Moment) -> u64 {
        let age = (self.turn_of(now) + TURNS - learned) % TURNS;
        if age < TURNS / 2 { age } else { 0 }
    }

    const fn is_old(&self, learned: u64, now: Moment) -> bool {
        self.age(learned, now) > REMEMBERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Retention;
    use crate::policy::subject::HashKey;

    const START: Moment = Moment::from_micros(1_795_424_400_000_000);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const TURN: Duration = Duration::from_micros(DAY.as_micros() as u64 / REMEMBERED + 1);

    fn id(text: &str) -> Verification {
        HashKey::new([1; 16]).verification(text)
    }

    fn phone(digits: &str) -> Phone {
        digits.parse().unwrap()
    }

    fn sweep(verifications: &Verifications, now: Moment) {
        for shard in 0..SHARDS {
            verifications
                .shards
                .sweep(shard, Retention::default(), now, |entry| verifications.is_remembered(entry, now));
        }
    }

    #[test]
    fn an_id_is_its_own_root_until_it_is_joined() {
        let verifications = Verifications::new(10_000, DAY);
        assert_eq!(verifications.find(id("a"), START), None);
        verifications.learn(id("a"), phone("+15550100123"), START);
        assert_eq!(verifications.find(id("a"), START).unwrap().root, id("a"));
        let (known, moved) = verifications.join(id("a"), id("b"), phone("+15550100123"), START);
        assert_eq!((known.root, moved), (id("a"), Some(id("b"))));
        assert_eq!(verifications.find(id("b"), START), Some(known));
        let (known, _) = verifications.join(id("b"), id("c"), phone("+15550100123"), START);
        assert_eq!(known.root, id("a"), "a third id is rooted in the first");
        assert_eq!(verifications.join(id("c"), id("a"), phone("+15550100123"), START), (known, None));
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
        let now = START + DAY + TURN * 2;
        assert!(verifications.find(id("a"), now).is_none() && verifications.find(id("b"), now).is_none());
        assert_eq!(verifications.shards.len(), 2);
        sweep(&verifications, now);
        assert_eq!(verifications.shards.len(), 0);
        verifications.learn(id("b"), phone("+15550100123"), now);
        assert_eq!(verifications.find(id("b"), now).unwrap().root, id("b"), "its root is forgotten with it");
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
        sweep(&verifications, START + DAY + TURN * 2);
        assert!(verifications.find(id("a"), START + DAY + TURN * 2).is_some());
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
