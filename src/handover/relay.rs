//! The new process' side of a relayed request: a client of the old process, served here.

use std::convert::Infallible;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::sync::oneshot;

use crate::api::Operation;
use crate::api::path::{self, Reading};
use crate::gateway::downstream::{Caller, NoBody};
use crate::gateway::reply::Reply;
use crate::gateway::successor::{RelayedReply, RelayedRequest};
use crate::gateway::{Gateway, Request, limited};
use crate::http1::fields::Fields;
use crate::metrics::Outcome;

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

/// Serves a request that another process has read. `gone` tells that its client has gone, and `say` takes the answer.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    ask: RelayedRequest,
    gone: oneshot::Receiver<()>,
    say: impl FnOnce(RelayedReply) + Send,
) {
    let settings = gateway.settings();
    let mut fields = HeaderMap::with_capacity(ask.fields.len());
    for (name, value) in &ask.fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    let RelayedRequest { path, body, peer, .. } = ask;
    let mut request = Request::default();
    gateway.begin(&mut request);
    let mut caller = Relayed { path, fields, body, peer, gone: Some(gone), reply: None, say: Some(say) };
    // The other process has read it so, and is of another version.
    let call = match path::read(&Method::POST, &caller.path) {
        Reading::Verify(call) if matches!(call.operation, Operation::Send | Operation::Resend) => call,
        _ => {
            if let Some(say) = caller.say.take() {
                say(RelayedReply::from(&Reply::not_a_route()));
            }
            return;
        }
    };
    request.operation = call.operation;
    let Ok(()) = match gateway.throttle(&settings, &caller, &mut request) {
        Some(reply) => caller.refuse(reply).await,
        None => limited::serve(gateway, &settings, &mut caller, &mut request, &call).await,
    };
    let reply = caller.reply.unwrap_or_else(Reply::internal);
    if let Some(say) = caller.say.take() {
        say(RelayedReply::from(&reply));
    }
    if caller.gone.is_none() {
        request.outcome = Outcome::Abandoned;
    }
    gateway.tell(&request, "POST", reply.status.as_u16(), reply.body.len());
}

impl<S: FnOnce(RelayedReply) + Send> Caller for Relayed<S> {
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
            say(RelayedReply::from(reply));
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
