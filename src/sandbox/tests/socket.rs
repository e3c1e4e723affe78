//! The sandbox as its clients meet it: over a socket, one of them Sendly's own SDK.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sendly::{Sendly, SendlyConfig};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::sandbox::serve;

/// A sandbox that is served.
struct Served {
    sandbox: Arc<Sandbox>,
    origin: String,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Served {
    async fn start() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let Rig { sandbox, clock, .. } = Rig::new();
        let (sandbox, (stop, stopped)) = (Arc::new(sandbox), oneshot::channel::<()>());
        let serving = tokio::spawn(serve(listener, sandbox.clone(), clock.into(), async {
            let _ = stopped.await;
        }));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Served { sandbox, origin, client, stop, serving }
    }

    /// Sends to a phone, under an idempotency key.
    fn send(&self, to: &str) -> impl Future<Output = Option<Response<Bytes>>> + Send + 'static {
        self.post(json!({ "to": to }).to_string())
    }

    fn post(&self, body: String) -> impl Future<Output = Option<Response<Bytes>>> + Send + 'static {
        let request = Request::post(format!("{}/api/v1/verify", self.origin))
            .header("authorization", format!("Bearer {TEST_KEY}"))
            .header("content-type", "application/json")
            .header("idempotency-key", "k")
            .body(Full::from(body))
            .unwrap();
        let answer = self.client.request(request);
        async {
            let (head, body) = answer.await.ok()?.into_parts();
            Some(Response::from_parts(head, body.collect().await.ok()?.to_bytes()))
        }
    }

    async fn stop(self) {
        drop((self.stop, self.client));
        self.serving.await.unwrap();
    }
}

#[tokio::test]
async fn sendlys_own_sdk_is_served() {
    let served = Served::start().await;
    let config = SendlyConfig::new().base_url(format!("{}/api/v1", served.origin)).max_retries(0);
    let sdk = Sendly::with_config(TEST_KEY, config);
    let begun = sdk.verify().send(sendly::SendVerificationRequest::new("+15550100004")).await.unwrap();
    assert!(begun.sandbox);
    let renewed = sdk.verify().resend(&begun.id).await.unwrap();
    let code = renewed.sandbox_code.unwrap();
    sdk.verify().check(&renewed.id, &wrong(&code)).await.unwrap_err();
    assert!(sdk.verify().get(&begun.id).await.unwrap().is_pending());
    sdk.verify().check(&renewed.id, &code).await.unwrap();
    let listed = sdk.verify().list(sendly::ListVerificationsOptions::new()).await.unwrap();
    assert!(listed.verifications[0].is_verified());
    let session = sdk.verify().sessions().create(sendly::CreateSessionRequest::new("https://example.com")).await;
    assert_eq!(session.unwrap().status, "pending");
    assert!(!sdk.verify().sessions().validate("t").await.unwrap().valid);
    assert_eq!(served.sandbox.sent("+15550100004".parse().unwrap()), 2);
    drop(sdk);
    served.stop().await;
}

#[tokio::test]
async fn a_cut_connection_has_sent_the_code() {
    let served = Served::start().await;
    assert!(served.send("+15550100006").await.is_none());
    assert_eq!(served.sandbox.sent_total(), 1);
    let again = served.send("+15550100006").await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(served.sandbox.sent_total(), 1);
    served.stop().await;
}

#[tokio::test]
async fn a_held_answer_leaves_when_it_is_released() {
    let served = Served::start().await;
    let (first, second) = (served.send("+15550100007"), served.send("+15550100007"));
    let both = [tokio::spawn(first), tokio::spawn(second)];
    served.sandbox.watch_sent().wait_for(|sent| *sent == 2).await.unwrap();
    assert!(both.iter().all(|answer| !answer.is_finished()));
    served.sandbox.release(2);
    for answer in both {
        assert_eq!(answer.await.unwrap().unwrap().status(), 201);
    }
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_sendly() {
    let served = Served::start().await;
    let gone = tokio::spawn(served.send("+15550100007"));
    served.sandbox.watch_sent().wait_for(|sent| *sent == 1).await.unwrap();
    gone.abort();
    // The sandbox is held by this test, the server, the connection and the exchange.
    let only = async |holders| {
        while Arc::strong_count(&served.sandbox) > holders {
            tokio::task::yield_now().await;
        }
    };
    only(3).await;
    served.sandbox.release(1);
    only(2).await;
    let again = served.send("+15550100007").await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(served.sandbox.sent_total(), 1);
    served.stop().await;
}

#[tokio::test]
async fn what_is_held_leaves_when_the_sandbox_stops() {
    let served = Served::start().await;
    let held = tokio::spawn(served.send("+15550100007"));
    served.sandbox.watch_sent().wait_for(|sent| *sent == 1).await.unwrap();
    served.stop().await;
    assert_eq!(held.await.unwrap().unwrap().status(), 201);
}

#[tokio::test]
async fn a_body_may_have_32_kib() {
    let served = Served::start().await;
    let padded = |size: usize| {
        let body = json!({ "to": PHONE }).to_string();
        " ".repeat(size - body.len()) + &body
    };
    let over = served.post(padded(32 * 1024 + 1)).await.unwrap();
    assert_eq!(error(told(&over)), (413, "payload_too_large".into()));
    assert_eq!(served.post(padded(32 * 1024)).await.unwrap().status(), 201);
    served.stop().await;
}

#[tokio::test]
async fn a_byte_outside_of_a_request_breaks_its_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let served = Served::start().await;
    let body = "{\"to\":\"+15550100004\"}";
    let send = format!(
        "POST /api/v1/verify HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TEST_KEY}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    for (stray, is_answered) in [("", true), ("0\r\n\r\n", false)] {
        let mut stream = tokio::net::TcpStream::connect(served.origin.trim_start_matches("http://")).await.unwrap();
        stream.write_all(format!("{send}{stray}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        // A reset is an end as well.
        let _ = stream.read_to_string(&mut answer).await;
        assert_eq!(answer.starts_with("HTTP/1.1 201"), is_answered, "{stray:?}: {answer}");
    }
    served.stop().await;
}
