//! A Sendly that a test scripts: it answers what it is told to, when it is told to, or breaks off; and it counts what came.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query, as they stood on the wire.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn is_send(&self) -> bool {
        self.method == Method::POST && self.target == "/api/v1/verify"
    }

    pub(crate) fn is_resend(&self) -> bool {
        self.method == Method::POST && self.target.ends_with("/resend")
    }

    pub(crate) fn is_lookup(&self) -> bool {
        self.method == Method::GET
            && self.headers.get("user-agent").is_some_and(|agent| agent.as_bytes().starts_with(b"sendly-gateway/"))
    }

    /// The `to` of a send.
    pub(crate) fn to(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get("to")?.as_str()?.to_owned())
    }

    /// The id in the path.
    pub(crate) fn id(&self) -> &str {
        self.target.split('/').nth(4).unwrap_or_default()
    }
}

/// What the upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// It answers.
    Answer(u16, Vec<(&'static str, String)>, Bytes),
    /// It answers when the test lets it.
    AnswerWhenLet(u16, Bytes),
    /// It breaks the connection off without an answer.
    BreakOff,
    /// It breaks the connection off in the middle of its answer's body.
    CutBody(u16),
    /// It does this when the test lets it.
    WhenLet(Box<Act>),
    /// It never answers.
    Hang,
}

impl Act {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Act::Answer(status, headers, body.to_string().into())
    }

    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": code, "message": "scripted" }))
    }

    /// A success that shows an id and its phone.
    pub(crate) fn verification(status: u16, id: &str, phone: &str) -> Self {
        Self::json(status, &serde_json::json!({ "id": id, "status": "pending", "phone": phone, "sandbox": true }))
    }
}

type Script = Arc<dyn Fn(&Seen) -> Act + Send + Sync>;

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
    let_go: Semaphore,
    never: Notify,
    phones: Mutex<HashMap<String, String>>,
    ids: AtomicU64,
}

impl Upstream {
    /// An upstream that behaves as Sendly does, roughly: sends and resends succeed, and `GET` shows the phone.
    pub(crate) async fn start() -> Self {
        Self::closed().open()
    }

    /// An upstream whose port is its own, and refuses connections until it is opened.
    pub(crate) fn closed() -> Closed {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Closed(socket)
    }

    fn serve_on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(Arc::new(|_: &Seen| Act::error(500, "unscripted"))),
            seen: Mutex::default(),
            count: watch::Sender::new(0),
            let_go: Semaphore::new(0),
            never: Notify::new(),
            phones: Mutex::default(),
            ids: AtomicU64::new(1),
        });
        let weak = Arc::downgrade(&state);
        *state.script.lock() =
            Arc::new(move |seen| weak.upgrade().map_or(Act::BreakOff, |state| state.like_sendly(seen)));
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let service = service_fn(move |request| Arc::clone(&state).serve(request));
                    // An error is what a scripted break looks like from here.
                    let stream = TokioIo::new(stream);
                    let _ = http1::Builder::new().serve_connection(stream, service).await;
                });
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it does this.
    pub(crate) fn script(&self, script: impl Fn(&Seen) -> Act + Send + Sync + 'static) {
        *self.state.script.lock() = Arc::new(script);
    }

    /// From now on it does what it would do unscripted.
    pub(crate) fn behave(&self) {
        self.script(self.like_sendly());
    }

    /// What it would do unscripted.
    pub(crate) fn like_sendly(&self) -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
        let state = Arc::clone(&self.state);
        move |seen| state.like_sendly(seen)
    }

    /// All that came so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// How many came that are so.
    pub(crate) fn count(&self, is_so: impl Fn(&Seen) -> bool) -> usize {
        self.state.seen.lock().iter().filter(|seen| is_so(seen)).count()
    }

    /// Sends and resends that came for this phone: what would have been paid for.
    pub(crate) fn codes(&self, phone: &str) -> usize {
        let phones = self.state.phones.lock();
        self.count(|seen| {
            (seen.is_send() && seen.to().as_deref() == Some(phone))
                || (seen.is_resend() && phones.get(seen.id()).is_some_and(|known| known == phone))
        })
    }

    /// Waits until so many requests have come, since the start.
    pub(crate) async fn has_seen(&self, requests: usize) {
        let mut count = self.state.count.subscribe();
        let waiting = count.wait_for(|count| *count >= requests);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the upstream is not asked").unwrap();
    }

    /// Lets so many [`Act::AnswerWhenLet`] go.
    pub(crate) fn let_go(&self, answers: usize) {
        self.state.let_go.add_permits(answers);
    }

    /// Makes a verification known that the gateway has never seen.
    pub(crate) fn knows(&self, id: &str, phone: &str) {
        self.state.phones.lock().insert(id.to_owned(), phone.to_owned());
    }
}

/// An upstream that nobody can connect to yet.
pub(crate) struct Closed(TcpSocket);

impl Closed {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    pub(crate) fn open(self) -> Upstream {
        Upstream::serve_on(self.0.listen(1024).unwrap())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

impl State {
    fn like_sendly(&self, seen: &Seen) -> Act {
        let mut phones = self.phones.lock();
        match (seen.method.as_str(), seen.target.as_str()) {
            ("POST", "/api/v1/verify") => {
                let id = format!("ver_{:032x}", self.ids.fetch_add(1, Ordering::Relaxed));
                let phone = seen.to().unwrap_or_default();
                phones.insert(id.clone(), phone.clone());
                Act::verification(201, &id, &phone)
            }
            // By which the gateway proves a key.
            ("GET", "/api/v1/verify?limit=1") => Act::json(200, &serde_json::json!({ "verifications": [] })),
            (method, target) if target.starts_with("/api/v1/verify/ver_") => match phones.get(seen.id()) {
                Some(phone) if method == "GET" || target.ends_with("/resend") || target.ends_with("/check") => {
                    Act::verification(200, seen.id(), phone)
                }
                _ => Act::error(404, "not_found"),
            },
            _ => Act::Answer(200, Vec::new(), seen.body.clone()),
        }
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let broken = || std::io::Error::other("scripted");
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| broken())?.to_bytes();
        let target = parts.uri.path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default();
        let seen = Seen { method: parts.method, target, headers: parts.headers, body };
        let act = {
            let script = Arc::clone(&self.script.lock());
            script(&seen)
        };
        self.seen.lock().push(seen);
        self.count.send_modify(|count| *count += 1);
        let answer = |status: u16, body: Body| {
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        };
        let act = match act {
            Act::WhenLet(act) => {
                self.let_go.acquire().await.unwrap().forget();
                *act
            }
            act => act,
        };
        match act {
            Act::Answer(status, headers, body) => {
                let mut response = answer(status, whole(body));
                for (name, value) in headers {
                    response.headers_mut().append(name, value.parse().unwrap());
                }
                Ok(response)
            }
            Act::AnswerWhenLet(status, body) => {
                self.let_go.acquire().await.unwrap().forget();
                let mut response = answer(status, whole(body));
                response.headers_mut().insert("content-type", "application/json".parse().unwrap());
                Ok(response)
            }
            Act::BreakOff | Act::WhenLet(_) => Err(broken()),
            Act::CutBody(status) => Ok(answer(status, Cut { polled: 0 }.boxed())),
            Act::Hang => {
                self.never.notified().await;
                Err(broken())
            }
        }
    }
}

/// A body that breaks off after its first bytes.
#[derive(Default)]
struct Cut {
    polled: usize,
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.polled += 1;
        match self.polled {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"{\"id\":\"ver_"))))),
            // What is there is written while more is waited for.
            2 => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(std::io::Error::other("scripted")))),
        }
    }
}
