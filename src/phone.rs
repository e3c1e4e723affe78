//! A phone number in E.164, small enough to be a key and careful enough to be printed.

mod plans;
mod possible;

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The most digits that E.164 allows (ITU-T E.164, 6.1).
const MAX_DIGITS: usize = 15;

/// A phone number in E.164: `+`, then 2 to 15 digits, the first of them not 0.
///
/// The digits are kept as one number: because the first is never 0, no two phones share it. Printing one, in any way, gives
/// the masked form; only [`Phone::to_e164`] tells it in full.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phone(NonZeroU64);

/// The text is not a phone number in E.164.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotE164;

/// What may be shown of a phone. The last digits may begin with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Its first digits.
    pub first: u64,
    /// Its last ones.
    pub last: u64,
    /// How many are shown at either end: 0 to 4.
    pub digits: u32,
}

impl Phone {
    /// The number that its digits spell: below 10¹⁵, and never 0.
    pub const fn digits(self) -> u64 {
        self.0.get()
    }

    /// The phone whose digits spell this number; `None` if it has fewer than 2 of them or more than 15.
    pub const fn from_digits(digits: u64) -> Option<Self> {
        match NonZeroU64::new(digits) {
            Some(number) if digits >= 10 && digits < 10_u64.pow(MAX_DIGITS as u32) => Some(Self(number)),
            _ => None,
        }
    }

    /// Its first and last digits, as many as may be shown: at most four of each, and never most of it.
    pub const fn ends(self) -> Ends {
        let all = self.0.get();
        let many = all.ilog10() + 1;
        let fair = many * 4 / 11;
        let digits = if fair < 4 { fair } else { 4 };
        Ends { first: all / 10_u64.pow(many - digits), last: all % 10_u64.pow(digits), digits }
    }

    /// The full number, `+` and all. Never for a log, a metric, a header or an error.
    pub fn to_e164(self) -> String {
        format!("+{}", self.0)
    }
}

impl FromStr for Phone {
    type Err = NotE164;

    fn from_str(text: &str) -> Result<Self, NotE164> {
        let digits = text.strip_prefix('+').ok_or(NotE164)?;
        let well_formed = (2..=MAX_DIGITS).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        if !well_formed {
            return Err(NotE164);
        }
        digits.parse().map(Phone).map_err(|_| NotE164)
    }
}

/// `+1555•••0123`: at most the first four digits and the last four.
impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ends() {
            Ends { digits: 0, .. } => f.write_str("+•••"),
            Ends { first, last, digits } => write!(f, "+{first}•••{last:0width$}", width = digits as usize),
        }
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_e164_is_a_phone() {
        for text in ["+15550100123", "+4915112345678", "+12", "+999999999999999"] {
            assert_eq!(text.parse::<Phone>().map(Phone::to_e164).as_deref(), Ok(text));
        }
        for text in [
            "",
            "+",
            "+1",
            "15550100123",
            "+05550100123",
            "+1 555 0100123",
            "+1-555-0100",
            "+1(555)0100123",
            "++1555",
            "+1555a",
            "+1234567890123456",
            " +15550100123",
            "+15550100123 ",
            "+15550100123\n",
            "+１５５５",
            "+٣٤٥٦",
            "00491511",
            "tel:+1555",
        ] {
            assert_eq!(text.parse::<Phone>(), Err(NotE164), "{text:?}");
        }
    }

    #[test]
    fn a_phone_is_printed_masked() {
        let phone: Phone = "+15550100123".parse().unwrap();
        assert_eq!(format!("{phone} {phone:?}"), "+1555•••0123 +1555•••0123");
        let short: Phone = "+1234".parse().unwrap();
        assert_eq!(short.to_string(), "+1•••4");
        let zeros: Phone = "+10000000000".parse().unwrap();
        assert_eq!(zeros.to_string(), "+1000•••0000");
        assert_eq!("+12".parse::<Phone>().unwrap().to_string(), "+•••");
    }

    proptest! {
        #[test]
        fn phones_round_trip_and_never_collide(a in "[1-9][0-9]{1,14}", b in "[1-9][0-9]{1,14}") {
            let (first, second) = (format!("+{a}").parse::<Phone>().unwrap(), format!("+{b}").parse::<Phone>().unwrap());
            prop_assert_eq!(first.to_e164(), format!("+{a}"));
            prop_assert_eq!(first == second, a == b);
        }

        #[test]
        fn printing_hides_at_least_a_quarter(digits in "[1-9][0-9]{1,14}") {
            let phone: Phone = format!("+{digits}").parse().unwrap();
            let shown = phone.to_string().chars().filter(char::is_ascii_digit).count();
            prop_assert!(shown * 4 <= digits.len() * 3, "{} shown of {}", shown, digits.len());
        }
    }
}
