//! What is remembered of a phone, a verification and an account.

use std::num::{NonZeroU64, NonZeroU128};

use foldhash::quality::RandomState;

use super::shards::{Logged, SHARDS};
use super::table::Entry;
use crate::phone::Phone;
use crate::policy::Per;
use crate::policy::subject::{Account, Verification};
use crate::policy::window::Log;

/// 24 bytes.
#[derive(Debug, Default)]
pub(super) struct OfPhone {
    phone: Option<Phone>,
    log: Log,
}

impl Entry for OfPhone {
    type Key = Phone;

    fn key(&self) -> Option<Phone> {
        self.phone
    }

    fn hash(phone: Phone, seeds: &RandomState) -> u64 {
        use std::hash::BuildHasher;
        // Numbers are chosen by whoever asks for codes: seeded, so that nobody can choose them for their hashes.
        seeds.hash_one(phone.digits())
    }
}

impl Logged for OfPhone {
    type Id = Phone;
    const PER: Per = Per::Phone;

    fn new(phone: Phone) -> Self {
        Self { phone: Some(phone), log: Log::default() }
    }

    fn place(phone: Phone, seeds: &RandomState) -> (usize, Phone, u64) {
        let hash = Self::hash(phone, seeds);
        // A table places entries by the upper bits.
        (hash as usize % SHARDS, phone, hash)
    }

    fn id(phone: Phone, _: usize) -> Phone {
        phone
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }
}

/// 32 bytes: its key, whose it is and since when that is known, and its log.
#[derive(Debug, Default)]
pub(super) struct OfVerification {
    key: Option<NonZeroU64>,
    /// The phone's digits, below 2⁵⁰; above them, in 14 bits, the turn in which that was learned. 0: it is not known.
    whose: u64,
    log: Log,
}

const PHONE_BITS: u32 = 50;

/// How many turns there are before they start again.
pub(super) const TURNS: u64 = 1 << (u64::BITS - PHONE_BITS);

impl OfVerification {
    /// The phone, and the turn in which it was learned.
    pub(super) fn whose(&self) -> Option<(Phone, u64)> {
        Phone::from_digits(self.whose & ((1 << PHONE_BITS) - 1)).map(|phone| (phone, self.whose >> PHONE_BITS))
    }

    pub(super) fn set_whose(&mut self, whose: Option<(Phone, u64)>) {
        self.whose = whose.map_or(0, |(phone, turn)| phone.digits() | (turn % TURNS) << PHONE_BITS);
    }
}

impl Entry for OfVerification {
    type Key = NonZeroU64;

    fn key(&self) -> Option<NonZeroU64> {
        self.key
    }

    fn hash(key: NonZeroU64, _: &RandomState) -> u64 {
        // It is a keyed hash already.
        key.get()
    }
}

impl Logged for OfVerification {
    type Id = Verification;
    const PER: Per = Per::Verification;

    fn new(key: NonZeroU64) -> Self {
        Self { key: Some(key), ..Self::default() }
    }

    fn place(id: Verification, _: &RandomState) -> (usize, NonZeroU64, u64) {
        (usize::from(id.group), id.within, id.within.get())
    }

    fn id(within: NonZeroU64, shard: usize) -> Verification {
        Verification { group: shard as u8, within }
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    fn is_only_a_log(&self) -> bool {
        self.whose == 0
    }
}

/// 32 bytes.
#[derive(Debug, Default)]
pub(super) struct OfAccount {
    key: Option<NonZeroU128>,
    log: Log,
}

impl Entry for OfAccount {
    type Key = NonZeroU128;

    fn key(&self) -> Option<NonZeroU128> {
        self.key
    }

    fn hash(key: NonZeroU128, _: &RandomState) -> u64 {
        (key.get() >> 64) as u64
    }
}

impl Logged for OfAccount {
    type Id = Account;
    const PER: Per = Per::Account;

    fn new(key: NonZeroU128) -> Self {
        Self { key: Some(key), log: Log::default() }
    }

    fn place(account: Account, seeds: &RandomState) -> (usize, NonZeroU128, u64) {
        let key = account.bits();
        (key.get() as usize % SHARDS, key, Self::hash(key, seeds))
    }

    fn id(key: NonZeroU128, _: usize) -> Account {
        Account::from_bits(key)
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_small() {
        assert_eq!([size_of::<OfPhone>(), size_of::<OfVerification>(), size_of::<OfAccount>()], [24, 32, 32]);
    }

    #[test]
    fn whose_a_verification_is_keeps_every_digit_and_every_turn() {
        let mut entry = OfVerification::default();
        assert_eq!(entry.whose(), None);
        for digits in ["+12", "+999999999999999"] {
            for turn in [0, 1, TURNS - 1] {
                let phone: Phone = digits.parse().unwrap();
                entry.set_whose(Some((phone, turn)));
                assert_eq!(entry.whose(), Some((phone, turn)));
            }
        }
        entry.set_whose(None);
        assert_eq!(entry.whose(), None);
    }
}
