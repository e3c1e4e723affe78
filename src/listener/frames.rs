//! What comes on a connection of HTTP/2, as far as deadlines need to know: whether the preface or a request's head has begun and not ended.
//!
//! The `h2` crate says nothing of a head before it is whole, and waits for the rest of it for as long as the client likes.

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// The head of a frame (RFC 9113, 4.1).
const FRAME_HEAD: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Frames {
    preface_left: usize,
    /// The head of the frame that is coming, and how much of it is there.
    head: [u8; FRAME_HEAD],
    head_has: usize,
    payload_left: usize,
    is_in_head: bool,
    heads: u64,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { preface_left: PREFACE, head: [0; FRAME_HEAD], head_has: 0, payload_left: 0, is_in_head: false, heads: 0 }
    }

    /// Which head of a request has begun and not ended, counted from the first; `None` where none has.
    pub(crate) fn unfinished_head(&self) -> Option<u64> {
        self.is_in_head.then_some(self.heads)
    }

    /// These bytes have come.
    pub(crate) fn came(&mut self, mut bytes: &[u8]) {
        let skipped = self.preface_left.min(bytes.len());
        self.preface_left -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() {
            if self.head_has < FRAME_HEAD {
                let count = (FRAME_HEAD - self.head_has).min(bytes.len());
                for (into, byte) in self.head.iter_mut().skip(self.head_has).zip(bytes) {
                    *into = *byte;
                }
                self.head_has += count;
                bytes = bytes.get(count..).unwrap_or_default();
                if self.head_has < FRAME_HEAD {
                    return;
                }
                self.frame_begins();
            }
            let count = self.payload_left.min(bytes.len());
            self.payload_left -= count;
            bytes = bytes.get(count..).unwrap_or_default();
            if self.payload_left == 0 {
                self.frame_ends();
            }
        }
    }

    fn frame_begins(&mut self) {
        let [a, b, c, kind, ..] = self.head;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind == HEADERS && !self.is_in_head {
            self.is_in_head = true;
            self.heads += 1;
        }
    }

    fn frame_ends(&mut self) {
        let [_, _, _, kind, flags, ..] = self.head;
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.is_in_head = false;
        }
        self.head_has = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD + payload, 0x04);
        frame
    }

    /// What is unfinished after each of these frames.
    fn after_each(frames: &[Vec<u8>], piece: usize) -> Vec<Option<u64>> {
        let mut seen = Frames::new();
        seen.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut unfinished = Vec::new();
        for frame in frames {
            frame.chunks(piece).for_each(|bytes| seen.came(bytes));
            unfinished.push(seen.unfinished_head());
        }
        unfinished
    }

    #[test]
    fn a_head_is_unfinished_until_its_last_frame_is_whole() {
        let frames = [
            frame(4, 0, 0),
            frame(HEADERS, END_HEADERS, 30),
            frame(0, 0, 70_000),
            frame(HEADERS, 1, 10),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 300),
            frame(HEADERS, 0, 0),
        ];
        for piece in [1, 2, 7, 9, 10, 4096, 100_000] {
            assert_eq!(after_each(&frames, piece), [None, None, None, Some(2), Some(2), None, Some(3)], "{piece}");
        }
    }

    #[test]
    fn a_head_has_begun_with_the_head_of_its_frame() {
        let mut seen = Frames::new();
        seen.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let frame = frame(HEADERS, END_HEADERS, 5);
        seen.came(&frame[..8]);
        assert_eq!(seen.unfinished_head(), None);
        seen.came(&frame[8..13]);
        assert_eq!(seen.unfinished_head(), Some(1));
        seen.came(&frame[13..]);
        assert_eq!(seen.unfinished_head(), None);
    }
}
