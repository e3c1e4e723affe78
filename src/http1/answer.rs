//! A whole response.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// A response that has come to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, but for those that concern only the connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}
