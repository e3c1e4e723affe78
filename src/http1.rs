//! The syntax of HTTP/1 (RFC 9112): what a message says and where it ends. Bytes in, values out: no socket, no time, and no rule of the gateway's
//! own; how much a message may have is an argument where callers differ.

pub mod answer;
pub mod buffer;
pub mod chunk_framing;
pub mod chunked;
pub mod error;
pub mod fields;
pub mod hop_by_hop;
pub mod response;
