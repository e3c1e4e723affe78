//! `[[throttles]]`: smoothed rates on request attempts.

use std::time::Duration;

use super::duration::{hours, minutes, secs};
use super::mistake::Mistakes;
use super::parsers::{array, count, one_of};
use super::raw::Given;
use super::section::Section;
use crate::api::Operation;
use crate::config::{Throttle, ThrottlePer};

/// The most throttles. Every request asks each of them.
pub(super) const MAX_THROTTLES: usize = 32;

/// The most attempts, in a rate or a burst. Beyond it nothing is throttled.
const MAX_ATTEMPTS: u32 = 1_000_000;

/// One throttle.
pub(super) fn throttle(keys: &mut Section<'_, '_>) -> Option<Throttle> {
    let name = keys.unique_name();
    let per = keys.required("per", one_of(&[("account", ThrottlePer::Account), ("client", ThrottlePer::Client)]));
    let rate = keys.required("rate", rate);
    // As many as the rate's own number: then nobody is refused who keeps to the rate as it is written, however unevenly.
    let burst = keys.get("burst", rate.as_ref().map_or(1, |rate| rate.attempts), count(1..=MAX_ATTEMPTS));
    let operations = keys.get("operations", None, operations);
    Some(Throttle { name: name?, per: per?, every: rate?.every, burst, operations })
}

/// So many attempts per unit of time, and so one each time that `every` has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    attempts: u32,
    every: Duration,
}

fn rate(given: &Given<'_>) -> Result<Rate, Mistakes> {
    let wrong = || given.expected(format!(r#"a rate such as "600/m" (s, m or h), from 1 to {MAX_ATTEMPTS}"#));
    given.text().and_then(parse_rate).ok_or_else(wrong)
}

fn parse_rate(text: &str) -> Option<Rate> {
    let (attempts, unit) = text.split_once('/')?;
    let unit = match unit {
        "s" => secs(1),
        "m" => minutes(1),
        "h" => hours(1),
        _ => return None,
    };
    let digits = attempts.bytes().all(|byte| byte.is_ascii_digit());
    let attempts = attempts.parse().ok().filter(|attempts| digits && (1..=MAX_ATTEMPTS).contains(attempts))?;
    Some(Rate { attempts, every: unit.checked_div(attempts)? })
}

/// Some operations, or `None` for any.
fn operations(given: &Given<'_>) -> Result<Option<Vec<Operation>>, Mistakes> {
    if given.text() == Some("any") {
        return Ok(None);
    }
    let operations = array(r#"operations, or "any""#, one_of(&Operation::ALL.map(|one| (one.name(), one))))(given)?;
    if operations.is_empty() {
        return Err(given.expected_but_found(r#"operations, or "any""#, "none"));
    }
    Ok(Some(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_per_unit() {
        let every = |text| parse_rate(text).map(|rate| rate.every);
        assert_eq!(every("600/m"), Some(Duration::from_millis(100)));
        assert_eq!(every("10/s"), Some(Duration::from_millis(100)));
        assert_eq!(every("1/h"), Some(hours(1)));
        assert_eq!(every("1000000/s"), Some(Duration::from_micros(1)));
        for text in ["", "600", "/m", "0/m", "-1/m", "+1/m", "600/d", "600 / m", "600/M", "1.5/s", "1000001/s", "1/s/s"]
        {
            assert_eq!(every(text), None, "{text:?}");
        }
    }
}
