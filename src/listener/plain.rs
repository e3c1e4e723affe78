//! Which requests are plain: sends and resends of HTTP/1.1 that can be read in one way only, with a body of a known length.

use arrayvec::ArrayVec;
use http::Method;

use crate::api::Operation;
use crate::api::path::{self, ApiCall};
use crate::http1::fields::{ByteSpan, Field};

/// What nearly every head has at most: those of a plain request have no more.
pub(crate) const USUAL_FIELDS: usize = 32;

/// A plain request.
#[derive(Debug)]
pub(crate) struct Plain {
    /// What it asks for.
    pub(crate) call: ApiCall,
    /// Its path, without a query, as it came.
    pub(crate) path: ByteSpan,
    pub(crate) fields: ArrayVec<Field, USUAL_FIELDS>,
    /// The lengths of its head and its body, in bytes.
    pub(crate) head: usize,
    pub(crate) body: usize,
}

impl Plain {
    /// The length of all of it.
    pub(crate) const fn length(&self) -> usize {
        self.head + self.body
    }
}

/// The request with this head, which is a POST of HTTP/1.1 with one length, if its target makes it a plain one.
pub(crate) fn plain(
    bytes: &[u8],
    target: &str,
    headers: &[httparse::Header<'_>],
    head: usize,
    body: usize,
) -> Option<Plain> {
    let path = target.split('?').next().filter(|path| path.starts_with('/'))?;
    // Of these, readers may make different things; pingora's reading is the one that goes on.
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return None;
    }
    let path::Reading::Verify(call) = path::read(&Method::POST, path) else { return None };
    if !matches!(call.operation, Operation::Send | Operation::Resend) {
        return None;
    }
    let part = |part: &[u8]| ByteSpan::of_part(bytes, part);
    let mut fields = ArrayVec::new();
    for header in headers {
        // One that has more is not plain.
        fields.try_push(Field { name: part(header.name.as_bytes())?, value: part(header.value)? }).ok()?;
    }
    Some(Plain { call, path: part(path.as_bytes())?, fields, head, body })
}
