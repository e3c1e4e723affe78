//! Durations as an operator writes them: `10m`, `1h30m`.

use std::time::Duration;

/// The units, longest first. No month and no year, because nobody knows how long they are; so `M` cannot be mistaken for `m`.
const UNITS: [(&str, Duration); 5] =
    [("d", days(1)), ("h", hours(1)), ("m", minutes(1)), ("s", secs(1)), ("ms", millis(1))];

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const fn minutes(count: u64) -> Duration {
    secs(60 * count)
}

pub(crate) const fn hours(count: u64) -> Duration {
    minutes(60 * count)
}

pub(crate) const fn days(count: u64) -> Duration {
    hours(24 * count)
}

/// Reads whole numbers, each with its unit, and nothing else.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    loop {
        let (number, tail) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let count = number.parse::<u32>().ok()?;
        total = total.checked_add(unit.checked_mul(count)?)?;
        if tail.is_empty() {
            return Some(total);
        }
        rest = tail;
    }
}

/// Writes a duration in the longest unit that divides it.
pub(crate) fn text(span: Duration) -> String {
    let millis = span.as_millis();
    let whole = UNITS.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(unit.as_millis()));
    whole.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / unit.as_millis()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers_with_units_are_durations() {
        for (text, span) in [
            ("0s", Duration::ZERO),
            ("250ms", millis(250)),
            ("90s", secs(90)),
            ("10m", minutes(10)),
            ("1h30m", minutes(90)),
            ("31d", days(31)),
            ("1d2h3m4s5ms", days(1) + hours(2) + minutes(3) + secs(4) + millis(5)),
        ] {
            assert_eq!(parse(text), Some(span), "{text:?}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for text in [
            "",
            "0",
            "10",
            "m",
            "10M",
            "10 m",
            " 10m",
            "10m ",
            "1.5h",
            "-1s",
            "+1s",
            "10 parsecs",
            "1y",
            "1us",
            "1m30",
            "1µs",
            "١s",
            "4294967296s",
            "9999999999999999999999d",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_duration_is_written_in_the_longest_unit_that_divides_it() {
        for (span, written) in [(secs(0), "0s"), (millis(1500), "1500ms"), (secs(90), "90s"), (secs(3600), "1h")] {
            assert_eq!(text(span), written);
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(count in 0..u64::from(u32::MAX)) {
            prop_assert_eq!(parse(&text(millis(count))), Some(millis(count)));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
