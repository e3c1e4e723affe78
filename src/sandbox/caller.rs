//! Who asks: the API key of a request, and what it may do.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::reply::SandboxRefusal;
use crate::policy::subject::{Account, HashKey};

/// An API key, as far as the sandbox cares. Any key of the right form is an account of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiCaller {
    pub(super) account: Account,
    /// A live key: its answers show no code.
    pub(super) live: bool,
    /// Holds the scope `verify:read`.
    pub(super) reads: bool,
}

impl ApiCaller {
    pub(super) fn read(headers: &HeaderMap, secret: &HashKey) -> Result<ApiCaller, SandboxRefusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(SandboxRefusal::Unauthorized) };
        let text = value.to_str().map_err(|_| SandboxRefusal::Unauthorized)?.trim();
        let (scheme, key) = text.split_once([' ', '\t']).ok_or(SandboxRefusal::Unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(SandboxRefusal::Unauthorized);
        }
        let key = key.trim_start();
        let (live, rest) = match (key.strip_prefix("sk_live_v1_"), key.strip_prefix("sk_test_v1_")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(SandboxRefusal::InvalidApiKey),
        };
        if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            return Err(SandboxRefusal::InvalidApiKey);
        }
        Ok(ApiCaller { account: secret.account(value.as_bytes()), live, reads: !rest.contains("sendonly") })
    }
}
