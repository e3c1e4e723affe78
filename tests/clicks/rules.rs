//! SDKs whose packages cannot be had here, as the rules that they follow: those of the tables in `docs/sendly.md`.

use std::time::Duration;

use sendly_gateway::clock::ManualClock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Case, ID, KEY, PHONE, SDKS_PATIENCE, scaled};

/// What an SDK does by itself.
pub(crate) struct Rules {
    pub(crate) name: &'static str,
    /// Where they were read.
    pub(crate) source: &'static str,
    agent: &'static str,
    /// Seconds before each further try.
    pauses: [u64; 3],
    /// Whether it tries again after a timeout or a broken connection, as it does after a 5xx.
    retries_lost: bool,
    key: Key,
    on_429: On429,
}

/// Which `Idempotency-Key` its tries carry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    None,
    /// A new one after each 5xx.
    Rotated,
    Kept,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum On429 {
    GivesUp,
    /// It sleeps through a `rate_limit_exceeded` of 60 s or less.
    SleepsThroughShort,
    /// It sleeps through any, for the body's `retryAfter`; without one it gives up.
    SleepsByBody,
    /// It sleeps through any, for the header; without one it pauses as after a 5xx.
    SleepsByHeader,
}

type Name = &'static str;

const fn rules(name: Name, source: Name, agent: Name, key: Key, on_429: On429) -> Rules {
    Rules { name, source, agent, pauses: [1, 2, 4], retries_lost: true, key, on_429 }
}

/// Ruby pauses twice as long, and tries again after neither a timeout nor a broken connection.
const fn ruby(name: Name, source: Name, agent: Name, key: Key, on_429: On429) -> Rules {
    Rules { pauses: [2, 4, 8], retries_lost: false, ..rules(name, source, agent, key, on_429) }
}

/// Sendly's public repositories (github.com/SendlyHQ) ended below this version on 2026-12-01.
const PACKAGE: &str = "the package's source, November 2026";

pub(crate) const ALL: [Rules; 14] = [
    rules(
        "Go 3.37",
        "inferred: 3.38 without its key; public as `sendly-go` v3.12.1, `sendly/client.go`",
        "sendly-go/3.37.0",
        Key::None,
        On429::SleepsByHeader,
    ),
    rules("Go 3.38 to 4.2", PACKAGE, "sendly-go/4.2.0", Key::Rotated, On429::SleepsByHeader),
    rules("Go from 4.3", PACKAGE, "sendly-go/4.3.1", Key::Kept, On429::SleepsThroughShort),
    ruby(
        "Ruby 3.37",
        "`sendly-ruby` v3.37.1, `lib/sendly/client.rb`, `errors.rb`",
        "sendly-ruby/3.37.0",
        Key::None,
        On429::SleepsByBody,
    ),
    ruby("Ruby 3.38 to 4.2", PACKAGE, "sendly-ruby/4.2.0", Key::Rotated, On429::SleepsByBody),
    ruby("Ruby from 4.3", PACKAGE, "sendly-ruby/4.3.0", Key::Kept, On429::SleepsThroughShort),
    rules(
        "PHP 3.38 to 4.2",
        "the package; without the key as `sendly-php` v3.37.1, `src/Sendly.php`",
        "sendly-php/4.2.0",
        Key::Rotated,
        On429::GivesUp,
    ),
    rules("PHP from 4.3", PACKAGE, "sendly-php/4.3.0", Key::Kept, On429::GivesUp),
    rules(
        "Java 3.37",
        "`sendly-java` v3.37.0, `src/main/java/com/sendly/Sendly.java`",
        "sendly-java/1.0.5",
        Key::None,
        On429::SleepsByHeader,
    ),
    rules("Java 3.38 to 4.2", PACKAGE, "sendly-java/4.2.0", Key::Rotated, On429::SleepsByHeader),
    rules("Java from 4.3", PACKAGE, "sendly-java/4.3.1", Key::Kept, On429::SleepsThroughShort),
    rules(
        ".NET 3.36",
        "`sendly-dotnet` v3.36.0, `src/Sendly/SendlyClient.cs`",
        "sendly-dotnet/1.0.5",
        Key::None,
        On429::SleepsByHeader,
    ),
    rules(".NET 3.38 to 4.2", PACKAGE, "sendly-dotnet/4.2.0", Key::Rotated, On429::SleepsByHeader),
    rules(".NET from 4.3", PACKAGE, "sendly-dotnet/4.3.0", Key::Kept, On429::SleepsThroughShort),
];

struct Answer {
    status: u16,
    retry_after: Option<u64>,
    body: Value,
}

impl Rules {
    /// One call of an app: its tries, until it succeeds or gives up.
    pub(crate) async fn click(&self, base: &str, case: &Case, clock: &ManualClock) {
        let key = |serial: usize| format!("sendly-{}-retry-00000000-0000-4000-8000-{serial:012x}", "x");
        let (resend, patience, mut serial) = (case.resend, case.timeout(SDKS_PATIENCE), 0);
        for attempt in 0..4 {
            let sent = self.key != Key::None;
            let tried = tokio::time::timeout(patience, self.send(base, resend, sent.then(|| key(serial)))).await;
            let Some(pause) = self.pauses.get(attempt).copied() else { return };
            let pause = match tried.ok().and_then(Result::ok) {
                None if self.retries_lost => pause,
                None => return,
                Some(answer) if answer.status >= 500 => {
                    serial += usize::from(self.key == Key::Rotated);
                    pause
                }
                Some(answer) if answer.status == 429 => match self.sleeps(&answer, pause) {
                    Some(sleep) => sleep,
                    None => return,
                },
                Some(_) => return,
            };
            clock.advance(Duration::from_secs(pause));
            tokio::time::sleep(scaled(1)).await;
        }
    }

    fn sleeps(&self, answer: &Answer, pause: u64) -> Option<u64> {
        let in_body = answer.body["retryAfter"].as_u64();
        match self.on_429 {
            On429::GivesUp => None,
            On429::SleepsByBody => in_body,
            On429::SleepsByHeader => Some(answer.retry_after.unwrap_or(pause)),
            On429::SleepsThroughShort => answer
                .retry_after
                .or(in_body)
                .filter(|wait| answer.body["error"] == "rate_limit_exceeded" && *wait <= 60),
        }
    }

    async fn send(&self, base: &str, resend: bool, key: Option<String>) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(base.strip_prefix("http://").unwrap()).await?;
        let (target, body) = match resend {
            true => (format!("/api/v1/verify/{ID}/resend"), "{}".to_owned()),
            false => ("/api/v1/verify".to_owned(), format!("{{\"to\":\"{PHONE}\"}}")),
        };
        let key = key.map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
        let request = format!(
            "POST {target} HTTP/1.1\r\nhost: sendly\r\nauthorization: Bearer {KEY}\r\nuser-agent: {}\r\n\
             content-type: application/json\r\n{key}content-length: {}\r\n\r\n{body}",
            self.agent,
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut read = Vec::new();
        loop {
            if stream.read_buf(&mut read).await? == 0 {
                return Err(broken());
            }
            let text = String::from_utf8_lossy(&read);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let field =
                |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
            let length: u64 = field("content-length").unwrap_or_default();
            if body.len() as u64 >= length {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
                let body = serde_json::from_str(body).unwrap_or_default();
                return Ok(Answer { status, retry_after: field("retry-after"), body });
            }
        }
    }
}
