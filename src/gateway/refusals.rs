//! What a refused client is told. All that can be said beforehand, limit by limit, is: a refusal only adds its wait.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use super::reply::{Reply, whole_seconds};
use crate::api::sdk::Wording;
use crate::api::{code, sdk};
use crate::policy::{Limit, Obstacle, Policy, Refusal, RefusalCode};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    /// In the policy's order.
    limits: Vec<PreparedRefusal>,
    hold: PreparedRefusal,
    account_hold: PreparedRefusal,
    /// What a limit says that is full only of charges that are not settled yet, in the policy's order.
    unsettled: Vec<PreparedRefusal>,
}

/// One obstacle's refusal, but for its wait.
#[derive(Clone, Debug)]
struct PreparedRefusal {
    name: Arc<str>,
    /// What its body says in `error`, to a client that does not need to be told otherwise.
    code: &'static str,
    /// Its body, from behind the `error` to behind the `message`.
    message: String,
    fields: Option<RefusalFields>,
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11).
#[derive(Clone, Debug)]
struct RefusalFields {
    policy: HeaderValue,
    /// `RateLimit`, but for its wait.
    limit: String,
}

impl Refusals {
    /// The refusals of this policy, with or without the `RateLimit` fields.
    pub(crate) fn new(policy: &Policy, ratelimit_fields: bool) -> Self {
        let limit = |limit: &Limit| {
            let fields = ratelimit_fields.then(|| RefusalFields::of(limit)).flatten();
            PreparedRefusal::new(&limit.name, wanted_code(limit.code), &sentence(limit), fields)
        };
        let hold = "Sendly's own limit for this phone number is reached.";
        let account_hold = "Sendly's own limit is reached, for this account and this phone number.";
        let unsettled = |limit: &Limit| {
            let fields = ratelimit_fields.then(|| RefusalFields::of(limit)).flatten();
            let message = "Other codes are on their way, and they may be all that this limit allows. Try again.";
            PreparedRefusal::new(&limit.name, code::RATE_LIMIT_EXCEEDED, message, fields)
        };
        Self {
            limits: policy.limits().iter().map(limit).collect(),
            unsettled: policy.limits().iter().map(unsettled).collect(),
            hold: PreparedRefusal::new("hold", code::RATE_LIMIT_EXCEEDED, hold, None),
            account_hold: PreparedRefusal::new("hold", code::RATE_LIMIT_EXCEEDED, account_hold, None),
        }
    }

    fn of(&self, obstacle: Obstacle) -> &PreparedRefusal {
        match obstacle {
            Obstacle::Limit(place) => self.limits.get(place).unwrap_or(&self.hold),
            Obstacle::Unsettled(place) => self.unsettled.get(place).unwrap_or(&self.hold),
            Obstacle::Hold => &self.hold,
            Obstacle::AccountHold => &self.account_hold,
        }
    }

    /// What stands in the way, as logs call it.
    pub(crate) fn name(&self, obstacle: Obstacle) -> Arc<str> {
        Arc::clone(&self.of(obstacle).name)
    }

    /// A refusal: who speaks, and when to come back.
    pub(crate) fn reply(&self, refusal: &Refusal, user_agent: &str) -> Reply {
        let PreparedRefusal { code, message, fields, .. } = self.of(refusal.by);
        let Wording { code, wait_in_body, wait_in_header } = sdk::wording(code, user_agent, refusal.retry_after);
        let wait = HeaderValue::from(whole_seconds(refusal.retry_after));
        let digits = wait.as_bytes();

        let waits: [&[u8]; 2] = if wait_in_body { [br#","retryAfter":"#, digits] } else { [b"", b""] };
        let body = [br#"{"error":""#, code.as_bytes(), message.as_bytes(), waits[0], waits[1], b"}"].concat();
        // Of its own, the length, and the three that pingora adds.
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(RefusalFields { policy, limit }) = fields {
            headers.insert(POLICY, policy.clone());
            // A name that stands in a header and digits are what a header may hold.
            if let Ok(limit) = HeaderValue::try_from([limit.as_bytes(), digits].concat()) {
                headers.insert(LIMIT, limit);
            }
        }
        if wait_in_header {
            headers.insert(RETRY_AFTER, wait);
        }
        Reply { status: StatusCode::TOO_MANY_REQUESTS, headers, body: body.into() }
    }
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

impl PreparedRefusal {
    fn new(name: &str, code: &'static str, message: &str, fields: Option<RefusalFields>) -> Self {
        // A string always serialises.
        let message = serde_json::to_string(message).unwrap_or_default();
        Self { name: name.into(), code, message: format!(r#"","message":{message}"#), fields }
    }
}

impl RefusalFields {
    fn of(limit: &Limit) -> Option<Self> {
        let Limit { name, max, window, .. } = limit;
        // A limit's name is lower-case letters, digits and hyphens.
        let policy = HeaderValue::try_from(format!("\"{name}\";q={max};w={}", whole_seconds(*window))).ok()?;
        Some(Self { policy, limit: format!("\"{name}\";r=0;t=") })
    }
}

fn wanted_code(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::RateLimitExceeded => code::RATE_LIMIT_EXCEEDED,
        RefusalCode::ResendCooldown => code::RESEND_COOLDOWN,
    }
}

/// For people; in the words of Sendly's own refusal.
fn sentence(limit: &Limit) -> String {
    let window: Duration = limit.window;
    let codes = if limit.max == 1 { "code" } else { "codes" };
    format!(
        "Too many codes per {} (limit {}). At most {} {codes} in {}.",
        limit.per.name(),
        limit.name,
        limit.max,
        humantime::format_duration(window)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Counts, Mode, Per};

    fn refusals(ratelimit_fields: bool) -> Refusals {
        let limit = |name: &str, per, max, seconds, code| Limit {
            name: name.into(),
            per,
            max,
            window: Duration::from_secs(seconds),
            counts: Counts::BOTH,
            mode: Mode::Enforce,
            code,
        };
        let policy = Policy::new(vec![
            limit("phone-10m", Per::Phone, 5, 600, RefusalCode::RateLimitExceeded),
            limit("resend-cooldown", Per::Verification, 1, 60, RefusalCode::ResendCooldown),
        ]);
        Refusals::new(&policy, ratelimit_fields)
    }

    #[test]
    fn a_refusal_speaks_sendly() {
        let refusal = Refusal { by: Obstacle::Limit(0), retry_after: Duration::from_millis(411_001) };
        let reply = refusals(true).reply(&refusal, "curl");
        assert_eq!(reply.status, 429);
        assert_eq!(
            std::str::from_utf8(&reply.body).unwrap(),
            r#"{"error":"rate_limit_exceeded","message":"Too many codes per phone (limit phone-10m). At most 5 codes in 10m.","retryAfter":412}"#
        );
        for (name, value) in [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("retry-after", "412"),
            ("ratelimit-policy", "\"phone-10m\";q=5;w=600"),
            ("ratelimit", "\"phone-10m\";r=0;t=412"),
        ] {
            assert_eq!(reply.headers.get(name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn a_wait_is_never_told_as_zero() {
        let refusal = Refusal { by: Obstacle::Limit(1), retry_after: Duration::from_micros(1) };
        let reply = refusals(false).reply(&refusal, "sendly-rs/7.0.0");
        assert_eq!(reply.headers.get("retry-after").unwrap(), "1");
        assert!(reply.headers.get("ratelimit").is_none(), "the fields can be switched off");
        assert!(reply.body.starts_with(br#"{"error":"resend_cooldown""#));
    }

    #[test]
    fn a_hold_names_no_limit() {
        let refusal = Refusal { by: Obstacle::Hold, retry_after: Duration::from_secs(90) };
        let reply = refusals(true).reply(&refusal, "curl");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((body["error"].as_str(), body["retryAfter"].as_u64()), (Some("rate_limit_exceeded"), Some(90)));
        assert!(body["message"].is_string() && reply.headers.get("ratelimit").is_none());
    }
}
