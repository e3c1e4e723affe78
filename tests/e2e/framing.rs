//! Every request reaches Sendly with one end, whatever its client's framing; and framing that can be read in two ways is refused.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use sendly_gateway::clock::ManualClock;

use crate::client::Wire;
use crate::frames::Frames;
use crate::frames::Piece::{self, Data, Padded, Trailers};
use crate::raw::{Raw, Say};
use crate::start::{START, serve};
use crate::tls::http2_before;

const TARGET: &str = "/api/v1/messages";

/// An upstream that reads what comes to the end of the connection, so that not a byte can be missed.
async fn strict() -> Raw {
    Raw::scripted(|_| Say::Last(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok".to_vec())).await
}

/// Bodies of HTTP/2 that carry `abc`, but for the last two, which are empty.
const BODIES: &[&[Piece]] = &[
    &[Data("abc")],
    &[Data("abc"), Data("")],
    &[Data(""), Data("abc")],
    &[Data("a"), Data(""), Data("bc")],
    &[Data("a"), Data(""), Data("bc"), Data(""), Data("")],
    &[Padded("abc", 7)],
    &[Padded("abc", 7), Padded("", 7)],
    &[Padded("", 0), Data("abc"), Padded("", 0)],
    &[Data("abc"), Trailers],
    &[Data("abc"), Data(""), Trailers],
    &[Data("")],
    &[Trailers],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_http_2_has_one_end_upstream_whatever_its_frames() {
    for body in BODIES {
        for at_once in [false, true] {
            let upstream = strict().await;
            let (_running, stream) = http2_before(&upstream.url()).await;
            let mut client = Frames::over(stream).await;
            client.request("POST", TARGET).await;
            let mut seen = 0;
            for (nth, piece) in body.iter().enumerate() {
                if !at_once {
                    // Only if what came before has been passed on already, this comes by itself.
                    upstream.receives_more_than(seen).await;
                }
                let received = upstream.received();
                client.piece(*piece, nth + 1 == body.len()).await;
                let brings_nothing = matches!(piece, Data("") | Padded("", _));
                seen = if brings_nothing { received.saturating_sub(1) } else { received };
            }
            assert_eq!(client.answer(usize::MAX).await, (true, b"ok".to_vec()), "{body:?}");
            drop(client);
            upstream.all_have_closed().await;
            assert_eq!(upstream.outside(), "", "{body:?}, all at once: {at_once}");
            let expected = if body.len() == 1 && !matches!(body[0], Data("abc") | Padded(..)) { "" } else { "abc" };
            assert_eq!(String::from_utf8_lossy(&upstream.only().body), expected, "{body:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_chunks_has_one_end_upstream_whatever_its_chunks() {
    for (body, expected) in [
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("1\r\na\r\n2;x=y\r\nbc\r\n000\r\n\r\n", "abc"),
        ("3\r\nabc\r\n0\r\nx-trailer: 1\r\ny: 2\r\n\r\n", "abc"),
        ("0\r\n\r\n", ""),
    ] {
        // In one piece, and so that each byte comes by itself.
        for size in [body.len(), 1] {
            let upstream = strict().await;
            let running = serve("", &upstream.url(), ManualClock::new(START).into()).await;
            let mut wire = Wire::connect(running.address).await;
            wire.write(format!("POST {TARGET} HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n")).await;
            for piece in body.as_bytes().chunks(size) {
                wire.write(piece).await;
            }
            assert_eq!(wire.answer().await.unwrap().body, b"ok", "{body:?}");
            drop(wire);
            upstream.all_have_closed().await;
            assert_eq!(upstream.outside(), "", "{body:?} in pieces of {size}");
            assert_eq!(String::from_utf8_lossy(&upstream.only().body), expected, "{body:?}");
        }
    }
}

/// A server of Node's: it sends a body back as it comes, and tells at `/errors` how much came that it could not read.
struct Node {
    url: String,
    process: Child,
}

const NODE: &str = r"
const http = require('http');
let errors = 0;
const server = http.createServer((request, response) => {
    if (request.url === '/errors') return response.end(String(errors));
    request.on('data', (piece) => response.write(piece));
    request.on('end', () => response.end());
});
server.on('clientError', (error, socket) => { errors += 1; socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'); });
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
";

impl Node {
    fn start() -> Self {
        let mut command = Command::new("node");
        command.args(["-e", NODE]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the tests need Node.js in PATH");
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { url: format!("http://127.0.0.1:{}", port.trim()), process }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_behind_the_gateway_sees_no_byte_outside_of_a_request() {
    let node = Node::start();
    let (_running, stream) = http2_before(&node.url).await;
    let mut client = Frames::over(stream).await;
    for nth in 0..20 {
        client.request("POST", TARGET).await;
        client.piece(Data("abc"), false).await;
        assert_eq!(client.answer(3).await, (true, b"abc".to_vec()), "the {nth}th");
        // Node has answered the first piece: the end comes by itself.
        client.piece(Data(""), true).await;
        assert_eq!(client.answer(usize::MAX).await, (true, Vec::new()), "the {nth}th ends");
    }
    client.request("GET", "/errors").await;
    client.piece(Data(""), true).await;
    assert_eq!(client.answer(usize::MAX).await, (true, b"0".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn framing_that_can_be_read_in_two_ways_is_refused_whatever_it_asks_for() {
    let upstream = Raw::start().await;
    let running = serve("", &upstream.url(), ManualClock::new(START).into()).await;
    let chunked = "transfer-encoding: chunked\r\n";
    for (fields, body) in [
        ("content-length: 5\r\ncontent-length: 5\r\n".to_owned(), "abcde"),
        ("content-length: 5, 5\r\n".to_owned(), "abcde"),
        ("content-length: 05\r\n".to_owned(), "abcde"),
        ("content-length: +5\r\n".to_owned(), "abcde"),
        (format!("content-length: 5\r\n{chunked}"), "0\r\n\r\n"),
        (format!("{chunked}{chunked}"), "0\r\n\r\n"),
        ("transfer-encoding: gzip, chunked\r\n".to_owned(), "0\r\n\r\n"),
        ("host: other\r\ncontent-length: 5\r\n".to_owned(), "abcde"),
        (chunked.to_owned(), "5\nabcde\n0\n\n"),
        (chunked.to_owned(), "5;a\nb\r\nabcde\r\n0\r\n\r\n"),
        (chunked.to_owned(), "5\r\nabcdef\r\n0\r\n\r\n"),
    ] {
        for target in ["/api/v1/verify", "/api/v1/verify/ver_1/resend", TARGET, "/api/v1/verify/ver_1/check"] {
            let mut wire = Wire::connect(running.address).await;
            let key = crate::client::KEY;
            let head = format!(
                "POST {target} HTTP/1.1\r\nhost: g\r\nauthorization: {key}\r\ncontent-type: application/json\r\n{fields}\r\n"
            );
            wire.write(head + body).await;
            let answer = wire.answer().await.unwrap_or_else(|| panic!("{target}, {fields:?}: not answered"));
            assert_eq!(
                (answer.status.as_u16(), answer.error().as_str(), answer.header("connection")),
                (400, "invalid_request", Some("close")),
                "{target}, {fields:?}"
            );
            assert!(wire.is_closed().await, "{target}, {fields:?}");
        }
    }
    drop(running);
    upstream.all_have_closed().await;
    assert_eq!(upstream.heard().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_over_http_2_is_told_once_and_without_leading_zeros() {
    let upstream = Raw::start().await;
    let (_running, stream) = http2_before(&upstream.url()).await;
    let mut client = Frames::over(stream).await;
    for lengths in [["05"].as_slice(), &["5", "5"]] {
        for target in [TARGET, "/api/v1/verify"] {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            client.request_with("POST", target, &fields).await;
            client.piece(Data("abcde"), true).await;
            let (is_ok, body) = client.answer(usize::MAX).await;
            let body = String::from_utf8(body).unwrap();
            assert!(
                !is_ok && body.contains("\"invalid_request\"") && body.contains("Content-Length"),
                "{lengths:?}: {body}"
            );
        }
    }
    assert_eq!(upstream.heard().len(), 0);
    client.request_with("POST", TARGET, &[("content-length", "5")]).await;
    client.piece(Data("abcde"), true).await;
    assert!(client.answer(usize::MAX).await.0);
    assert_eq!(
        (upstream.only().body.as_slice(), upstream.only().all("content-length")),
        (b"abcde".as_slice(), vec!["5"])
    );
}
