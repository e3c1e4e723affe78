//! `traceparent`: which trace a request belongs to, and what Sendly is told of it (W3C Trace Context, level 1).

use std::fmt::{self, Write as _};
use std::num::{NonZeroU64, NonZeroU128};

use arrayvec::ArrayString;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};

/// The id of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// Its digits, in hexadecimal.
    pub const DIGITS: usize = 32;

    /// A new one.
    pub(super) fn random() -> Self {
        let id = RandomIdGenerator::default().new_trace_id();
        // None is zero (W3C Trace Context, 3.2.2.3).
        Self(NonZeroU128::new(u128::from_be_bytes(id.to_bytes())).unwrap_or(NonZeroU128::MIN))
    }

    /// Its number.
    pub const fn bits(self) -> u128 {
        self.0.get()
    }

    /// The half of it that is random whatever made it.
    #[allow(clippy::cast_possible_truncation, reason = "it is the lower half that is wanted")]
    pub(super) const fn low_bits(self) -> u64 {
        self.bits() as u64
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.bits())
    }
}

/// What a request says of the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    /// The span that asked.
    pub(super) span: NonZeroU64,
    /// Whether whoever asked records it.
    pub(super) is_recorded: bool,
}

impl Parent {
    /// What a request's `traceparent` fields say. A request that has two of them belongs to no trace that could be told.
    pub(super) fn of<'f>(mut fields: impl Iterator<Item = &'f [u8]>) -> Option<Self> {
        let only = fields.next()?;
        if fields.next().is_some() { None } else { Self::read(only) }
    }

    /// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`: version, trace, parent, flags. Versions to come may have more.
    fn read(traceparent: &[u8]) -> Option<Self> {
        let (version, rest) = field(traceparent, 2)?;
        let (trace, rest) = field(rest.strip_prefix(b"-")?, TraceId::DIGITS)?;
        let (parent, rest) = field(rest.strip_prefix(b"-")?, 16)?;
        let (flags, rest) = field(rest.strip_prefix(b"-")?, 2)?;
        let ends = rest.is_empty() || (version != 0 && rest.starts_with(b"-"));
        let trace = TraceId(NonZeroU128::new(trace)?);
        let span = NonZeroU64::new(u64::try_from(parent).ok()?)?;
        (version != 0xff && ends).then_some(Self { trace, span, is_recorded: flags & 1 != 0 })
    }
}

/// A `traceparent` as it stands in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent(ArrayString<55>);

impl Traceparent {
    /// That of a span in a trace that is recorded.
    pub(super) fn of(trace: TraceId, span: NonZeroU64) -> Self {
        let mut text = ArrayString::new();
        // It has room for exactly that.
        let _ = write!(text, "00-{trace}-{span:016x}-01");
        Self(text)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A number of so many hexadecimal digits, in lower case, and what follows it.
fn field(bytes: &[u8], digits: usize) -> Option<(u128, &[u8])> {
    let (number, rest) = bytes.split_at_checked(digits)?;
    let value = number.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn id(traceparents: &[&str]) -> Option<u128> {
        Parent::of(traceparents.iter().map(|one| one.as_bytes())).map(|parent| parent.trace.bits())
    }

    #[test]
    fn a_valid_one_is_read_whatever_its_flags_and_whatever_newer_versions_add() {
        let trace = Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(id(&[PARENT]), trace);
        assert_eq!(id(&[&PARENT.replace("-01", "-00")]), trace);
        assert_eq!(id(&[&format!("cc{}-what-else", &PARENT[2..])]), trace);
        assert_eq!(id(&[&format!("cc{}", &PARENT[2..])]), trace);
    }

    #[test]
    fn what_is_not_exactly_one_valid_one_is_none() {
        assert_eq!(id(&[]), None);
        assert_eq!(id(&[PARENT, PARENT]), None, "which of them?");
        for wrong in [
            "",
            "00",
            &PARENT[..PARENT.len() - 1],
            &PARENT.to_uppercase(),
            &PARENT.replace('-', "_"),
            &PARENT.replace("4bf9", "4bg9"),
            &format!("ff{}", &PARENT[2..]),
            &format!("{PARENT}-more"),
            &format!("cc{}more", &PARENT[2..]),
            &format!(" {PARENT}"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            "00-+15550100123-00f067aa0ba902b7-01",
        ] {
            assert_eq!(id(&[wrong]), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let parent = Parent::read(PARENT.as_bytes()).unwrap();
        assert_eq!(Traceparent::of(parent.trace, parent.span).as_str(), PARENT);
        assert!(parent.is_recorded && !Parent::read(PARENT.replace("-01", "-00").as_bytes()).unwrap().is_recorded);
        assert!(Parent::read(PARENT.replace("-01", "-ff").as_bytes()).unwrap().is_recorded, "flags to come");
        let least = Traceparent::of(TraceId(NonZeroU128::MIN), NonZeroU64::MIN);
        assert_eq!(least.as_str(), format!("00-{:032x}-{:016x}-01", 1, 1));
    }
}
