//! The bodies that the gateway reads: what a send asks for, what an answer shows.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::phone::Phone;

/// The most that a limited request's body may have, in bytes: those of the SDKs have a few hundred. All of it is held in memory before
/// anything is known of the client.
pub const MAX_REQUEST: usize = 32 * 1024;

/// The most of an answer that the gateway reads, in bytes. Sendly's are a few hundred.
pub const MAX_ANSWER: usize = 64 * 1024;

/// Why a send's body cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// It is not one JSON object in UTF-8.
    NotAnObject,
    /// The same key stands in it twice, or `to` also in another letter case: two servers may read two phones.
    DuplicateKey,
    /// It has no `to`, or one that is not a string.
    NoPhone,
    /// `to` is not a phone number in E.164.
    NotE164,
}

/// The phone that a send's body names, if it names exactly one.
///
/// # Errors
/// Whatever a second reader could read differently is [`Unclear`].
pub fn read_send(body: &[u8]) -> Result<Phone, Unclear> {
    // The whole of it: serde_json would not look into the strings that it skips.
    let text = std::str::from_utf8(body).map_err(|_| Unclear::NotAnObject)?;
    let SendBody { to, duplicate } = serde_json::from_str(text).map_err(|_| Unclear::NotAnObject)?;
    if duplicate {
        return Err(Unclear::DuplicateKey);
    }
    to.ok_or(Unclear::NoPhone)?.parse().map_err(|_| Unclear::NotE164)
}

struct SendBody {
    to: Option<String>,
    duplicate: bool,
}

impl<'de> Deserialize<'de> for SendBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SendBodyVisitor)
    }
}

struct SendBodyVisitor;

impl<'de> Visitor<'de> for SendBodyVisitor {
    type Value = SendBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SendBody, A::Error> {
        let mut seen: Vec<String> = Vec::new();
        let mut to = None;
        let mut duplicate = false;
        while let Some(key) = map.next_key::<String>()? {
            duplicate |= seen.iter().any(|other| other.eq_ignore_ascii_case(&key));
            if key == "to" {
                to = map.next_value::<StringOrOther>()?.0;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if seen.len() >= MAX_KEYS {
                return Err(de::Error::custom("too many keys"));
            }
            seen.push(key);
        }
        Ok(SendBody { to, duplicate })
    }
}

/// A send has six documented keys. The bound keeps the look for duplicates cheap.
const MAX_KEYS: usize = 64;

struct StringOrOther(Option<String>);

impl<'de> Deserialize<'de> for StringOrOther {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(|value| match value {
            serde_json::Value::String(text) => StringOrOther(Some(text)),
            _ => StringOrOther(None),
        })
    }
}

/// What a success about a verification shows (send, resend, check, get).
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Shown {
    /// The verification's id.
    pub id: Option<String>,
    /// Its phone.
    #[serde(default, deserialize_with = "lenient_phone")]
    pub phone: Option<Phone>,
    /// Whether its status is that it is confirmed.
    #[serde(default, rename = "status", deserialize_with = "is_verified")]
    pub is_verified: bool,
}

/// What an answer shows of id and phone; nothing, where it cannot be read.
pub fn read_shown(body: &[u8]) -> Shown {
    serde_json::from_slice(body).unwrap_or_default()
}

fn is_verified<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(StringOrOther::deserialize(deserializer)?.0.as_deref() == Some("verified"))
}

fn lenient_phone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Phone>, D::Error> {
    Ok(StringOrOther::deserialize(deserializer)?.0.and_then(|text| text.parse().ok()))
}

/// What an error says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ApiFailure {
    /// The machine-readable code.
    #[serde(default)]
    pub error: String,
    /// Seconds until another try makes sense.
    #[serde(default, rename = "retryAfter", deserialize_with = "lenient_seconds")]
    pub retry_after: Option<u64>,
}

/// What an error body says; nothing, where it cannot be read.
pub fn read_failure(body: &[u8]) -> ApiFailure {
    serde_json::from_slice(body).unwrap_or_default()
}

fn lenient_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let rounded_up =
        || value.as_f64().filter(|seconds| (0.0..1e9).contains(seconds)).map(|seconds| seconds.ceil() as u64);
    Ok(value.as_u64().or_else(rounded_up))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_send_names_one_phone() {
        for body in [
            r#"{"to":"+15550100123"}"#,
            r#" {"to" : "+15550100123", "app_name":"x", "nested":{"to":"+1999"}} "#,
            r#"{"\u0074o":"\u002b15550100123"}"#,
            r#"{"app_name":"\"to\":\"+19995550000\"","to":"+15550100123"}"#,
        ] {
            assert_eq!(read_send(body.as_bytes()), Ok("+15550100123".parse().unwrap()), "{body}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for (body, why) in [
            (r#"{"to":"+15550100123","to":"+15550100124"}"#, Unclear::DuplicateKey),
            (r#"{"to":"+15550100123","\u0074o":"+15550100124"}"#, Unclear::DuplicateKey),
            (r#"{"To":"+15550100123","to":"+15550100124"}"#, Unclear::DuplicateKey),
            (r#"{"to":"+15550100123","a":1,"a":2}"#, Unclear::DuplicateKey),
            (r#"{"TO":"+15550100123"}"#, Unclear::NoPhone),
            (r#"{"to":["+15550100123"]}"#, Unclear::NoPhone),
            (r#"{"to":15550100123}"#, Unclear::NoPhone),
            (r#"{"to":null}"#, Unclear::NoPhone),
            (r#"{}"#, Unclear::NoPhone),
            (r#"{"to":"+1 (555) 010-0123"}"#, Unclear::NotE164),
            (r#"{"to":" +15550100123"}"#, Unclear::NotE164),
            (r#"{"to":"+15550100123\u0000"}"#, Unclear::NotE164),
            (r#"{"to":"+15550100123"}{"to":"+15550100124"}"#, Unclear::NotAnObject),
            (r#"[{"to":"+15550100123"}]"#, Unclear::NotAnObject),
            (r#""+15550100123""#, Unclear::NotAnObject),
            ("{\"to\":\"+15550100123\"", Unclear::NotAnObject),
            ("\u{feff}{\"to\":\"+15550100123\"}", Unclear::NotAnObject),
            ("{'to':'+15550100123'}", Unclear::NotAnObject),
            ("{\"to\":\"+15550100123\",}", Unclear::NotAnObject),
            ("to=%2B15550100123", Unclear::NotAnObject),
            ("", Unclear::NotAnObject),
        ] {
            assert_eq!(read_send(body.as_bytes()), Err(why), "{body}");
        }
        assert_eq!(read_send(b"{\"to\":\"+1555\xff0123\"}"), Err(Unclear::NotAnObject));
        assert_eq!(read_send(b"{\"x\":\"\xff\",\"to\":\"+15550100123\"}"), Err(Unclear::NotAnObject));
        let unclosed = format!("{{\"to\":\"+15550100123\",\"x\":{}", "[".repeat(60_000));
        assert_eq!(read_send(unclosed.as_bytes()), Err(Unclear::NotAnObject));
    }

    #[test]
    fn an_answer_shows_its_id_and_phone_or_nothing() {
        let shown = read_shown(br#"{"id":"ver_1","status":"pending","phone":"+15550100123","sandbox":true}"#);
        assert_eq!(shown, Shown { id: Some("ver_1".into()), phone: "+15550100123".parse().ok(), is_verified: false });
        assert_eq!(read_shown(br#"{"id":"ver_1","phone":null}"#).phone, None);
        assert_eq!(read_shown(br#"{"id":"ver_1","phone":"unknown"}"#).id.as_deref(), Some("ver_1"));
        assert_eq!(read_shown(b"<html>"), Shown::default());
    }

    #[test]
    fn only_a_check_that_says_so_is_verified() {
        for (body, expected) in [
            (r#"{"id":"ver_1","status":"verified","phone":"+15550100123"}"#, true),
            (r#"{"status":"verif\u0069ed"}"#, true),
            (r#"{"id":"ver_1","status":"invalid","remaining_attempts":2}"#, false),
            (r#"{"id":"ver_1","verified":true}"#, false),
            (r#"{"status":["verified"]}"#, false),
            ("verified", false),
        ] {
            assert_eq!(read_shown(body.as_bytes()).is_verified, expected, "{body}");
        }
    }

    #[test]
    fn a_failure_tells_its_code_and_wait() {
        let failure = read_failure(br#"{"error":"rate_limit_exceeded","message":"x","retryAfter":600}"#);
        assert_eq!(failure, ApiFailure { error: "rate_limit_exceeded".into(), retry_after: Some(600) });
        assert_eq!(read_failure(br#"{"error":"x","retryAfter":1.2}"#).retry_after, Some(2));
        assert_eq!(read_failure(br#"{"error":"x","retryAfter":"600"}"#).retry_after, None);
        assert_eq!(read_failure(br#"{"error":"x","retryAfter":-5}"#).retry_after, None);
        assert_eq!(read_failure(b""), ApiFailure::default());
    }

    proptest! {
        #[test]
        fn reading_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_send(&body), read_shown(&body), read_failure(&body));
        }

        /// Whatever this reader takes for the phone is what a plain reader of the same bytes takes for it.
        #[test]
        fn a_plain_reader_reads_the_same_phone(keys in proptest::collection::vec("(to|To|app_name|x)", 0..4), digits in "[1-9][0-9]{6,14}") {
            let fields: Vec<String> = keys.iter().map(|key| format!("{key:?}:\"+{digits}\"")).collect();
            let body = format!("{{{}}}", fields.join(","));
            if let Ok(phone) = read_send(body.as_bytes()) {
                let plain: serde_json::Value = serde_json::from_str(&body).unwrap();
                let read = phone.to_e164();
                prop_assert_eq!(plain["to"].as_str(), Some(read.as_str()));
            }
        }
    }
}
