//! The load: a few connections that ask, read the answer, hold it against what it has to be, and ask again.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{Head, find};
use crate::upstream;

/// Phones that share an API key. Each gets a send and maybe a resend; the account's limit is 100 a minute.
pub(crate) const PER_ACCOUNT: u64 = 40;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What no limit is about.
    List,
    /// `POST /api/v1/verify`
    Send,
    /// `POST /api/v1/verify/{id}/resend`
    Resend,
}

/// Which answer is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The upstream's, byte for byte.
    Upstream,
    /// A refusal in Sendly's words.
    Refusal,
}

/// The requests of a visit. Its connections take them from here, one after the other.
#[derive(Debug)]
pub(crate) struct Script {
    ask: Ask,
    expect: Expect,
    first: u64,
    /// From one phone to the next; 0 where all requests are for one.
    step: u64,
    most: u64,
    taken: AtomicU64,
}

impl Script {
    /// One request for each of these phones.
    pub(crate) fn once_each(ask: Ask, expect: Expect, phones: Range<u64>) -> Arc<Self> {
        let most = phones.end - phones.start;
        Arc::new(Self { ask, expect, first: phones.start, step: 1, most, taken: AtomicU64::new(0) })
    }

    /// So many requests for one phone.
    pub(crate) fn all_to(ask: Ask, expect: Expect, phone: u64, most: u64) -> Arc<Self> {
        Arc::new(Self { ask, expect, first: phone, step: 0, most, taken: AtomicU64::new(0) })
    }

    fn next(&self) -> Option<u64> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        (taken < self.most).then_some(self.first + self.step * taken)
    }

    fn write(&self, phone: u64, into: &mut Vec<u8>) {
        let account = phone / PER_ACCOUNT;
        let (target, body) = match self.ask {
            Ask::List => ("GET /api/v1/messages?limit=1".to_owned(), String::new()),
            Ask::Send => ("POST /api/v1/verify".to_owned(), format!(r#"{{"to":"+{phone}","app_name":"Bench"}}"#)),
            Ask::Resend => (format!("POST /api/v1/verify/{}/resend", upstream::id(phone)), String::new()),
        };
        let described = match self.ask {
            Ask::List => String::new(),
            _ => format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()),
        };
        // The headers of an SDK.
        let text = format!(
            "{target} HTTP/1.1\r\nhost: gateway.local\r\nauthorization: Bearer sk_test_v1_{account:024}\r\n\
             accept: application/json\r\nuser-agent: sendly-rs/7.0.0\r\n{described}\r\n{body}"
        );
        into.extend_from_slice(text.as_bytes());
    }

    /// What is wrong with an answer.
    fn mistake(&self, phone: u64, line: &str, body: &[u8]) -> Option<String> {
        let (status, right) = match (self.expect, self.ask) {
            (Expect::Refusal, _) => ("429", find(body, b"\"retryAfter\":").is_some()),
            (Expect::Upstream, Ask::List) => ("200", body == upstream::LIST.as_bytes()),
            (Expect::Upstream, _) => ("201", body == upstream::verification(phone).as_bytes()),
        };
        let told = line.split(' ').nth(1).unwrap_or_default();
        (told != status || !right).then(|| {
            let body = String::from_utf8_lossy(body);
            format!("{:?} is to be answered with {status} ({:?}), not {line}: {body}", self.ask, self.expect)
        })
    }
}

/// A connection to a proxy.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, out: Vec::with_capacity(1024), read: Vec::with_capacity(4096) })
    }

    async fn follow(&mut self, script: &Script, until: Instant) -> io::Result<u64> {
        let mut answered = 0;
        while Instant::now() < until {
            let Some(phone) = script.next() else { break };
            self.out.clear();
            script.write(phone, &mut self.out);
            self.stream.write_all(&self.out).await?;
            self.read.clear();
            let head = loop {
                if self.stream.read_buf(&mut self.read).await? == 0 {
                    return Err(io::Error::other("the connection was closed instead of answered"));
                }
                if let Some(head) = Head::of(&self.read).filter(|head| self.read.len() >= head.body().end) {
                    break head;
                }
            };
            let body = self.read.get(head.body()).unwrap_or_default();
            if let Some(mistake) = script.mistake(phone, head.line(&self.read), body) {
                return Err(io::Error::other(mistake));
            }
            answered += 1;
        }
        Ok(answered)
    }
}

/// The connections of a visit.
#[derive(Debug)]
pub(crate) struct Load {
    connections: Vec<Connection>,
}

impl Load {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr, connections: usize) -> io::Result<Self> {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(Connection::open(address).await?);
        }
        Ok(Self { connections: open })
    }

    /// Follows a script on all connections, for so long or to its end, and until all that was asked is answered. Returns how many
    /// requests were.
    ///
    /// # Errors
    /// An answer is wrong, or missing for 10 seconds.
    pub(crate) async fn follow(&mut self, script: &Arc<Script>, span: Duration) -> io::Result<u64> {
        let until = Instant::now() + span;
        let following: Vec<_> = self
            .connections
            .drain(..)
            .map(|mut connection| {
                let script = Arc::clone(script);
                tokio::spawn(async move {
                    let answered = connection.follow(&script, until).await;
                    (connection, answered)
                })
            })
            .collect();
        let mut answered = 0;
        for following in following {
            let patience = span + Duration::from_secs(10);
            let (connection, asked) = tokio::time::timeout(patience, following).await?.map_err(io::Error::other)?;
            answered += asked?;
            self.connections.push(connection);
        }
        Ok(answered)
    }
}
