//! One thing that happened to the ledger, in 48 bytes.
//!
//! Each stands for itself: it carries its own checksum, names whatever it is about in full, and has the same size as every other. So
//! what surrounds a damaged one is found again, and a file that was torn off in the middle of one has lost that one alone.

use std::num::{NonZeroU64, NonZeroU128};
use std::ops::Range;

use crate::clock::{Anchor, Moment, Shift};
use crate::ledger::{Charge, Known};
use crate::phone::Phone;
use crate::policy::subject::{Account, Verification};
use crate::policy::{Key, Kind};

/// Bytes of a record.
pub const SIZE: usize = 48;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A code was charged to these keys.
    Charged(Charge),
    /// The same, and its exchange is still in flight. Only one process tells another: version 0.1 reads it as charged.
    InFlight(Charge),
    /// The exchange of such a code has ended, and the charge stays. Only one process tells another.
    Kept(Charge),
    /// It was given back.
    GivenBack(Charge),
    /// Whose the verification with this id is.
    Learned {
        /// The id.
        id: Verification,
        /// What is known of it.
        known: Known,
        /// When it was learned, or seen again.
        at: Moment,
    },
    /// Sendly itself refuses a key.
    Held {
        /// Which.
        key: Key,
        /// When it said so.
        at: Moment,
        /// Until when.
        until: Moment,
    },
    /// Sendly itself refuses a phone, or a verification, to one account.
    HeldFor {
        /// What.
        key: Key,
        /// To whom.
        account: Account,
        /// When it said so.
        at: Moment,
        /// Until when.
        until: Moment,
    },
    /// All that was charged to a key until then was forgotten, and its holds.
    Cleared {
        /// Which.
        key: Key,
        /// When.
        at: Moment,
    },
    /// Sendly accepted an API key.
    Accepted {
        /// The account that the key is of.
        account: Account,
        /// When, or when the key was used later.
        at: Moment,
    },
    /// Sendly accepts an API key no more.
    Rejected {
        /// The account that the key is of.
        account: Account,
        /// When it said so.
        at: Moment,
    },
    /// By which clock what follows is told. The first of a file, and the first that one process tells another.
    Clock(Anchor),
    /// The wall clock was set: it is ahead of the clock by which the file is told. Who reads the file after a reboot, where there is nothing
    /// but the wall clock, moves all that the process told by the last of these.
    WallClock {
        /// When that was seen.
        at: Moment,
        /// By how much.
        ahead: Shift,
    },
    /// Two keys of one kind turned out to be the same.
    Absorbed {
        /// The one that counts from now on.
        into: Key,
        /// The one that is no more.
        from: Key,
        /// When.
        at: Moment,
    },
}

/// What a record begins with, after its checksum. 0 is none of them: a file may have holes.
mod tag {
    pub(super) const CHARGED: u8 = 1;
    pub(super) const GIVEN_BACK: u8 = 2;
    pub(super) const LEARNED: u8 = 3;
    pub(super) const HELD: u8 = 4;
    pub(super) const CLEARED: u8 = 5;
    pub(super) const ABSORBED: u8 = 6;
    pub(super) const KEPT: u8 = 7;
    /// An 0.1 reads these as damage, and goes on behind them.
    pub(super) const ACCEPTED: u8 = 16;
    pub(super) const REJECTED: u8 = 17;
    pub(super) const HELD_FOR: u8 = 18;
    pub(super) const CLOCK: u8 = 19;
    pub(super) const WALL_CLOCK: u8 = 20;
}

/// What flags say: of a charge, its kind; of anything else, what kind its key is of.
mod flag {
    pub(super) const RESEND: u8 = 1;
    /// The charge's exchange is in flight.
    pub(super) const IN_FLIGHT: u8 = 2;
    /// There is a verification: any 64 bits but 0 may be one, and 0 stands for none.
    pub(super) const PHONE: u8 = 1;
    pub(super) const VERIFICATION: u8 = 2;
    pub(super) const ACCOUNT: u8 = 3;
}

/// A record's parts: the layout that all of them share.
#[derive(Clone, Copy, Debug, Default)]
struct RecordParts {
    tag: u8,
    flags: u8,
    /// The groups of up to two verifications.
    groups: [u8; 2],
    at: u64,
    words: [u64; 4],
}

impl Record {
    /// When it happened.
    pub const fn at(&self) -> Moment {
        match self {
            Record::Charged(charge) | Record::InFlight(charge) | Record::Kept(charge) | Record::GivenBack(charge) => {
                charge.at
            }
            Record::Learned { at, .. }
            | Record::Held { at, .. }
            | Record::HeldFor { at, .. }
            | Record::Cleared { at, .. }
            | Record::Accepted { at, .. }
            | Record::Rejected { at, .. }
            | Record::WallClock { at, .. }
            | Record::Absorbed { at, .. } => *at,
            Record::Clock(anchor) => anchor.moment,
        }
    }

    /// The same, as another clock has it.
    pub fn on(mut self, shift: Shift) -> Self {
        match &mut self {
            Record::Charged(charge) | Record::InFlight(charge) | Record::Kept(charge) | Record::GivenBack(charge) => {
                charge.at = charge.at.on(shift);
            }
            Record::Held { at, until, .. } | Record::HeldFor { at, until, .. } => {
                (*at, *until) = (at.on(shift), until.on(shift));
            }
            Record::Learned { at, .. }
            | Record::Cleared { at, .. }
            | Record::Accepted { at, .. }
            | Record::Rejected { at, .. }
            | Record::WallClock { at, .. }
            | Record::Absorbed { at, .. } => *at = at.on(shift),
            Record::Clock(_) => {}
        }
        self
    }

    /// The same as an 0.1 reads it, which knows of no charge in flight, no API key, no hold of one account and no clock. `None` where it has
    /// nothing of it: it takes what it does not know for damage, and refuses to take over then.
    pub fn for_0_1(&self) -> Option<Self> {
        self.settled().filter(|record| {
            !matches!(record, Record::Accepted { .. } | Record::Rejected { .. } | Record::HeldFor { .. })
        })
    }

    /// What of it is written down: a process that reads it later has no exchange in flight.
    pub fn settled(&self) -> Option<Self> {
        match self {
            Record::InFlight(charge) => Some(Record::Charged(*charge)),
            Record::Kept(_) | Record::Clock(_) | Record::WallClock { .. } => None,
            record => Some(*record),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; SIZE] {
        let RecordParts { tag, flags, groups: [one, other], at, words: [a, b, c, d] } = self.parts();
        let mut bytes = [0; SIZE];
        let (sum, rest) = bytes.split_at_mut(4);
        let (head, body) = rest.split_at_mut(4);
        head.copy_from_slice(&[tag, flags, one, other]);
        for (place, word) in body.chunks_exact_mut(8).zip([at, a, b, c, d]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        sum.copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
        bytes
    }

    /// The record that these bytes are; `None` if they are none, or damaged.
    pub fn decode(bytes: &[u8; SIZE]) -> Option<Self> {
        let (sum, rest) = bytes.split_first_chunk::<4>()?;
        let (&[tag, flags, one, other], body) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut words = body.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes);
        let mut next = || words.next().unwrap_or_default();
        let (at, words) = (next(), [next(), next(), next(), next()]);
        Self::of(RecordParts { tag, flags, groups: [one, other], at, words })
    }

    fn parts(&self) -> RecordParts {
        let parts = RecordParts { at: self.at().as_micros(), ..RecordParts::default() };
        match self {
            Record::Charged(charge) => RecordParts { tag: tag::CHARGED, ..of_charge(charge, parts) },
            Record::InFlight(charge) => {
                let parts = of_charge(charge, parts);
                RecordParts { tag: tag::CHARGED, flags: parts.flags | flag::IN_FLIGHT, ..parts }
            }
            Record::Kept(charge) => RecordParts { tag: tag::KEPT, ..of_charge(charge, parts) },
            Record::GivenBack(charge) => RecordParts { tag: tag::GIVEN_BACK, ..of_charge(charge, parts) },
            Record::Learned { id, known: Known { phone, root }, .. } => RecordParts {
                tag: tag::LEARNED,
                groups: [id.group, root.group],
                words: [phone.digits(), id.within.get(), root.within.get(), 0],
                ..parts
            },
            Record::Held { key, until, .. } => {
                let (flags, group, [x, y]) = words_of(*key);
                RecordParts { tag: tag::HELD, flags, groups: [group, 0], words: [x, y, until.as_micros(), 0], ..parts }
            }
            Record::HeldFor { key, account, until, .. } => {
                // Phones and verifications have one word.
                let (flags, group, [x, _]) = words_of(*key);
                let bits = account.bits().get();
                let words = [x, low(bits), high(bits), until.as_micros()];
                RecordParts { tag: tag::HELD_FOR, flags, groups: [group, 0], words, ..parts }
            }
            Record::Cleared { key, .. } => {
                let (flags, group, [x, y]) = words_of(*key);
                RecordParts { tag: tag::CLEARED, flags, groups: [group, 0], words: [x, y, 0, 0], ..parts }
            }
            Record::Accepted { account, .. } => of_account(tag::ACCEPTED, *account, parts),
            Record::Rejected { account, .. } => of_account(tag::REJECTED, *account, parts),
            Record::Clock(Anchor { boot, since_boot, .. }) => {
                RecordParts { tag: tag::CLOCK, words: [low(*boot), high(*boot), *since_boot, 0], ..parts }
            }
            Record::WallClock { ahead, .. } => {
                RecordParts { tag: tag::WALL_CLOCK, words: [ahead.as_micros().cast_unsigned(), 0, 0, 0], ..parts }
            }
            Record::Absorbed { into, from, .. } => {
                let ((flags, one, [a, b]), (_, other, [c, d])) = (words_of(*into), words_of(*from));
                RecordParts { tag: tag::ABSORBED, flags, groups: [one, other], words: [a, b, c, d], ..parts }
            }
        }
    }

    fn of(parts: RecordParts) -> Option<Self> {
        let RecordParts { tag, flags, groups: [one, other], words: [a, b, c, d], .. } = parts;
        let at = Moment::from_micros(parts.at);
        Some(match tag {
            tag::CHARGED if flags & flag::IN_FLIGHT != 0 => Record::InFlight(charge_of(parts)),
            tag::CHARGED => Record::Charged(charge_of(parts)),
            tag::KEPT => Record::Kept(charge_of(parts)),
            tag::GIVEN_BACK => Record::GivenBack(charge_of(parts)),
            tag::LEARNED => Record::Learned {
                id: verification(one, b)?,
                known: Known { phone: Phone::from_digits(a)?, root: verification(other, c)? },
                at,
            },
            tag::HELD => Record::Held { key: key_of(flags, one, [a, b])?, at, until: Moment::from_micros(c) },
            tag::HELD_FOR => Record::HeldFor {
                key: key_of(flags, one, [a, 0])?,
                account: account(b, c)?,
                at,
                until: Moment::from_micros(d),
            },
            tag::CLEARED => Record::Cleared { key: key_of(flags, one, [a, b])?, at },
            tag::ACCEPTED => Record::Accepted { account: account(a, b)?, at },
            tag::REJECTED => Record::Rejected { account: account(a, b)?, at },
            tag::CLOCK => {
                Record::Clock(Anchor { moment: at, boot: u128::from(b) << 64 | u128::from(a), since_boot: c })
            }
            tag::WALL_CLOCK => Record::WallClock { at, ahead: Shift::of_micros(a.cast_signed()) },
            tag::ABSORBED => {
                Record::Absorbed { into: key_of(flags, one, [a, b])?, from: key_of(flags, other, [c, d])?, at }
            }
            _ => return None,
        })
    }
}

fn of_account(tag: u8, account: Account, parts: RecordParts) -> RecordParts {
    let bits = account.bits().get();
    RecordParts { tag, words: [low(bits), high(bits), 0, 0], ..parts }
}

fn of_charge(charge: &Charge, parts: RecordParts) -> RecordParts {
    let account = charge.account.map_or(0, |account| account.bits().get());
    let [phone, within] = [
        charge.phone.map_or(0, Phone::digits),
        charge.verification.map_or(0, |verification| verification.within.get()),
    ];
    RecordParts {
        flags: if charge.kind == Kind::Resend { flag::RESEND } else { 0 },
        groups: [charge.verification.map_or(0, |verification| verification.group), 0],
        words: [phone, within, low(account), high(account)],
        ..parts
    }
}

fn charge_of(
    RecordParts { flags, groups: [group, _], at, words: [phone, within, low, high], .. }: RecordParts,
) -> Charge {
    Charge {
        phone: Phone::from_digits(phone),
        verification: verification(group, within),
        account: account(low, high),
        at: Moment::from_micros(at),
        kind: if flags & flag::RESEND == 0 { Kind::Send } else { Kind::Resend },
    }
}

/// What kind a key is of, its group, and its words.
fn words_of(key: Key) -> (u8, u8, [u64; 2]) {
    match key {
        Key::Phone(phone) => (flag::PHONE, 0, [phone.digits(), 0]),
        Key::Verification(verification) => (flag::VERIFICATION, verification.group, [verification.within.get(), 0]),
        Key::Account(account) => (flag::ACCOUNT, 0, [low(account.bits().get()), high(account.bits().get())]),
    }
}

fn key_of(flags: u8, group: u8, [x, y]: [u64; 2]) -> Option<Key> {
    match flags {
        flag::PHONE => Phone::from_digits(x).map(Key::Phone),
        flag::VERIFICATION => verification(group, x).map(Key::Verification),
        flag::ACCOUNT => account(x, y).map(Key::Account),
        _ => None,
    }
}

fn verification(group: u8, within: u64) -> Option<Verification> {
    NonZeroU64::new(within).map(|within| Verification { group, within })
}

fn account(low: u64, high: u64) -> Option<Account> {
    NonZeroU128::new(u128::from(high) << 64 | u128::from(low)).map(Account::from_bits)
}

const fn low(bits: u128) -> u64 {
    bits as u64
}

const fn high(bits: u128) -> u64 {
    (bits >> 64) as u64
}

/// What some bytes hold: records, and stretches that are none.
#[derive(Debug)]
pub struct Records<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// What stands next.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// Bytes that are none: torn off, overwritten, never written.
    Damage(Range<usize>),
}

impl<'b> Records<'b> {
    /// Of these bytes.
    pub const fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn here(&self, at: usize) -> Option<Record> {
        self.bytes.get(at..)?.first_chunk().and_then(Record::decode)
    }
}

impl Iterator for Records<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let start = self.at;
        while self.at < self.bytes.len() {
            match self.here(self.at) {
                Some(record) if self.at == start => {
                    self.at += SIZE;
                    return Some(Found::Record(record));
                }
                Some(_) => break,
                // Wherever the next one begins: after a write that failed halfway that may be anywhere.
                None => self.at += 1,
            }
        }
        (start < self.at).then_some(Found::Damage(start..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::HashKey;
    use proptest::prelude::*;

    const KEY: HashKey = HashKey::new([7; 16]);

    fn moment() -> impl Strategy<Value = Moment> {
        prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)].prop_map(Moment::from_micros)
    }

    fn phone() -> impl Strategy<Value = Phone> {
        prop_oneof![10..1_000_000_000_000_000_u64, Just(10), Just(999_999_999_999_999)]
            .prop_map(|digits| Phone::from_digits(digits).unwrap())
    }

    fn verification() -> impl Strategy<Value = Verification> {
        (any::<u8>(), 1..=u64::MAX)
            .prop_map(|(group, within)| Verification { group, within: NonZeroU64::new(within).unwrap() })
    }

    fn account() -> impl Strategy<Value = Account> {
        any::<u64>().prop_map(|seed| KEY.account(&seed.to_le_bytes()))
    }

    fn two_keys() -> impl Strategy<Value = (Key, Key)> {
        prop_oneof![
            (phone(), phone()).prop_map(|(one, other)| (Key::Phone(one), Key::Phone(other))),
            (verification(), verification())
                .prop_map(|(one, other)| (Key::Verification(one), Key::Verification(other))),
            (account(), account()).prop_map(|(one, other)| (Key::Account(one), Key::Account(other))),
        ]
    }

    fn charge() -> impl Strategy<Value = Charge> {
        let keys = (prop::option::of(phone()), prop::option::of(verification()), prop::option::of(account()));
        (keys, moment(), any::<bool>()).prop_map(|((phone, verification, account), at, is_resend)| Charge {
            phone,
            verification,
            account,
            at,
            kind: if is_resend { Kind::Resend } else { Kind::Send },
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            charge().prop_map(Record::Charged),
            charge().prop_map(Record::InFlight),
            charge().prop_map(Record::Kept),
            charge().prop_map(Record::GivenBack),
            (verification(), phone(), verification(), moment()).prop_map(|(id, phone, root, at)| Record::Learned {
                id,
                known: Known { phone, root },
                at
            }),
            (two_keys(), moment(), moment()).prop_map(|((key, _), at, until)| Record::Held { key, at, until }),
            (
                prop_oneof![phone().prop_map(Key::Phone), verification().prop_map(Key::Verification)],
                account(),
                moment(),
                moment()
            )
                .prop_map(|(key, account, at, until)| Record::HeldFor { key, account, at, until }),
            (two_keys(), moment()).prop_map(|((key, _), at)| Record::Cleared { key, at }),
            (account(), moment()).prop_map(|(account, at)| Record::Accepted { account, at }),
            (account(), moment()).prop_map(|(account, at)| Record::Rejected { account, at }),
            (moment(), any::<u128>(), any::<u64>()).prop_map(|(moment, boot, since_boot)| Record::Clock(Anchor {
                moment,
                boot,
                since_boot
            })),
            (moment(), any::<i64>()).prop_map(|(at, ahead)| Record::WallClock { at, ahead: Shift::of_micros(ahead) }),
            (two_keys(), moment()).prop_map(|((into, from), at)| Record::Absorbed { into, from, at }),
        ]
    }

    fn bytes_of(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(Record::encode).collect()
    }

    fn found(bytes: &[u8]) -> Vec<Record> {
        Records::of(bytes)
            .filter_map(|found| match found {
                Found::Record(record) => Some(record),
                Found::Damage(_) => None,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_record_reads_as_it_was_written(record in record()) {
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn an_older_process_is_told_nothing_that_it_takes_for_damage(record in record()) {
            // What the last 0.1 reads: `scripts/test-upgrade-from` has one take over.
            let known = [tag::CHARGED, tag::GIVEN_BACK, tag::LEARNED, tag::HELD, tag::CLEARED, tag::ABSORBED];
            if let Some(told) = record.for_0_1() {
                let RecordParts { tag, flags, .. } = told.parts();
                prop_assert!(known.contains(&tag) && (tag != tag::CHARGED || flags & !flag::RESEND == 0), "{told:?}");
            }
        }

        #[test]
        fn one_changed_bit_is_noticed(record in record(), bit in 0..SIZE * 8) {
            let mut bytes = record.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&bytes), None);
        }

        #[test]
        fn no_bytes_whatever_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let whole: usize = Records::of(&bytes)
                .map(|found| match found {
                    Found::Record(_) => SIZE,
                    Found::Damage(range) => range.len(),
                })
                .sum();
            prop_assert_eq!(whole, bytes.len());
        }

        #[test]
        fn what_is_torn_off_costs_one_record(records in prop::collection::vec(record(), 1..8), cut in 0..SIZE) {
            let mut bytes = bytes_of(&records);
            bytes.truncate(bytes.len() - cut);
            let whole = records.len() - usize::from(cut > 0);
            prop_assert_eq!(&found(&bytes)[..], &records[..whole]);
        }

        #[test]
        fn what_stands_around_damage_is_found(
            before in prop::collection::vec(record(), 0..4),
            damage in prop::collection::vec(any::<u8>(), 1..200),
            after in prop::collection::vec(record(), 0..4),
        ) {
            let bytes = [bytes_of(&before), damage.clone(), bytes_of(&after)].concat();
            prop_assert_eq!(found(&bytes), [&before[..], &after[..]].concat());
        }
    }
}
