//! Any answer is what hyper takes it for, but for the differences that [`is_deliberate`] lists: there, nothing is believed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sendly_gateway::api::body::MAX_ANSWER;
use sendly_gateway::clock::Clock;
use sendly_gateway::upstream::{Loss, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An answer as it is written: in these pieces, and then the connection is closed.
type Pieces = Vec<Vec<u8>>;

/// What a client makes of it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Answered(u16, BTreeSet<(String, Vec<u8>)>, Bytes),
    Cut(u16),
    Lost,
}

fn statuses() -> impl Strategy<Value = String> {
    const ODD_STATUSES: &[&str] = &[
        "HTTP/1.0 200 OK",
        "HTTP/1.0 201",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 429 ",
        "HTTP/1.1 500 \u{e9}",
        "HTTP/1.1 999 ?",
        "HTTP/1.1 099 ?",
        "HTTP/1.1 20 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.2 200 OK",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "\r\n\r\nHTTP/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "POST / HTTP/1.1",
        "",
    ];
    prop_oneof![4 => Just("HTTP/1.1 201 Created".to_owned()), 3 => prop::sample::select(ODD_STATUSES).prop_map(str::to_owned)]
}

fn fields() -> impl Strategy<Value = String> {
    const ODD_FIELDS: &[&str] = &[
        "content-type: application/json",
        "Connection: close",
        "Connection: keep-alive, X-Private",
        "Connection: \u{e9}",
        "X-Private: 1",
        "Keep-Alive: timeout=5",
        "Set-Cookie: a",
        "Set-Cookie: b\t c  ",
        "empty:",
        "space : 1",
        " folded: 1",
        ": nameless",
        "colonless",
        "nul: \0",
        "text: \u{e9}",
        "bare: a\rb",
        "Upgrade: h2c",
        "Trailer: x",
        "Proxy-Connection: close",
    ];
    const FRAMING: &[&str] = &[
        "Content-Length: 0",
        "content-length: 5",
        "content-length: 5",
        "content-length: 6",
        "content-length: 5, 5",
        "content-length: 5,6",
        "content-length: +5",
        "content-length: 5 5",
        "content-length:",
        "content-length: 18446744073709551616",
        "content-length: 99999999999999999",
        "content-length: 65537",
        "Transfer-Encoding: chunked",
        "transfer-encoding:  CHUNKED ",
        "transfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: identity",
    ];
    prop_oneof![2 => prop::sample::select(ODD_FIELDS), 3 => prop::sample::select(FRAMING)].prop_map(str::to_owned)
}

fn bodies() -> impl Strategy<Value = String> {
    const CHUNKS: &[&str] = &[
        "5\r\nabcde\r\n",
        "5;a=\"b\"\r\nabcde\r\n",
        "5 \t;a\r\nabcde\r\n",
        "000A\r\n0123456789\r\n",
        "5\nabcde\n",
        "5\r\nabcdef\r\n",
        "5\r\nabc",
        "-1\r\n",
        "x\r\n",
        "\r\n",
        "fffffffffffffffff\r\n",
        "ffffffffffffffff\r\n",
        "7fffffff\r\n",
        "5 5\r\nabcde\r\n",
        "5;a\nb\r\nabcde\r\n",
        "5;a\rb\r\nabcde\r\n",
    ];
    const ENDS: &[&str] = &[
        "0\r\n\r\n",
        "0\r\na: b\r\nc: d\r\n\r\n",
        "0\r\nbad\r\n\r\n",
        "0\r\n",
        "",
        "0\r\n\r\nmore",
        "0\n\n",
        "0\r\na: b\n\r\n",
    ];
    let chunked = (
        prop::collection::vec(prop_oneof![3 => Just(CHUNKS[0]), 2 => prop::sample::select(CHUNKS)], 0..4),
        prop_oneof![2 => Just(ENDS[0]), 2 => prop::sample::select(ENDS)],
    )
        .prop_map(|(chunks, end)| chunks.concat() + end);
    let plain = prop_oneof![
        Just("abcde".to_owned()),
        "[a-e]{0,9}",
        Just("x".repeat(MAX_ANSWER)),
        Just("x".repeat(MAX_ANSWER + 1))
    ];
    prop_oneof![plain, chunked]
}

/// Valid answers, odd ones and malformed ones, with a byte changed here and there, cut off anywhere, in any pieces.
fn answers() -> impl Strategy<Value = Pieces> {
    let early = prop::collection::vec(
        prop_oneof![
            Just("HTTP/1.1 100 Continue\r\n\r\n"),
            Just("HTTP/1.1 103 Early\r\nlink: x\r\ncontent-length: 5\r\n\r\n")
        ],
        0..3,
    );
    let line_end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let head =
        (prop_oneof![3 => Just(Vec::new()), 1 => early], statuses(), prop::collection::vec(fields(), 0..4), line_end)
            .prop_map(|(early, status, fields, end)| {
                let lines: String = fields.iter().map(|field| format!("{field}{end}")).collect();
                format!("{}{status}{end}{lines}{end}", early.concat())
            });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3);
    let changes = prop_oneof![4 => Just(Vec::new()), 1 => changes];
    let cut = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    let splits = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (head, bodies(), changes, cut, splits).prop_map(|(head, body, changes, cut, splits)| {
        let mut bytes = (head + &body).into_bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let mut places: Vec<usize> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        places.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect()
    })
}

/// Takes one connection, hears its request, and writes the pieces.
async fn serve(listener: &TcpListener, pieces: &Pieces) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "a request comes first");
    }
    for piece in pieces {
        // The client may have heard enough.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
    // It is closed only when the client has, so that nothing that was written is lost.
    while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
}

async fn ours(listener: &TcpListener) -> Verdict {
    let sendly = crate::sendly(listener, "", Clock::system());
    let call = sendly.compose(&Method::GET, "/", &HeaderMap::new(), None, &Bytes::new());
    match sendly.call(call, Duration::from_secs(20)).await {
        Outcome::Answered(answer) => Verdict::Answered(answer.status.as_u16(), pairs(&answer.headers), answer.body),
        Outcome::Cut(status) => Verdict::Cut(status.as_u16()),
        Outcome::Lost(Loss::Broken) => Verdict::Lost,
        other => panic!("{other:?}"),
    }
}

/// hyper's verdict, read as the gateway would; and the headers that it saw.
async fn hypers(listener: &TcpListener) -> (Verdict, HeaderMap) {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let request = Request::get(url).body(Empty::new()).unwrap();
    let response: Response<Incoming> = match client.request(request).await {
        Ok(response) if response.status() != StatusCode::SWITCHING_PROTOCOLS => response,
        _ => return (Verdict::Lost, HeaderMap::new()),
    };
    let (parts, body) = response.into_parts();
    let verdict = match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => Verdict::Answered(parts.status.as_u16(), pairs(&end_to_end(&parts.headers)), body.to_bytes()),
        Err(error) => {
            assert!(error.is::<LengthLimitError>() || error.is::<hyper::Error>(), "{error}");
            Verdict::Cut(parts.status.as_u16())
        }
    };
    (verdict, parts.headers)
}

fn pairs(headers: &HeaderMap) -> BTreeSet<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut rest = headers.clone();
    for value in headers.get_all("connection").iter().filter_map(|value| value.to_str().ok()) {
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            rest.remove(name);
        }
    }
    for name in
        ["connection", "content-length", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"]
    {
        rest.remove(name);
    }
    rest
}

/// Where the gateway takes for broken what hyper reads: the one place where two readers may see the answer end elsewhere.
/// (Bounds that no answer here reaches are the other ones: 64 KiB of head, 16 interim answers, 16 digits of a chunk's size.)
fn is_deliberate(ours: &Verdict, headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all("transfer-encoding").iter();
    let coding = codings.next().map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
    let only_chunked = coding.as_deref() == Some(b"chunked") && codings.next().is_none();
    let two_ways = coding.is_some() && (!only_chunked || headers.contains_key("content-length"));
    *ours == Verdict::Lost && two_ways
}

/// So many answers; `PROPTEST_CASES` says otherwise.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000)
}

#[test]
fn an_answer_is_what_hyper_takes_it_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let seen = Cell::new([0_u32; 4]);
    let mut runner = TestRunner::new(Config { cases: cases(), failure_persistence: None, ..Config::default() });
    let result = runner.run(&answers(), |pieces| {
        let (ours, (hypers, headers)) = runtime.block_on(async {
            let ((), ours) = tokio::join!(serve(&listener, &pieces), ours(&listener));
            let ((), hypers) = tokio::join!(serve(&listener, &pieces), hypers(&listener));
            (ours, hypers)
        });
        let agree = ours == hypers;
        prop_assert!(
            agree || is_deliberate(&ours, &headers),
            "ours {ours:?}, hyper's {hypers:?}: {}",
            pieces.concat().escape_ascii()
        );
        let mut counts = seen.get();
        counts[match ours {
            _ if !agree => 3,
            Verdict::Answered(..) => 0,
            Verdict::Cut(_) => 1,
            Verdict::Lost => 2,
        }] += 1;
        seen.set(counts);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let counts = seen.get();
    assert!(counts.iter().all(|count| *count > 100), "one kind was hardly tried: {counts:?}");
}
