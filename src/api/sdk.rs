//! The SDKs that call, as far as a refusal and a retry have to know them.
//!
//! What an SDK does with a 429 depends on its `error`, its wait, where that wait stands, and the SDK's version. Three kinds of mistake cost
//! money or time: an SDK *sleeps* through a refusal and then really sends, long after the user's click; it *blocks* a thread meanwhile; or
//! it *tries again* at once. Source: the SDKs' own sources, and runs of them (`tests/sdk/README.md`).

use std::time::Duration;

use super::code;

/// How a 429 is worded for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wording {
    /// The body's `error`.
    pub code: &'static str,
    /// Whether the body has `retryAfter`.
    pub wait_in_body: bool,
    /// Whether there is a `Retry-After` header.
    pub wait_in_header: bool,
}

/// What an SDK does with a 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// It sleeps through a `rate_limit_exceeded` of at most [`SHORT`]. It gives up at once on any other code, and on a longer wait.
    SleepsThroughShort,
    /// It sleeps through a `rate_limit_exceeded` of any length. On any other code it tries three times more within about a second.
    SleepsThroughAny,
    /// It sleeps through any 429 for the body's `retryAfter`. It gives up at once where there is none.
    SleepsByBody,
    /// It sleeps through any 429 for the `Retry-After` header. Where there is none it tries three times more, after 1, 2 and 4 s.
    SleepsByHeader,
    /// It gives up at once on `rate_limit_exceeded`. On any other code it tries three times more, after 1, 2 and 4 s.
    RetriesOtherCodes,
}

/// The versions of an SDK that have a habit.
struct Versions {
    /// How their `User-Agent` starts.
    agent: &'static str,
    /// The first version (major, minor) that does not have it any more.
    before: (u32, u32),
    habit: Habit,
}

/// The longest wait that [`Habit::SleepsThroughShort`] sleeps through.
const SHORT: Duration = Duration::from_secs(60);

/// Newer than any version.
const NEVER: (u32, u32) = (u32::MAX, u32::MAX);

/// The first that fits counts. An SDK that is not here, such as Rust's or PHP's, gives up at once on any 429. Versions lie (Go and Java say
/// 4.2.0 in 4.3.0; Python, PHP, Java and .NET said 1.0.5 for long): always in the direction that is safe here.
const TABLE: [Versions; 11] = [
    Versions { agent: "sendly-python/", before: (4, 3), habit: Habit::SleepsThroughAny },
    Versions { agent: "sendly-ruby/", before: (4, 3), habit: Habit::SleepsByBody },
    Versions { agent: "sendly-java/", before: (4, 3), habit: Habit::SleepsByHeader },
    Versions { agent: "sendly-dotnet/", before: (4, 3), habit: Habit::SleepsByHeader },
    Versions { agent: "sendly-go/", before: (4, 3), habit: Habit::SleepsByHeader },
    Versions { agent: "sendly-python/", before: NEVER, habit: Habit::SleepsThroughShort },
    Versions { agent: "sendly-ruby/", before: NEVER, habit: Habit::SleepsThroughShort },
    Versions { agent: "sendly-java/", before: NEVER, habit: Habit::SleepsThroughShort },
    Versions { agent: "sendly-dotnet/", before: NEVER, habit: Habit::SleepsThroughShort },
    Versions { agent: "sendly-go/", before: NEVER, habit: Habit::SleepsThroughShort },
    Versions { agent: "@sendly/node/", before: NEVER, habit: Habit::RetriesOtherCodes },
];

fn habit(user_agent: &str) -> Option<Habit> {
    let fits = |versions: &&Versions| {
        user_agent.strip_prefix(versions.agent).is_some_and(|rest| version(rest) < versions.before)
    };
    TABLE.iter().find(fits).map(|versions| versions.habit)
}

/// Major and minor; a version that cannot be read counts as the oldest.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// How to tell this client of a refusal without leading it to sleep and buy, to block, or to retry, as far as its own rules allow that.
pub fn wording(wanted: &'static str, user_agent: &str, wait: Duration) -> Wording {
    let plain = Wording { code: wanted, wait_in_body: true, wait_in_header: true };
    let is_rate_limit = wanted == code::RATE_LIMIT_EXCEEDED;
    match habit(user_agent) {
        Some(Habit::SleepsThroughShort) if is_rate_limit && wait <= SHORT => {
            Wording { code: code::RATE_LIMIT_WAIT, ..plain }
        }
        Some(Habit::SleepsThroughAny) if is_rate_limit => Wording { code: code::RATE_LIMIT_WAIT, ..plain },
        Some(Habit::SleepsByBody) => Wording { wait_in_body: false, ..plain },
        Some(Habit::SleepsByHeader) => Wording { wait_in_header: false, ..plain },
        Some(Habit::RetriesOtherCodes) => Wording { code: code::RATE_LIMIT_EXCEEDED, ..plain },
        Some(Habit::SleepsThroughShort | Habit::SleepsThroughAny) | None => plain,
    }
}

/// How to pass on a 429 of Sendly's own to this client: another `error`, if it needs one, and which waits may stay.
pub fn rewording(error: &str, user_agent: &str, wait: Option<Duration>) -> (Option<&'static str>, Wording) {
    let known = if error == code::RATE_LIMIT_EXCEEDED { code::RATE_LIMIT_EXCEEDED } else { "" };
    let wording = wording(known, user_agent, wait.unwrap_or(SHORT));
    // Node retries Sendly's other codes with and without the gateway: those keep what they say.
    let instead = (!known.is_empty() && wording.code != known).then_some(wording.code);
    (instead, wording)
}

/// Whether this client sends a refused request again by itself, within [`RETRY_SPAN`] and under the same `Idempotency-Key`.
pub fn retries_refusals(user_agent: &str) -> bool {
    matches!(habit(user_agent), Some(Habit::SleepsByHeader | Habit::SleepsThroughAny))
}

/// The longest that an SDK takes for its tries after a refusal: 7 s of pauses, and time for slow connections.
pub const RETRY_SPAN: Duration = Duration::from_secs(15);

/// Whether an SDK made this `Idempotency-Key` up itself (`sendly-LANG-retry-UUID`): then it stands for one call of the SDK at most.
pub fn is_made_up_key(key: &[u8]) -> bool {
    let Some((language, uuid)) = std::str::from_utf8(key)
        .ok()
        .and_then(|key| key.strip_prefix("sendly-"))
        .and_then(|rest| rest.split_once("-retry-"))
    else {
        return false;
    };
    let digits = uuid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uuid.bytes().filter(|byte| *byte == b'-').count();
    !language.is_empty()
        && language.bytes().all(|byte| byte.is_ascii_lowercase())
        && digits == 32
        && dashes <= 4
        && uuid.len() == digits + dashes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(412);
    const OVER: Duration = Duration::from_secs(61);

    #[test]
    fn no_sdk_is_led_to_sleep_and_buy_or_to_block() {
        use code::{RATE_LIMIT_EXCEEDED as WINDOW, RATE_LIMIT_WAIT as WAIT, RESEND_COOLDOWN as COOLDOWN};
        for (agent, wait, wanted, told, body, header) in [
            // Newest: a short wait is slept through under that one code alone.
            ("sendly-python/4.5.1", LONG, WINDOW, WINDOW, true, true),
            ("sendly-python/4.5.1", OVER, WINDOW, WINDOW, true, true),
            ("sendly-python/4.5.1", SHORT, WINDOW, WAIT, true, true),
            ("sendly-python/4.5.1", SHORT, COOLDOWN, COOLDOWN, true, true),
            ("sendly-go/4.3.0", SHORT, WINDOW, WAIT, true, true),
            ("sendly-go/4.10.0", LONG, WINDOW, WINDOW, true, true),
            ("sendly-ruby/4.3.0", LONG, WINDOW, WINDOW, true, true),
            ("sendly-ruby/4.3.0", SHORT, WINDOW, WAIT, true, true),
            ("sendly-java/4.3.1", SHORT, WINDOW, WAIT, true, true),
            ("sendly-dotnet/5.0.0", SHORT, WINDOW, WAIT, true, true),
            // Python of before: another code, whatever the wait.
            ("sendly-python/4.2.0", LONG, WINDOW, WAIT, true, true),
            ("sendly-python/1.0.5", LONG, WINDOW, WAIT, true, true),
            ("sendly-python/", LONG, WINDOW, WAIT, true, true),
            ("sendly-python/4.2.0", LONG, COOLDOWN, COOLDOWN, true, true),
            // Ruby of before sleeps for what the body says, under any code.
            ("sendly-ruby/4.2.0", LONG, WINDOW, WINDOW, false, true),
            ("sendly-ruby/4.2.0", SHORT, COOLDOWN, COOLDOWN, false, true),
            ("sendly-ruby/", SHORT, COOLDOWN, COOLDOWN, false, true),
            // Java, .NET and Go of before sleep for what the header says, under any code.
            ("sendly-java/4.2.0", LONG, WINDOW, WINDOW, true, false),
            ("sendly-java/1.0.5", SHORT, COOLDOWN, COOLDOWN, true, false),
            ("sendly-dotnet/4.2.9", SHORT, COOLDOWN, COOLDOWN, true, false),
            ("sendly-dotnet/x", LONG, WINDOW, WINDOW, true, false),
            ("sendly-go/3.37.0", LONG, WINDOW, WINDOW, true, false),
            ("sendly-go/4.2.0", SHORT, COOLDOWN, COOLDOWN, true, false),
            // These give up at once on any 429.
            ("sendly-rs/7.0.0", SHORT, WINDOW, WINDOW, true, true),
            ("sendly-php/3.38.0", SHORT, WINDOW, WINDOW, true, true),
            ("curl/8.0", SHORT, WINDOW, WINDOW, true, true),
            ("", SHORT, WINDOW, WINDOW, true, true),
            // And Node on one code alone.
            ("@sendly/node/3.31.0", SHORT, COOLDOWN, WINDOW, true, true),
            ("@sendly/node/1.0.5", LONG, WAIT, WINDOW, true, true),
        ] {
            let expected = Wording { code: told, wait_in_body: body, wait_in_header: header };
            assert_eq!(wording(wanted, agent, wait), expected, "{agent} {wait:?} {wanted}");
        }
    }

    #[test]
    fn sendlys_own_429_is_reworded_for_who_would_sleep_and_for_nobody_else() {
        let instead = |error, agent, wait| rewording(error, agent, Some(wait)).0;
        let (limit, other) = (code::RATE_LIMIT_EXCEEDED, "too_many_concurrent_verifications");
        assert_eq!(instead(limit, "sendly-python/4.5.1", SHORT), Some(code::RATE_LIMIT_WAIT));
        assert_eq!(instead(limit, "sendly-python/4.5.1", LONG), None);
        assert_eq!(instead(limit, "sendly-python/4.2.0", LONG), Some(code::RATE_LIMIT_WAIT));
        assert_eq!(instead(other, "sendly-python/4.2.0", LONG), None);
        for agent in ["@sendly/node/3.31.0", "sendly-rs/7.0.0", "sendly-go/4.2.0", "sendly-ruby/4.2.0"] {
            assert_eq!((instead(limit, agent, SHORT), instead(other, agent, SHORT)), (None, None), "{agent}");
        }
        assert!(!rewording(other, "sendly-ruby/4.2.0", None).1.wait_in_body);
        assert!(!rewording(other, "sendly-go/4.2.0", None).1.wait_in_header);
    }

    #[test]
    fn a_key_that_an_sdk_made_up_is_told_from_one_that_the_app_chose() {
        for key in [
            "sendly-python-retry-6f1c2b8e-9f0a-4c43-8a58-2f9d8c1b7a10",
            "sendly-go-retry-6F1C2B8E-9F0A-4C43-8A58-2F9D8C1B7A10",
            "sendly-dotnet-retry-6f1c2b8e9f0a4c438a582f9d8c1b7a10",
        ] {
            assert!(is_made_up_key(key.as_bytes()), "{key}");
        }
        for key in [
            "",
            "order-4711",
            "6f1c2b8e-9f0a-4c43-8a58-2f9d8c1b7a10",
            "sendly-python-retry-",
            "sendly-python-retry-signup-4711",
            "sendly--retry-6f1c2b8e-9f0a-4c43-8a58-2f9d8c1b7a10",
            "sendly-python-retry-6f1c2b8e-9f0a-4c43-8a58-2f9d8c1b7a10-2",
            "my-sendly-python-retry-6f1c2b8e-9f0a-4c43-8a58-2f9d8c1b7a10",
        ] {
            assert!(!is_made_up_key(key.as_bytes()), "{key}");
        }
    }
}
