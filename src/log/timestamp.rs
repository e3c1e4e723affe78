//! The time of a line, as text.

use std::fmt::Write;

use arrayvec::ArrayString;

use crate::clock::Moment;

/// A moment as `Display` has it, whose date and time of day are written once a second.
#[derive(Debug, Default)]
pub struct Stamp {
    second: u64,
    text: ArrayString<32>,
}

impl Stamp {
    /// The text of a moment.
    pub fn of(&mut self, at: Moment) -> &[u8] {
        const TO_THE_SECOND: usize = "2026-11-23T09:00:00.".len();
        let (second, millis) = (at.as_micros() / 1_000_000, at.as_micros() / 1000 % 1000);
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text.clear();
            // It has room for any, and those after the year 9999, which have no text, do not come.
            let _ = write!(self.text, "{at}");
        }
        self.text.truncate(TO_THE_SECOND);
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            let _ = self.text.try_push(char::from(b'0' + digit as u8));
        }
        let _ = self.text.try_push('Z');
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_that_are_remembered_are_those_of_the_moment() {
        let mut stamp = Stamp::default();
        for micros in [0, 1_795_424_400_123_999, 1_795_424_400_999_999, 1_795_424_401_000_000, 1_795_424_400_005_000] {
            let at = Moment::from_micros(micros);
            assert_eq!(std::str::from_utf8(stamp.of(at)).unwrap(), at.to_string());
        }
    }
}
