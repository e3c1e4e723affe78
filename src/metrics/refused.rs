//! Whom limits refused of late: a ring of words, for whoever looks at it now and then.
//!
//! A refusal writes one word and waits for nobody. Whoever reads takes the words out; what was overwritten before that is lost,
//! and counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::phone::Phone;
use crate::policy::{Obstacle, Per, Subject};

/// How many refusals are kept until they are read: 64 KiB.
const ROOM: usize = 8192;

/// See the module's documentation.
#[derive(Debug)]
pub struct Refused {
    /// How many were ever written.
    written: AtomicU64,
    words: Box<[AtomicU64]>,
}

/// Whom something refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whom {
    /// A phone.
    Phone(Phone),
    /// An account, by what logs show of it.
    Account(u64),
    /// Nobody whom the gateway could name: a verification whose phone it does not know.
    Unknown,
}

/// A refusal: by what, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The limit at this place, or Sendly's hold.
    pub by: Option<u8>,
    /// Whom.
    pub whom: Whom,
}

const PHONE: u64 = 1;
const ACCOUNT: u64 = 2;
const UNKNOWN: u64 = 3;
const HOLD: u64 = 63;
const VALUE_BITS: u32 = 50;
const PLACE_BITS: u32 = 6;

impl Default for Refused {
    fn default() -> Self {
        Self { written: AtomicU64::new(0), words: (0..ROOM).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Refused {
    /// Notes that this obstacle, which counts per this, refused this subject.
    pub fn note(&self, by: Obstacle, per: Per, subject: &Subject) {
        let (kind, value) = match (per, subject.phone) {
            (Per::Account, _) => (ACCOUNT, subject.account.short()),
            (_, Some(phone)) => (PHONE, phone.digits()),
            (_, None) => (UNKNOWN, 0),
        };
        let place = match by {
            Obstacle::Limit(place) | Obstacle::Unsettled(place) => place as u64 % HOLD,
            Obstacle::Hold | Obstacle::AccountHold => HOLD,
        };
        let word = (kind << PLACE_BITS | place) << VALUE_BITS | value;
        let nth = self.written.fetch_add(1, Ordering::Relaxed) as usize;
        if let Some(slot) = self.words.get(nth % ROOM) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    /// Takes what was written since `from` of them were, and moves that on. Returns how many are lost.
    pub fn take(&self, from: &mut u64, mut each: impl FnMut(Refusal)) -> u64 {
        let until = self.written.load(Ordering::Relaxed);
        let wanted = until.saturating_sub(*from);
        let mut taken = 0;
        for nth in until.saturating_sub(wanted.min(ROOM as u64))..until {
            let word = self.words.get(nth as usize % ROOM).map_or(0, |slot| slot.swap(0, Ordering::Relaxed));
            // Nothing stands there yet if it is being written just now.
            if let Some(refusal) = Refusal::of(word) {
                taken += 1;
                each(refusal);
            }
        }
        *from = until;
        wanted.saturating_sub(taken)
    }
}

impl Refusal {
    fn of(word: u64) -> Option<Self> {
        let value = word & ((1 << VALUE_BITS) - 1);
        let place = word >> VALUE_BITS & ((1 << PLACE_BITS) - 1);
        let whom = match word >> (VALUE_BITS + PLACE_BITS) {
            PHONE => Whom::Phone(Phone::from_digits(value)?),
            ACCOUNT => Whom::Account(value),
            UNKNOWN => Whom::Unknown,
            _ => return None,
        };
        Some(Self { by: u8::try_from(place).ok().filter(|_| place != HOLD), whom })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::HashKey;

    fn subject(phone: Option<&str>) -> Subject {
        let account = HashKey::new([1; 16]).account(b"Bearer sk_1");
        Subject { phone: phone.map(|phone| phone.parse().unwrap()), verification: None, account }
    }

    fn taken(refused: &Refused, from: &mut u64) -> (Vec<Refusal>, u64) {
        let mut all = Vec::new();
        let lost = refused.take(from, |refusal| all.push(refusal));
        (all, lost)
    }

    #[test]
    fn what_is_noted_is_taken_once_and_says_what_it_was() {
        let (refused, mut from) = (Refused::default(), 0);
        let longest = subject(Some("+999999999999999"));
        refused.note(Obstacle::Limit(31), Per::Phone, &longest);
        refused.note(Obstacle::Hold, Per::Phone, &longest);
        refused.note(Obstacle::Limit(0), Per::Account, &longest);
        refused.note(Obstacle::Limit(2), Per::Verification, &subject(None));
        let phone = Whom::Phone(longest.phone.unwrap());
        let expected = [
            Refusal { by: Some(31), whom: phone },
            Refusal { by: None, whom: phone },
            Refusal { by: Some(0), whom: Whom::Account(longest.account.short()) },
            Refusal { by: Some(2), whom: Whom::Unknown },
        ];
        assert_eq!(taken(&refused, &mut from), (expected.to_vec(), 0));
        assert_eq!(taken(&refused, &mut from), (vec![], 0));
    }

    #[test]
    fn what_nobody_takes_is_overwritten_and_counted() {
        let (refused, mut from) = (Refused::default(), 0);
        for _ in 0..ROOM + 5 {
            refused.note(Obstacle::Limit(1), Per::Phone, &subject(Some("+15550100123")));
        }
        let (all, lost) = taken(&refused, &mut from);
        assert_eq!((all.len(), lost), (ROOM, 5));
    }
}
