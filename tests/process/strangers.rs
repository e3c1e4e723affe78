//! What connections without a key cost: measured on the program, and so not part of the usual run.
//!
//! `cargo nextest run --release --test process --run-ignored only strangers --no-capture`. It takes some 9,000 file descriptors. Where the
//! kernel gives the allocator huge pages, the figures are larger than what is used; `MIMALLOC_ALLOW_THP=0` measures without them.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures, and tells what it has measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{KEY, Stream, Wire};
use crate::process::{Process, Serving};
use crate::upgrade::{over_tls, tls};
use crate::upstream::{Act, Upstream};

const CONNECTIONS: usize = 2000;

/// What one of them may cost, in bytes; one whose send is read by pingora, in chunks; and one that speaks HTTP/2 and sends on one stream.
const MOST: usize = 64 * 1024;
const MOST_IN_CHUNKS: usize = 104 * 1024;
const MOST_OVER_HTTP_2: usize = 144 * 1024;

/// What a stream of HTTP/2 may cost, with a body of 30 kB.
const STREAM: usize = 96 * 1024;

/// How much more than before may be held once all have ended, and how soon, while an honest client goes on asking.
const KEPT: usize = 24 << 20;
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(30);

/// How often an honest client is measured without them and with them, in turn.
const ROUNDS: usize = 2;

const CONFIG: &str = "clients.header_timeout = \"6s\"\nclients.body_timeout = \"6s\"\nclients.keep_alive = \"8s\"\n";

/// A send that is answered 400: its phone is none.
const UNCLEAR: &str = r#"{"to":"5550100123"}"#;

#[derive(Clone, Copy, Debug)]
enum Over {
    Plain,
    Tls,
    Http2,
}

/// A way of holding a connection: what is written at once, and what then comes a byte at a time.
struct Way {
    over: Over,
    first: Vec<u8>,
    drips: &'static [u8],
    most: usize,
}

impl Way {
    fn new(first: impl Into<Vec<u8>>, drips: &'static [u8]) -> Self {
        Self { over: Over::Plain, first: first.into(), drips, most: MOST }
    }

    fn over(self, over: Over) -> Self {
        Self { over, ..self }
    }

    fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }
}

const CHUNKED: &str = "POST /api/v1/messages HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n";

fn head() -> String {
    format!("GET / HTTP/1.1\r\nhost: g\r\nx: {}", "y".repeat(16_000))
}

fn send(length: usize, comes: usize) -> String {
    format!(
        "POST /api/v1/verify HTTP/1.1\r\nhost: g\r\nauthorization: Bearer made-up\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{}",
        "x".repeat(comes)
    )
}

/// A send in chunks of so many bytes each.
fn send_in_chunks(each: usize, chunks: usize) -> String {
    let head = send(0, 0).replace("content-length: 0", "transfer-encoding: chunked");
    head + &format!("{each:x}\r\n{}\r\n", "x".repeat(each)).repeat(chunks)
}

fn http2_request(path: &str) -> Request<()> {
    let request = Request::builder().method(Method::POST).uri(format!("https://gateway.test{path}"));
    request.header("authorization", KEY).header("content-type", "application/json").body(()).unwrap()
}

/// A gateway, and how it is connected to.
struct Target {
    serving: Serving,
    over: Over,
    tls: Arc<ClientConfig>,
}

impl Target {
    async fn start(over: Over, config: &str, upstream: &Upstream, descriptors: Option<u32>) -> Self {
        let (secure, tls) = tls();
        let config = match over {
            Over::Plain => config.to_owned(),
            Over::Tls | Over::Http2 => format!("{config}{secure}"),
        };
        let serving = match descriptors {
            None => Process::gateway(&config, &upstream.url(), &[]).await,
            Some(most) => Process::gateway_with_descriptors(&config, &upstream.url(), most).await,
        };
        Self { serving, over, tls }
    }

    async fn connect(&self) -> Box<dyn Stream> {
        connect(self.serving.address, self.over, &self.tls).await
    }

    async fn http2(&self) -> SendRequest<Bytes> {
        http2(over_tls(self.serving.address, &self.tls, "h2").await).await
    }

    /// Whatever its clients speak, this one speaks HTTP/1.1.
    async fn honest(&self) -> Wire {
        match self.over {
            Over::Plain => self.serving.connect().await,
            Over::Tls | Over::Http2 => Wire::over(over_tls(self.serving.address, &self.tls, "http/1.1").await),
        }
    }

    /// The memory that it holds now, in bytes.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.serving.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.serving.process.id())).unwrap().count()
    }

    async fn metric(&self, name: &str) -> usize {
        let exposed = String::from_utf8(self.serving.admin("/metrics").await.body).unwrap();
        let line = exposed.lines().find_map(|line| line.strip_prefix(&format!("sendly_gateway_{name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    /// Asks for something once in 20 ms, for so long, and returns the slowest answer.
    async fn slowest(&self, span: Duration) -> Duration {
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut wire = self.honest().await;
        while began.elapsed() < span {
            let asked = Instant::now();
            wire.request("POST", "/api/v1/verify", &[], UNCLEAR.as_bytes()).await;
            assert_eq!(wire.answer().await.unwrap().status, 400);
            slowest = slowest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slowest
    }

    /// Waits until no more is held than before and `KEPT`, while an honest client goes on asking: the allocator gives back as it is
    /// asked for more. Returns how long that took, or what is held.
    async fn gives_back(&self, before: usize) -> Result<Duration, usize> {
        let began = Instant::now();
        let mut wire = self.honest().await;
        while self.resident() > before + KEPT {
            if began.elapsed() > GIVEN_BACK_WITHIN {
                return Err(self.resident());
            }
            for _ in 0..100 {
                wire.request("POST", "/api/v1/verify", &[], UNCLEAR.as_bytes()).await;
                assert_eq!(wire.answer().await.unwrap().status, 400);
            }
        }
        Ok(began.elapsed())
    }
}

async fn connect(address: std::net::SocketAddr, over: Over, tls: &ClientConfig) -> Box<dyn Stream> {
    match over {
        Over::Plain => Box::new(TcpStream::connect(address).await.unwrap()),
        Over::Tls => Box::new(over_tls(address, tls, "http/1.1").await),
        Over::Http2 => Box::new(over_tls(address, tls, "h2").await),
    }
}

async fn http2(stream: impl Stream + 'static) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender.ready().await.unwrap()
}

/// Holds a connection until the gateway ends it. Says when all is written that is written at once. Returns after how long it ended, or
/// nothing if it did not in time.
async fn hold(
    stream: Box<dyn Stream>,
    over: Over,
    first: Vec<u8>,
    drips: &'static [u8],
    stands: mpsc::Sender<()>,
) -> Option<Duration> {
    let began = Instant::now();
    let ended = async {
        match over {
            Over::Http2 => hold_http2(stream, first, drips, stands).await,
            Over::Plain | Over::Tls => hold_http1(stream, first, drips, stands).await,
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.ok().map(|()| began.elapsed())
}

async fn hold_http1(mut stream: Box<dyn Stream>, first: Vec<u8>, drips: &'static [u8], stands: mpsc::Sender<()>) {
    // An error is the connection's end, which the reading finds too.
    let _ = stream.write_all(&first).await;
    let _ = stream.flush().await;
    drop(stands);
    let (mut reading, mut writing) = tokio::io::split(stream);
    let read = async { while let Ok(1..) = reading.read(&mut [0; 1024]).await {} };
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !drips.is_empty() && (writing.write_all(drips).await.is_err() || writing.flush().await.is_err()) {
                return;
            }
        }
    };
    tokio::select! { () = read => {}, () = drip => {} }
}

async fn hold_http2(stream: Box<dyn Stream>, first: Vec<u8>, drips: &'static [u8], stands: mpsc::Sender<()>) {
    // Where the machine is busy, the gateway may not have waited for the preface: that is an end, too.
    let Ok((sender, connection)) = h2::client::handshake(stream).await else { return };
    let talk = async {
        let Ok(mut sender) = sender.ready().await else { return };
        if first.is_empty() {
            drop(stands);
            return std::future::pending().await;
        }
        let Ok((answer, mut body)) = sender.send_request(http2_request("/api/v1/verify"), false) else { return };
        let _ = body.send_data(Bytes::from(first), false);
        drop(stands);
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if body.send_data(Bytes::from_static(drips), false).is_err() {
                    return;
                }
            }
        };
        tokio::select! { _ = answer => {}, () = drip => {} }
        // The connection stays until the gateway ends it.
        std::future::pending().await
    };
    tokio::select! { _ = connection => {}, () = talk => {} }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// What was measured of one way.
#[derive(Debug)]
struct Measured {
    each: usize,
    last: Option<Duration>,
    open: usize,
    before: usize,
    most: usize,
    given_back: Result<Duration, usize>,
    alone: Duration,
    beside: Duration,
}

async fn measure(Way { over, first, drips, .. }: &Way) -> Measured {
    let upstream = Upstream::start().await;
    let target = Target::start(*over, CONFIG, &upstream, None).await;
    let (mut alone, mut beside) = (vec![target.slowest(Duration::from_secs(3)).await], Vec::new());
    let before = target.resident();
    let (mut most, mut last, mut open) = (before, None, 0);
    for _ in 0..ROUNDS {
        let mut held = JoinSet::new();
        let (stands, mut all_stand) = mpsc::channel::<()>(1);
        for _ in 0..CONNECTIONS {
            let (address, over, tls, first, drips) =
                (target.serving.address, *over, Arc::clone(&target.tls), first.clone(), *drips);
            let stands = stands.clone();
            held.spawn(async move { hold(connect(address, over, &tls).await, over, first, drips, stands).await });
        }
        drop(stands);
        let watching = async {
            loop {
                tokio::select! {
                    end = held.join_next() => match end {
                        Some(end) => match end.unwrap() {
                            Some(end) => last = last.max(Some(end)),
                            None => open += 1,
                        },
                        None => return,
                    },
                    () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(target.resident()),
                }
            }
        };
        let asking = async {
            // What is measured is those who stand, not this program's making of them.
            let _ = all_stand.recv().await;
            beside.push(target.slowest(Duration::from_secs(3)).await);
        };
        tokio::join!(watching, asking);
        alone.push(target.slowest(Duration::from_secs(3)).await);
    }
    let given_back = target.gives_back(before).await;
    let each = most.saturating_sub(before) / CONNECTIONS;
    Measured { each, last, open, before, most, given_back, alone: median(alone), beside: median(beside) }
}

async fn cost_little(name: &str, way: Way) {
    let measured = measure(&way).await;
    let Measured { each, last, open, before, most, given_back, alone, beside } = &measured;
    println!(
        "{name}: {} KB each, the last ended after {last:.1?}; {} MB before, {} MB at most, given back after {given_back:.1?}; an honest \
         client's slowest answer {alone:.1?} alone, {beside:.1?} beside them: {:.2} ×",
        each / 1024,
        before >> 20,
        most >> 20,
        beside.as_secs_f64() / alone.as_secs_f64()
    );
    assert!(*each <= way.most && *open == 0 && given_back.is_ok(), "{measured:?}");
}

macro_rules! ways {
    ($($name:ident: $way:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "it measures; see the module's documentation"]
        async fn $name() {
            cost_little(stringify!($name), $way).await;
        }
    )*};
}

// Two thousand connections, of which each does this, cost little, end in time, and what they took is given back.
ways! {
    that_say_nothing: Way::new("", b"");
    that_are_idle_after_an_answer: Way::new(send(UNCLEAR.len(), 0) + UNCLEAR, b"");
    whose_head_of_16_kib_drips_on: Way::new(head(), b"y");
    whose_head_drips_on_after_a_request_in_chunks: Way::new(format!("{CHUNKED}1\r\na\r\n0\r\n\r\n{}", head()), b"y");
    whose_send_drips_on: Way::new(send(32_000, 31_000), b"x");
    whose_send_in_chunks_of_a_byte_falls_silent: Way::new(send_in_chunks(1, 2000), b"").at_most(MOST_IN_CHUNKS);
    whose_send_in_large_chunks_falls_silent: Way::new(send_in_chunks(10_000, 3), b"").at_most(MOST_IN_CHUNKS);
    whose_passing_body_falls_silent: Way::new(format!("{CHUNKED}ea60\r\n{}", "x".repeat(50_000)), b"");
    that_say_nothing_over_tls: Way::new("", b"").over(Over::Tls);
    that_are_idle_after_an_answer_over_tls: Way::new(send(UNCLEAR.len(), 0) + UNCLEAR, b"").over(Over::Tls);
    whose_send_drips_on_over_tls: Way::new(send(32_000, 31_000), b"x").over(Over::Tls);
    that_say_nothing_over_http_2: Way::new("", b"").over(Over::Http2);
    whose_send_drips_on_over_http_2: Way::new("x".repeat(31_000), b"x").over(Over::Http2).at_most(MOST_OVER_HTTP_2);
}

/// The most of what was seen while something went on.
#[derive(Debug, Default)]
struct Peak {
    resident: usize,
    descriptors: usize,
    in_flight: usize,
    to_sendly: usize,
}

impl Peak {
    async fn look(&mut self, target: &Target) {
        self.resident = self.resident.max(target.resident());
        self.descriptors = self.descriptors.max(target.descriptors());
        self.in_flight = self.in_flight.max(target.metric("in_flight").await);
        self.to_sendly = self.to_sendly.max(target.metric("upstream_connections").await);
    }

    /// That it stayed within the gateway's own caps, and those of so many connections of HTTP/2. `before`: its memory and its descriptors.
    async fn is_within_caps(
        &self,
        name: &str,
        target: &Target,
        (before, descriptors): (usize, usize),
        connections: usize,
    ) {
        let (requests, to_sendly) =
            (target.metric("in_flight_max").await, target.metric("upstream_connections_max").await);
        println!(
            "{name}: {} requests and exchanges in flight of {requests}, {} connections to Sendly of {to_sendly}, {} descriptors and {} before, \
             {} MB and {} MB before",
            self.in_flight,
            self.to_sendly,
            self.descriptors,
            descriptors,
            self.resident >> 20,
            before >> 20
        );
        assert!(
            self.to_sendly <= to_sendly && self.descriptors <= descriptors + connections + to_sendly + 8,
            "{self:?}"
        );
        // A request and its exchange are two. Those that find themselves one too many have been counted until they are told so.
        assert!(self.in_flight <= 2 * 100 * connections, "{self:?}");
    }
}

/// Opens connections with so many streams each, whose bodies have 30 kB, to an upstream that never answers what passes; looks; ends them.
/// A body ends where `is_whole` says so.
async fn flood(target: &Target, path: &'static str, (connections, streams): (usize, usize), is_whole: bool) -> Peak {
    let mut all = JoinSet::new();
    for _ in 0..connections {
        let mut http2 = target.http2().await;
        all.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..streams {
                http2 = http2.ready().await.unwrap();
                let (answer, mut body) = http2.send_request(http2_request(path), false).unwrap();
                body.send_data(Bytes::from(vec![b'x'; 30_000]), is_whole).unwrap();
                open.push((answer, body));
            }
            std::future::pending::<()>().await;
            drop((open, http2));
        });
    }
    let mut peak = Peak::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        peak.look(target).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    all.shutdown().await;
    peak
}

/// Has Sendly accept the key, so that no rule for keys that are made up stands in the way of what follows.
async fn prove_key(target: &Target) {
    let mut wire = target.honest().await;
    wire.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100123"}"#).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
}

async fn floods_stay_within_caps(connections: usize, descriptors: Option<u32>) {
    let upstream = Upstream::start().await;
    let target = Target::start(Over::Http2, CONFIG, &upstream, descriptors).await;
    prove_key(&target).await;
    let like_sendly = upstream.like_sendly();
    upstream.script(move |seen| if seen.is_send() || seen.is_lookup() { like_sendly(seen) } else { Act::Hang });
    for (path, is_whole) in [("/api/v1/messages", true), ("/api/v1/verify", false)] {
        let before = (target.resident(), target.descriptors());
        let peak = flood(&target, path, (connections, 100), is_whole).await;
        peak.is_within_caps(&format!("{connections} × 100 {path}"), &target, before, connections).await;
        let each = peak.resident.saturating_sub(before.0) / (connections * 100);
        assert!(each <= STREAM, "a stream costs {each} bytes");
        target.serving.until_it_exposes("in_flight 0").await;
        let given_back = target.gives_back(before.0).await;
        println!("given back after {given_back:?}: {} MB", target.resident() >> 20);
        assert!(given_back.is_ok(), "{given_back:?}");
        prove_key_stands(&target, connections + usize::from(is_whole)).await;
    }
}

/// An honest client is served as ever.
async fn prove_key_stands(target: &Target, nth: usize) {
    let mut wire = target.honest().await;
    wire.request("POST", "/api/v1/verify", &[], format!(r#"{{"to":"+155501{nth:05}"}}"#).as_bytes()).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures; see the module's documentation"]
async fn two_thousand_streams_of_http_2_with_bodies_stay_within_the_caps() {
    floods_stay_within_caps(20, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures; see the module's documentation"]
async fn with_1024_descriptors_streams_of_http_2_with_bodies_take_none_from_others() {
    floods_stay_within_caps(12, Some(1024)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures; see the module's documentation"]
async fn thirty_thousand_sends_that_are_reset_at_once_stay_within_the_caps_and_each_is_charged_once() {
    const CONNECTIONS: usize = 10;
    const SENDS: usize = 3000;
    let upstream = Upstream::start().await;
    let limits = "[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 5\nwindow = \"1h\"\n";
    let target = Arc::new(Target::start(Over::Http2, &format!("{CONFIG}{limits}"), &upstream, None).await);
    prove_key(&target).await;
    let before = (target.resident(), target.descriptors());
    let mut all = JoinSet::new();
    for nth in 0..CONNECTIONS {
        let target = Arc::clone(&target);
        all.spawn(async move {
            let mut http2 = target.http2().await;
            for send in 0..SENDS {
                // The gateway ends a connection that resets too much.
                let (answer, mut body) = loop {
                    match http2.ready().await {
                        Ok(mut ready) => match ready.send_request(http2_request("/api/v1/verify"), false) {
                            Ok(sent) => {
                                http2 = ready;
                                break sent;
                            }
                            Err(_) => http2 = target.http2().await,
                        },
                        Err(_) => http2 = target.http2().await,
                    }
                };
                let phone = format!(r#"{{"to":"+1555{:07}"}}"#, nth * SENDS + send + 2_000_000);
                // Where the connection has ended meanwhile, the next one is made anew.
                let _ = body.send_data(Bytes::from(phone), true);
                // Or the body would not leave.
                tokio::task::yield_now().await;
                body.send_reset(h2::Reason::CANCEL);
                drop(answer);
            }
        });
    }
    let mut peak = Peak::default();
    while !all.is_empty() {
        tokio::select! {
            done = all.join_next() => done.unwrap().unwrap(),
            () = tokio::time::sleep(Duration::from_millis(50)) => peak.look(&target).await,
        }
    }
    target.serving.until_it_exposes("in_flight 0").await;
    peak.is_within_caps("30,000 sends that are reset", &target, before, 2 * CONNECTIONS).await;
    assert!(peak.resident <= before.0 + (64 << 20), "{} MB", peak.resident >> 20);
    let given_back = target.gives_back(before.0).await;
    assert!(given_back.is_ok(), "{given_back:?}");
    let sends = upstream.count(crate::upstream::Seen::is_send);
    println!("{sends} sends reached Sendly");
    let kept = target.metric("settlements_total{reason=\"success\",settlement=\"kept\"}").await;
    assert_eq!(kept, sends, "each that reached Sendly is charged, and no other");
}
