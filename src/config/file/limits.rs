//! `[[limits]]`: at most so many codes in any window, per something.

use super::duration::{days, millis};
use super::mistake::Mistakes;
use super::parsers::{array, count, duration, one_of};
use super::raw::Given;
use super::section::Section;
use crate::api::code;
use crate::policy::{Counts, Kind, Limit, Mode, Per, RefusalCode};

/// The limits of a configuration that has no `limits` of its own. They are read as if they stood in it, so that variables
/// override them like any others.
pub(super) const DEFAULT: &str = r#"
limits = [
    { name = "phone-10m", per = "phone", max = 5, window = "10m" },
    { name = "phone-day", per = "phone", max = 20, window = "24h" },
    { name = "resend-cooldown", per = "verification", max = 1, window = "60s" },
    { name = "account-1m", per = "account", max = 100, window = "1m" },
]
"#;

/// The longest window. Beyond it a number of codes is a quota, and belongs in a database.
const MAX_WINDOW: std::time::Duration = days(31);

/// The most codes in one window. Each key's log has room for as many times, at 8 bytes each.
const MAX_CODES: u32 = 1_000_000;

/// One limit.
pub(super) fn limit(keys: &mut Section<'_, '_>) -> Option<Limit> {
    let name = keys.unique_name();
    let per = keys.required(
        "per",
        one_of(&[
            (Per::Phone.name(), Per::Phone),
            (Per::Verification.name(), Per::Verification),
            (Per::Account.name(), Per::Account),
        ]),
    );
    let max = keys.required("max", count(1..=MAX_CODES));
    let window = keys.required("window", duration(millis(1)..=MAX_WINDOW));
    // A verification's limit is a cooldown between its resends, unless it says otherwise.
    let (default_counts, default_code) = match per {
        Some(Per::Verification) => (Counts::RESENDS, RefusalCode::ResendCooldown),
        _ => (Counts::BOTH, RefusalCode::RateLimitExceeded),
    };
    let counts = keys.get("counts", default_counts, counts);
    keys.rule(
        per != Some(Per::Verification) || counts.resend,
        &["counts"],
        r#"counts to include "resend" (a verification is sent once, so a limit on its sends never refuses)"#,
    );
    let mode = keys.get("mode", Mode::Enforce, one_of(&[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)]));
    let code = keys.get(
        "code",
        default_code,
        one_of(&[
            (code::RATE_LIMIT_EXCEEDED, RefusalCode::RateLimitExceeded),
            (code::RESEND_COOLDOWN, RefusalCode::ResendCooldown),
        ]),
    );
    Some(Limit { name: name?, per: per?, max: max?, window: window?, counts, mode, code })
}

fn counts(given: &Given<'_>) -> Result<Counts, Mistakes> {
    let kinds = array("kinds of code", one_of(&[("send", Kind::Send), ("resend", Kind::Resend)]))(given)?;
    if kinds.is_empty() {
        return Err(given.expected_but_found(r#""send", "resend" or both"#, "none"));
    }
    Ok(Counts { send: kinds.contains(&Kind::Send), resend: kinds.contains(&Kind::Resend) })
}
