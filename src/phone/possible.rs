//! Which phones can be numbers at all, by the numbering plan of their calling code: an array look-up.
//!
//! `+447700900123` and `+4407700900123` ring on one handset, because carriers and libraries drop the 0 that belongs to calls from within
//! the country. As two phones they would get twice the codes. So a 0 behind the calling code is refused where libphonenumber knows no
//! number of that plan that begins so, and so is a length that no number there has.
//!
//! Not known, on purpose: whether a number was given out (ranges open every month), and trunk prefixes that are not 0 and fit a possible
//! length (a 9 in Argentina, an 8 in Belarus). A calling code that is not in the plans is judged by E.164 alone.

use super::Phone;
use super::plans::ROWS;

/// What the numbers of one calling code look like; all 0 where no plan has this code.
#[derive(Clone, Copy)]
struct Plan {
    /// Digits of the calling code.
    code: u32,
    /// Bit n: a national number may have n digits.
    lengths: u16,
    /// The same of a national number that begins with 0.
    zero_lengths: u16,
    /// Bit n: digit n may follow that 0.
    after_zero: u16,
}

/// By the first three digits of a phone.
static PLANS: [Plan; 1000] = by_first_digits();

impl Phone {
    /// Whether this can be a number: of a possible length, and with a 0 behind the calling code only where there are such numbers.
    pub fn is_possible(self) -> bool {
        let all = self.digits();
        let many = all.ilog10() + 1;
        let first = if many < 3 { all * 10 } else { all / 10_u64.pow(many - 3) };
        let Some(plan) = PLANS.get(first as usize).filter(|plan| plan.code > 0) else { return true };
        let Some(length) = many.checked_sub(plan.code).filter(|length| *length > 0) else { return false };
        let national = all % 10_u64.pow(length);
        let (lengths, begins) = if national >= 10_u64.pow(length - 1) {
            (plan.lengths, true)
        } else {
            let second = if length < 2 { 0 } else { national / 10_u64.pow(length - 2) };
            (plan.zero_lengths, plan.after_zero >> second & 1 == 1)
        };
        begins && lengths >> length & 1 == 1
    }
}

#[allow(clippy::indexing_slicing, reason = "it runs in the compiler, and a fault there is an error of compilation")]
const fn by_first_digits() -> [Plan; 1000] {
    let mut plans = [Plan { code: 0, lengths: 0, zero_lengths: 0, after_zero: 0 }; 1000];
    let mut row = 0;
    while row < ROWS.len() {
        let (calling_code, lengths, zero_lengths, after_zero) = ROWS[row];
        let code = calling_code.ilog10() + 1;
        let plan =
            Plan { code, lengths: bits(lengths), zero_lengths: bits(zero_lengths), after_zero: bits(after_zero) };
        let span = 10_usize.pow(3 - code);
        let mut at = calling_code as usize * span;
        let end = at + span;
        while at < end {
            plans[at] = plan;
            at += 1;
        }
        row += 1;
    }
    plans
}

#[allow(clippy::indexing_slicing, reason = "it runs in the compiler, and a fault there is an error of compilation")]
const fn bits(numbers: &[u8]) -> u16 {
    let (mut bits, mut at) = (0, 0);
    while at < numbers.len() {
        bits |= 1 << numbers[at];
        at += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_possible(phone: &str) -> bool {
        phone.parse::<Phone>().unwrap().is_possible()
    }

    #[test]
    fn a_zero_behind_the_calling_code_is_refused_where_no_number_begins_so() {
        for phone in
            ["+4407700900123", "+49015112345678", "+330612345678", "+6104123456", "+810901234567", "+9109876543210"]
        {
            assert!(!is_possible(phone), "{phone}");
            assert!(is_possible(&phone.replacen('0', "", 1)) || phone == "+6104123456", "{phone} without it");
        }
    }

    #[test]
    fn countries_whose_numbers_begin_with_0_keep_it() {
        for (country, phone) in [
            ("Italy", "+390612345678"),
            ("the Vatican", "+390669812345"),
            ("San Marino", "+3780549886377"),
            ("Ivory Coast", "+2250123456789"),
            ("Congo", "+242061234567"),
            ("Gabon", "+24106031234"),
            ("Benin", "+2290195123456"),
            ("Burkina Faso", "+22601234567"),
            ("Tajikistan", "+992001234567"),
        ] {
            assert!(is_possible(phone), "{country}: {phone}");
        }
        assert!(is_possible("+393123456789"), "and Italy's mobiles have none");
    }

    #[test]
    fn a_length_that_no_number_there_has_is_refused() {
        for phone in ["+155501001", "+155501001234", "+12", "+49", "+4477009001", "+44770090012345", "+3361234567"] {
            assert!(!is_possible(phone), "{phone}");
        }
        for phone in ["+15550100123", "+447700900123", "+447624123456", "+79161234567", "+61412345678", "+390669812345"]
        {
            assert!(is_possible(phone), "{phone}");
        }
    }

    #[test]
    fn codes_of_no_country_have_plans_and_unknown_codes_are_judged_by_e164_alone() {
        assert!(is_possible("+80012345678") && !is_possible("+800123456789"));
        assert!(is_possible("+870773111632") && !is_possible("+8707"));
        for phone in ["+21", "+210123456", "+99", "+9991234567", "+999999999999999"] {
            assert!(is_possible(phone), "{phone}");
        }
    }

    /// `tests/fixtures/possible.txt` has numbers with libphonenumber's verdict on them.
    #[test]
    fn numbers_are_possible_where_libphonenumber_says_so() {
        let fixture = include_str!("../../tests/fixtures/possible.txt");
        let (mut wrong, mut judged) = (Vec::new(), 0);
        for line in fixture.lines().filter(|line| !line.starts_with('#')) {
            let (sign, numbers) = line.split_once(' ').unwrap();
            for number in numbers.split(' ') {
                judged += 1;
                if is_possible(&format!("+{number}")) != (sign == "+") {
                    wrong.push(format!("{sign} {number}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(judged > 3000, "{judged}");
    }

    proptest! {
        #[test]
        fn any_phone_is_judged_without_a_panic(digits in "[1-9][0-9]{1,14}") {
            let _ = is_possible(&format!("+{digits}"));
        }
    }
}
