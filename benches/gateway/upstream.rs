//! A Sendly that answers at once, in as few instructions as it can: what the proxies are measured in front of must not be what
//! is measured.
//!
//! It remembers nothing: a verification's id is its phone's digits, so that the answer to any request can be told from the
//! request alone, here and by the load that checks it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http::{Head, find};

/// What any `GET` is answered.
pub(crate) const LIST: &str = r#"{"data":[{"id":"msg_0123456789abcdef","status":"delivered","segments":1}],"total":1}"#;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<AtomicU64>,
}

impl Upstream {
    /// Listens on a free port, and serves on the current runtime.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let upstream = Self { address: listener.local_addr()?, seen: Arc::default() };
        let seen = Arc::clone(&upstream.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A proxy that closes is no news; one that breaks off is found out by the load.
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Ok(upstream)
    }

    /// How many requests came so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

/// The id of the verification of this phone.
pub(crate) fn id(phone: u64) -> String {
    format!("ver_{phone:032x}")
}

/// What a send or a resend to this phone is answered.
pub(crate) fn verification(phone: u64) -> String {
    let id = id(phone);
    format!(
        r#"{{"id":"{id}","status":"pending","phone":"+{phone}","expires_at":"2026-11-24T00:10:00.000Z","sandbox":true}}"#
    )
}

async fn serve(mut stream: TcpStream, seen: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(4096);
    let mut answers = Vec::with_capacity(1024);
    loop {
        while let Some(head) = Head::of(&read)
            && let Some(body) = read.get(head.body())
        {
            answer(head.line(&read), body, &mut answers)?;
            seen.fetch_add(1, Ordering::Relaxed);
            read.drain(..head.body().end);
        }
        if !answers.is_empty() {
            stream.write_all(&answers).await?;
            answers.clear();
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
}

fn answer(line: &str, body: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    let (status, body) = match line.strip_prefix("POST /api/v1/verify") {
        Some(rest) => {
            let phone = match rest.strip_prefix("/ver_") {
                Some(id) => id.get(..32).and_then(|id| u64::from_str_radix(id, 16).ok()),
                None => to(body),
            };
            ("201 Created", verification(phone.ok_or(io::ErrorKind::InvalidData)?))
        }
        None => ("200 OK", LIST.to_owned()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    into.extend_from_slice(head.as_bytes());
    into.extend_from_slice(body.as_bytes());
    Ok(())
}

fn to(body: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"to\":\"+";
    let text = std::str::from_utf8(body.get(find(body, MARK)? + MARK.len()..)?).ok()?;
    text.split('"').next()?.parse().ok()
}
