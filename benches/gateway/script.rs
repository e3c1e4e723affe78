//! What the requests of a visit ask, and which answers are right.

use std::ops::Range;

use memchr::memmem;

use crate::template::Template;
use crate::upstream;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What no limit is about.
    List,
    /// `POST /api/v1/verify`
    Send {
        /// The least length of its body, in bytes.
        body: usize,
    },
    /// `POST /api/v1/verify/{id}/resend`
    Resend,
}

/// Which answer is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The upstream's, byte for byte.
    Upstream,
    /// A 429 that says this.
    Refusal(&'static str),
}

/// The requests of a visit. Its connections take them from here, one after the other.
#[derive(Debug)]
pub(crate) struct Script {
    ask: Ask,
    expect: Expect,
    request: Template,
    answer: Template,
    first: u64,
    /// From one phone to the next; 0 where all requests are for one.
    step: u64,
    most: u64,
    taken: u64,
}

impl Script {
    /// One request for each of these phones.
    pub(crate) fn once_each(ask: Ask, expect: Expect, phones: Range<u64>) -> Self {
        Self::new(ask, expect, phones.start, 1, phones.end - phones.start)
    }

    /// So many requests for one phone.
    pub(crate) fn all_to(ask: Ask, expect: Expect, phone: u64, most: u64) -> Self {
        Self::new(ask, expect, phone, 0, most)
    }

    fn new(ask: Ask, expect: Expect, first: u64, step: u64, most: u64) -> Self {
        let answer = Template::new(if ask == Ask::List { upstream::LIST } else { upstream::VERIFICATION });
        Self { ask, expect, request: request(ask), answer, first, step, most, taken: 0 }
    }

    /// The next request: whose it is, and its bytes.
    pub(crate) fn next(&mut self) -> Option<(u64, &[u8])> {
        if self.taken >= self.most {
            return None;
        }
        let phone = self.first + self.step * self.taken;
        self.taken += 1;
        Some((phone, self.request.of(phone)))
    }

    /// What is wrong with an answer.
    pub(crate) fn mistake(&mut self, phone: u64, line: &str, body: &[u8]) -> Option<String> {
        let (status, right) = match (self.expect, self.ask) {
            (Expect::Refusal(says), _) => ("429", memmem::find(body, says.as_bytes()).is_some()),
            (Expect::Upstream, Ask::List) => ("200", body == self.answer.of(phone)),
            (Expect::Upstream, _) => ("201", body == self.answer.of(phone)),
        };
        let told = line.split(' ').nth(1).unwrap_or_default();
        (told != status || !right).then(|| {
            let body = String::from_utf8_lossy(body);
            format!("{:?} is to be answered with {status} ({:?}), not {line}: {body}", self.ask, self.expect)
        })
    }
}

/// A request with the headers of an SDK.
fn request(ask: Ask) -> Template {
    let headers = "host: gateway.local\r\nauthorization: Bearer sk_test_v1_{account}\r\naccept: application/json\r\n\
                   user-agent: sendly-rs/7.0.0\r\n";
    let json = "content-type: application/json\r\n";
    match ask {
        Ask::List => Template::new(&format!("GET /api/v1/messages?limit=1 HTTP/1.1\r\n{headers}\r\n")),
        Ask::Send { body } => {
            Template::message(&format!("POST /api/v1/verify HTTP/1.1\r\n{headers}{json}"), &padded(body))
        }
        Ask::Resend => {
            Template::message(&format!("POST /api/v1/verify/ver_{{id}}/resend HTTP/1.1\r\n{headers}{json}"), "")
        }
    }
}

/// A send's body: as an SDK writes it, with metadata in it where it is to be longer.
fn padded(length: usize) -> String {
    let plain = r#"{"to":"+{phone}","app_name":"Bench"}"#;
    let frame = r#"{"to":"+{phone}","app_name":"Bench","metadata":{"note":""}}"#;
    // A phone's 11 digits come where its mark has 7 letters.
    match length.checked_sub(frame.len() + 4) {
        Some(room) => {
            format!(r#"{{"to":"+{{phone}}","app_name":"Bench","metadata":{{"note":"{}"}}}}"#, "n".repeat(room))
        }
        None => plain.to_owned(),
    }
}
