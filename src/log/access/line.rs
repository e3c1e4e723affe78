//! How a line looks: as `tracing-subscriber` writes the ordinary log's, so that one reader reads both.
//!
//! Nothing in it is a client's own words, so nothing has to be escaped: a method that is not one of HTTP's own is told as `_OTHER`,
//! as OpenTelemetry has it, since it may be a phone or a key. The rest are names of the gateway's, numbers and addresses; of a trace, 32
//! hexadecimal digits and nothing else.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::api::{Operation, method};
use crate::clock::Moment;
use crate::metrics::Outcome;
use crate::phone::Phone;
use crate::policy::subject::Account;
use crate::trace::TraceId;

/// What a line tells of a request.
#[derive(Clone, Copy, Debug)]
pub struct AccessEntry<'r> {
    /// When it ended.
    pub at: Moment,
    /// Its method.
    pub method: &'r str,
    /// What it asked for.
    pub operation: Operation,
    /// What became of it.
    pub outcome: Outcome,
    /// The status that it was answered with; 0 if it was not.
    pub status: u16,
    /// The phone that it was about. The line shows it masked.
    pub phone: Option<Phone>,
    /// Whose API key it carried.
    pub account: Option<Account>,
    /// The name of the limit or throttle that refused it: `a-z`, `0-9` and `-`.
    pub refused_by: Option<&'r str>,
    /// Who called.
    pub client: Option<IpAddr>,
    /// The trace that it belongs to.
    pub trace: Option<TraceId>,
    /// How long it took.
    pub took: Duration,
    /// The bytes of its answer's body.
    pub bytes: usize,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A JSON object.
    Json,
    /// For people.
    Text {
        /// Whether they look at a terminal.
        colours: bool,
    },
}

impl Form {
    /// What stands before the time.
    pub(crate) fn before_stamp(self) -> &'static [u8] {
        match self {
            Form::Json => br#"{"timestamp":""#,
            Form::Text { colours: false } => b"",
            Form::Text { colours: true } => b"\x1b[2m",
        }
    }
}

/// The most bytes of a line behind its time. The longest, with colours and the longest name, has some 650.
const LONGEST: usize = 768;

/// What stands behind the time, with its line feed.
pub(crate) struct Line {
    bytes: ArrayVec<u8, LONGEST>,
    is_cut: bool,
}

impl Line {
    pub(crate) fn of(form: Form, entry: &AccessEntry<'_>) -> Self {
        let mut line = Self { bytes: ArrayVec::new(), is_cut: false };
        match form {
            Form::Json => line.json(entry),
            Form::Text { colours } => line.text(entry, colours),
        }
        line
    }

    /// All of it, if it had room.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        (!self.is_cut).then_some(self.bytes.as_slice())
    }

    fn json(&mut self, entry: &AccessEntry<'_>) {
        self.put(r#"","level":"INFO","method":""#);
        self.put(method(entry.method));
        self.put(r#"","operation":""#);
        self.put(entry.operation.name());
        self.put(r#"","outcome":""#);
        self.put(entry.outcome.name());
        self.put(r#"","status":"#);
        self.number(entry.status.into());
        if let Some(phone) = entry.phone {
            self.put(r#","phone":""#);
            self.phone(phone);
            self.put("\"");
        }
        if let Some(account) = entry.account {
            self.put(r#","account":""#);
            self.account(account);
            self.put("\"");
        }
        if let Some(name) = entry.refused_by {
            self.put(r#","refused_by":""#);
            self.put(name);
            self.put("\"");
        }
        if let Some(client) = entry.client {
            self.put(r#","client":""#);
            self.address(client);
            self.put("\"");
        }
        if let Some(trace) = entry.trace {
            self.put(r#","trace_id":""#);
            self.hex(trace.bits(), TraceId::DIGITS);
            self.put("\"");
        }
        self.put(r#","duration_ms":"#);
        self.millis(entry.took);
        self.put(r#","bytes":"#);
        self.number(entry.bytes as u64);
        self.put(",\"target\":\"access\"}\n");
    }

    fn text(&mut self, entry: &AccessEntry<'_>, colours: bool) {
        self.put(if colours {
            "\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2maccess\x1b[0m\x1b[2m:\x1b[0m"
        } else {
            "  INFO access:"
        });
        for (name, word) in [
            ("method", Some(method(entry.method))),
            ("operation", Some(entry.operation.name())),
            ("outcome", Some(entry.outcome.name())),
        ] {
            self.word(name, word, colours);
        }
        self.name("status", colours);
        self.number(entry.status.into());
        if let Some(phone) = entry.phone {
            self.name("phone", colours);
            self.phone(phone);
        }
        if let Some(account) = entry.account {
            self.name("account", colours);
            self.account(account);
        }
        self.word("refused_by", entry.refused_by, colours);
        if let Some(client) = entry.client {
            self.name("client", colours);
            self.address(client);
        }
        if let Some(trace) = entry.trace {
            self.name("trace_id", colours);
            self.hex(trace.bits(), TraceId::DIGITS);
        }
        self.name("duration_ms", colours);
        self.millis(entry.took);
        self.name("bytes", colours);
        self.number(entry.bytes as u64);
        self.put("\n");
    }

    fn word(&mut self, name: &str, word: Option<&str>, colours: bool) {
        let Some(word) = word else { return };
        self.name(name, colours);
        self.put("\"");
        self.put(word);
        self.put("\"");
    }

    fn name(&mut self, name: &str, colours: bool) {
        self.put(if colours { " \x1b[3m" } else { " " });
        self.put(name);
        self.put(if colours { "\x1b[0m\x1b[2m=\x1b[0m" } else { "=" });
    }

    #[inline]
    fn put(&mut self, text: &str) {
        self.is_cut |= self.bytes.try_extend_from_slice(text.as_bytes()).is_err();
    }

    fn number(&mut self, number: u64) {
        self.digits(number, 1);
    }

    /// A number with so many digits at least.
    fn digits(&mut self, mut number: u64, least: usize) {
        let mut digits = [b'0'; 20];
        let mut many = 0;
        for digit in digits.iter_mut().rev() {
            if number == 0 && many >= least {
                break;
            }
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            many += 1;
        }
        let digits = digits.get(digits.len() - many..).unwrap_or_default();
        self.is_cut |= self.bytes.try_extend_from_slice(digits).is_err();
    }

    /// As its `Display`.
    fn phone(&mut self, phone: Phone) {
        self.put("+");
        let ends = phone.ends();
        if ends.digits > 0 {
            self.number(ends.first);
        }
        self.put("•••");
        self.digits(ends.last, ends.digits as usize);
    }

    fn account(&mut self, account: Account) {
        self.hex(account.short().into(), Account::SHORT);
    }

    /// The last so many digits of a number, in hexadecimal.
    fn hex(&mut self, number: u128, digits: usize) {
        for nibble in (0..digits).rev() {
            let digit = (number >> (4 * nibble)) as u8 & 0xf;
            let digit = if digit < 10 { b'0' + digit } else { b'a' - 10 + digit };
            self.is_cut |= self.bytes.try_push(digit).is_err();
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                let [first, rest @ ..] = address.octets();
                self.number(first.into());
                for octet in rest {
                    self.put(".");
                    self.number(octet.into());
                }
            }
            IpAddr::V6(address) => self.is_cut |= write!(self, "{address}").is_err(),
        }
    }

    /// Milliseconds, with as many as three decimals.
    fn millis(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (mut rest, mut places) = (micros % 1000, 3);
        while places > 1 && rest % 10 == 0 {
            (rest, places) = (rest / 10, places - 1);
        }
        self.number(micros / 1000);
        self.put(".");
        self.digits(rest, places);
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.try_extend_from_slice(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Value, json};

    use super::*;
    use crate::log::Stamp;
    use crate::policy::subject::HashKey;
    use crate::trace::Context;

    fn line(form: Form, entry: &AccessEntry<'_>) -> String {
        let line = Line::of(form, entry);
        let stamp = Stamp::default().of(entry.at).to_vec();
        String::from_utf8([form.before_stamp(), &stamp, line.whole().unwrap()].concat()).unwrap()
    }

    fn account() -> Account {
        HashKey::new([7; 16]).account(b"Bearer sk_test_v1_test")
    }

    fn trace(id: &str) -> Option<TraceId> {
        Context::passing([format!("00-{id}-00f067aa0ba902b7-01").as_bytes()].into_iter()).map(Context::trace)
    }

    fn refused() -> AccessEntry<'static> {
        AccessEntry {
            at: Moment::from_micros(1_795_424_400_123_999),
            method: "POST",
            operation: Operation::Send,
            outcome: Outcome::Refused,
            status: 429,
            phone: "+15550100123".parse().ok(),
            account: Some(account()),
            refused_by: Some("phone-10m"),
            client: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 200, 1))),
            trace: None,
            took: Duration::from_micros(3484),
            bytes: 128,
        }
    }

    #[test]
    fn a_line_looks_as_the_ordinary_log_does() {
        let account = format!("{:012x}", account().short());
        let json = format!(
            r#"{{"timestamp":"2026-11-23T09:00:00.123Z","level":"INFO","method":"POST","operation":"send","outcome":"refused","status":429,"phone":"+1555•••0123","account":"{account}","refused_by":"phone-10m","client":"10.0.200.1","duration_ms":3.484,"bytes":128,"target":"access"}}"#
        );
        assert_eq!(line(Form::Json, &refused()), json + "\n");
        let text = format!(
            r#"2026-11-23T09:00:00.123Z  INFO access: method="POST" operation="send" outcome="refused" status=429 phone=+1555•••0123 account={account} refused_by="phone-10m" client=10.0.200.1 duration_ms=3.484 bytes=128"#
        );
        assert_eq!(line(Form::Text { colours: false }, &refused()), text + "\n");
        let coloured = line(Form::Text { colours: true }, &refused());
        let start = "\x1b[2m2026-11-23T09:00:00.123Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2maccess\x1b[0m\x1b[2m:\x1b[0m \
                     \x1b[3mmethod\x1b[0m\x1b[2m=\x1b[0m\"POST\" \x1b[3moperation\x1b[0m\x1b[2m=\x1b[0m\"send\"";
        assert!(coloured.starts_with(start), "{coloured:?}");
    }

    #[test]
    fn the_longest_line_has_room() {
        let entry = AccessEntry {
            at: Moment::from_micros(u64::from(u32::MAX) * 1_000_000),
            method: "OPTIONS",
            operation: Operation::Profiles,
            outcome: Outcome::Abandoned,
            status: u16::MAX,
            phone: "+999999999999999".parse().ok(),
            refused_by: Some("x".repeat(64).leak()),
            client: Some(IpAddr::V6(Ipv6Addr::from([0xab; 16]))),
            trace: trace(&"e".repeat(32)),
            took: Duration::MAX,
            bytes: usize::MAX,
            ..refused()
        };
        assert!(line(Form::Text { colours: true }, &entry).len() > 500);
    }

    proptest! {
        #[test]
        fn whatever_a_line_tells_it_is_json_and_shows_no_phone(
            (at, took, bytes, status) in (0..4_000_000_000_000_000_u64, 0..1_u64 << 50, any::<u32>(), any::<u16>()),
            given in prop_oneof![select(vec!["GET", "POST", "PATCH"]).prop_map(str::to_owned), any::<String>()],
            (operation, outcome) in (select(Operation::ALL.to_vec()), select(Outcome::ALL.to_vec())),
            (phone, key) in (proptest::option::of("\\+[1-9][0-9]{4,14}"), proptest::option::of(any::<[u8; 8]>())),
            (name, client) in (proptest::option::of("[a-z0-9-]{1,64}"), proptest::option::of(any::<IpAddr>())),
            id in proptest::option::of("[0-9a-f]{31}[1-9a-f]"),
        ) {
            let phone: Option<Phone> = phone.and_then(|phone| phone.parse().ok());
            let account = key.map(|key| HashKey::new([7; 16]).account(&key));
            let entry = AccessEntry {
                at: Moment::from_micros(at),
                method: &given,
                operation,
                outcome,
                status,
                phone,
                account,
                refused_by: name.as_deref(),
                client,
                trace: id.as_deref().and_then(trace),
                took: Duration::from_micros(took),
                bytes: bytes as usize,
            };
            let line = line(Form::Json, &entry);
            prop_assert_eq!(line.matches('\n').count(), 1);
            let read: Value = serde_json::from_str(&line).unwrap();
            let mut expected = json!({
                "timestamp": entry.at.to_string(),
                "level": "INFO",
                "method": if method(&given) == given { &given } else { "_OTHER" },
                "operation": operation.name(),
                "outcome": outcome.name(),
                "status": status,
                "duration_ms": serde_json::from_str::<Value>(&format!("{}.{:03}", took / 1000, took % 1000)).unwrap(),
                "bytes": bytes,
                "target": "access",
            });
            let optional = [
                ("phone", phone.map(|phone| phone.to_string())),
                ("account", account.map(|account| format!("{:012x}", account.short()))),
                ("refused_by", name.clone()),
                ("client", client.map(|client| client.to_string())),
                ("trace_id", id.clone()),
            ];
            for (field, value) in optional {
                if let Some(value) = value {
                    expected[field] = value.into();
                }
            }
            prop_assert_eq!(&read, &expected);
            if let (Some(phone), Some(shown)) = (phone, read["phone"].as_str()) {
                prop_assert!(!shown.contains(&phone.to_e164()[1..]));
            }
        }
    }
}
