//! TLS on both sides: to clients by ALPN, HTTP/2 included; to Sendly with its certificate verified, on both ways there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sendly_gateway::clock::ManualClock;
use sendly_gateway::server::Running;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Answer, KEY, Wire};
use crate::raw::Raw;
use crate::start::{Gateway, START, gateway_with, reload, send_body, serve};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const SEND: &str = "/api/v1/verify";
const MB: usize = 1 << 20;

/// Writes a file that no other test writes.
fn file(name: &str, contents: &str) -> PathBuf {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let nth = FILES.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{nth}-{name}.pem", std::process::id()));
    std::fs::write(&path, contents).unwrap();
    path
}

/// Who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    file: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = file("ca", &certificate.pem());
        Self { certificate: certificate.der().clone(), file, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: &[&str], last_year: i32) -> Signed {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed { pem: certificate.pem(), certificate: certificate.der().clone(), key }
    }

    /// What makes a gateway speak TLS to its clients, under the name that [`connect`](Self::connect) looks for.
    fn tls(&self) -> String {
        let signed = self.sign(&["gateway.test"], 4096);
        let (cert, key) = (file("cert", &signed.pem), file("key", &signed.key.serialize_pem()));
        format!("[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n")
    }

    /// A client of a gateway.
    async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        self.connect_behind(address, b"", protocols).await
    }

    /// The same behind a proxy that writes this first.
    async fn connect_behind(&self, address: SocketAddr, header: &[u8], protocols: &[&str]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(header).await.unwrap();
        let name = ServerName::try_from("gateway.test").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

/// A gateway before this upstream, and a connection to it on which HTTP/2 is to be spoken.
pub(crate) async fn http2_before(upstream: &str) -> (Running, TlsStream<TcpStream>) {
    let authority = Authority::new();
    let running = serve(&authority.tls(), upstream, ManualClock::new(START).into()).await;
    let stream = authority.connect(running.address, &["h2"]).await;
    (running, stream)
}

struct Signed {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Signed {
    /// The configuration of a server that has this certificate.
    fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key);
        Arc::new(config.unwrap())
    }
}

/// A gateway that speaks TLS to its clients, and whom they trust.
pub(crate) struct Secure {
    pub(crate) gateway: Gateway,
    authority: Authority,
}

impl Secure {
    pub(crate) async fn start(config: &str) -> Self {
        let authority = Authority::new();
        Self { gateway: gateway_with(&format!("{config}\n{}", authority.tls())).await, authority }
    }

    pub(crate) async fn connect(&self, protocols: &[&str]) -> TlsStream<TcpStream> {
        self.authority.connect(self.gateway.running.address, protocols).await
    }

    pub(crate) async fn connect_behind(&self, header: &[u8], protocols: &[&str]) -> TlsStream<TcpStream> {
        self.authority.connect_behind(self.gateway.running.address, header, protocols).await
    }

    async fn http2<B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Unpin + Send + 'static>(
        &self,
    ) -> SendRequest<B> {
        let stream = self.connect(&["h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn request<B>(method: Method, target: &str, body: B) -> Request<B> {
    let uri = http::Uri::builder().scheme("https").authority("gateway.test").path_and_query(target).build().unwrap();
    Request::builder()
        .method(method)
        .uri(uri)
        .header("authorization", KEY)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

async fn ask(http2: &mut SendRequest<Full<Bytes>>, method: Method, target: &str, body: impl Into<Bytes>) -> Answer {
    let answer = http2.send_request(request(method, target, Full::new(body.into()))).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: body.to_vec() }
}

fn concerns_the_connection(headers: &HeaderMap) -> bool {
    ["connection", "keep-alive", "transfer-encoding", "upgrade"].iter().any(|name| headers.contains_key(*name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_1_is_spoken_with_whoever_does_not_ask_for_more() {
    let secure = Secure::start("").await;
    for protocols in [&[][..], &["http/1.1"], &["spdy/3", "http/1.1"]] {
        let mut wire = Wire::over(secure.connect(protocols).await);
        for (target, body, status) in
            [(SEND, send_body(PHONE), 201), (SEND, "{}".into(), 400), ("/api/v1/echo", "x".repeat(2 * MB), 200)]
        {
            wire.request("POST", target, &[], body.as_bytes()).await;
            assert_eq!(wire.answer().await.unwrap().status, status, "{protocols:?} {target}");
        }
    }
    // Far too much: the refusal is seen here too.
    let mut wire = Wire::over(secure.connect(&[]).await);
    wire.request("POST", SEND, &[], &vec![b' '; 8 * MB]).await;
    assert_eq!(wire.answer().await.unwrap().status, 413);
    assert!(wire.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_limited_like_http_1() {
    let secure = Secure::start("").await;
    let upstream = &secure.gateway.upstream;
    let mut http2 = secure.http2().await;
    let mut id = String::new();
    for nth in 0..5 {
        let target = ["/api/v1/verify", "//api/v1/verify", "/api/v1/%76erify"][nth % 3];
        let sent = ask(&mut http2, Method::POST, target, send_body(PHONE)).await;
        assert_eq!(sent.status, 201, "{sent:?}");
        assert!(!concerns_the_connection(&sent.headers), "{sent:?}");
        id = sent.json()["id"].as_str().unwrap().to_owned();
    }
    for target in [SEND, "//api/v1/verify", "/api/v1/x/../verify", "/api/v1/verify?x"] {
        let refused = ask(&mut http2, Method::POST, target, send_body(PHONE)).await;
        assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "rate_limit_exceeded"), "{target}");
        assert_eq!(refused.header("retry-after"), Some("600"));
        assert!(!concerns_the_connection(&refused.headers), "{refused:?}");
    }
    let resend = format!("/api/v1/verify/{id}/resend");
    for (method, target, body, status) in [
        (Method::POST, resend.as_str(), String::new(), 429),
        (Method::POST, resend.as_str(), "{}".into(), 429),
        (Method::POST, SEND, "{}".into(), 400),
        (Method::POST, SEND, String::new(), 400),
        (Method::POST, SEND, "x".repeat(32 * 1024 + 1), 413),
        (Method::POST, SEND, "x".repeat(8 * MB), 413),
        (Method::POST, "/api/v1/verify/", send_body(PHONE), 404),
        (Method::POST, "//other/api/v1/verify", send_body(PHONE), 404),
        (Method::PUT, SEND, send_body(PHONE), 405),
        (Method::GET, &resend, String::new(), 405),
    ] {
        let answer = ask(&mut http2, method, target, body).await;
        assert_eq!(answer.status, status, "{target}: {answer:?}");
        assert!(answer.json()["error"].is_string(), "{target}");
    }
    let head = ask(&mut http2, Method::HEAD, SEND, "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (405, 0));
    assert_eq!(upstream.codes(PHONE), 5);
    assert_eq!(upstream.seen().len(), 5);
    for seen in upstream.seen() {
        assert_eq!(seen.target, SEND);
        assert_eq!(seen.headers["host"], upstream.address.to_string());
    }
}

#[tokio::test]
async fn an_http_2_connection_is_told_to_go_away_when_the_drain_begins_and_not_while_it_is_delayed() {
    let secure = Secure::start("").await;
    let stream = secure.connect(&["h2"]).await;
    let (mut http2, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    secure.gateway.running.withdraw();
    for _ in 0..2 {
        assert_eq!(ask(&mut http2, Method::GET, "/api/v1/messages", "").await.status, 200);
        assert!(!http2.is_closed());
    }
    let drained = tokio::spawn(secure.gateway.running.drain(Duration::from_secs(20)));
    connection.await.unwrap().expect("it ends in order");
    assert_eq!(drained.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_of_one_connection_are_limited_together() {
    let secure = Secure::start("").await;
    let http2 = secure.http2().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut http2 = http2.clone();
        tasks.spawn(async move { ask(&mut http2, Method::POST, SEND, send_body(PHONE)).await.status.as_u16() });
    }
    let mut statuses = tasks.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201; 5], vec![429; 35]].concat());
    assert_eq!(secure.gateway.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_else_passes_through_http_2() {
    let secure = Secure::start("").await;
    let mut http2 = secure.http2().await;
    let big: Bytes = (0..10 * MB).map(|nth| (nth % 251) as u8).collect::<Vec<_>>().into();
    let answer = ask(&mut http2, Method::PUT, "/api/v1/media?x=%2F", big.clone()).await;
    assert!(answer.status == 200 && answer.body == big, "ten megabytes, up and down");
    secure.gateway.upstream.script(|_| {
        let header = |name, value: &str| (name, value.to_owned());
        let headers = vec![header("set-cookie", "a=1"), header("set-cookie", "b=2"), header("x-ratelimit-limit", "6")];
        Act::Answer(418, headers, Bytes::from_static(b"tea"))
    });
    let answer = ask(&mut http2, Method::GET, "/api/v1/a%20b//c?d", "").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (418, b"tea".as_slice()));
    assert_eq!(answer.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(answer.header("x-ratelimit-limit"), Some("6"));
    let head = ask(&mut http2, Method::HEAD, "/api/v1/messages", "").await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (418, Some("3")));
    let seen = secure.gateway.upstream.seen();
    assert_eq!(seen[0].target, "/api/v1/media?x=%2F");
    assert_eq!(seen[1].target, "/api/v1/a%20b//c?d");
    assert_eq!(seen[1].headers["host"], secure.gateway.upstream.address.to_string());
    assert_eq!(seen[1].headers["authorization"], KEY);
    secure.gateway.upstream.script(|_| Act::CutBody(200));
    let cut = http2.send_request(request(Method::GET, "/api/v1/messages", Full::default())).await.unwrap();
    let cut = cut.into_body().collect().await;
    assert!(cut.is_err(), "{cut:?}: a body that breaks off is seen to break off");
    secure.gateway.upstream.script(|_| Act::BreakOff);
    let broken = ask(&mut http2, Method::GET, "/api/v1/messages", "").await;
    assert_eq!((broken.status.as_u16(), broken.error().as_str()), (502, "upstream_unreachable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_read_on_its_way_through_http_2_is_learned() {
    let secure = Secure::start("").await;
    secure.gateway.upstream.knows("ver_seen", PHONE);
    let mut http2 = secure.http2().await;
    let seen = ask(&mut http2, Method::GET, "/api/v1/verify/ver_seen", "").await;
    assert_eq!(seen.json()["phone"], PHONE);
    assert_eq!(ask(&mut http2, Method::POST, "/api/v1/verify/ver_seen/resend", "").await.status, 200);
    assert_eq!(secure.gateway.upstream.count(|seen| seen.is_lookup()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_in_mid_exchange_changes_nothing_about_its_outcome() {
    let secure = Secure::start("").await;
    let upstream = &secure.gateway.upstream;
    let like_sendly = upstream.like_sendly();
    upstream.script(move |seen| match like_sendly(seen) {
        Act::Answer(status, _, body) if seen.is_send() => Act::AnswerWhenLet(status, body),
        other => other,
    });
    let mut http2 = secure.http2().await;
    let (mut resetting, connection) = h2::client::handshake(secure.connect(&["h2"]).await).await.unwrap();
    tokio::spawn(connection);
    let (_answer, mut body) = resetting.send_request(request(Method::POST, SEND, ()), false).unwrap();
    body.send_data(send_body(PHONE).into(), true).unwrap();
    upstream.has_seen(1).await;
    body.send_reset(h2::Reason::CANCEL);
    // The first one may overtake the reset. When the second is answered, the gateway knows of it.
    for _ in 0..2 {
        let (answer, _) = resetting.send_request(request(Method::GET, "/api/v1/echo", ()), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    upstream.let_go(1);
    while secure.gateway.metric("sendly_gateway_in_flight").await > 0 {}
    // The retry gets the code that was bought.
    upstream.let_go(4);
    let adopted = ask(&mut http2, Method::POST, SEND, send_body(PHONE)).await;
    assert_eq!(adopted.status, 201);
    assert_eq!(upstream.codes(PHONE), 1, "one click, one code");
    let resend = format!("/api/v1/verify/{}/resend", adopted.json()["id"].as_str().unwrap());
    assert_eq!(ask(&mut http2, Method::POST, &resend, "").await.status, 200);
    assert_eq!(upstream.count(|seen| seen.is_lookup()), 0, "its id was learned");
    for _ in 0..3 {
        assert_eq!(ask(&mut http2, Method::POST, SEND, send_body(PHONE)).await.status, 201);
    }
    assert_eq!(ask(&mut http2, Method::POST, SEND, send_body(PHONE)).await.status, 429, "it was charged, once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_too_a_client_is_told_when_its_patience_ends_and_its_retry_gets_the_code() {
    let secure = Secure::start("upstream.answer_within = \"200ms\"").await;
    let Act::Answer(_, _, sent) = Act::verification(201, "ver_1", PHONE) else { unreachable!() };
    secure.gateway.upstream.script(move |_| Act::AnswerWhenLet(201, sent.clone()));
    let mut http2 = secure.http2().await;
    let late = ask(&mut http2, Method::POST, SEND, send_body(PHONE)).await;
    assert_eq!((late.status.as_u16(), late.error().as_str()), (504, "upstream_timeout"));
    secure.gateway.shows("sendly_gateway_unclaimed_exchanges", 1).await;
    let retry = ask(&mut http2, Method::POST, SEND, send_body(PHONE));
    let let_go = async {
        secure.gateway.shows("sendly_gateway_unclaimed_exchanges", 0).await;
        secure.gateway.upstream.let_go(1);
    };
    let (retry, ()) = tokio::join!(retry, let_go);
    assert_eq!((retry.status.as_u16(), &retry.json()["id"]), (201, &"ver_1".into()), "on the same connection");
    assert_eq!(secure.gateway.upstream.count(|_| true), 1, "one SMS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_2_body_that_does_not_come_is_408() {
    let secure = Secure::start("clients.body_timeout = \"50ms\"").await;
    let mut http2 = secure.http2().await;
    for begins in ["", "{\"to\":", &send_body(PHONE)] {
        let body = Stalls { begins: Some(begins.to_owned().into()), ends: false };
        let answer = http2.send_request(request(Method::POST, SEND, body)).await.unwrap();
        assert_eq!(answer.status(), 408, "{begins}");
    }
    let body = Stalls { begins: Some("{}".into()), ends: true };
    let answer = http2.send_request(request(Method::POST, SEND, body)).await.unwrap();
    assert_eq!(answer.status(), 400, "the connection lives on");
    assert_eq!(secure.gateway.upstream.seen().len(), 0);
}

/// A body that begins, and then ends or not.
struct Stalls {
    begins: Option<Bytes>,
    ends: bool,
}

impl Body for Stalls {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.begins.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Asks for a code and for something else, through a gateway before this upstream: the statuses.
async fn both_ways(host: &str, upstream: &Raw, authority: &Authority, config: &str) -> (u16, u16) {
    let config = format!("upstream.ca_file = {:?}\n{config}", authority.file);
    let url = format!("https://{host}:{}", upstream.address.port());
    let running = serve(&config, &url, ManualClock::new(START).into()).await;
    let mut statuses = (0, 0);
    for _ in 0..6 {
        let mut wire = Wire::connect(running.address).await;
        wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
        let sent = wire.answer().await.unwrap();
        statuses.0 = sent.status.as_u16();
        let mut wire = Wire::connect(running.address).await;
        wire.request("GET", "/api/v1/messages", &[], b"").await;
        let passed = wire.answer().await.unwrap();
        statuses.1 = passed.status.as_u16();
        for failed in [sent, passed].iter().filter(|answer| answer.status == 502) {
            assert_eq!(failed.error(), "upstream_unreachable");
            assert!(failed.json()["message"].as_str().unwrap().contains("Nothing was sent"), "{failed:?}");
        }
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sendly_is_spoken_to_if_its_certificate_is_good() {
    let authority = Authority::new();
    for (host, names) in [("127.0.0.1", ["127.0.0.1"]), ("localhost", ["localhost"])] {
        let upstream = Raw::over_tls(authority.sign(&names, 4096).server()).await;
        assert_eq!(both_ways(host, &upstream, &authority, "").await, (429, 200), "{host}");
        assert_eq!(upstream.heard().len(), 5 + 6);
        assert!(upstream.heard().iter().all(|heard| heard.all("host")[0].starts_with(host)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_certificate_expires_is_told() {
    let secure = Secure::start("").await;
    // The first second of 4096.
    let expiry = secure.gateway.metric("sendly_gateway_certificate_expiry_timestamp_seconds").await;
    assert_eq!(expiry, 67_090_118_400);
}

/// The certificate that a connection was shown.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_to_whoever_connects_and_connections_live_on() {
    let authority = Authority::new();
    let (old, new) = (authority.sign(&["gateway.test"], 4096), authority.sign(&["gateway.test"], 4095));
    let (cert, key) = (file("cert", &old.pem), file("key", &old.key.serialize_pem()));
    let config = format!("[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n");
    let secure = Secure { gateway: gateway_with(&config).await, authority };
    let stream = secure.connect(&["http/1.1"]).await;
    assert_eq!(shown(&stream), old.certificate);
    let (mut wire, mut http2) = (Wire::over(stream), secure.http2().await);

    std::fs::write(&cert, &new.pem).unwrap();
    let url = secure.gateway.upstream.url();
    let mistakes = reload(&secure.gateway.running, &config, &url).await.unwrap_err();
    assert!(mistakes.len() == 1 && mistakes[0].starts_with(cert.to_str().unwrap()), "not of one pair: {mistakes:?}");
    assert_eq!(secure.gateway.metric("sendly_gateway_config_last_reload_successful").await, 0);
    assert_eq!(shown(&secure.connect(&[]).await), old.certificate);

    std::fs::write(&key, new.key.serialize_pem()).unwrap();
    secure.gateway.reload(&config).await;
    assert_eq!(shown(&secure.connect(&[]).await), new.certificate);
    // The first second of 4095.
    let expiry = secure.gateway.metric("sendly_gateway_certificate_expiry_timestamp_seconds").await;
    assert_eq!(expiry, 67_058_582_400);
    wire.request("POST", SEND, &[], send_body(PHONE).as_bytes()).await;
    assert_eq!(wire.answer().await.unwrap().status, 201);
    assert_eq!(ask(&mut http2, Method::POST, SEND, send_body(PHONE)).await.status, 201);

    let kept = secure.gateway.reload("").await.kept;
    assert_eq!(kept, ["tls"], "a listener speaks TLS or does not");
    assert_eq!(shown(&secure.connect(&[]).await), new.certificate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_it_trusts_may_change_on_both_ways_to_sendly() {
    let (authority, other) = (Authority::new(), Authority::new());
    let upstream = Raw::over_tls(authority.sign(&["127.0.0.1"], 4096).server()).await;
    let url = format!("https://127.0.0.1:{}", upstream.address.port());
    let trusting = |authority: &Authority| format!("upstream.ca_file = {:?}", authority.file);
    let running = serve(&trusting(&other), &url, ManualClock::new(START).into()).await;
    let statuses = async || {
        let mut statuses = Vec::new();
        for (method, target, body) in [("POST", SEND, send_body(PHONE)), ("GET", "/api/v1/messages", String::new())] {
            let mut wire = Wire::connect(running.address).await;
            wire.request(method, target, &[], body.as_bytes()).await;
            statuses.push(wire.answer().await.unwrap().status.as_u16());
        }
        statuses
    };
    assert_eq!(statuses().await, [502, 502]);
    // Another file, and then the same one with something else in it.
    reload(&running, &trusting(&authority), &url).await.unwrap();
    assert_eq!(statuses().await, [201, 200]);
    std::fs::copy(&other.file, &authority.file).unwrap();
    assert_eq!(statuses().await, [201, 200], "nobody has loaded it");
    reload(&running, &trusting(&authority), &url).await.unwrap();
    assert_eq!(statuses().await, [502, 502]);
    std::fs::write(&authority.file, "no certificate").unwrap();
    let mistakes = reload(&running, &trusting(&authority), &url).await.unwrap_err();
    assert!(mistakes[0].starts_with(authority.file.to_str().unwrap()), "{mistakes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_and_nothing_charged_if_it_is_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (name, signed) in [
        ("an unknown authority", other.sign(&["127.0.0.1"], 4096)),
        ("another name", authority.sign(&["sendly.test"], 4096)),
        ("another address", authority.sign(&["127.0.0.2"], 4096)),
        ("no name", authority.sign(&[], 4096)),
        ("expired", authority.sign(&["127.0.0.1"], 2020)),
    ] {
        let upstream = Raw::over_tls(signed.server()).await;
        // Six times, and never a 429.
        assert_eq!(both_ways("127.0.0.1", &upstream, &authority, "").await, (502, 502), "{name}");
        assert!(upstream.heard().is_empty(), "{name}");
    }
    let plain = Raw::start().await;
    let soon = "upstream.connect_timeout = \"50ms\"";
    assert_eq!(both_ways("127.0.0.1", &plain, &authority, soon).await, (502, 502), "no TLS at all");
    assert!(plain.heard().is_empty());
}
