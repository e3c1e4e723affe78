//! Why a message cannot be read.

/// Why a response, or a body in chunks, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The connection ended before the message did.
    Incomplete,
    /// The body is longer than the caller allows.
    TooLong,
    /// This part is not HTTP, or two readers could read it in two ways.
    Malformed(&'static str),
    /// The response changes the protocol, which nobody asked for.
    Upgrade,
}
