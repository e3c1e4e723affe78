//! What Sendly itself refuses for a while: a phone, to one account.
//!
//! Sendly says `rate_limit_exceeded` for a phone that has had too many codes, and for an account that has made too many requests; the
//! answer does not tell which. So it holds the phone for the account that was told so. Once two accounts have been told so of one phone,
//! it is the phone: the ledger holds it for everybody, for as long as both are held.
//!
//! Gateways that share Redis tell each other (`redis/in_flight.rs`), about a second later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Moment;
use crate::policy::Key;
use crate::policy::subject::Account;

/// How many phones are held for accounts at most. What is one more is not held: Sendly is asked, and says so again.
const MAX_HELD: usize = 100_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Holds {
    many: AtomicUsize,
    held: Mutex<HashMap<Key, AccountHold>>,
}

/// The two accounts that are held longest: together they tell until when two are, which is all that others need to know.
#[derive(Clone, Copy, Debug)]
struct AccountHold {
    last: (Account, Moment),
    second: Option<(Account, Moment)>,
}

impl AccountHold {
    fn until(&self, account: Account) -> Option<Moment> {
        let all = std::iter::once(self.last).chain(self.second);
        all.filter(|(held, _)| *held == account).map(|(_, until)| until).max()
    }

    fn add(&mut self, account: Account, until: Moment) {
        let until = self.until(account).map_or(until, |before| before.max(until));
        let others = std::iter::once(self.last).chain(self.second).filter(|(held, _)| *held != account);
        let Some(other) = others.max_by_key(|(_, until)| *until) else {
            self.last = (account, until);
            return;
        };
        let own = (account, until);
        (self.last, self.second) = if own.1 >= other.1 { (own, Some(other)) } else { (other, Some(own)) };
    }
}

impl Holds {
    /// How many phones are held for accounts.
    pub fn many(&self) -> usize {
        self.many.load(Ordering::Relaxed)
    }

    /// Sendly refuses this account this phone until then. Returns until when it is to be held for everybody, if it is.
    pub(in crate::ledger) fn add(&self, key: Key, account: Account, until: Moment, now: Moment) -> Option<Moment> {
        let mut held = self.held.lock();
        if held.len() >= MAX_HELD && !held.contains_key(&key) {
            return None;
        }
        let entry = held.entry(key).or_insert(AccountHold { last: (account, until), second: None });
        entry.add(account, until);
        let both = entry.second.map(|(_, until)| until).filter(|until| *until > now);
        self.many.store(held.len(), Ordering::Relaxed);
        both
    }

    /// How long Sendly still refuses this account this phone.
    pub fn wait(&self, key: Key, account: Account, now: Moment) -> Option<Duration> {
        if self.many() == 0 {
            return None;
        }
        let until = self.held.lock().get(&key)?.until(account)?;
        Some(until.since(now)).filter(|wait| !wait.is_zero())
    }

    /// Until when it is held for whichever account.
    pub fn last(&self, key: Key, now: Moment) -> Option<Moment> {
        Some(self.held.lock().get(&key)?.last.1).filter(|until| *until > now)
    }

    /// Forgets the holds of a phone. Returns whether there were any.
    pub fn clear(&self, key: Key, now: Moment) -> bool {
        let mut held = self.held.lock();
        let cleared = held.remove(&key);
        self.many.store(held.len(), Ordering::Relaxed);
        cleared.is_some_and(|held| held.last.1 > now)
    }

    /// Every hold that is not over.
    pub(in crate::ledger) fn each(&self, now: Moment, mut tell: impl FnMut(Key, Account, Moment)) {
        for (key, held) in self.held.lock().iter() {
            for (account, until) in std::iter::once(held.last).chain(held.second).filter(|(_, until)| *until > now) {
                tell(*key, account, until);
            }
        }
    }

    /// Drops what is over.
    pub fn sweep(&self, now: Moment) {
        let mut held = self.held.lock();
        held.retain(|_, held| held.last.1 > now);
        if held.capacity() > 4 * held.len() {
            held.shrink_to_fit();
        }
        self.many.store(held.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::HashKey;

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn account(name: &str) -> Account {
        HashKey::new([1; 16]).account(name.as_bytes())
    }

    fn key() -> Key {
        Key::Phone("+15550100123".parse().unwrap())
    }

    #[test]
    fn one_account_that_is_refused_is_held_alone() {
        let holds = Holds::default();
        assert_eq!(holds.add(key(), account("a"), NOW + SECOND * 9, NOW), None);
        assert_eq!(holds.wait(key(), account("a"), NOW), Some(SECOND * 9));
        assert_eq!(holds.wait(key(), account("b"), NOW), None);
        assert_eq!(holds.add(key(), account("a"), NOW + SECOND * 5, NOW), None, "told twice is no second account");
        assert_eq!(holds.wait(key(), account("a"), NOW), Some(SECOND * 9));
        assert_eq!(holds.wait(key(), account("a"), NOW + SECOND * 9), None);
    }

    #[test]
    fn a_phone_is_held_for_all_for_as_long_as_two_accounts_are() {
        let holds = Holds::default();
        assert_eq!(holds.add(key(), account("a"), NOW + SECOND * 9, NOW), None);
        assert_eq!(holds.add(key(), account("b"), NOW + SECOND * 5, NOW), Some(NOW + SECOND * 5));
        assert_eq!(holds.add(key(), account("c"), NOW + SECOND * 7, NOW), Some(NOW + SECOND * 7));
        assert_eq!(holds.wait(key(), account("a"), NOW), Some(SECOND * 9), "its own is over later");
        // The first is over when the other is told so: that is one account again.
        let later = NOW + SECOND * 9;
        assert_eq!(holds.add(key(), account("d"), later + SECOND, later), None);
    }

    #[test]
    fn what_is_over_or_cleared_is_forgotten() {
        let holds = Holds::default();
        holds.add(key(), account("a"), NOW + SECOND, NOW);
        holds.sweep(NOW);
        assert_eq!((holds.many(), holds.last(key(), NOW)), (1, Some(NOW + SECOND)));
        holds.sweep(NOW + SECOND);
        assert_eq!(holds.many(), 0);
        holds.add(key(), account("a"), NOW + SECOND, NOW);
        assert!(holds.clear(key(), NOW) && !holds.clear(key(), NOW));
    }
}
