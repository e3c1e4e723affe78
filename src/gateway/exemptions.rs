//! Phones that no limit refuses: those of the configuration for good, others for a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::clock::Moment;
use crate::phone::Phone;

/// How many phones may be exempt for a while at the same time: it is for tests, and no list of customers.
pub(crate) const MOST: usize = 100;

/// How long an exemption lasts if nobody says.
pub(crate) const USUAL: Duration = Duration::from_secs(60 * 60);

/// How long it may last: who wants more writes it into the configuration.
pub(crate) const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Exemptions {
    /// How many there are: what a request asks first, and where there is none, all.
    many: AtomicUsize,
    phones: RwLock<HashMap<Phone, Until>>,
}

/// How long a phone is exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// As long as the configuration says so.
    Configured,
    /// Until then.
    Moment(Moment),
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// The configuration exempts this phone.
    Configured,
    /// There are [`MOST`] already.
    TooMany,
    /// It is not exempt.
    Absent,
}

impl Until {
    fn lasts(self, now: Moment) -> bool {
        match self {
            Until::Configured => true,
            Until::Moment(end) => end > now,
        }
    }
}

impl Exemptions {
    /// Those of the configuration.
    pub fn new(configured: &[Phone]) -> Self {
        let exemptions = Self::default();
        exemptions.configure(configured);
        exemptions
    }

    /// Puts these in the place of those that the configuration had. Those for a while stay.
    pub fn configure(&self, configured: &[Phone]) {
        self.change(|phones| {
            phones.retain(|_, until| *until != Until::Configured);
            phones.extend(configured.iter().map(|phone| (*phone, Until::Configured)));
        });
    }

    /// Whether no limit refuses this phone now.
    pub fn cover(&self, phone: Option<Phone>, now: Moment) -> bool {
        self.many.load(Ordering::Relaxed) != 0 && self.is_listed(phone, now)
    }

    #[cold]
    fn is_listed(&self, phone: Option<Phone>, now: Moment) -> bool {
        phone.is_some_and(|phone| self.get(phone, now).is_some())
    }

    /// How long a phone is exempt, if it is.
    pub fn get(&self, phone: Phone, now: Moment) -> Option<Until> {
        self.phones.read().get(&phone).copied().filter(|until| until.lasts(now))
    }

    /// All of them, those of the configuration first and the longest next.
    pub fn list(&self, now: Moment) -> Vec<(Phone, Until)> {
        let mut all: Vec<_> = self.phones.read().iter().map(|(phone, until)| (*phone, *until)).collect();
        all.retain(|(_, until)| until.lasts(now));
        all.sort_by_key(|(phone, until)| match until {
            Until::Configured => (None, *phone),
            Until::Moment(end) => (Some(std::cmp::Reverse(*end)), *phone),
        });
        all
    }

    /// Exempts a phone until then, whatever was said before.
    ///
    /// # Errors
    /// The configuration exempts it already, or there are too many.
    pub fn put(&self, phone: Phone, end: Moment, now: Moment) -> Result<(), Unchanged> {
        self.change(|phones| {
            phones.retain(|_, until| until.lasts(now));
            let is_for_a_while = |until: &&Until| **until != Until::Configured;
            match phones.get(&phone) {
                Some(Until::Configured) => return Err(Unchanged::Configured),
                None if phones.values().filter(is_for_a_while).count() >= MOST => return Err(Unchanged::TooMany),
                _ => {}
            }
            phones.insert(phone, Until::Moment(end));
            Ok(())
        })
    }

    /// Ends the exemption of a phone.
    ///
    /// # Errors
    /// The configuration has it, or nobody.
    pub fn remove(&self, phone: Phone, now: Moment) -> Result<(), Unchanged> {
        self.change(|phones| match phones.get(&phone) {
            Some(Until::Configured) => Err(Unchanged::Configured),
            Some(until) => {
                let lasted = until.lasts(now);
                phones.remove(&phone);
                if lasted { Ok(()) } else { Err(Unchanged::Absent) }
            }
            None => Err(Unchanged::Absent),
        })
    }

    /// Drops those that are over, so that nobody asks for them any more.
    pub fn sweep(&self, now: Moment) {
        if self.many.load(Ordering::Relaxed) != 0 {
            self.change(|phones| phones.retain(|_, until| until.lasts(now)));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<Phone, Until>) -> T) -> T {
        let mut phones = self.phones.write();
        let changed = change(&mut phones);
        self.many.store(phones.len(), Ordering::Relaxed);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);

    fn phone(nth: usize) -> Phone {
        format!("+1555010{nth:04}").parse().unwrap()
    }

    #[test]
    fn an_exemption_ends_when_it_says_and_that_of_the_configuration_never() {
        let exemptions = Exemptions::new(&[phone(0)]);
        exemptions.put(phone(1), NOW + USUAL, NOW).unwrap();
        let cover = |nth, now| exemptions.cover(Some(phone(nth)), now);
        let end = NOW + USUAL;
        assert_eq!([cover(0, NOW), cover(1, NOW), cover(2, NOW)], [true, true, false]);
        assert!(cover(1, end - Duration::from_micros(1)) && !cover(1, end) && cover(0, end));
        assert!(!exemptions.cover(None, NOW));
        assert_eq!(exemptions.list(NOW), [(phone(0), Until::Configured), (phone(1), Until::Moment(end))]);
        assert_eq!(exemptions.list(end), [(phone(0), Until::Configured)]);
    }

    #[test]
    fn those_for_a_while_are_bounded_and_one_that_is_over_makes_room() {
        let exemptions = Exemptions::new(&[phone(9000)]);
        for nth in 0..MOST {
            exemptions.put(phone(nth), NOW + USUAL * (nth as u32 + 1), NOW).unwrap();
        }
        assert_eq!(exemptions.put(phone(MOST), NOW + USUAL, NOW), Err(Unchanged::TooMany));
        assert_eq!(exemptions.put(phone(0), NOW + USUAL, NOW), Ok(()), "one that is there is no other");
        assert_eq!(exemptions.put(phone(MOST), NOW + USUAL * 9, NOW + USUAL), Ok(()));
    }

    #[test]
    fn what_the_configuration_says_only_the_configuration_changes() {
        let exemptions = Exemptions::new(&[phone(0)]);
        assert_eq!(exemptions.put(phone(0), NOW + USUAL, NOW), Err(Unchanged::Configured));
        assert_eq!(exemptions.remove(phone(0), NOW), Err(Unchanged::Configured));
        assert_eq!(exemptions.remove(phone(1), NOW), Err(Unchanged::Absent));
        exemptions.put(phone(1), NOW + USUAL, NOW).unwrap();
        exemptions.configure(&[phone(2)]);
        let cover = |nth| exemptions.cover(Some(phone(nth)), NOW);
        assert_eq!([cover(0), cover(1), cover(2)], [false, true, true]);
        assert_eq!(exemptions.remove(phone(1), NOW), Ok(()));
        assert!(!exemptions.cover(Some(phone(1)), NOW));
    }

    #[test]
    fn once_all_are_over_and_swept_a_request_asks_no_further() {
        let exemptions = Exemptions::default();
        exemptions.put(phone(1), NOW + USUAL, NOW).unwrap();
        exemptions.sweep(NOW);
        assert_eq!(exemptions.many.load(Ordering::Relaxed), 1);
        exemptions.sweep(NOW + USUAL);
        assert_eq!(exemptions.many.load(Ordering::Relaxed), 0);
    }
}
