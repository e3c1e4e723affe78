//! As much of HTTP/1.1 as the load and the upstream speak: a head, and a body whose length it tells.

use std::ops::Range;

/// Where a message's parts are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    line_end: usize,
    end: usize,
    length: usize,
}

impl Head {
    /// The head at the start of these bytes, if it is whole.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let end = find(bytes, b"\r\n\r\n")?;
        let head = bytes.get(..end)?;
        let line_end = find(head, b"\r\n").unwrap_or(end);
        let mut lines = head.split(|byte| *byte == b'\n').skip(1);
        let length = lines.find_map(|line| {
            const NAME: &[u8] = b"content-length:";
            let (name, value) = line.split_at_checked(NAME.len())?;
            if !name.eq_ignore_ascii_case(NAME) {
                return None;
            }
            std::str::from_utf8(value).ok()?.trim().parse().ok()
        });
        Some(Self { line_end, end: end + 4, length: length.unwrap_or(0) })
    }

    /// The request line or status line.
    pub(crate) fn line(self, bytes: &[u8]) -> &str {
        bytes.get(..self.line_end).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default()
    }

    /// Where the body is, whether it is there yet or not.
    pub(crate) fn body(self) -> Range<usize> {
        self.end..self.end + self.length
    }
}

/// Where `mark` begins.
pub(crate) fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    let (first, rest) = mark.split_first()?;
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|byte| byte == first)?;
        if bytes.get(at + 1..)?.starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
}
