//! A Sendly that fails in one way, and counts the SMS that it sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sendly_gateway::clock::{Clock, ManualClock, Moment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::{Case, ID, PHONE};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    None,
    /// It sends the SMS and answers with this.
    Status(u16),
    /// It sends the SMS and closes the connection.
    NoHead,
    /// The same after the head of its answer.
    HeadAlone,
    /// The same within the body.
    CutBody,
    /// It sends the SMS, and answers so many seconds later.
    After(u64),
    /// It sends nothing and says 429, for so many seconds from the first request on.
    Limit(u64),
}

pub(crate) struct Sendly {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    fault: Fault,
    /// How late its answer is.
    late: Duration,
    bought: AtomicUsize,
    first: OnceCell<Moment>,
    clock: Clock,
}

impl Sendly {
    pub(crate) async fn start(case: &Case, clock: ManualClock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (first, clock) = (OnceCell::new(), Clock::from(clock));
        let fault = case.fault;
        let late = if let Fault::After(seconds) = fault { case.timeout(seconds) } else { Duration::ZERO };
        let state = Arc::new(State { fault, late, bought: AtomicUsize::new(0), first, clock });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serving);
                // Its end is the connection's.
                tokio::spawn(async move { drop(state.serve(stream).await) });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn bought(&self) -> usize {
        self.state.bought.load(Ordering::SeqCst)
    }
}

impl Drop for Sendly {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut read = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
            };
            let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
            let length: usize = length.trim().parse().unwrap();
            while read.len() < head + length {
                if stream.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
            }
            read.drain(..head + length);
            if !self.answer(&mut stream, text.starts_with("post ")).await? {
                return stream.shutdown().await;
            }
        }
    }

    /// Returns whether the connection stands.
    async fn answer(&self, stream: &mut TcpStream, is_post: bool) -> std::io::Result<bool> {
        let sent = format!(
            "{{\"id\":\"{ID}\",\"status\":\"pending\",\"phone\":\"{PHONE}\",\"expires_at\":\"2026-12-01T00:00:00.000Z\",\
             \"delivery_status\":\"queued\",\"attempts\":0,\"max_attempts\":3,\"created_at\":\"2026-12-01T00:00:00.000Z\",\"sandbox\":true}}"
        );
        let error = |code: &str| format!("{{\"error\":\"{code}\",\"message\":\"scripted\"}}");
        let whole = |status: u16, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        };
        if !is_post {
            stream.write_all(whole(200, &sent).as_bytes()).await?;
            return Ok(true);
        }
        if let Fault::Limit(seconds) = self.fault {
            let now = self.clock.now();
            let first = *self.first.get_or_init(async || now).await;
            if now.since(first) < Duration::from_secs(seconds) {
                let body =
                    format!("{{\"error\":\"rate_limit_exceeded\",\"message\":\"scripted\",\"retryAfter\":{seconds}}}");
                stream.write_all(whole(429, &body).as_bytes()).await?;
                return Ok(true);
            }
        }
        self.bought.fetch_add(1, Ordering::SeqCst);
        let good = whole(201, &sent);
        let head = good.find("\r\n\r\n").unwrap() + 4;
        let (text, stands) = match self.fault {
            Fault::None | Fault::Limit(_) => (good.as_str(), true),
            Fault::Status(status) => (&*whole(status, &error("internal_error")), true),
            Fault::NoHead => ("", false),
            Fault::HeadAlone => (&good[..head], false),
            Fault::CutBody => (&good[..head + 20], false),
            Fault::After(_) => {
                tokio::time::sleep(self.late).await;
                (good.as_str(), true)
            }
        };
        stream.write_all(text.as_bytes()).await?;
        Ok(stands)
    }
}
