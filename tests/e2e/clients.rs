//! Who the client is: as trusted proxies say it in headers and in the PROXY protocol, and nobody else.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Wire;
use crate::start::{Gateway, gateway_with};
use crate::tls::Secure;

/// One attempt for each client, so that the second one of a client is refused.
const ONE_EACH: &str =
    "[[throttles]]\nname = \"client\"\nper = \"client\"\nrate = \"1/h\"\nburst = 1\noperations = [\"check\"]\n";

fn config(address: &str) -> String {
    format!("clients.trusted_proxies = [\"127.0.0.0/8\"]\nclients.address = {address}\n{ONE_EACH}")
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.1 127.0.0.1 50001 8080\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x01\x7f\0\0\x01\xc3\x51\x1f\x90";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn check(wire: &mut Wire, headers: &[(&str, &str)]) -> Option<u16> {
    wire.request("POST", "/api/v1/verify/ver_1/check", headers, b"{\"code\":\"123456\"}").await;
    Some(wire.answer().await?.status.as_u16())
}

async fn behind(gateway: &Gateway, header: &[u8]) -> Wire {
    let mut stream = TcpStream::connect(gateway.running.address).await.unwrap();
    stream.write_all(header).await.unwrap();
    Wire::over(stream)
}

async fn unread(gateway: &Gateway, source: &str) -> u64 {
    gateway.metric(&format!("sendly_gateway_clients_unread_total{{source=\"{source}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_with_a_port_is_the_same_client_without_it() {
    for (address, name, one, other, another) in [
        ("[\"x-forwarded-for\"]", "x-forwarded-for", "203.0.113.1:50001", "203.0.113.1", "203.0.113.2:50001"),
        ("[\"x-forwarded-for\"]", "x-forwarded-for", "[2001:db8::1]:4711", "2001:db8::2", "2001:db8:0:1::1"),
        ("[\"forwarded\"]", "forwarded", "for=\"[2001:db8::1]:4711\"", "for=\"[2001:db8::2]\"", "for=203.0.113.1"),
        ("[\"cf-connecting-ip\"]", "cf-connecting-ip", "203.0.113.1", "::ffff:203.0.113.1", "203.0.113.2"),
    ] {
        let gateway = gateway_with(&config(address)).await;
        let mut wire = gateway.connect().await;
        assert_eq!(check(&mut wire, &[(name, one)]).await, Some(404), "{one}");
        assert_eq!(check(&mut wire, &[(name, other)]).await, Some(429), "{other}");
        assert_eq!(check(&mut wire, &[(name, another)]).await, Some(404), "{another}");
        assert_eq!(unread(&gateway, "header").await + unread(&gateway, "forwarded").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_counted_and_its_clients_are_one() {
    let gateway = gateway_with(&config("[\"x-forwarded-for\"]")).await;
    let mut wire = gateway.connect().await;
    assert_eq!(check(&mut wire, &[("x-forwarded-for", "unknown")]).await, Some(404));
    assert_eq!(check(&mut wire, &[("x-forwarded-for", "a.example")]).await, Some(429));
    assert_eq!(unread(&gateway, "header").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_protocol_names_the_client_before_the_first_byte() {
    for header in [V1, V2] {
        let gateway = gateway_with(&config("[\"proxy-protocol\", \"x-forwarded-for\"]")).await;
        let mut one = behind(&gateway, header).await;
        assert_eq!(check(&mut one, &[]).await, Some(404));
        let lie = [("x-forwarded-for", "198.51.100.1")];
        assert_eq!(check(&mut one, &lie).await, Some(429), "it is not trusted itself");
        assert_eq!(check(&mut behind(&gateway, header).await, &[]).await, Some(429));
        let mut other = behind(&gateway, b"PROXY TCP6 2001:db8::1 ::1 4711 8080\r\n").await;
        assert_eq!(check(&mut other, &[]).await, Some(404));
        // A health check of the proxy's own.
        let mut local = behind(&gateway, LOCAL).await;
        assert_eq!(check(&mut local, &[]).await, Some(404));
        assert_eq!(check(&mut local, &lie).await, Some(404), "the proxy is the peer, and trusted");
        assert_eq!(unread(&gateway, "proxy_protocol").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_protocol_comes_before_tls() {
    let secure = Secure::start(&config("[\"proxy-protocol\"]")).await;
    for header in [V1, V2] {
        let mut wire = Wire::over(secure.connect_behind(header, &["http/1.1"]).await);
        let expected = if header == V1 { 404 } else { 429 };
        assert_eq!(check(&mut wire, &[]).await, Some(expected));
    }
    assert_eq!(unread(&secure.gateway, "proxy_protocol").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_that_sends_no_header_is_closed_and_counted() {
    let gateway =
        gateway_with(&format!("clients.header_timeout = \"200ms\"\n{}", config("[\"proxy-protocol\"]"))).await;
    let malformed: [&[u8]; 4] =
        [b"GET /api/v1/messages HTTP/1.1\r\nhost: g\r\n\r\n", b"PROXY TCP4 x\r\n", b"", b"PROXY TCP4 203."];
    for (nth, bytes) in malformed.iter().enumerate() {
        let mut stream = TcpStream::connect(gateway.running.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok() && answer.is_empty(), "{nth}: {answer:?}");
        assert_eq!(unread(&gateway, "proxy_protocol").await, nth as u64 + 1);
    }
    // As a load balancer looks whether the port is open.
    drop(TcpStream::connect(gateway.running.address).await.unwrap());
    gateway.shows("sendly_gateway_connections", 0).await;
    assert_eq!(unread(&gateway, "proxy_protocol").await, malformed.len() as u64);
    assert!(gateway.upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_writes_no_header_of_the_proxy_protocol() {
    let gateway = gateway_with(&format!(
        "clients.trusted_proxies = [\"10.0.0.0/8\"]\nclients.address = [\"proxy-protocol\"]\n{ONE_EACH}"
    ))
    .await;
    assert_eq!(check(&mut gateway.connect().await, &[]).await, Some(404));
    assert_eq!(check(&mut gateway.connect().await, &[]).await, Some(429));
    let answer = check(&mut behind(&gateway, V1).await, &[]).await;
    assert!(matches!(answer, None | Some(400)), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap_per_address_counts_clients_behind_the_proxy_protocol() {
    let gateway = gateway_with(&format!("clients.max_per_address = 1\n{}", config("[\"proxy-protocol\"]"))).await;
    let mut first = behind(&gateway, V1).await;
    assert_eq!(check(&mut first, &[]).await, Some(404));
    let mut second = TcpStream::connect(gateway.running.address).await.unwrap();
    second.write_all(V1).await.unwrap();
    assert!(matches!(second.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    assert_eq!(gateway.metric("sendly_gateway_turned_away_total{cap=\"address\"}").await, 1);
    let mut other = behind(&gateway, b"PROXY TCP4 203.0.113.2 127.0.0.1 1 2\r\n").await;
    assert_eq!(check(&mut other, &[]).await, Some(404));
}
