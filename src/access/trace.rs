//! Which trace a request belongs to, as its `traceparent` says (W3C Trace Context).

use std::num::NonZeroU128;

/// The id of a trace. Where no valid one came, there is none: the gateway begins no traces, it only takes part in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// Its digits, in hexadecimal.
    pub(super) const DIGITS: usize = 32;

    /// The id in a request's `traceparent` fields. A request that has two of them belongs to no trace that could be told.
    pub fn of<'f>(mut fields: impl Iterator<Item = &'f [u8]>) -> Option<Self> {
        let only = fields.next()?;
        if fields.next().is_some() { None } else { Self::read(only) }
    }

    /// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`: version, trace, parent, flags. Versions to come may have more.
    fn read(traceparent: &[u8]) -> Option<Self> {
        let (version, rest) = field(traceparent, 2)?;
        let (trace, rest) = field(rest.strip_prefix(b"-")?, 32)?;
        let (parent, rest) = field(rest.strip_prefix(b"-")?, 16)?;
        let (_flags, rest) = field(rest.strip_prefix(b"-")?, 2)?;
        let ends = rest.is_empty() || (version != 0 && rest.starts_with(b"-"));
        (version != 0xff && parent != 0 && ends).then_some(Self(NonZeroU128::new(trace)?))
    }

    /// Its number.
    pub(super) const fn bits(self) -> u128 {
        self.0.get()
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
        TraceId::of(traceparents.iter().map(|one| one.as_bytes())).map(TraceId::bits)
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
}
