//! A limited request on a connection of one process, served by another that has taken over the counts.
//!
//! The first one has read it and passes it on as a whole ([`Ask`]); the other one serves it as it serves any (`Relayed` is its
//! `Caller`) and sends back the whole answer ([`Told`]).

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::caller::{Caller, NoBody};
use super::patience::Patience;
use super::reply::Reply;
use super::{Gateway, Request, otp};
use crate::api::Operation;
use crate::api::path::{self, Reading};
use crate::http1::fields::Fields;
use crate::metrics::Outcome;

/// A whole request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Its path, as it came.
    path: String,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    peer: Option<IpAddr>,
}

/// A whole answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl From<&Reply> for Told {
    fn from(Reply { status, headers, body }: &Reply) -> Self {
        let field = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
        Self { status: status.as_u16(), fields: headers.iter().map(field).collect(), body: body.to_vec() }
    }
}

impl From<Told> for Reply {
    fn from(told: Told) -> Self {
        let mut headers = HeaderMap::with_capacity(told.fields.len());
        for (name, value) in &told.fields {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::BAD_GATEWAY);
        Self { status, headers, body: Bytes::from(told.body) }
    }
}

/// What is sent to the process that has taken over.
#[derive(Debug)]
pub enum Errand {
    /// Serve this.
    Ask(u64, Ask),
    /// Whoever asked this has gone.
    Gone(u64),
}

/// The process that has taken over.
pub struct Heir {
    send: Box<dyn Fn(Errand) + Send + Sync>,
    serial: AtomicU64,
    /// Who waits for an answer. None, once there will be no more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
}

impl fmt::Debug for Heir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heir").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl Heir {
    /// One that is sent errands in this way.
    pub fn new(send: impl Fn(Errand) + Send + Sync + 'static) -> Self {
        Self { send: Box::new(send), serial: AtomicU64::new(0), waiting: Mutex::new(Some(HashMap::new())) }
    }

    /// It has answered.
    pub fn answered(&self, serial: u64, told: Told) {
        let waiting = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&serial));
        if let Some(waiting) = waiting {
            // Nobody waits where the client has gone.
            let _ = waiting.send(told.into());
        }
    }

    /// It has ended: nobody gets an answer any more.
    pub fn ended(&self) {
        *self.waiting.lock() = None;
    }

    /// Has it serve a request: it counts it, and has a line for it in its own log. Says so when the client goes; the answer can still be
    /// waited for.
    pub(crate) async fn serve<C: Caller>(
        &self,
        caller: &mut C,
        patience: &mut Patience<'_>,
    ) -> Result<Served, C::Error> {
        let ask = Ask {
            path: caller.path().to_owned(),
            fields: caller.fields().iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            body: caller.body().to_vec(),
            peer: caller.peer(),
        };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.insert(serial, tell);
        } else {
            // Nothing was sent there, and nothing was bought.
            let reply = Reply::unreachable();
            let told = patience.tell(caller, &reply).await?;
            return Ok(Served { reply, told });
        }
        (self.send)(Errand::Ask(serial, ask));
        let reply = patience.watch(caller, told, || (self.send)(Errand::Gone(serial))).await;
        let reply = reply.unwrap_or_else(|_| Reply::broken_off());
        let told = patience.tell(caller, &reply).await?;
        Ok(Served { reply, told })
    }
}

/// What another process answered, and whether the client could be told.
pub(crate) struct Served {
    pub(crate) reply: Reply,
    pub(crate) told: bool,
}

/// A request that another process has read.
struct Relayed<S> {
    path: String,
    fields: HeaderMap,
    body: Vec<u8>,
    peer: Option<IpAddr>,
    /// Resolves when its client has gone.
    gone: Option<oneshot::Receiver<()>>,
    reply: Option<Reply>,
    /// Says the answer to the other process, while the request goes on here.
    say: Option<S>,
}

impl Gateway {
    /// Serves a request that another process has read. `gone` tells that its client has gone, and `say` takes the answer.
    pub async fn serve_for_another(
        self: Arc<Self>,
        ask: Ask,
        gone: oneshot::Receiver<()>,
        say: impl FnOnce(Told) + Send,
    ) {
        let settings = self.settings();
        let mut fields = HeaderMap::with_capacity(ask.fields.len());
        for (name, value) in &ask.fields {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        let Ask { path, body, peer, .. } = ask;
        let mut request = Request::default();
        self.begin(&mut request);
        let mut caller = Relayed { path, fields, body, peer, gone: Some(gone), reply: None, say: Some(say) };
        // The other process has read it so, and is of another version.
        let call = match path::read(&Method::POST, &caller.path) {
            Reading::Verify(call) if matches!(call.operation, Operation::Send | Operation::Resend) => call,
            _ => {
                if let Some(say) = caller.say.take() {
                    say(Told::from(&Reply::not_a_route()));
                }
                return;
            }
        };
        request.operation = call.operation;
        let Ok(()) = match self.throttle(&settings, &caller, &mut request) {
            Some(reply) => caller.refuse(reply).await,
            None => otp::serve(&self, &settings, &mut caller, &mut request, &call).await,
        };
        let reply = caller.reply.unwrap_or_else(Reply::internal);
        if let Some(say) = caller.say.take() {
            say(Told::from(&reply));
        }
        if caller.gone.is_none() {
            request.outcome = Outcome::Abandoned;
        }
        self.tell(&request, "POST", reply.status.as_u16(), reply.body.len());
    }
}

impl<S: FnOnce(Told) + Send> Caller for Relayed<S> {
    type Error = Infallible;

    fn fields(&self) -> Fields<'_> {
        Fields::Map(&self.fields)
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    async fn read_body(&mut self, _: Duration) -> Result<(), NoBody<Infallible>> {
        Ok(())
    }

    fn body(&self) -> &[u8] {
        &self.body
    }

    async fn gone(&mut self) {
        match &mut self.gone {
            // An error is that the other process has ended, and its clients' connections with it.
            Some(gone) => drop(gone.await),
            None => pending().await,
        }
        self.gone = None;
    }

    fn part(&mut self) {}

    async fn tell(&mut self, reply: &Reply) -> Result<(), Infallible> {
        self.reply = Some(reply.clone());
        Ok(())
    }

    async fn dismiss(&mut self, reply: &Reply) -> Result<(), Infallible> {
        if let Some(say) = self.say.take() {
            say(Told::from(reply));
        }
        self.tell(reply).await
    }

    async fn refuse(&mut self, reply: Reply) -> Result<(), Infallible> {
        self.tell(&reply).await
    }

    async fn close_with(&mut self, reply: Reply) -> Result<(), Infallible> {
        self.tell(&reply).await
    }
}
