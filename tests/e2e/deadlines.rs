//! Deadlines: a client that does not do its part in time loses its connection or its stream, on every way in.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::KEY;
use crate::start::{Gateway, gateway_with};
use crate::tls::Secure;
use crate::upstream::Act;

const SECONDS: Duration = Duration::from_secs(20);

async fn late(gateway: &Gateway, phase: &str) -> u64 {
    gateway.metric(&format!("sendly_gateway_late_clients_total{{phase=\"{phase}\"}}")).await
}

/// Waits until the gateway closes this connection.
async fn closes(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut bytes = [0; 1024];
    let closed = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_handshake_has_a_deadline() {
    let secure = Secure::start("clients.header_timeout = \"200ms\"").await;
    let mut silent = TcpStream::connect(secure.gateway.running.address).await.unwrap();
    closes(&mut silent).await;
    let mut begins = TcpStream::connect(secure.gateway.running.address).await.unwrap();
    begins.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    closes(&mut begins).await;
    assert_eq!(late(&secure.gateway, "handshake").await, 2);
    secure.gateway.shows("sendly_gateway_connections", 0).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Writes a byte each 20 ms, until the other side has closed.
async fn drips(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: impl IntoIterator<Item = Vec<u8>>) {
    let mut bytes = bytes.into_iter();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut read = [0; 1024];
    let dripping = async {
        loop {
            tokio::select! {
                read = stream.read(&mut read) => if !read.is_ok_and(|count| count > 0) { return },
                _ = ticks.tick() => {
                    let Some(next) = bytes.next() else { return closes(stream).await };
                    if stream.write_all(&next).await.is_err() || stream.flush().await.is_err() { return }
                }
            }
        }
    };
    tokio::time::timeout(SECONDS, dripping).await.expect("it stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_a_preface_that_drips_end_with_the_deadline_for_heads() {
    let secure = Secure::start("clients.header_timeout = \"200ms\"").await;
    closes(&mut secure.connect(&["h2"]).await).await;
    drips(&mut secure.connect(&["h2"]).await, PREFACE.iter().map(|byte| vec![*byte])).await;
    assert_eq!(late(&secure.gateway, "handshake").await, 2);
    secure.gateway.shows("sendly_gateway_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_drips_in_continuations_ends_with_the_deadline_for_heads() {
    let secure = Secure::start("clients.header_timeout = \"200ms\"").await;
    let mut stream = secure.connect(&["h2"]).await;
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let headers = [vec![0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]];
    let continuations = std::iter::repeat_with(|| vec![0, 0, 0, 9, 0, 0, 0, 0, 1]);
    drips(&mut stream, headers.into_iter().chain(continuations.take(5))).await;
    assert_eq!(late(&secure.gateway, "head").await, 1);
    secure.gateway.shows("sendly_gateway_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_http_2_that_never_asks_is_idle() {
    let secure = Secure::start("clients.keep_alive = \"1s\"").await;
    let mut stream = secure.connect(&["h2"]).await;
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    closes(&mut stream).await;
    secure.gateway.shows("sendly_gateway_connections", 0).await;
}

/// A connection of HTTP/2 whose frames a test sees.
pub(crate) async fn http2(secure: &Secure, options: &Builder) -> SendRequest<Bytes> {
    let (sender, connection) = options.handshake(secure.connect(&["h2"]).await).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender.ready().await.unwrap()
}

pub(crate) fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("https://gateway.test{path}");
    let request = Request::builder().method(method).uri(uri).header("authorization", KEY);
    request.header("content-type", "application/json").body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_http_2_over_16_kib_is_431() {
    let secure = Secure::start("").await;
    let mut http2 = http2(&secure, &Builder::new()).await;
    let mut large = request(Method::GET, "/api/v1/messages");
    large.headers_mut().insert("x-large", "x".repeat(17 * 1024).parse().unwrap());
    let (answer, _) = http2.send_request(large, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 431);
    let (answer, _) = http2.send_request(request(Method::GET, "/api/v1/messages"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200, "the connection stands");
    assert_eq!(secure.gateway.upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_http_2_that_stops_is_408_where_it_is_judged_and_a_reset_where_it_passes() {
    let secure = Secure::start("clients.body_timeout = \"200ms\"").await;
    let mut http2 = http2(&secure, &Builder::new()).await;
    let (answer, mut body) = http2.send_request(request(Method::POST, "/api/v1/verify"), false).unwrap();
    body.send_data(Bytes::from_static(b"{\"to\":"), false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 408);
    let (answer, mut body) = http2.send_request(request(Method::POST, "/api/v1/messages"), false).unwrap();
    body.send_data(Bytes::from_static(b"{"), false).unwrap();
    let error = tokio::time::timeout(SECONDS, answer).await.expect("it stays open").unwrap_err();
    assert!(error.is_reset(), "{error}");
    assert_eq!(late(&secure.gateway, "body").await, 1);
    let rejected = r#"sendly_gateway_requests_total{operation="other",outcome="rejected"}"#;
    assert_eq!(secure.gateway.metric(rejected).await, 1, "it has its line");
    secure.gateway.shows("sendly_gateway_upstream_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_http_2_that_goes_on_coming_passes() {
    let secure = Secure::start("clients.body_timeout = \"500ms\"").await;
    let mut http2 = http2(&secure, &Builder::new()).await;
    let (answer, mut body) = http2.send_request(request(Method::POST, "/api/v1/messages"), false).unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for nth in 0..10 {
        ticks.tick().await;
        body.send_data(Bytes::from_static(b"abc"), nth == 9).unwrap();
    }
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!(secure.gateway.upstream.seen()[0].body.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http_2_that_never_reads_loses_its_stream() {
    let secure = Secure::start("clients.write_timeout = \"200ms\"").await;
    let mut http2 = http2(&secure, Builder::new().initial_window_size(0)).await;
    for path in ["/api/v1/messages", "/api/v1/verify/ver_1/resend"] {
        let method = if path.ends_with("resend") { Method::POST } else { Method::GET };
        secure.gateway.upstream.script(|_| Act::json(404, &serde_json::json!({ "error": "not_found" })));
        let (answer, _) = http2.send_request(request(method, path), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let read = tokio::time::timeout(SECONDS, body.data()).await.expect("it stays open");
        assert!(read.is_none_or(|read| read.is_err()), "{path}");
    }
    secure.gateway.is_idle().await;
    secure.gateway.shows("sendly_gateway_upstream_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_has_deadlines_and_bounds_for_heads() {
    let gateway = gateway_with("clients.header_timeout = \"200ms\"\nclients.keep_alive = \"1s\"").await;
    let address = gateway.running.admin_address;
    let ask = async |bytes: Vec<u8>| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(SECONDS, stream.read_to_end(&mut answer)).await.expect("it stays open").unwrap();
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(ask(Vec::new()).await, "", "one that never asks is idle");
    assert!(ask(b"GET /livez HTTP/1.1\r\nhost: x\r\n".to_vec()).await.starts_with("HTTP/1.1 408 "));
    assert_eq!(late(&gateway, "head").await, 1);
    let large = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n", "x".repeat(16 * 1024));
    assert!(ask(large.into_bytes()).await.starts_with("HTTP/1.1 431 "));
    let fits = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n", "x".repeat(15 * 1024));
    let answer = ask(fits.into_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
    let dripping = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        drips(&mut stream, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n".iter().map(|byte| vec![*byte])).await;
    };
    dripping.await;
    assert_eq!(late(&gateway, "head").await, 2);
}
