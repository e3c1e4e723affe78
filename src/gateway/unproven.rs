//! What is known of API keys that Sendly has not accepted, and how many of their requests may reach Sendly.
//!
//! Sendly locks out the *address* that shows it too many wrong keys, and that address is the gateway's. So 401s are counted: an unproven
//! request takes a failure slot before it is sent and gives it back afterwards; a 401 stays in the window instead. Requests that may fail
//! and failures together never exceed the maximum.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::Kind;
use crate::policy::subject::{Account, Verification};

/// For how long a 401 counts: Sendly's longest lock.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// For how long a refused key is answered without Sendly being asked: the first time, and each time after that.
const FIRST_REFUSAL: Duration = Duration::from_secs(60);
const LATER_REFUSAL: Duration = Duration::from_secs(5 * 60);

/// For how long after that it is remembered that the key was refused before.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// Unproven requests that are at Sendly at the same time, at most, whatever the failure slots allow.
const MAX_IN_FLIGHT: usize = 32;

/// Refused keys that are remembered at most. The one whose refusal ends first makes room.
const MAX_REFUSED: usize = 10_000;

/// Keys with a code whose outcome is not known, at most. At the bound an unproven key is proved before its code is sent.
pub(crate) const MAX_OPEN: usize = 1_024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Unproven {
    max_failed: usize,
    /// When the 401s in the window came, the oldest first.
    failures: VecDeque<Moment>,
    locked_until: Moment,
    /// Keys with a request at Sendly.
    in_flight: HashSet<Account>,
    /// Requests at Sendly, those without a key included.
    slots_taken: usize,
    refused: HashMap<Account, RefusedKey>,
    open: HashMap<Account, OpenCode>,
}

/// Sendly's word for why it does not accept a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Unauthorized,
    InvalidApiKey,
}

#[derive(Clone, Copy, Debug)]
struct RefusedKey {
    until: Moment,
    word: Word,
}

/// A code of an unproven key that may be out: it is charged if the key turns out to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenCode {
    pub(crate) phone: Option<Phone>,
    pub(crate) verification: Option<Verification>,
    pub(crate) kind: Kind,
    pub(crate) at: Moment,
}

/// Why an unproven request may not be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Sendly refused its key a short while ago.
    Refused(Word),
    /// As many 401s as may be were caused, or Sendly has locked the address: not before this time is over.
    Locked(Duration),
    /// Another request of this key is at Sendly, and may prove it.
    KeyInFlight,
    /// As many requests are at Sendly as may still fail.
    NoSlot,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnprovenCounts {
    pub(crate) in_flight: usize,
    pub(crate) failures: usize,
    pub(crate) refused: usize,
    pub(crate) open: usize,
}

impl Unproven {
    pub(crate) fn new(max_failed: usize) -> Self {
        Self {
            max_failed,
            failures: VecDeque::new(),
            locked_until: Moment::default(),
            in_flight: HashSet::new(),
            slots_taken: 0,
            refused: HashMap::new(),
            open: HashMap::new(),
        }
    }

    pub(crate) fn set_max_failed(&mut self, max_failed: usize) {
        self.max_failed = max_failed;
    }

    /// Takes a failure slot for a request of this key, or of none. It has to be given back with [`leave`](Self::leave).
    pub(crate) fn enter(&mut self, account: Option<Account>, now: Moment) -> Result<(), Denied> {
        if let Some(word) = account.and_then(|account| self.refusal(account, now)) {
            return Err(Denied::Refused(word));
        }
        if account.is_some_and(|account| self.in_flight.contains(&account)) {
            return Err(Denied::KeyInFlight);
        }
        let wait = self.wait(now);
        if !wait.is_zero() {
            return Err(Denied::Locked(wait));
        }
        if self.slots_taken >= MAX_IN_FLIGHT || self.failures.len() + self.slots_taken >= self.max_failed {
            return Err(Denied::NoSlot);
        }
        self.slots_taken += 1;
        self.in_flight.extend(account);
        Ok(())
    }

    /// Gives a failure slot back. A 401 has to be told before that.
    pub(crate) fn leave(&mut self, account: Option<Account>) {
        self.slots_taken = self.slots_taken.saturating_sub(1);
        if let Some(account) = account {
            self.in_flight.remove(&account);
        }
    }

    /// Sendly refused this key.
    pub(crate) fn refuse(&mut self, account: Account, word: Word, now: Moment) {
        self.fail(now);
        self.open.remove(&account);
        let before = self.refused.get(&account).copied();
        if before.is_some_and(|before| before.until > now) {
            // Of several requests at once this is one refusal.
            return;
        }
        if before.is_none() && self.refused.len() >= MAX_REFUSED {
            let first = self.refused.iter().min_by_key(|(_, refused)| refused.until).map(|(account, _)| *account);
            first.and_then(|first| self.refused.remove(&first));
        }
        let lasts = if before.is_some() { LATER_REFUSAL } else { FIRST_REFUSAL };
        self.refused.insert(account, RefusedKey { until: now + lasts, word });
    }

    /// Sendly answered 401 to whatever key, or may have.
    pub(crate) fn fail(&mut self, now: Moment) {
        self.forget_failures(now);
        self.failures.push_back(now);
    }

    /// Sendly refuses every wrong key until then.
    pub(crate) fn lock(&mut self, until: Moment) {
        self.locked_until = self.locked_until.max(until);
    }

    /// Sendly accepted this key. Returns its code whose outcome was open: it has to be charged now.
    pub(crate) fn accept(&mut self, account: Account) -> Option<OpenCode> {
        self.refused.remove(&account);
        self.open.remove(&account)
    }

    /// Sendly's word for this key, if it refused the key a short while ago.
    pub(crate) fn refusal(&self, account: Account, now: Moment) -> Option<Word> {
        self.refused.get(&account).filter(|refused| refused.until > now).map(|refused| refused.word)
    }

    /// Whether a key has to be proved before a code is sent on it.
    pub(crate) fn has_to_be_proved(&self, account: Account) -> bool {
        self.open.contains_key(&account) || self.open.len() >= MAX_OPEN
    }

    /// Remembers a code of this key whose outcome is not known.
    pub(crate) fn keep_open(&mut self, account: Account, code: OpenCode) {
        self.open.insert(account, code);
    }

    /// Forgets what nothing can need any more. `longest`: for how long a code counts.
    pub(crate) fn sweep(&mut self, now: Moment, longest: Duration) {
        self.forget_failures(now);
        self.refused.retain(|_, refused| refused.until + REMEMBERED > now);
        self.open.retain(|_, code| code.at + longest > now);
    }

    pub(crate) fn kept(&mut self, now: Moment) -> UnprovenCounts {
        self.forget_failures(now);
        UnprovenCounts {
            in_flight: self.slots_taken,
            failures: self.failures.len(),
            refused: self.refused.len(),
            open: self.open.len(),
        }
    }

    /// How long it takes until another request may fail.
    fn wait(&mut self, now: Moment) -> Duration {
        self.forget_failures(now);
        // More than the maximum are in the window only where proven keys were revoked, or the maximum was lowered.
        let last_to_leave = self.failures.len().checked_sub(self.max_failed).and_then(|place| self.failures.get(place));
        let by_failures = last_to_leave.map_or(Duration::ZERO, |failure| (*failure + WINDOW).since(now));
        by_failures.max(self.locked_until.since(now))
    }

    fn forget_failures(&mut self, now: Moment) {
        while self.failures.front().is_some_and(|failure| *failure + WINDOW <= now) {
            self.failures.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU128;

    use proptest::prelude::*;

    use super::*;

    fn account(bits: u128) -> Account {
        Account::from_bits(NonZeroU128::new(bits + 1).unwrap())
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(1_800_000_000_000_000) + Duration::from_secs(seconds)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A request of this key that Sendly answers with 401.
    fn fails(table: &mut Unproven, key: u128, now: Moment) -> Result<(), Denied> {
        table.enter(Some(account(key)), now)?;
        table.refuse(account(key), Word::InvalidApiKey, now);
        table.leave(Some(account(key)));
        Ok(())
    }

    #[test]
    fn a_refused_key_is_refused_for_a_minute_and_then_for_five() {
        let mut table = Unproven::new(10);
        assert_eq!(fails(&mut table, 1, at(0)), Ok(()));
        assert_eq!(fails(&mut table, 1, at(59)), Err(Denied::Refused(Word::InvalidApiKey)));
        assert_eq!(fails(&mut table, 1, at(60)), Ok(()));
        assert_eq!(fails(&mut table, 1, at(359)), Err(Denied::Refused(Word::InvalidApiKey)));
        assert_eq!(fails(&mut table, 1, at(360)), Ok(()));
        assert_eq!(table.refusal(account(1), at(659)), Some(Word::InvalidApiKey));
        table.accept(account(1));
        assert_eq!(table.refusal(account(1), at(361)), None);
    }

    #[test]
    fn at_the_bound_unproven_keys_wait_until_a_failure_leaves_the_window() {
        let mut table = Unproven::new(3);
        for nth in 0..3 {
            assert_eq!(fails(&mut table, nth, at(nth as u64 * 10)), Ok(()));
        }
        assert_eq!(fails(&mut table, 7, at(30)), Err(Denied::Locked(seconds(270))));
        assert_eq!(fails(&mut table, 7, at(299)), Err(Denied::Locked(seconds(1))));
        assert_eq!(fails(&mut table, 7, at(300)), Ok(()));
        assert_eq!(fails(&mut table, 8, at(300)), Err(Denied::Locked(seconds(10))));
        table.set_max_failed(1);
        assert_eq!(fails(&mut table, 8, at(300)), Err(Denied::Locked(seconds(300))));
    }

    #[test]
    fn requests_at_sendly_take_the_slots_of_failures_that_they_may_become() {
        let mut table = Unproven::new(2);
        assert_eq!(table.enter(Some(account(1)), at(0)), Ok(()));
        assert_eq!(table.enter(Some(account(1)), at(0)), Err(Denied::KeyInFlight));
        assert_eq!(table.enter(None, at(0)), Ok(()));
        assert_eq!(table.enter(Some(account(2)), at(0)), Err(Denied::NoSlot));
        table.leave(None);
        assert_eq!(table.enter(Some(account(2)), at(0)), Ok(()));
    }

    #[test]
    fn a_lock_of_sendlys_is_waited_out() {
        let mut table = Unproven::new(10);
        table.lock(at(120));
        table.lock(at(60));
        assert_eq!(table.enter(None, at(20)), Err(Denied::Locked(seconds(100))));
        assert_eq!(table.enter(None, at(120)), Ok(()));
    }

    #[test]
    fn an_open_code_is_charged_to_a_good_key_and_dropped_with_a_bad_one() {
        let mut table = Unproven::new(10);
        let code = OpenCode { phone: None, verification: None, kind: Kind::Send, at: at(0) };
        table.keep_open(account(1), code);
        table.keep_open(account(2), code);
        assert!(table.has_to_be_proved(account(1)) && !table.has_to_be_proved(account(3)));
        table.refuse(account(2), Word::Unauthorized, at(1));
        assert!(!table.has_to_be_proved(account(2)));
        assert_eq!((table.accept(account(1)), table.accept(account(1))), (Some(code), None));
        for nth in 0..MAX_OPEN as u128 {
            table.keep_open(account(nth), code);
        }
        assert!(table.has_to_be_proved(account(u128::MAX - 1)));
        table.sweep(at(100), seconds(100));
        assert_eq!(table.kept(at(100)), UnprovenCounts { failures: 1, refused: 1, ..UnprovenCounts::default() });
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Advance(u64),
        /// A request of this key, that Sendly is going to refuse or to accept.
        Enter(u128),
        /// The request that has been there the longest ends: with 401, or with nothing that counts.
        End(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u64..120).prop_map(Step::Advance),
            (0_u128..12).prop_map(Step::Enter),
            any::<bool>().prop_map(Step::End),
        ]
    }

    proptest! {
        /// Against a list of all that happened: never more 401s than the maximum in any window, and never a request that is turned away
        /// without a reason that such a list knows.
        #[test]
        fn failures_stay_within_the_bound_and_nothing_is_turned_away_in_vain(
            max in 1_usize..6,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut table = Unproven::new(max);
            let (mut now, mut failures, mut flying) = (0_u64, Vec::<u64>::new(), VecDeque::<u128>::new());
            let mut refused: HashMap<u128, (u64, bool)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Advance(by) => now += by,
                    Step::Enter(key) => {
                        let recent = failures.iter().filter(|failure| **failure + 300 > now).count();
                        let wait = failures.iter().map(|failure| failure + 300).filter(|end| *end > now).min();
                        let expected = match refused.get(&key) {
                            Some((until, _)) if *until > now => Err(Denied::Refused(Word::InvalidApiKey)),
                            _ if flying.contains(&key) => Err(Denied::KeyInFlight),
                            _ if recent >= max => Err(Denied::Locked(seconds(wait.unwrap() - now))),
                            _ if recent + flying.len() >= max => Err(Denied::NoSlot),
                            _ => Ok(()),
                        };
                        prop_assert_eq!(table.enter(Some(account(key)), at(now)), expected);
                        if expected.is_ok() {
                            flying.push_back(key);
                        }
                    }
                    Step::End(is_refused) => {
                        let Some(key) = flying.pop_front() else { continue };
                        if is_refused {
                            table.refuse(account(key), Word::InvalidApiKey, at(now));
                            failures.push(now);
                            let again = refused.contains_key(&key);
                            refused.insert(key, (now + if again { 300 } else { 60 }, again));
                        }
                        table.leave(Some(account(key)));
                    }
                }
                let in_any_window = failures.iter().map(|start| {
                    failures.iter().filter(|other| (*start..*start + 300).contains(other)).count()
                });
                prop_assert!(in_any_window.max().unwrap_or(0) <= max);
            }
        }
    }
}
