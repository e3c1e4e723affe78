//! Whether the body of a request that passes through comes in time, where pingora reads it without a deadline: over HTTP/2.
//!
//! pingora says when a piece of a body has come, and nothing while it waits for one. So the task that serves the stream waits beside it,
//! and drops it where the client is late: the stream is reset then.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::pace::Pace;
use crate::clock::Moment;
use crate::config::Clients;

/// So much of a body finds room on its way to Sendly, so that it is the client that is waited for. Beyond it Sendly may be the one that
/// stalls, which `upstream.write_timeout` bounds: there the rate alone is judged.
const ON_THE_WAY: usize = 64 * 1024;

tokio::task_local! {
    static WATCH: Arc<BodyWatch>;
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct BodyWatch {
    body: Mutex<Body>,
    changed: Notify,
}

#[derive(Debug, Default)]
enum Body {
    /// There is none that passes through.
    #[default]
    None,
    Coming {
        pace: Pace,
        bytes: usize,
        patience: Duration,
        patience_later: Duration,
    },
    TooSlow,
}

impl BodyWatch {
    /// The watch of the stream that this task serves, if there is one.
    pub(crate) fn current() -> Option<Arc<Self>> {
        WATCH.try_with(Arc::clone).ok()
    }

    /// Serves a stream under a watch. Returns whether it came to its end: if not, the body was late.
    pub(crate) async fn over(serving: impl Future<Output = ()>) -> bool {
        let watch = Arc::new(Self::default());
        tokio::select! {
            biased;
            () = WATCH.scope(Arc::clone(&watch), serving) => true,
            () = watch.is_late() => false,
        }
    }

    /// A body is going to pass through.
    pub(crate) fn begin(&self, clients: &Clients, now: Moment) {
        let mut pace = Pace::new(clients.min_rate);
        // Nothing is judged yet.
        let _ = pace.wait(now);
        let patience = clients.body_timeout;
        let patience_later = patience.max(clients.write_timeout);
        *self.body.lock() = Body::Coming { pace, bytes: 0, patience, patience_later };
        self.changed.notify_one();
    }

    /// A piece of it has come, maybe the last.
    pub(crate) fn came(&self, count: usize, is_last: bool, now: Moment) {
        let mut body = self.body.lock();
        let Body::Coming { pace, bytes, .. } = &mut *body else { return };
        *bytes += count;
        pace.came(count, now);
        let is_fast = pace.wait(now);
        if is_last {
            *body = Body::None;
        } else if !is_fast {
            *body = Body::TooSlow;
        }
        drop(body);
        self.changed.notify_one();
    }

    /// Resolves when the client is late.
    async fn is_late(&self) {
        loop {
            let patience = match &*self.body.lock() {
                Body::None => None,
                Body::Coming { bytes, patience, patience_later, .. } => {
                    Some(if *bytes < ON_THE_WAY { *patience } else { *patience_later })
                }
                Body::TooSlow => return,
            };
            let late = async {
                match patience {
                    Some(patience) => sleep(patience).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = late => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1_800_000_000_000_000);

    fn clients() -> Clients {
        let config = crate::config::Config::parse("clients.body_timeout = \"20ms\"", "test", [].into_iter()).unwrap();
        config.clients
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_late_and_one_that_has_come_is_not() {
        let stops = BodyWatch::over(async {
            BodyWatch::current().unwrap().begin(&clients(), NOW);
            BodyWatch::current().unwrap().came(1, false, NOW);
            pending().await
        });
        assert!(!stops.await);
        let comes = BodyWatch::over(async {
            BodyWatch::current().unwrap().begin(&clients(), NOW);
            BodyWatch::current().unwrap().came(1, true, NOW);
            sleep(Duration::from_millis(100)).await;
        });
        assert!(comes.await);
        assert!(BodyWatch::over(async { sleep(Duration::from_millis(100)).await }).await, "no body passes");
    }

    #[tokio::test]
    async fn a_body_that_drips_is_too_slow_after_its_span() {
        let drips = BodyWatch::over(async {
            let watch = BodyWatch::current().unwrap();
            watch.begin(&clients(), NOW);
            for second in 1..=30 {
                watch.came(1, false, NOW + Duration::from_secs(second));
            }
            pending().await
        });
        assert!(!drips.await);
    }
}
