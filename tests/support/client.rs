//! A client that says what came back, and one that writes whatever bytes it likes.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) const KEY: &str = "Bearer sk_test_v1_test";

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The `error` of its body.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// From now on dropping it breaks the connection off.
    fn do_not_linger(&self);
}

impl Stream for TcpStream {
    fn do_not_linger(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Stream for TlsStream<TcpStream> {
    fn do_not_linger(&self) {
        self.get_ref().0.do_not_linger();
    }
}

/// A connection on which a test writes what it likes.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// A connection that exists already.
    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        // TLS may hold the end of it back.
        self.stream.flush().await.unwrap();
    }

    /// Writes what the other side may not want to read. Whether it took all of it.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// A request with the usual headers and a length that is right.
    pub(crate) async fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
        let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        for (name, value) in [("authorization", KEY), ("content-type", "application/json")] {
            if !given(name) {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.write(bytes).await;
    }

    /// Says that it will send no more, and still listens (FIN).
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Breaks the connection off (RST).
    pub(crate) fn reset(self) {
        self.stream.do_not_linger();
    }

    /// Reads one answer; informational ones are answers too. `None` if the connection ends before one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(Duration::from_secs(30), self.read_answer()).await.expect("no answer comes")
    }

    /// Reads an answer that has no body, whatever its headers say: one to a HEAD.
    pub(crate) async fn bodiless_answer(&mut self) -> Option<Answer> {
        let head = tokio::time::timeout(Duration::from_secs(30), self.read_head()).await.expect("no answer comes");
        let (status, headers, _) = head?;
        Some(Answer { status, headers, body: Vec::new() })
    }

    /// Everything until the other side closes. `None` if the connection broke.
    pub(crate) async fn rest(&mut self) -> Option<Vec<u8>> {
        let mut read = std::mem::take(&mut self.read);
        let whole = tokio::time::timeout(Duration::from_secs(30), self.stream.read_to_end(&mut read)).await;
        whole.expect("the connection stays open").is_ok().then_some(read)
    }

    async fn read_head(&mut self) -> Option<(StatusCode, HeaderMap, usize)> {
        loop {
            if let Some(head) = self.take_head() {
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let (status, headers, length) = self.read_head().await?;
        let mut body = Vec::new();
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Some(Answer { status, headers, body });
        }
        if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            loop {
                let line_end = self.until(b"\r\n").await?;
                let size =
                    usize::from_str_radix(std::str::from_utf8(&self.read[..line_end - 2]).unwrap().trim(), 16).unwrap();
                self.read.drain(..line_end);
                while self.read.len() < size + 2 {
                    if !self.more().await {
                        return None;
                    }
                }
                body.extend(self.read.drain(..size));
                self.read.drain(..2);
                if size == 0 {
                    break;
                }
            }
        } else {
            while self.read.len() < length {
                if !self.more().await {
                    return None;
                }
            }
            body.extend(self.read.drain(..length));
        }
        Some(Answer { status, headers, body })
    }

    /// Whether the other side has closed, with nothing left to read.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let nothing_left = self.read.is_empty();
        let read = tokio::time::timeout(Duration::from_secs(10), self.more());
        nothing_left && !read.await.expect("the connection stays open")
    }

    fn take_head(&mut self) -> Option<(StatusCode, HeaderMap, usize)> {
        let end = find(&self.read, b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            headers.append(http::HeaderName::try_from(name).unwrap(), value.trim().parse().unwrap());
        }
        let length = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        Some((status, headers, length))
    }

    async fn until(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            if let Some(place) = find(&self.read, mark) {
                return Some(place + mark.len());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads more; `false` at the end, or if the connection broke.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(read) => {
                self.read.extend_from_slice(&buffer[..read]);
                read > 0
            }
            Err(_) => false,
        }
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}
