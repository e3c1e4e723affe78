//! An admin listener that says what a test wants it to say, as often as it wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Answer;

/// What it says.
pub(crate) struct Answers {
    /// The page, as a gateway gave it.
    pub(crate) page: Answer,
    pub(crate) status: Value,
    /// How many times the status is told; then connections break.
    pub(crate) times: usize,
}

/// Serves that. Returns where the page is.
pub(crate) async fn serve(answers: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (answers, told) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (answers, told) = (Arc::clone(&answers), Arc::clone(&told));
            // A browser that hangs up is no failure.
            tokio::spawn(async move { answer(stream, &answers, &told).await.ok() });
        }
    });
    url
}

async fn answer(mut stream: TcpStream, answers: &Answers, told: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (more, body) = match head.split(' ').nth(1).unwrap_or_default() {
        "/" => {
            let policy = answers.page.header("content-security-policy").unwrap();
            let more = format!("content-type: text/html; charset=utf-8\r\ncontent-security-policy: {policy}");
            (more, answers.page.body.clone())
        }
        "/v1/status" if told.fetch_add(1, Ordering::SeqCst) < answers.times => {
            ("content-type: application/json".to_owned(), answers.status.to_string().into_bytes())
        }
        "/v1/config" => ("content-type: application/json".to_owned(), b"{}".to_vec()),
        _ => return Ok(()),
    };
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}
