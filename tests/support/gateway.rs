//! A gateway in this process, with a sandbox Sendly behind it, as the tests with Sendly's SDKs need one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sendly_gateway::clock::Clock;
use sendly_gateway::config::Config;
use sendly_gateway::sandbox::{Options, Sandbox};
use sendly_gateway::server::{self, Running, Sockets};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A phone to which the sandbox cannot deliver: a send succeeds, and then the verification is pending with `delivery_status` failed.
pub(crate) const UNDELIVERABLE: &str = "+15550100004";

/// A running gateway with the default limits. Dropping it stops it and its sandbox.
pub(crate) struct Gateway {
    running: Running,
    slow_sendly: Arc<SlowSendly>,
    _runtime: Runtime,
}

/// A sandbox that does what it is asked for at once, and answers later.
struct SlowSendly {
    sandbox: Sandbox,
    clock: Clock,
    delay_ms: AtomicU64,
    breaks_off: AtomicBool,
}

/// Starts a gateway and a sandbox, each on a free port of 127.0.0.1, and returns when both answer.
pub(crate) fn start() -> Gateway {
    start_with("")
}

/// The same with this configuration.
pub(crate) fn start_with(config: &str) -> Gateway {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clock = Clock::system();
    let sandbox = Sandbox::new(Options::default());
    let slow_sendly = Arc::new(SlowSendly {
        sandbox,
        clock: clock.clone(),
        delay_ms: AtomicU64::new(0),
        breaks_off: AtomicBool::new(false),
    });
    let running = runtime.block_on(async {
        let upstream = Arc::clone(&slow_sendly).serve().await;
        let given = [
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("UPSTREAM_URL", &format!("http://{upstream}")),
        ];
        let environment = given.map(|(key, value)| (format!("SENDLY_GATEWAY_{key}"), value.to_owned()));
        let config =
            Config::parse(config, "test", environment.into_iter()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let sockets = Sockets::bind(&config).unwrap();
        server::start(config, sockets, clock).await.unwrap()
    });
    Gateway { running, slow_sendly, _runtime: runtime }
}

impl Gateway {
    /// Where the SDKs are pointed: `http://127.0.0.1:PORT/api/v1`.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/api/v1", self.running.address)
    }

    /// How many codes the sandbox has sent to this phone: sends and resends that it executed, whoever got their answers.
    pub(crate) fn codes(&self, phone: &str) -> usize {
        usize::try_from(self.slow_sendly.sandbox.sent(phone.parse().unwrap())).unwrap()
    }

    /// From now on the sandbox executes a request at once and answers it this much later.
    pub(crate) fn delay_answers(&self, by: Duration) {
        self.slow_sendly.delay_ms.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// From now on the sandbox executes a request and closes the connection instead of answering.
    pub(crate) fn break_off(&self) {
        self.slow_sendly.breaks_off.store(true, Ordering::SeqCst);
    }
}

impl SlowSendly {
    async fn serve(self: Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sendly = Arc::clone(&self);
                tokio::spawn(async move {
                    let service = service_fn(|request| sendly.answer(request));
                    // A connection that breaks is the gateway's concern, and what it makes of it is what is tested.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
        let answer = self.sandbox.answer(&Request::from_parts(parts, body), self.clock.now());
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
        if self.breaks_off.load(Ordering::SeqCst) {
            return Err(io::Error::other("breaks off"));
        }
        Ok(answer.map(Full::new))
    }
}
