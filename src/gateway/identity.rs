//! What the header of a send or a resend says, read in one pass: whether the request can be judged, and what tells it apart.

use super::reply::Reply;
use super::retries::Fingerprint;
use crate::api::{Operation, sdk};
use crate::http1::fields::Fields;
use crate::policy::subject::{Account, HashKey, Parts};
use crate::upstream;

/// A header by which a request can be judged.
#[derive(Debug)]
pub(crate) struct Head {
    /// Whose API key it carries.
    pub(crate) account: Account,
    /// What the header has of the request's identity.
    parts: Parts,
    keyed: bool,
    /// The hash of an `Idempotency-Key` that an SDK made up.
    made_up_key: Option<u128>,
}

impl Head {
    /// Reads a header.
    ///
    /// # Errors
    /// Why a request with this header cannot be judged.
    pub(crate) fn read(fields: Fields<'_>, operation: Operation, hash_key: &HashKey) -> Result<Self, Reply> {
        let [mut authorization, mut content_type, mut key, mut organization, mut encoding] = [None; 5];
        let mut misleading = None;
        for (name, value) in fields.iter() {
            if upstream::is_misleading(name) {
                misleading = misleading.or(Some(name));
            }
            let is = |wanted: &str| wanted.as_bytes().eq_ignore_ascii_case(name);
            // Told apart by their lengths first: most are none of these.
            let (name, place) = match name.len() {
                12 if is("content-type") => ("content-type", &mut content_type),
                13 if is("authorization") => ("authorization", &mut authorization),
                15 if is("idempotency-key") => ("idempotency-key", &mut key),
                16 if is("content-encoding") => ("content-encoding", &mut encoding),
                17 if is("x-organization-id") => ("x-organization-id", &mut organization),
                _ => continue,
            };
            // By these a request is judged, or told apart from others: there must be no second reading of them.
            if place.replace(value).is_some() {
                return Err(Reply::invalid_request(&format!("{name} may stand in a request once.")));
            }
        }
        let authorization = authorization.unwrap_or_default();
        if !is_bearer(authorization) {
            return Err(Reply::unauthorized());
        }
        if encoding.is_some() {
            return Err(Reply::invalid_request("The body may not be encoded."));
        }
        if let Some(name) = misleading {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            return Err(Reply::invalid_request(&format!("{name} is not honoured here.")));
        }
        if operation == Operation::Send && !content_type.is_some_and(is_json) {
            return Err(Reply::invalid_request("The Content-Type of a send must be application/json."));
        }
        let key = key.unwrap_or_default();
        let account = hash_key.account(authorization);
        // The account stands for its key, which is longer.
        let parts = hash_key.parts(b"exchange").and(&account.bits().get().to_le_bytes());
        let is_made_up = sdk::is_made_up_key(key);
        let chosen_key = if is_made_up { &[] } else { key };
        Ok(Self {
            account,
            parts: parts.and(organization.unwrap_or_default()).and(chosen_key),
            made_up_key: is_made_up.then(|| hash_key.hash(b"idempotency-key", [key])),
            // Sendly takes 1 to 255 printable ASCII characters. What is no key names nothing.
            keyed: (1..=255).contains(&key.len()) && key.iter().all(|byte| (b' '..=b'~').contains(byte)),
        })
    }

    /// What makes two requests with such headers the same.
    pub(crate) fn fingerprint(self, path: &str, body: &[u8]) -> Fingerprint {
        let parts = self.parts.and(path.as_bytes()).and(body);
        let identity = parts.hash();
        let key = self.made_up_key.map_or(identity, |key| parts.and(&key.to_le_bytes()).hash());
        Fingerprint { identity, key, keyed: self.keyed }
    }
}

/// `Bearer` and one token (RFC 6750, 2.1). Whatever else two servers may read as different keys, and so count apart.
fn is_bearer(authorization: &[u8]) -> bool {
    let mut words = authorization.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let token = |word: &[u8]| word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte));
    words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
        && words.next().is_some_and(token)
        && words.next().is_none()
}

/// `application/json`, in UTF-8 if it says so.
fn is_json(content_type: &[u8]) -> bool {
    if content_type == b"application/json" {
        return true;
    }
    let Some(value) = std::str::from_utf8(content_type).ok().filter(|value| value.is_ascii()) else { return false };
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    essence && parts.all(utf8)
}
