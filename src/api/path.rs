//! Which operation a request asks for, however it spells its path.
//!
//! A path is canonicalised (RFC 3986, 6.2.2, and doubled slashes, which three SDKs produce) and then matched against the
//! routes of the verify family. What matches is forwarded in its canonical spelling. What does not match, but could be read
//! as the family by a server more lenient than this one, is refused: a request that Sendly may take for a send must never
//! pass unlimited.

use std::ops::Range;

use http::Method;

use super::{API, Operation};

/// How a request's method and path read.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// One of the verify family's routes.
    Verify(ApiCall),
    /// Nothing of the verify family: not ours to change.
    Other,
    /// It reads as the verify family, but is none of its routes spelled canonically.
    NotARoute,
    /// A route of the verify family that does not know this method; the methods it knows.
    WrongMethod(&'static str),
}

/// A request to the verify family.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiCall {
    /// What it asks for.
    pub operation: Operation,
    /// The canonical path, where it is not the one that was read.
    pub respelled: Option<String>,
    id: Range<usize>,
}

impl ApiCall {
    /// The canonical path. `read` is the one that was read.
    pub fn path<'p>(&'p self, read: &'p str) -> &'p str {
        self.respelled.as_deref().unwrap_or(read)
    }

    /// The verification's id, as the canonical path spells it; empty where the operation has none. `read` is the path that was read.
    pub fn id<'p>(&'p self, read: &'p str) -> &'p str {
        self.path(read).get(self.id.clone()).unwrap_or_default()
    }
}

/// Reads a method and a path (without its query).
pub fn read(method: &Method, path: &str) -> Reading {
    if !could_be_verify(path) {
        return Reading::Other;
    }
    let respelled = canonicalise(path);
    match match_route(method, respelled.as_deref().unwrap_or(path)) {
        Match::Route(operation, id) => Reading::Verify(ApiCall { operation, respelled, id }),
        Match::WrongMethod(allowed) => Reading::WrongMethod(allowed),
        Match::Nothing if reads_as_verify(path) => Reading::NotARoute,
        Match::Nothing => Reading::Other,
    }
}

/// A cheap look that says no only where no reading of the path can be the verify family: the word is not there, and nothing
/// is there that could be decoded into it.
fn could_be_verify(path: &str) -> bool {
    let mut rest = path.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        match byte {
            b'%' | b'\\' | 0x80.. => return true,
            b'v' | b'V' if tail.get(..5).is_some_and(|letters| letters.eq_ignore_ascii_case(b"erify")) => return true,
            _ => rest = tail,
        }
    }
    false
}

enum Match {
    Route(Operation, Range<usize>),
    WrongMethod(&'static str),
    Nothing,
}

fn match_route(method: &Method, path: &str) -> Match {
    use Operation::{Check, Get, List, Profiles, Resend, Send, Sessions};

    let Some(rest) = path.strip_prefix(API).and_then(|rest| rest.strip_prefix("/verify")) else {
        return Match::Nothing;
    };
    // Or whatever is glued to the word (`verify;x/ver_1/check`) would be taken for a route that Sendly reads as another.
    if !(rest.is_empty() || rest.starts_with('/')) {
        return Match::Nothing;
    }
    let mut segments = rest.split('/').skip(1);
    let parts = (segments.next(), segments.next(), segments.next());
    let methods: &[(&str, Operation)] = match parts {
        (None, ..) if rest.is_empty() => &[("GET", List), ("POST", Send)],
        (Some("profiles"), None, _) => &[("GET", Profiles), ("POST", Profiles)],
        (Some("profiles"), Some(id), None) if is_id(id) => {
            &[("GET", Profiles), ("PATCH", Profiles), ("PUT", Profiles), ("DELETE", Profiles)]
        }
        (Some("sessions"), None, _) => &[("POST", Sessions)],
        (Some("sessions"), Some("validate"), None) => &[("POST", Sessions)],
        (Some("profiles" | "sessions"), ..) => return Match::Nothing,
        (Some(id), None, _) if is_id(id) => &[("GET", Get)],
        (Some(id), Some("resend"), None) if is_id(id) => &[("POST", Resend)],
        (Some(id), Some("check"), None) if is_id(id) => &[("POST", Check)],
        _ => return Match::Nothing,
    };
    match methods.iter().find(|(name, _)| *name == method.as_str()) {
        Some((_, operation @ (Resend | Check | Get))) => {
            let start = path.len() - rest.len() + 1;
            Match::Route(*operation, start..start + parts.0.map_or(0, str::len))
        }
        Some((_, operation)) => Match::Route(*operation, 0..0),
        None => Match::WrongMethod(allowed(methods)),
    }
}

fn allowed(methods: &[(&str, Operation)]) -> &'static str {
    match methods {
        [("GET", _), ("POST", _)] => "GET, POST",
        [("GET", _)] => "GET",
        [("POST", _)] => "POST",
        _ => "GET, PATCH, PUT, DELETE",
    }
}

/// Sendly's ids are `ver_` and 32 hex digits; the gateway only cares that one cannot be mistaken for anything else.
fn is_id(segment: &str) -> bool {
    (1..=128).contains(&segment.len())
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// RFC 3986 6.2.2: percent-encoded unreserved characters are decoded, dot segments resolved; and slashes that stand side by
/// side become one. Nothing else changes: letter case and a trailing slash are part of the path. `None` is a path that is canonical.
fn canonicalise(path: &str) -> Option<String> {
    let mut before = 0;
    let mut unlike =
        |byte: u8| byte == b'%' || (std::mem::replace(&mut before, byte) == b'/' && matches!(byte, b'/' | b'.'));
    if !path.bytes().any(&mut unlike) {
        return None;
    }
    let decoded =
        decode(path.as_bytes(), |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
    let decoded = String::from_utf8_lossy(&decoded).into_owned();
    let mut segments = resolve_dots(decoded.split('/')).join("/");
    segments.insert(0, '/');
    if decoded.ends_with('/') && segments.len() > 1 {
        segments.push('/');
    }
    Some(segments)
}

/// Whether some server could take this path for the verify family. It decodes for as long as there is something to decode,
/// takes `\` for `/`, ignores letter case, path parameters and extensions, lets control characters and spaces end a segment or
/// ignores them, takes `//x` for the name of a host, as browsers do, or not, and looks at the path both with its dot segments
/// resolved and without.
fn reads_as_verify(path: &str) -> bool {
    let mut bytes = path.as_bytes().to_vec();
    for pass in 0.. {
        let decoded = decode(&bytes, |_| true);
        if decoded.len() == bytes.len() {
            break;
        }
        // Nobody encodes so often in earnest, and each pass takes time: what is behind it is not looked for.
        if pass == MAX_DECODINGS {
            return true;
        }
        bytes = decoded;
    }
    let ended = String::from_utf8_lossy(&bytes).to_ascii_lowercase().replace('\\', "/");
    let ignored: String = ended.chars().filter(|c| !is_void(*c)).collect();
    let mut readings = vec![ended.as_str(), &ignored];
    for path in [&ended, &ignored] {
        let host_and_path = path.strip_prefix("//").map(|rest| rest.trim_start_matches('/'));
        readings.extend(host_and_path.and_then(|rest| rest.split_once('/')).map(|(_, path)| path));
    }
    readings.into_iter().any(|path| {
        let segments: Vec<&str> = path.split('/').map(bare).collect();
        let as_written: Vec<&str> =
            segments.iter().copied().filter(|segment| !matches!(*segment, "" | "." | "..")).collect();
        is_family(&as_written) || is_family(&resolve_dots(segments.into_iter()))
    })
}

/// What no segment is made of.
fn is_void(c: char) -> bool {
    c.is_control() || c.is_whitespace() || c == char::REPLACEMENT_CHARACTER
}

/// How often a path may have been percent-encoded.
const MAX_DECODINGS: usize = 4;

/// A segment without parameters, extension, query or fragment; dot segments stay what they are.
fn bare(segment: &str) -> &str {
    let ends = |c: char| matches!(c, ';' | '?' | '#' | '%') || is_void(c);
    let segment = segment.split(ends).next().unwrap_or_default();
    match segment {
        "." | ".." => segment,
        _ => segment.split('.').next().unwrap_or_default(),
    }
}

/// `verify` at the root, under `api`, or under any version of the API: some SDKs have called each of these.
fn is_family(segments: &[&str]) -> bool {
    let rest = segments.strip_prefix(&["api"]).unwrap_or(segments);
    let rest = match rest {
        [version, rest @ ..] if is_version(version) => rest,
        _ => rest,
    };
    rest.first() == Some(&"verify")
}

fn is_version(segment: &str) -> bool {
    segment
        .strip_prefix('v')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn resolve_dots<'s>(segments: impl Iterator<Item = &'s str>) -> Vec<&'s str> {
    let mut resolved = Vec::new();
    for segment in segments {
        match segment {
            "" | "." => {}
            ".." => {
                resolved.pop();
            }
            _ => resolved.push(segment),
        }
    }
    resolved
}

/// Decodes each `%xx` whose byte is `wanted`; the rest stays as it is.
fn decode(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if let (b'%', Some((digits, after))) = (byte, tail.split_first_chunk::<2>())
            && let Some(value) = hex(digits)
            && wanted(value)
        {
            decoded.push(value);
            rest = after;
        } else {
            decoded.push(byte);
        }
    }
    decoded
}

fn hex([high, low]: &[u8; 2]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests;
