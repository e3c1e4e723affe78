//! The successor of a process that has handed over: it serves the limited requests that still reach the old process.
//!
//! The old process reads such a request and relays it as a whole ([`RelayedRequest`]). The successor serves it as it serves any other
//! (`handover/relay.rs`), and sends the whole answer back ([`RelayedReply`]).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::downstream::Caller;
use super::patience::Patience;
use super::reply::Reply;

/// A whole request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RelayedRequest {
    /// Its path, as it came.
    pub(crate) path: String,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) peer: Option<IpAddr>,
}

/// A whole answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RelayedReply {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl From<&Reply> for RelayedReply {
    fn from(Reply { status, headers, body }: &Reply) -> Self {
        let field = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
        Self { status: status.as_u16(), fields: headers.iter().map(field).collect(), body: body.to_vec() }
    }
}

impl From<RelayedReply> for Reply {
    fn from(told: RelayedReply) -> Self {
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
pub(crate) enum ToSuccessor {
    /// Serve this.
    Ask(u64, RelayedRequest),
    /// Whoever asked this has gone.
    Gone(u64),
}

/// The process that has taken over.
pub(crate) struct Successor {
    send: Box<dyn Fn(ToSuccessor) + Send + Sync>,
    serial: AtomicU64,
    /// Who waits for an answer. None, once there will be no more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
}

impl fmt::Debug for Successor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Successor").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl Successor {
    /// One that is sent errands in this way.
    pub(crate) fn new(send: impl Fn(ToSuccessor) + Send + Sync + 'static) -> Self {
        Self { send: Box::new(send), serial: AtomicU64::new(0), waiting: Mutex::new(Some(HashMap::new())) }
    }

    /// It has answered.
    pub(crate) fn answered(&self, serial: u64, told: RelayedReply) {
        let waiting = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&serial));
        if let Some(waiting) = waiting {
            // Nobody waits where the client has gone.
            let _ = waiting.send(told.into());
        }
    }

    /// It has ended: nobody gets an answer any more.
    pub(crate) fn ended(&self) {
        *self.waiting.lock() = None;
    }

    /// Has it serve a request: it counts it, and has a line for it in its own log. Says so when the client goes; the answer can still be
    /// waited for.
    pub(crate) async fn serve<C: Caller>(
        &self,
        caller: &mut C,
        patience: &mut Patience<'_>,
    ) -> Result<Served, C::Error> {
        let ask = RelayedRequest {
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
        (self.send)(ToSuccessor::Ask(serial, ask));
        let reply = patience.watch(caller, told, || (self.send)(ToSuccessor::Gone(serial))).await;
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
