//! Which phone a verification belongs to: learned from Sendly's answers, bounded, and forgotten after a while.
//!
//! A resend names its verification and no phone, and may answer another id. So each id leads to a phone and to the *root*:
//! the first id under which the gateway met the verification, which is the one that its cooldown counts against.
//!
//! The oldest id makes room for the newest: an id that is not known here is looked up at Sendly. What is lost with it is its root,
//! and so at worst one cooldown; its phone's limits are not.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::Verification;

const SHARDS: usize = 64;

/// What is known of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where its codes go.
    pub phone: Phone,
    /// The id that its cooldown counts against.
    pub root: Verification,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Verifications {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    most_per_shard: usize,
    remember: Duration,
}

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<Verification, (Known, Moment)>,
    /// When each id was learned, oldest first. An id that was learned again since stands here twice; only its last place counts.
    order: VecDeque<(Moment, Verification)>,
}

impl Verifications {
    /// Remembers at most about `most` ids, each for `remember`.
    pub fn new(most: usize, remember: Duration) -> Self {
        Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            hasher: RandomState::new(),
            most_per_shard: most.div_ceil(SHARDS).max(1),
            remember,
        }
    }

    /// What is known of an id.
    pub fn find(&self, id: Verification, now: Moment) -> Option<Known> {
        let shard = self.shard(id).lock();
        let (known, learned) = shard.known.get(&id)?;
        (*learned + self.remember > now).then_some(*known)
    }

    /// Learns that `id` is a verification of this phone. What it is rooted in stays, if it is known.
    pub fn learn(&self, id: Verification, phone: Phone, now: Moment) -> Known {
        let root = self.find(id, now).map_or(id, |known| known.root);
        self.put(id, Known { phone, root }, now)
    }

    /// Learns that `asked` and `answered` are two ids of one verification. Returns what both are now, and the root that
    /// `answered` had before, if it was another: its charges have to follow.
    pub fn join(
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
        let before = self.find(answered, now).map_or(answered, |other| other.root);
        self.put(answered, known, now);
        (known, (before != known.root).then_some(before))
    }

    /// Forgets what is too old. Returns how many ids were.
    pub fn sweep(&self, now: Moment) -> usize {
        self.shards.iter().map(|shard| shard.lock().forget(|learned| learned + self.remember <= now, usize::MAX)).sum()
    }

    /// How many ids are known.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().known.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&self, id: Verification, known: Known, now: Moment) -> Known {
        let mut shard = self.shard(id).lock();
        match shard.known.get_mut(&id) {
            // Polled again and again: it is still young, and need not be filed anew.
            Some((before, learned)) if now.since(*learned) < self.remember / 2 => *before = known,
            _ => {
                shard.known.insert(id, (known, now));
                shard.order.push_back((now, id));
                shard.forget(|_| false, self.most_per_shard);
            }
        }
        known
    }

    fn shard(&self, id: Verification) -> &Mutex<Shard> {
        let place = (self.hasher.hash_one(id) >> 24) as usize % SHARDS;
        #[allow(clippy::indexing_slicing, reason = "the remainder of a division by their number")]
        &self.shards[place]
    }
}

impl Shard {
    /// Forgets the oldest ids for as long as they are `too_old` or more than `most`.
    fn forget(&mut self, too_old: impl Fn(Moment) -> bool, most: usize) -> usize {
        let before = self.known.len();
        while let Some((learned, id)) = self.order.front().copied() {
            if !too_old(learned) && self.known.len() <= most {
                break;
            }
            self.order.pop_front();
            if self.known.get(&id).is_some_and(|(_, last)| *last == learned) {
                self.known.remove(&id);
            }
        }
        before - self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::HashKey;

    const START: Moment = Moment::from_micros(1_000_000_000);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn id(text: &str) -> Verification {
        HashKey::new([1; 16]).verification(text)
    }

    fn phone(digits: &str) -> Phone {
        digits.parse().unwrap()
    }

    #[test]
    fn an_id_is_its_own_root_until_it_is_joined() {
        let verifications = Verifications::new(100, DAY);
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
    fn an_id_is_forgotten_after_its_time_and_no_sooner() {
        let verifications = Verifications::new(100, DAY);
        verifications.learn(id("a"), phone("+15550100123"), START);
        let just_before = START + (DAY - Duration::from_micros(1));
        assert_eq!(verifications.sweep(just_before), 0);
        assert!(verifications.find(id("a"), just_before).is_some());
        assert!(verifications.find(id("a"), START + DAY).is_none());
        assert_eq!(verifications.sweep(START + DAY), 1);
        assert!(verifications.is_empty());
    }

    #[test]
    fn an_id_that_is_seen_again_late_lives_on() {
        let verifications = Verifications::new(100, DAY);
        verifications.learn(id("a"), phone("+15550100123"), START);
        verifications.learn(id("a"), phone("+15550100123"), START + DAY * 3 / 4);
        assert_eq!(verifications.sweep(START + DAY), 0, "its first place in the order counts no more");
        assert!(verifications.find(id("a"), START + DAY).is_some());
    }

    #[test]
    fn the_oldest_ids_make_room() {
        let verifications = Verifications::new(640, DAY);
        for nth in 0..10_000_u64 {
            verifications.learn(id(&nth.to_string()), phone("+15550100123"), START + Duration::from_micros(nth));
        }
        assert!(verifications.len() <= 640, "{}", verifications.len());
        assert!(verifications.find(id("9999"), START + DAY / 2).is_some());
        assert!(verifications.find(id("0"), START + DAY / 2).is_none());
    }
}
