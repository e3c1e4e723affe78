//! Who asks: the API key of a request, and what it may do.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::reply::Refusal;
use crate::policy::subject::{Account, HashKey};

/// An API key, as far as the sandbox cares. Any key of the right form is an account of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) account: Account,
    /// A live key: its answers show no code.
    pub(super) live: bool,
    /// Holds the scope `verify:read`.
    pub(super) reads: bool,
}

impl Caller {
    pub(super) fn read(headers: &HeaderMap, secret: &HashKey) -> Result<Caller, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(Refusal::Unauthorized) };
        let text = value.to_str().map_err(|_| Refusal::Unauthorized)?.trim();
        let (scheme, key) = text.split_once([' ', '\t']).ok_or(Refusal::Unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Unauthorized);
        }
        let key = key.trim_start();
        let (live, rest) = match (key.strip_prefix("sk_live_v1_"), key.strip_prefix("sk_test_v1_")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(Refusal::InvalidApiKey),
        };
        if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            return Err(Refusal::InvalidApiKey);
        }
        Ok(Caller { account: secret.account(value.as_bytes()), live, reads: !rest.contains("sendonly") })
    }
}
