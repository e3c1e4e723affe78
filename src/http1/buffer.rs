//! What a connection has read and nobody has understood yet. It is reused by all that the connection carries.

/// What is allocated for a connection: nearly every request and every answer of Sendly's fits, head and body.
const USUAL: usize = 4 * 1024;

/// By how much it grows at most, so that a message that does not come to its end takes hardly more than its own length.
const STEP: usize = 8 * 1024;

/// Bytes in the order in which they came.
pub(crate) struct Buffer {
    /// All of it is initialised; what lies outside of `start..end` means nothing.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// How much there is, and nothing of it: API keys and phones are in it.
impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("unread", &self.unread().len()).finish_non_exhaustive()
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Buffer {
    /// Empty, with room for a usual message.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; USUAL], start: 0, end: 0 }
    }

    /// What has been read and not consumed.
    pub(crate) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets the first `count` of the unread bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start.saturating_add(count));
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for at least one more byte. Whoever reads bounds what may be unread; the room grows with it.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                let more = self.bytes.len().clamp(USUAL, STEP);
                // Exactly: a vector would double.
                self.bytes.reserve_exact(more);
                self.bytes.resize(self.bytes.len() + more, 0);
            }
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `count` bytes of the [`room`](Self::room) have been written.
    pub(crate) fn add(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end.saturating_add(count));
    }

    /// Gives back what an unusually long message took, if nothing is unread.
    pub(crate) fn slim(&mut self) {
        if self.bytes.len() > USUAL && self.unread().is_empty() {
            *self = Self::new();
        }
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), start: 0, end: bytes.len() }
    }
}
