//! Who makes a limited request, as far as serving it needs to know: what it says, whether it is still there, and how it is told.
//!
//! There are two: a stream of HTTP/2 or an unusual request of HTTP/1, which pingora reads (`listener/session.rs`), and a plain request of
//! HTTP/1.1, which the gateway reads itself (`listener.rs`).

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::reply::Reply;
use crate::http1::fields::Fields;

/// See the module's documentation.
pub(crate) trait Caller: Send {
    /// The client has gone, or cannot be understood any more.
    type Error: Send;

    /// Its request's fields.
    fn fields(&self) -> Fields<'_>;

    /// Its request's path, without a query, as it came.
    fn path(&self) -> &str;

    /// Where it calls from.
    fn peer(&self) -> Option<IpAddr>;

    /// Reads the whole body, within this time. One that is announced as too large is not waited for.
    fn read_body(&mut self, patience: Duration) -> impl Future<Output = Result<(), NoBody<Self::Error>>> + Send;

    /// The body, once it was read.
    fn body(&self) -> &[u8];

    /// Resolves when the client has gone. Stays pending for as long as it is there.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;

    /// Keeps the connection for no other request.
    fn part(&mut self);

    /// Tells it a whole answer.
    fn tell(&mut self, reply: &Reply) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Tells it a whole answer while its request goes on without it. The client sees at once that this is the end.
    fn dismiss(&mut self, reply: &Reply) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Tells it an answer to a request whose body nobody wants, if there is more of it. A body of a reasonable size is read away first,
    /// and the connection lives on.
    fn refuse(&mut self, reply: Reply) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Tells it an answer to a request whose body has not come, or not all of it, and closes the connection: first the side that sends,
    /// so that a client that is still sending sees the answer instead of a broken pipe.
    fn close_with(&mut self, reply: Reply) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why there is no body.
#[derive(Debug)]
pub(crate) enum NoBody<E> {
    /// It cannot be taken, and this says why.
    Refused(Reply),
    /// It has not come in time.
    Late,
    /// The client broke off, or its framing cannot be read.
    Broken(E),
}

/// What calls, in its own words.
pub(crate) fn user_agent(fields: Fields<'_>) -> &str {
    fields.first("user-agent").and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
}

/// Waits for what nearly always is there at once: only what is not needs a timer.
pub(crate) async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => tokio::time::timeout(patience, work).await.ok(),
    }
}

/// How much of an unwanted body is read before its answer, and for how long.
pub(crate) const DRAIN: usize = 1 << 20;
pub(crate) const DRAIN_FOR: Duration = Duration::from_secs(1);

/// The same after its answer: nobody waits for this, and a client that has seen the answer ends it.
pub(crate) const LINGER: usize = 64 << 20;
pub(crate) const LINGER_FOR: Duration = Duration::from_secs(5);
