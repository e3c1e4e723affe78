//! What connections without a key cost: measured on the program, and so not part of the usual run.
//!
//! `cargo nextest run --release --test process --run-ignored only strangers --no-capture`. It takes some 9,000 file descriptors. Where the
//! kernel gives the allocator huge pages, the figures are larger than what is used; `MIMALLOC_ALLOW_THP=0` measures without them.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures, and tells what it has measured")]

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::{Process, Serving};
use crate::upstream::Upstream;

const CONNECTIONS: usize = 2000;

/// What one of them may cost, in bytes: one that sends heads; and one that sends a body, of which 64 KiB are read, by pingora's reader into
/// buffers that are copied.
const MOST: usize = 64 * 1024;
const MOST_WITH_BODY: usize = 256 * 1024;

const CONFIG: &str = "clients.header_timeout = \"6s\"\nclients.body_timeout = \"6s\"\nclients.keep_alive = \"8s\"\n";

/// A way of holding a connection: what is written at once, and what then comes a byte at a time.
struct Way {
    name: &'static str,
    first: Vec<u8>,
    drips: &'static [u8],
    most: usize,
}

fn ways() -> Vec<Way> {
    let chunked = "POST /api/v1/messages HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n";
    let head = format!("GET / HTTP/1.1\r\nhost: g\r\nx: {}", "y".repeat(16_000));
    let way = |name, first: String, drips| Way { name, first: first.into_bytes(), drips, most: MOST };
    let body = |name, first: String, drips| Way { most: MOST_WITH_BODY, ..way(name, first, drips) };
    vec![
        way("nothing at all", String::new(), b""),
        way("a head of 16 KiB that drips on", head.clone(), b"y"),
        way("a request in chunks, then a head that drips on", format!("{chunked}1\r\na\r\n0\r\n\r\n{head}"), b"y"),
        body("a send's body that does not come", send(60_000, 59_000), b"x"),
        body("a passing body in chunks, and silence", format!("{chunked}{:x}\r\n{}", 60_000, "x".repeat(50_000)), b""),
        body("a send in chunks of a byte, and silence", send_in_chunks(), b""),
    ]
}

fn send(length: usize, comes: usize) -> String {
    format!(
        "POST /api/v1/verify HTTP/1.1\r\nhost: g\r\nauthorization: Bearer made-up\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{}",
        "x".repeat(comes)
    )
}

fn send_in_chunks() -> String {
    let head = send(0, 0).replace("content-length: 0", "transfer-encoding: chunked");
    head + &"1\r\nx\r\n".repeat(2000)
}

impl Serving {
    /// The memory that it holds now, in bytes.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

/// Asks for something once in 20 ms, for so long, and returns the slowest answer.
async fn slowest(serving: &Serving, span: Duration) -> Duration {
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut wire = serving.connect().await;
    while began.elapsed() < span {
        let asked = Instant::now();
        wire.request("POST", "/api/v1/verify", &[], b"{\"to\":\"5550100123\"}").await;
        assert_eq!(wire.answer().await.unwrap().status, 400);
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    slowest
}

/// Holds a connection until the gateway ends it. Returns after how long it did, or nothing if it did not in time.
async fn hold(address: std::net::SocketAddr, first: Vec<u8>, drips: &'static [u8], began: Instant) -> Option<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // An error is the connection's end, which the reading finds too.
    let _ = stream.write_all(&first).await;
    let (mut reading, mut writing) = stream.split();
    let read = async { while let Ok(1..) = reading.read(&mut [0; 1024]).await {} };
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !drips.is_empty() && writing.write_all(drips).await.is_err() {
                return;
            }
        }
    };
    let ended = async {
        tokio::select! { () = read => {}, () = drip => {} }
    };
    tokio::time::timeout(Duration::from_secs(40), ended).await.ok().map(|()| began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures for some minutes; see the module's documentation"]
async fn two_thousand_connections_without_a_key_cost_little_and_end_in_time() {
    let upstream = Upstream::start().await;
    let mut wrong = Vec::new();
    for Way { name, first, drips, most: bound } in ways() {
        let serving = Process::gateway(CONFIG, &upstream.url(), &[]).await;
        let alone = slowest(&serving, Duration::from_secs(3)).await;
        let before = serving.resident();
        let began = Instant::now();
        let mut held = JoinSet::new();
        for _ in 0..CONNECTIONS {
            held.spawn(hold(serving.address, first.clone(), drips, began));
        }
        let mut most = before;
        let watching = async {
            let mut ends = Vec::new();
            loop {
                tokio::select! {
                    end = held.join_next() => match end {
                        Some(end) => ends.push(end.unwrap()),
                        None => return ends,
                    },
                    () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(serving.resident()),
                }
            }
        };
        let (ends, beside) = tokio::join!(watching, slowest(&serving, Duration::from_secs(5)));
        // The allocator gives back as it is asked for more.
        slowest(&serving, Duration::from_secs(5)).await;
        let after = serving.resident();
        let each = most.saturating_sub(before) / CONNECTIONS;
        let last = ends.iter().copied().max().flatten();
        let open = ends.iter().filter(|end| end.is_none()).count();
        println!(
            "{name}: {} KB each, the last ended after {last:?}; {} MB before, {} MB at most, {} MB after; \
             an honest client's slowest answer {alone:?} alone, {beside:?} beside them",
            each / 1024,
            before >> 20,
            most >> 20,
            after >> 20
        );
        if each > bound || open > 0 {
            wrong.push(format!("{name}: {each} bytes each, {open} stayed open"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
