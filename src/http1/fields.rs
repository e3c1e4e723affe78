//! The fields of a request's head, whoever has read them: pingora into a map, or the gateway itself where they stand.

use http::{HeaderMap, HeaderValue};

/// A length (RFC 9112, 6.2) as every reader reads it: no sign, no list, no zeros before it, and no more digits than anybody needs.
pub(crate) fn content_length(value: &[u8]) -> Option<usize> {
    let has_digits = (1..=12).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    if !has_digits || value.len() > 1 && value.starts_with(b"0") {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Names, in whatever letter case, and values; in the order in which they came where they stand as they came.
#[derive(Clone, Copy, Debug)]
pub enum Fields<'f> {
    /// As a map.
    Map(&'f HeaderMap),
    /// As the head has them, and where.
    Plain(&'f [u8], &'f [Field]),
}

/// Where a field stands in its head.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Of its name.
    pub name: ByteSpan,
    /// Of its value, without the blanks around it.
    pub value: ByteSpan,
}

/// A stretch of a head, whose length is bounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteSpan {
    start: u16,
    end: u16,
}

impl ByteSpan {
    /// Where `part` stands in `whole`, of which it is a part. `None` where it stands too far behind.
    pub fn of_part(whole: &[u8], part: &[u8]) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
        let end = start.checked_add(part.len()).filter(|end| *end <= whole.len())?;
        Some(Self { start: u16::try_from(start).ok()?, end: u16::try_from(end).ok()? })
    }

    /// What stands there.
    pub fn of(self, whole: &[u8]) -> &[u8] {
        whole.get(usize::from(self.start)..usize::from(self.end)).unwrap_or_default()
    }
}

impl<'f> From<&'f HeaderMap> for Fields<'f> {
    fn from(map: &'f HeaderMap) -> Self {
        Self::Map(map)
    }
}

impl<'f> Fields<'f> {
    /// All of them.
    pub fn iter(self) -> Iter<'f> {
        match self {
            Fields::Map(map) => Iter::Map(map.iter()),
            Fields::Plain(head, fields) => Iter::Plain(head, fields.iter()),
        }
    }

    /// The values of all fields of this name.
    pub fn all<'n>(self, name: &'n str) -> impl Iterator<Item = &'f [u8]> + use<'f, 'n> {
        self.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The value of the first field of this name.
    pub fn first(self, name: &'static str) -> Option<&'f [u8]> {
        self.all(name).next()
    }
}

/// Names and values.
#[derive(Debug)]
pub enum Iter<'f> {
    /// Of [`Fields::Map`].
    Map(http::header::Iter<'f, HeaderValue>),
    /// Of [`Fields::Plain`].
    Plain(&'f [u8], std::slice::Iter<'f, Field>),
}

impl<'f> Iterator for Iter<'f> {
    type Item = (&'f [u8], &'f [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Map(fields) => fields.next().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
            Iter::Plain(head, fields) => fields.next().map(|field| (field.name.of(head), field.value.of(head))),
        }
    }
}
