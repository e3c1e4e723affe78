//! What the sandbox promises, a sentence each. Time stands still until a test moves it.

mod answers;
mod idempotency;
mod phones;
mod socket;
mod verifications;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::Value;

use super::{Options, Sandbox};
use crate::clock::{ManualClock, Moment};

const TEST_KEY: &str = "sk_test_v1_a";
const LIVE_KEY: &str = "sk_live_v1_a";
const PHONE: &str = "+15550100123";

/// A sandbox, a clock, and somebody who asks.
struct Rig {
    sandbox: Sandbox,
    clock: ManualClock,
    key: &'static str,
}

/// A status, and the body as JSON.
type Told = (u16, Value);

impl Rig {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        // 2026-11-23T09:00:00.123Z
        let clock = ManualClock::new(Moment::from_micros(1_795_424_400_123_000));
        Self { sandbox: Sandbox::new(options), clock, key: TEST_KEY }
    }

    fn limited() -> Self {
        Self::with(Options { limits: true, ..Options::default() })
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn answer(&self, request: &Request<String>) -> Response<Bytes> {
        self.sandbox.answer(request, self.clock.now())
    }

    fn request(&self, method: &str, path: &str, body: impl ToString) -> Request<String> {
        Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", "application/json")
            .body(body.to_string())
            .unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: impl ToString) -> Told {
        told(&self.answer(&self.request(method, path, body)))
    }

    fn get(&self, path: &str) -> Told {
        self.ask("GET", path, "")
    }

    fn send(&self, to: &str) -> Told {
        self.ask("POST", "/verify", serde_json::json!({ "to": to }))
    }

    fn resend(&self, id: &str) -> Told {
        self.ask("POST", &format!("/verify/{id}/resend"), "{}")
    }

    fn check(&self, id: &str, code: &str) -> Told {
        self.ask("POST", &format!("/verify/{id}/check"), serde_json::json!({ "code": code }))
    }

    /// A verification that began well: its id and its code.
    fn begun(&self, to: &str) -> (String, String) {
        let (status, body) = self.send(to);
        assert_eq!(status, 201, "{body}");
        (text(&body, "id"), text(&body, "sandbox_code"))
    }

    fn sent(&self, to: &str) -> u64 {
        self.sandbox.sent(to.parse().unwrap())
    }
}

fn told(response: &Response<Bytes>) -> Told {
    let body = match response.status() {
        StatusCode::NO_CONTENT => Value::Null,
        _ => serde_json::from_slice(response.body()).unwrap(),
    };
    (response.status().as_u16(), body)
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}")).to_owned()
}

fn error((status, body): Told) -> (u16, String) {
    assert!(!text(&body, "message").is_empty());
    (status, text(&body, "error"))
}

/// A code that is not this one.
fn wrong(code: &str) -> String {
    code.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect()
}
