//! What keys are called in Redis: nothing there tells a phone, an id or an API key to whoever does not know the hash key.
//!
//! On one server a verification has a name of its own. In a cluster it stands beside its phone, under the same hash tag, so that both
//! are judged in one step; one whose phone is not known stands alone.

use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::Key;
use crate::policy::subject::{Account, HashKey, Verification};

/// A key that Sendly refuses to an account until then, on the ledger's time.
pub(super) type Held = (Key, Account, Moment);

/// Names keys.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
    hash_key: HashKey,
    /// Whether keys of one request may lie on different servers.
    pub(super) is_cluster: bool,
}

/// Six bits a letter.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How many slots a cluster has, and in how many of them it stands which data this is.
const SLOTS: u16 = 16_384;
const DATA_NAMES: u16 = 32;

/// How many letters tell phones and accounts apart: 96 bits.
const LONG: u32 = 16;

impl Names {
    pub(super) const fn new(prefix: String, hash_key: HashKey, is_cluster: bool) -> Self {
        Self { prefix, hash_key, is_cluster }
    }

    /// Where the codes of a phone stand.
    pub(super) fn phone(&self, phone: Phone) -> String {
        format!("{}:p:{{{}}}", self.prefix, self.tag(phone))
    }

    /// Where the codes of a verification stand, if this is its phone.
    pub(super) fn verification(&self, id: Verification, phone: Option<Phone>) -> String {
        match phone.filter(|_| self.is_cluster) {
            Some(phone) => format!("{}:v:{}:{{{}}}", self.prefix, short(id), self.tag(phone)),
            None => format!("{}:v:{{{}}}", self.prefix, short(id)),
        }
    }

    /// Where the codes of an account stand.
    pub(super) fn account(&self, account: Account) -> String {
        format!("{}:a:{{{}}}", self.prefix, letters(account.bits().get(), LONG))
    }

    /// Where it stands that Sendly has accepted an API key.
    pub(super) fn proof(&self, account: Account) -> String {
        format!("{}:k:{{{}}}", self.prefix, letters(account.bits().get(), LONG))
    }

    /// Where a key's codes stand; `phone` is that of a verification.
    pub(super) fn key(&self, key: Key, phone: Option<Phone>) -> String {
        match key {
            Key::Phone(phone) => self.phone(phone),
            Key::Verification(id) => self.verification(id, phone),
            Key::Account(account) => self.account(account),
        }
    }

    /// Where it stands whose an id is.
    pub(super) fn id(&self, id: Verification) -> String {
        format!("{}:i:{{{}}}", self.prefix, short(id))
    }

    /// Where the newest ids of a phone stand.
    pub(super) fn ids(&self, phone: Phone) -> String {
        format!("{}:n:{{{}}}", self.prefix, self.tag(phone))
    }

    /// Keys of the dataset marker. In a cluster each server has data of its own, so the marker stands in slots all over: a
    /// server that has so many in a row has one of them, and however slots move, nobody need be told.
    pub(super) fn data(&self) -> Vec<String> {
        if !self.is_cluster {
            return vec![format!("{}:data", self.prefix)];
        }
        let spread = SLOTS / DATA_NAMES;
        let within =
            |part: u16| (0..u32::MAX).map(|n| format!("{n}")).find(|tag| slot(tag.as_bytes()) / spread == part);
        (0..DATA_NAMES).filter_map(within).map(|tag| format!("{}:data:{{{tag}}}", self.prefix)).collect()
    }

    /// Where it stands what is added to the server's time, if it is one server.
    pub(super) fn clock(&self) -> String {
        format!("{}:clock", self.prefix)
    }

    /// Where gateways tell which of their charges are not settled yet.
    pub(super) fn in_flight(&self) -> String {
        format!("{}:open", self.prefix)
    }

    /// A phone as it is written to what is known of an id. Nobody reads it there without the hash key: each id has a pad of its own.
    pub(super) fn mask(&self, id: Verification, phone: Phone) -> [u8; 8] {
        (phone.digits() ^ self.pad(id)).to_be_bytes()
    }

    /// The phone that was written so.
    pub(super) fn unmask(&self, id: Verification, masked: [u8; 8]) -> Option<Phone> {
        Phone::from_digits(u64::from_be_bytes(masked) ^ self.pad(id))
    }

    /// How many bytes a hold has.
    pub(super) const HOLD: usize = 34;

    /// What Sendly refuses to an account, as other gateways are told. Nobody reads a phone there without the hash key.
    pub(super) fn write_hold(&self, (key, account, until): Held) -> [u8; Self::HOLD] {
        let (kind, named) = match key {
            Key::Phone(phone) => (0, (phone.digits() ^ self.pad_of_hold(account, until)).to_be_bytes().to_vec()),
            Key::Verification(id) => (1, id_bytes(id).to_vec()),
            // That is never held for an account.
            Key::Account(_) => (2, Vec::new()),
        };
        let named = named.into_iter().chain(std::iter::repeat(0)).take(9);
        let rest = account.bits().get().to_be_bytes().into_iter().chain(until.as_micros().to_be_bytes());
        let mut written = [0; Self::HOLD];
        written.iter_mut().zip(std::iter::once(kind).chain(named).chain(rest)).for_each(|(byte, own)| *byte = own);
        written
    }

    /// The hold that was written so.
    pub(super) fn read_hold(&self, bytes: &[u8]) -> Option<Held> {
        let (kind, rest) = bytes.split_first()?;
        let (named, rest) = rest.split_at_checked(9)?;
        let (bits, until) = rest.split_first_chunk()?;
        let account = Account::from_bits(u128::from_be_bytes(*bits).try_into().ok()?);
        let until = Moment::from_micros(u64::from_be_bytes(until.try_into().ok()?));
        let key = match kind {
            0 => {
                let masked = u64::from_be_bytes(*named.first_chunk()?);
                Key::Phone(Phone::from_digits(masked ^ self.pad_of_hold(account, until))?)
            }
            1 => Key::Verification(id_from(named)?),
            _ => return None,
        };
        Some((key, account, until))
    }

    fn pad_of_hold(&self, account: Account, until: Moment) -> u64 {
        let parts: [&[u8]; 2] = [&account.bits().get().to_be_bytes(), &until.as_micros().to_be_bytes()];
        self.hash_key.hash(b"held", parts) as u64
    }

    fn pad(&self, id: Verification) -> u64 {
        let parts: [&[u8]; 2] = [&[id.group], &id.within.get().to_be_bytes()];
        self.hash_key.hash(b"whose", parts) as u64
    }

    fn tag(&self, phone: Phone) -> String {
        letters(self.hash_key.hash(b"phone", [phone.digits().to_be_bytes().as_slice()]), LONG)
    }
}

/// The bytes of an id.
pub(super) const ID: usize = 9;

/// A verification in 9 bytes.
pub(super) fn id_bytes(id: Verification) -> [u8; ID] {
    let mut bytes = [id.group; 9];
    if let Some(within) = bytes.last_chunk_mut() {
        *within = id.within.get().to_be_bytes();
    }
    bytes
}

/// The verification that was written so.
pub(super) fn id_from(bytes: &[u8]) -> Option<Verification> {
    let [group, within @ ..] = <[u8; 9]>::try_from(bytes).ok()?;
    Some(Verification { group, within: u64::from_be_bytes(within).try_into().ok()? })
}

fn short(id: Verification) -> String {
    letters(u128::from(id.group) << 64 | u128::from(id.within.get()), 12)
}

/// The slot of a hash tag: CRC-16/XMODEM.
fn slot(tag: &[u8]) -> u16 {
    let step = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
    tag.iter().fold(0_u16, |crc, byte| (0..8).fold(crc ^ u16::from(*byte) << 8, step)) % SLOTS
}

fn letters(bits: u128, many: u32) -> String {
    let letter = |nth: u32| LETTERS.get((bits >> (6 * nth) & 63) as usize).map_or('-', |letter| char::from(*letter));
    (0..many).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(is_cluster: bool) -> Names {
        Names::new("sendly".to_owned(), HashKey::new([3; 16]), is_cluster)
    }

    fn phone(text: &str) -> Phone {
        text.parse().unwrap()
    }

    fn id(text: &str) -> Verification {
        HashKey::new([1; 16]).verification(text)
    }

    fn tag(name: &str) -> &str {
        &name[name.find('{').unwrap()..=name.find('}').unwrap()]
    }

    #[test]
    fn no_name_tells_a_phone_and_none_is_anothers() {
        let names = names(false);
        let one = names.phone(phone("+15550100123"));
        assert!(!one.contains("5550100123"), "{one}");
        assert_ne!(one, names.phone(phone("+15550100124")));
        let other = Names::new("sendly".to_owned(), HashKey::new([4; 16]), false);
        assert_ne!(one, other.phone(phone("+15550100123")), "under another key it has another name");
    }

    #[test]
    fn in_a_cluster_a_verification_stands_beside_its_phone() {
        let (alone, cluster, phone) = (names(false), names(true), phone("+15550100123"));
        assert_eq!(tag(&cluster.verification(id("a"), Some(phone))), tag(&cluster.phone(phone)));
        assert_ne!(cluster.verification(id("a"), Some(phone)), cluster.verification(id("b"), Some(phone)));
        assert_eq!(alone.verification(id("a"), Some(phone)), alone.verification(id("a"), None));
    }

    #[test]
    fn which_data_it_is_stands_all_over_a_cluster() {
        // As the specification of Redis' cluster has it.
        assert_eq!(slot(b"123456789"), 0x31C3 % SLOTS);
        let data = names(true).data();
        let slots: Vec<u16> = data.iter().map(|name| slot(tag(name).trim_matches(['{', '}']).as_bytes())).collect();
        assert_eq!(slots.len(), usize::from(DATA_NAMES));
        assert!(slots.iter().zip(0_u16..).all(|(slot, part)| slot / (SLOTS / DATA_NAMES) == part), "{slots:?}");
        assert_eq!(names(false).data(), ["sendly:data"]);
    }

    #[test]
    fn what_is_known_of_an_id_tells_its_phone_to_those_who_have_the_key_alone() {
        let (names, phone) = (names(false), phone("+15550100123"));
        let masked = names.mask(id("a"), phone);
        assert_eq!(names.unmask(id("a"), masked), Some(phone));
        assert_ne!(u64::from_be_bytes(masked), phone.digits());
        assert_ne!(names.mask(id("b"), phone), masked, "no two ids show that their phones are the same");
    }

    #[test]
    fn an_id_is_read_as_it_was_written() {
        assert_eq!(id_from(&id_bytes(id("a"))), Some(id("a")));
        assert_eq!(id_from(&[0; 9]), None);
        assert_eq!(id_from(b""), None);
    }
}
