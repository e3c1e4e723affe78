//! Whom a code counts against: the phone, the verification and the account of one request.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU64, NonZeroU128};

use arrayvec::ArrayVec;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::Per;
use crate::phone::Phone;

/// A verification, as 72 bits of the keyed hash of one of its ids. That any two of ten million ids share them has odds of one in
/// a hundred million; nobody who does not know the key can build two that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verification {
    /// 8 of them: a ledger may keep verifications apart by these, and need not store them.
    pub group: u8,
    /// The other 64. Never 0.
    pub within: NonZeroU64,
}

/// An account, as the keyed hash of its API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(NonZeroU128);

/// The secret under which ids and API keys are hashed.
///
/// Whoever does not know it can neither build two ids that collide nor find an API key from what the gateway stores or logs.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey {
    bytes: [u8; 16],
    is_drawn: bool,
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

impl HashKey {
    /// The key that these bytes spell.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self { bytes, is_drawn: false }
    }

    /// The key that a passphrase of any length stands for.
    pub fn from_passphrase(passphrase: &str) -> Self {
        Self::new(Self::new([0; 16]).hash(b"hash_key", [passphrase.as_bytes()]).to_le_bytes())
    }

    /// A key that only this process knows.
    pub fn random() -> Self {
        // The standard library seeds each `RandomState` from the operating system.
        let draw = || RandomState::new().hash_one(0_u8).to_le_bytes();
        let mut bytes = [0; 16];
        let (low, high) = bytes.split_at_mut(8);
        low.copy_from_slice(&draw());
        high.copy_from_slice(&draw());
        Self { bytes, is_drawn: true }
    }

    /// Whether nobody chose it ([`random`](Self::random)).
    pub const fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    /// The keyed hash of some parts, each told apart from its neighbours, in a domain of its own.
    pub fn hash<'p>(&self, domain: &[u8], parts: impl IntoIterator<Item = &'p [u8]>) -> u128 {
        parts.into_iter().fold(self.parts(domain), Parts::and).hash()
    }

    /// The same, for parts that come one after the other.
    pub fn parts(&self, domain: &[u8]) -> Parts {
        Parts(SipHasher13::new_with_key(&self.bytes)).and(domain)
    }

    /// The verification that has this id, in whatever letter case: Sendly's ids differ in more than that, and whether Sendly
    /// tells their letter cases apart is not known.
    pub fn verification(&self, id: &str) -> Verification {
        let mut id = Cow::Borrowed(id);
        if id.bytes().any(|byte| byte.is_ascii_uppercase()) {
            id.to_mut().make_ascii_lowercase();
        }
        let [group, within @ ..] = self.hash(b"verification", [id.as_bytes()]).to_be_bytes();
        let within = within.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Verification { group, within: NonZeroU64::new(within).unwrap_or(NonZeroU64::MIN) }
    }

    /// The account whose requests carry this `Authorization`. Spellings of the same key (letter case of the scheme, spaces)
    /// are one account.
    pub fn account(&self, authorization: &[u8]) -> Account {
        let text = authorization.trim_ascii();
        let key = match text.iter().position(u8::is_ascii_whitespace) {
            Some(end) => text.get(end..).unwrap_or_default().trim_ascii(),
            None => text,
        };
        Account(NonZeroU128::new(self.hash(b"account", [key])).unwrap_or(NonZeroU128::MIN))
    }
}

/// The keyed hash of some parts, of which there may be more.
#[derive(Clone, Debug)]
#[must_use = "it is not changed by what is added"]
pub struct Parts(SipHasher13);

impl Parts {
    /// With one more part, told apart from its neighbours.
    pub fn and(mut self, part: &[u8]) -> Self {
        use std::hash::Hasher;
        self.0.write(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.write(part);
        self
    }

    /// The hash of all of them.
    pub fn hash(&self) -> u128 {
        self.0.finish128().as_u128()
    }
}

impl Account {
    /// The account of this hash.
    pub const fn from_bits(bits: NonZeroU128) -> Self {
        Self(bits)
    }

    /// The hash. Never 0.
    pub const fn bits(self) -> NonZeroU128 {
        self.0
    }

    /// How many hexadecimal digits of it a log shows.
    pub const SHORT: usize = 12;

    /// What a log may show of it: its last [`SHORT`](Self::SHORT) hexadecimal digits.
    pub const fn short(self) -> u64 {
        (self.0.get() & ((1 << (4 * Self::SHORT)) - 1)) as u64
    }
}

/// One of the things that codes are counted against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A phone.
    Phone(Phone),
    /// A verification.
    Verification(Verification),
    /// An account.
    Account(Account),
}

impl Key {
    /// What limits call it.
    pub const fn per(self) -> Per {
        match self {
            Key::Phone(_) => Per::Phone,
            Key::Verification(_) => Per::Verification,
            Key::Account(_) => Per::Account,
        }
    }
}

/// Whom one code counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The phone that it goes to; unknown for a resend whose id could not be looked up.
    pub phone: Option<Phone>,
    /// The verification that it belongs to; a send has none yet.
    pub verification: Option<Verification>,
    /// The account that pays.
    pub account: Account,
}

impl Subject {
    /// How many keys a subject has at most.
    pub const MAX_KEYS: usize = 3;

    /// Its keys.
    pub fn keys(&self) -> ArrayVec<Key, { Self::MAX_KEYS }> {
        let keys =
            [self.phone.map(Key::Phone), self.verification.map(Key::Verification), Some(Key::Account(self.account))];
        keys.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_api_key_are_one_account() {
        let key = HashKey::random();
        let account = key.account(b"Bearer sk_test_v1_abc");
        for spelling in ["bearer sk_test_v1_abc", "Bearer   sk_test_v1_abc ", "BEARER\tsk_test_v1_abc"] {
            assert_eq!(key.account(spelling.as_bytes()), account, "{spelling:?}");
        }
        assert_ne!(key.account(b"Bearer sk_test_v1_abd"), account);
    }

    #[test]
    fn the_letter_case_of_an_id_makes_no_other_verification_of_it() {
        let key = HashKey::random();
        assert_eq!(key.verification("VER_0aBC"), key.verification("ver_0abc"));
        assert_ne!(key.verification("ver_0abd"), key.verification("ver_0abc"));
    }

    #[test]
    fn parts_and_domains_are_told_apart() {
        let key = HashKey::new([7; 16]);
        assert_ne!(key.hash(b"d", [b"ab".as_slice(), b"c"]), key.hash(b"d", [b"a".as_slice(), b"bc"]));
        assert_ne!(key.hash(b"d", [b"a".as_slice()]), key.hash(b"e", [b"a".as_slice()]));
        assert_ne!(HashKey::random().hash(b"d", [b"a".as_slice()]), HashKey::random().hash(b"d", [b"a".as_slice()]));
    }
}
