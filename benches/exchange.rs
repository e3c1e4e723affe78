//! What an exchange with Sendly costs the gateway's own client, beside hyper-util's pooled one: the same requests, before the same
//! server, in turn. See `benches/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, prints a table, and may end"
)]

#[path = "support/figures.rs"]
mod figures;
#[path = "support/machine.rs"]
mod machine;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sendly_gateway::clock::Clock;
use sendly_gateway::config::Config;
use sendly_gateway::upstream::{Outcome, Sendly};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use figures::Figures;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PATIENCE: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 1 << 20;
const BODY: &str = r#"{"to":"+15550100123","app_name":"bench"}"#;
const ANSWER: &str = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 111\r\n\r\n\
    {\"id\":\"ver_0123456789abcdef\",\"status\":\"pending\",\"phone\":\"+15550100123\",\"expires_at\":\"2026-11-24T00:10:00.000Z\"}";

/// How many exchanges go on at the same time.
const CONCURRENCY: [usize; 3] = [1, 16, 64];

fn main() {
    // `cargo bench` says so, `cargo test` does not: a debug build is to run, and its figures mean nothing.
    let given = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let is_quick = given("--quick") || !given("--bench");
    let (rounds, exchanges) = if is_quick { (1, 640) } else { (15, 64_000) };
    println!("{}; {rounds} rounds of {exchanges} exchanges", machine::describe());
    let address = serve();
    // The clients have one thread; what it takes of the processor is all that they take.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let own = Arc::new(own(address));
    let library = library();
    println!("\n| at the same time | hyper-util, µs | own, µs | own × hyper-util |\n|---|---|---|---|");
    for many in CONCURRENCY {
        let (mut theirs, mut ours) = (Figures::default(), Figures::default());
        for _ in 0..rounds {
            let (library, own) = (library.clone(), Arc::clone(&own));
            let by_library = move || library_exchange(library.clone(), address);
            theirs.push(runtime.block_on(measure(many, exchanges, by_library)));
            ours.push(runtime.block_on(measure(many, exchanges, move || own_exchange(Arc::clone(&own)))));
        }
        println!("| {many} | {theirs:.1} | {ours:.1} | {} |", ours.over(&theirs).ratio(false));
    }
    println!("\nload average {} at the end", machine::load());
}

/// The µs of the processor that an exchange takes, where so many go on at the same time.
async fn measure<F: Future<Output = ()> + Send + 'static>(
    many: usize,
    exchanges: usize,
    exchange: impl Fn() -> F + Clone + Send + 'static,
) -> f64 {
    let before = cpu_nanos();
    let mut clients = JoinSet::new();
    for _ in 0..many {
        let exchange = exchange.clone();
        clients.spawn(async move {
            for _ in 0..exchanges / many {
                exchange().await;
            }
        });
    }
    clients.join_all().await;
    (cpu_nanos() - before) as f64 / 1000.0 / (exchanges / many * many) as f64
}

/// The time that this thread had a processor.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::AUTHORIZATION, "Bearer sk_test_v1_0123456789abcdef"),
        (header::CONTENT_TYPE, "application/json"),
        (header::USER_AGENT, "sendly-node/3.31.0"),
        (header::ACCEPT, "application/json"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn own(address: SocketAddr) -> Sendly {
    let config = format!("[upstream]\nurl = \"http://{address}\"");
    let config = Config::parse(&config, "bench", std::iter::empty()).unwrap();
    Sendly::new(&config.upstream, Clock::system()).unwrap()
}

async fn own_exchange(own: Arc<Sendly>) {
    let call = own.compose(&Method::POST, "/api/v1/verify", &headers(), None, BODY.as_bytes());
    let Outcome::Answered(answer) = own.call(call, PATIENCE).await else { panic!("no answer") };
    assert_eq!((answer.status.as_u16(), answer.body.len()), (201, 111));
}

/// As the gateway uses it for HTTP/2.
fn library() -> Client<HttpConnector, Full<Bytes>> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(4))
        .pool_max_idle_per_host(1024)
        .build(tcp)
}

async fn library_exchange(client: Client<HttpConnector, Full<Bytes>>, address: SocketAddr) {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(BODY.as_bytes())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{address}/api/v1/verify").parse().unwrap();
    *request.headers_mut() = headers();
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let calling = async {
        let (head, body) = client.request(request).await.unwrap().into_parts();
        (head.status, Limited::new(body, MAX_ANSWER).collect().await.unwrap().to_bytes())
    };
    let (status, body) = tokio::time::timeout(PATIENCE, calling).await.unwrap();
    assert_eq!((status.as_u16(), body.len()), (201, 111));
}

/// A Sendly that answers each request at once, in a thread of its own.
fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let mut read = Vec::with_capacity(4096);
                    while let Ok(1..) = stream.read_buf(&mut read).await {
                        // Its body is the same each time.
                        if read.ends_with(BODY.as_bytes()) {
                            read.clear();
                            stream.write_all(ANSWER.as_bytes()).await.unwrap();
                        }
                    }
                });
            }
        });
    });
    address
}
