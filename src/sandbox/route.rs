//! What a request's method and path ask for.
//!
//! Written apart from [`crate::api::path`], and more lenient: percent-encoding, letter case, doubled and trailing slashes
//! and dot segments make no difference here. So a spelling that slips past a gateway sends a code, and its test sees one.

use http::Method;

/// A route, and the id in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SandboxRoute {
    Send,
    List,
    Get(String),
    Resend(String),
    Check(String),
    NewProfile,
    Profiles,
    Profile(String),
    ChangeProfile(String),
    DeleteProfile(String),
    NewSession,
    ValidateSession,
}

impl SandboxRoute {
    /// `None` is a 404, also where only the method is wrong.
    pub(super) fn read(method: &Method, path: &str) -> Option<SandboxRoute> {
        let path = decode(path).to_ascii_lowercase();
        let mut segments: Vec<&str> = Vec::new();
        for segment in path.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        Some(match (method.as_str(), segments.strip_prefix(&["api", "v1", "verify"])?) {
            ("POST", []) => SandboxRoute::Send,
            ("GET", []) => SandboxRoute::List,
            ("GET", ["profiles"]) => SandboxRoute::Profiles,
            ("POST", ["profiles"]) => SandboxRoute::NewProfile,
            ("GET", ["profiles", id]) => SandboxRoute::Profile((*id).to_owned()),
            ("PATCH" | "PUT", ["profiles", id]) => SandboxRoute::ChangeProfile((*id).to_owned()),
            ("DELETE", ["profiles", id]) => SandboxRoute::DeleteProfile((*id).to_owned()),
            ("POST", ["sessions"]) => SandboxRoute::NewSession,
            ("POST", ["sessions", "validate"]) => SandboxRoute::ValidateSession,
            (_, ["profiles" | "sessions", ..]) => return None,
            ("GET", [id]) => SandboxRoute::Get((*id).to_owned()),
            ("POST", [id, "resend"]) => SandboxRoute::Resend((*id).to_owned()),
            ("POST", [id, "check"]) => SandboxRoute::Check((*id).to_owned()),
            _ => return None,
        })
    }
}

/// Decodes each `%xx` once; what is not one stays as it is.
fn decode(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let value = if byte == b'%' { tail.first_chunk().and_then(hex) } else { None };
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_and_sessions_are_told_apart_from_ids() {
        for (method, path, expected) in [
            (Method::GET, "ver_1", Some(SandboxRoute::Get("ver_1".into()))),
            (Method::GET, "profiles", Some(SandboxRoute::Profiles)),
            (Method::PUT, "profiles/p", Some(SandboxRoute::ChangeProfile("p".into()))),
            (Method::POST, "sessions", Some(SandboxRoute::NewSession)),
            (Method::POST, "profiles/resend", None),
            (Method::POST, "sessions/check", None),
            (Method::GET, "sessions", None),
            (Method::POST, "ver_1", None),
        ] {
            assert_eq!(SandboxRoute::read(&method, &format!("/api/v1/verify/{path}")), expected, "{method} {path}");
        }
        assert_eq!(SandboxRoute::read(&Method::POST, "/verify"), None);
        assert_eq!(SandboxRoute::read(&Method::POST, "/"), None);
    }

    #[test]
    fn a_bent_spelling_is_still_a_send() {
        for path in ["//api/v1/Verify/", "/api/v1/%76erify", "/api/v1/x/%2e%2E/verify", "/api/v1%2fverify"] {
            assert_eq!(SandboxRoute::read(&Method::POST, path), Some(SandboxRoute::Send), "{path}");
        }
        assert_eq!(decode("%%41%4%zz%é%"), "%A%4%zz%é%");
        assert_eq!(decode("%+f"), "%+f", "a sign is not a hex digit");
    }
}
