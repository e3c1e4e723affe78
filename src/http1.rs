//! The syntax of HTTP/1 (RFC 9112): what a message says and where it ends. Bytes in, values out: no socket, no time, and no rule of the gateway's
//! own; how much a message may have is an argument where callers differ.

pub(crate) mod answer;
pub(crate) mod buffer;
pub(crate) mod chunk_framing;
pub(crate) mod chunked;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod hop_by_hop;
pub(crate) mod response;
