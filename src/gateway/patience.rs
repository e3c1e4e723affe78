//! How long a client waits for its answer, whatever Sendly does meanwhile.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::downstream::Caller;
use super::reply::Reply;
use crate::clock::{Clock, Moment};

/// A client's patience (`upstream.answer_within`), from the end of its request's body. At its end the client is told that Sendly is late,
/// and what it asked for goes on without it.
pub(crate) struct Patience<'r> {
    span: Duration,
    began: Moment,
    /// Its timer, once something is waited for: what is answered at once needs none.
    end: Pin<&'r mut Option<Sleep>>,
    clock: &'r Clock,
    told_at: Option<Moment>,
}

impl<'r> Patience<'r> {
    /// It lasts for `span` from now on. `end` is a place for its timer.
    pub(crate) fn new(span: Duration, end: Pin<&'r mut Option<Sleep>>, clock: &'r Clock) -> Self {
        Self { span, began: clock.now(), end, clock, told_at: None }
    }

    /// Resolves when it is over.
    async fn end(&mut self) {
        if self.end.is_none() {
            let left = self.span.saturating_sub(self.clock.now().since(self.began));
            self.end.set(Some(sleep(left)));
        }
        if let Some(end) = self.end.as_mut().as_pin_mut() {
            end.await;
        }
    }

    /// When the client was told that Sendly is late, if it was. It can be told nothing else then.
    pub(crate) fn told_at(&self) -> Option<Moment> {
        self.told_at
    }

    /// Tells a client its answer. Returns whether it could still be told.
    pub(crate) async fn tell<C: Caller>(&self, caller: &mut C, reply: &Reply) -> Result<bool, C::Error> {
        if self.told_at.is_some() {
            return Ok(false);
        }
        caller.tell(reply).await?;
        Ok(true)
    }

    /// Waits for what comes to its end whatever the client does, and says once the client has gone or has been told that Sendly is late:
    /// then a retry may take its place. No request is dropped because its client has gone, over HTTP/1 or HTTP/2; only what drops every
    /// task ends it early.
    pub(crate) async fn watch<C: Caller, T>(
        &mut self,
        caller: &mut C,
        work: impl Future<Output = T>,
        left: impl FnOnce(),
    ) -> T {
        let mut work = pin!(work);
        if self.told_at.is_some() {
            return work.await;
        }
        let has_gone = tokio::select! {
            biased;
            done = &mut work => return done,
            () = caller.gone() => true,
            () = self.end() => false,
        };
        left();
        if has_gone {
            // Or it has only closed its sending side: then it still waits, and the answer is tried all the same when it comes.
            caller.part();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.end() => {}
            }
        }
        self.told_at = Some(self.clock.now());
        let late = Reply::upstream_timeout();
        // Whether that can be told or not: the work goes on.
        let (done, _) = tokio::join!(work, caller.dismiss(&late));
        done
    }
}
