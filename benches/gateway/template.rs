//! Messages that differ only in a phone: written once, and its digits changed in place. Formatting each one would cost the load
//! more than sending it.

/// Phones that share an API key. Each gets a send and maybe a resend; the account's limit is 100 a minute.
pub(crate) const PER_ACCOUNT: u64 = 40;

/// The marks in a template's text, how many digits come in their places, and of what.
const MARKS: [(&str, usize, Digits); 3] =
    [("{phone}", 11, Digits::Phone), ("{id}", 32, Digits::Id), ("{account}", 24, Digits::Account)];

#[derive(Clone, Copy, Debug)]
enum Digits {
    /// Decimal, without a plus.
    Phone,
    /// A verification's, which is its phone in hexadecimal: the answer to any request can be told from the request alone.
    Id,
    /// An API key's.
    Account,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    places: Vec<(std::ops::Range<usize>, Digits)>,
}

impl Template {
    /// A text with `{phone}`, `{id}` and `{account}` in it.
    pub(crate) fn new(mut text: &str) -> Self {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        let first = |text: &str| MARKS.iter().filter_map(|mark| Some((text.find(mark.0)?, mark))).min_by_key(|it| it.0);
        while let Some((at, (mark, count, digits))) = first(text) {
            bytes.extend_from_slice(&text.as_bytes()[..at]);
            places.push((bytes.len()..bytes.len() + count, *digits));
            bytes.resize(bytes.len() + count, b'0');
            text = &text[at + mark.len()..];
        }
        bytes.extend_from_slice(text.as_bytes());
        Self { bytes, places }
    }

    /// A message with such a head, without the length of such a body, and the body.
    pub(crate) fn message(head: &str, body: &str) -> Self {
        let length = Self::new(body).bytes.len();
        Self::new(&format!("{head}content-length: {length}\r\n\r\n{body}"))
    }

    /// What it says of this phone.
    pub(crate) fn of(&mut self, phone: u64) -> &[u8] {
        for (place, digits) in &self.places {
            let place = self.bytes.get_mut(place.clone()).unwrap_or_default();
            match digits {
                Digits::Phone => write::<10>(phone, place),
                Digits::Id => write::<16>(phone, place),
                Digits::Account => write::<10>(phone / PER_ACCOUNT, place),
            }
        }
        &self.bytes
    }
}

fn write<const RADIX: u64>(mut number: u64, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number % RADIX) as usize];
        number /= RADIX;
    }
}
