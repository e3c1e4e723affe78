//! A Sendly that hears bytes: it keeps every request exactly as it stood on the wire, strange ones too, and answers with
//! whatever bytes it is told to. hyper would refuse, unseen, what a lenient server takes.
//!
//! It is strict about where requests end: it counts every byte, and keeps those that belong to none ([`Raw::outside`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A request as it stood on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    /// Whatever stands between the method and the version.
    pub(crate) target: String,
    /// In their order, names as they were spelled.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// What it says to a request.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, and then the connection is closed.
    Last(Vec<u8>),
    /// Nothing, ever.
    Nothing,
}

impl Say {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Say::Bytes([head.into_bytes(), body.into_bytes()].concat())
    }

    /// A success that shows an id and its phone.
    pub(crate) fn verification(status: u16, id: &str, phone: &str) -> Self {
        Self::json(status, &serde_json::json!({ "id": id, "status": "pending", "phone": phone, "sandbox": true }))
    }
}

type Script = Arc<dyn Fn(&Heard) -> Say + Send + Sync>;

pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    notes: Arc<Notes>,
    tasks: Vec<JoinHandle<()>>,
}

/// What it knows of what came.
#[derive(Default)]
struct Notes {
    heard: Mutex<Vec<Heard>>,
    outside: Mutex<Vec<u8>>,
    /// All bytes that came, and the connections that are open.
    received: watch::Sender<usize>,
    open: watch::Sender<usize>,
}

impl Raw {
    /// One that answers as a lenient Sendly might: the id in a path may be in any letter case, and every send succeeds.
    pub(crate) async fn start() -> Self {
        Self::scripted(like_sendly()).await
    }

    pub(crate) async fn scripted(script: impl Fn(&Heard) -> Say + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(script)).await
    }

    /// One that speaks TLS.
    pub(crate) async fn over_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(Some(TlsAcceptor::from(config)), Arc::new(like_sendly())).await
    }

    async fn listen(tls: Option<TlsAcceptor>, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(Notes::default());
        let hearing = Arc::clone(&notes);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (tls, script, notes) = (tls.clone(), Arc::clone(&script), Arc::clone(&hearing));
                notes.open.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, script, &notes).await,
                        // A client that does not trust the certificate goes away here.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, script, &notes).await;
                            }
                        }
                    }
                    notes.open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, notes, tasks: vec![task] }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that came so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.notes.heard.lock().clone()
    }

    /// The bytes that came outside of any request.
    pub(crate) fn outside(&self) -> String {
        String::from_utf8_lossy(&self.notes.outside.lock()).into_owned()
    }

    /// How many bytes have come so far.
    pub(crate) fn received(&self) -> usize {
        *self.notes.received.borrow()
    }

    /// Waits until more than so many bytes have come.
    pub(crate) async fn receives_more_than(&self, bytes: usize) {
        let mut received = self.notes.received.subscribe();
        let more = received.wait_for(|received| *received > bytes);
        tokio::time::timeout(Duration::from_secs(20), more).await.expect("nothing more comes").unwrap();
    }

    /// Waits until every connection is closed, so that all that was sent has come.
    pub(crate) async fn all_have_closed(&self) {
        let mut open = self.notes.open.subscribe();
        let closed = open.wait_for(|open| *open == 0);
        tokio::time::timeout(Duration::from_secs(20), closed).await.expect("a connection stays open").unwrap();
    }

    /// The only request that came.
    pub(crate) fn only(&self) -> Heard {
        let heard = self.heard();
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard.into_iter().next().unwrap()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What a lenient Sendly might answer.
pub(crate) fn like_sendly() -> impl Fn(&Heard) -> Say + Send + Sync + 'static {
    let ids = AtomicU64::new(1);
    let phones: Mutex<Vec<(String, String)>> = Mutex::default();
    move |heard| {
        let path = heard.target.split('?').next().unwrap_or_default();
        let mut phones = phones.lock();
        if (heard.method.as_str(), path) == ("POST", "/api/v1/verify") {
            let body: serde_json::Value = serde_json::from_slice(&heard.body).unwrap_or_default();
            let phone = body["to"].as_str().unwrap_or_default().to_owned();
            let id = format!("ver_{:032x}", 0xabc0 + ids.fetch_add(1, Ordering::Relaxed));
            phones.push((id.clone(), phone.clone()));
            return Say::verification(201, &id, &phone);
        }
        let Some(rest) = path.strip_prefix("/api/v1/verify/") else {
            return Say::json(200, &serde_json::json!({ "passed": heard.target }));
        };
        let asked = rest.split('/').next().unwrap_or_default();
        match phones.iter().find(|(id, _)| id.eq_ignore_ascii_case(asked)) {
            Some((id, phone)) => Say::verification(200, id, phone),
            None => Say::json(404, &serde_json::json!({ "error": "not_found", "message": "scripted" })),
        }
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script, notes: &Notes) {
    let mut bytes = Vec::new();
    while let Some(request) = hear(&mut stream, &mut bytes, notes).await {
        let say = script(&request);
        notes.heard.lock().push(request);
        let (Say::Bytes(answer) | Say::Last(answer)) = &say else {
            // Until the gateway goes.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            return;
        };
        if stream.write_all(answer).await.is_err() || matches!(say, Say::Last(_)) {
            let _ = stream.shutdown().await;
            while more(&mut stream, &mut bytes, notes).await.is_some() {}
            notes.outside.lock().extend_from_slice(&bytes);
            return;
        }
    }
}

/// Reads one request; `None` at the end of the connection, or where what comes is no request.
async fn hear(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>, notes: &Notes) -> Option<Heard> {
    let head = take_through(stream, bytes, b"\r\n\r\n", notes).await?;
    if !head[0].is_ascii_alphabetic() {
        notes.outside.lock().extend_from_slice(&head);
        return None;
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n").take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let (method, rest) = first.split_once(' ').unwrap_or((first, ""));
    let (target, _version) = rest.rsplit_once(' ').unwrap_or((rest, ""));
    let headers = lines.map(|line| line.split_once(':').unwrap_or((line, "")));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let mut heard = Heard { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() };
    let chunked = heard.all("transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked"));
    if chunked {
        loop {
            let line = take_through(stream, bytes, b"\r\n", notes).await?;
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            let chunk = take(stream, bytes, size + 2, notes).await?;
            if !chunk.ends_with(b"\r\n") {
                notes.outside.lock().extend_from_slice(&chunk[size..]);
                return None;
            }
            heard.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(heard);
            }
        }
    }
    let length = heard.all("content-length").first().map_or(0, |value| value.parse().unwrap_or(0));
    heard.body = take(stream, bytes, length, notes).await?;
    Some(heard)
}

async fn take_through(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    mark: &[u8],
    notes: &Notes,
) -> Option<Vec<u8>> {
    loop {
        if let Some(place) = bytes.windows(mark.len()).position(|window| window == mark) {
            return Some(bytes.drain(..place + mark.len()).collect());
        }
        more(stream, bytes, notes).await?;
    }
}

async fn take(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    length: usize,
    notes: &Notes,
) -> Option<Vec<u8>> {
    while bytes.len() < length {
        more(stream, bytes, notes).await?;
    }
    Some(bytes.drain(..length).collect())
}

async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>, notes: &Notes) -> Option<()> {
    bytes.reserve(64 * 1024);
    let read = stream.read_buf(bytes).await.ok()?;
    notes.received.send_modify(|received| *received += read);
    (read > 0).then_some(())
}
