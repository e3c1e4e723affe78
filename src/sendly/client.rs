//! The SDKs that call, as far as a refusal has to know them.
//!
//! What an SDK does with a 429 depends on its `error` code, its wait and the SDK's version. Two kinds of mistake cost money or
//! time: five SDKs *sleep* through a `rate_limit_exceeded` that they find short enough and then really send, long after the
//! user's click; and the Node SDK *retries* every other code. Source: the SDKs' own sources, and runs of them.

use std::time::Duration;

use super::code;

/// An SDK that sleeps through `rate_limit_exceeded` and then sends.
struct Sleeper {
    /// How its `User-Agent` starts.
    agent: &'static str,
    /// The first version (major, minor) that gives up at once if the wait is longer than [`SHORT`]; those before it always sleep.
    gives_up_since: (u32, u32),
}

/// The longest wait that today's sleepers sleep through.
const SHORT: Duration = Duration::from_secs(60);

const SLEEPERS: [Sleeper; 5] = [
    Sleeper { agent: "sendly-python/", gives_up_since: (4, 3) },
    Sleeper { agent: "sendly-ruby/", gives_up_since: (4, 3) },
    Sleeper { agent: "sendly-dotnet/", gives_up_since: (4, 3) },
    Sleeper { agent: "sendly-java/", gives_up_since: (3, 38) },
    Sleeper { agent: "sendly-go/", gives_up_since: (4, 2) },
];

/// It retries every code but `rate_limit_exceeded`, and that one never.
const NODE: &str = "@sendly/node/";

/// The code that tells this client of a refusal without leading it to sleep and buy, or to retry.
pub fn refusal_code(wanted: &'static str, user_agent: &str, wait: Duration) -> &'static str {
    if user_agent.starts_with(NODE) {
        return code::RATE_LIMIT_EXCEEDED;
    }
    let sleeps = |sleeper: &Sleeper| {
        user_agent
            .strip_prefix(sleeper.agent)
            .is_some_and(|rest| wait <= SHORT || version(rest) < sleeper.gives_up_since)
    };
    if wanted == code::RATE_LIMIT_EXCEEDED && SLEEPERS.iter().any(sleeps) { code::RATE_LIMIT_WAIT } else { wanted }
}

/// Major and minor; a version that cannot be read counts as the oldest.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(412);

    #[test]
    fn no_sdk_is_led_to_sleep_and_buy() {
        use code::{RATE_LIMIT_EXCEEDED as WINDOW, RATE_LIMIT_WAIT as WAIT, RESEND_COOLDOWN as COOLDOWN};
        for (agent, wait, wanted, told) in [
            ("sendly-python/4.5.1", LONG, WINDOW, WINDOW),
            ("sendly-python/4.5.1", SHORT, WINDOW, WAIT),
            ("sendly-python/4.5.1", SHORT, COOLDOWN, COOLDOWN),
            ("sendly-python/4.2.0", LONG, WINDOW, WAIT),
            ("sendly-python/", LONG, WINDOW, WAIT),
            ("sendly-go/4.1.9", LONG, WINDOW, WAIT),
            ("sendly-go/4.10.0", LONG, WINDOW, WINDOW),
            ("sendly-java/3.37.0", LONG, WINDOW, WAIT),
            ("sendly-rs/7.0.0", SHORT, WINDOW, WINDOW),
            ("sendly-php/3.37.0", SHORT, WINDOW, WINDOW),
            ("curl/8.0", SHORT, WINDOW, WINDOW),
            ("", SHORT, WINDOW, WINDOW),
        ] {
            assert_eq!(refusal_code(wanted, agent, wait), told, "{agent} {wait:?} {wanted}");
        }
    }

    #[test]
    fn node_is_told_the_one_code_that_it_does_not_retry() {
        for wanted in [code::RESEND_COOLDOWN, code::RATE_LIMIT_WAIT, code::RATE_LIMIT_EXCEEDED] {
            assert_eq!(refusal_code(wanted, "@sendly/node/3.31.0", SHORT), code::RATE_LIMIT_EXCEEDED);
        }
    }
}
