//! Deadlines: a client that does not do its part in time loses its connection or its stream, on every way in.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::start::Gateway;
use crate::tls::Secure;

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
