//! What tells requests apart, and which of them are one.

/// What makes two requests the same: keyed hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint {
    /// Of API key, organisation, path, body, and an `Idempotency-Key` that the app chose.
    pub identity: u128,
    /// Of the same and of an `Idempotency-Key` that an SDK made up; where there is none, the identity.
    pub key: u128,
    /// Whether there was an `Idempotency-Key`.
    pub keyed: bool,
}
