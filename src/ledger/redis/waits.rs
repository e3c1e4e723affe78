//! A request waits once in vain for Redis, however many calls it makes: what is one more is not asked, but decided or told without it.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

thread_local! {
    /// Whether the request that is polled now has waited in vain; `None`: what is polled is no request.
    static HAS_WAITED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Whether a request has waited for Redis in vain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    has_waited: bool,
}

/// Ends a poll, also by panicking.
struct Polled;

impl Drop for Polled {
    fn drop(&mut self) {
        HAS_WAITED.set(None);
    }
}

impl Waits {
    /// Those of the request that is polled now: for what another task does for it.
    pub fn of_this_request() -> Self {
        Self { has_waited: has_waited() }
    }

    /// Polls a request, or what another task does for it. Whatever that calls knows these waits.
    pub fn poll<F: Future>(&mut self, request: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        HAS_WAITED.set(Some(self.has_waited));
        let _polled = Polled;
        let polled = request.poll(context);
        self.has_waited = has_waited();
        polled
    }
}

/// Whether the request that is polled now has waited in vain.
pub(super) fn has_waited() -> bool {
    HAS_WAITED.get() == Some(true)
}

/// The request that is polled now, if it is one, has waited in vain.
pub(super) fn note() {
    if HAS_WAITED.get().is_some() {
        HAS_WAITED.set(Some(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;

    #[tokio::test]
    async fn a_request_knows_that_it_has_waited_and_nothing_else_does() {
        let mut waits = Waits::default();
        let mut request = pin!(async {
            assert!(!has_waited());
            note();
            tokio::task::yield_now().await;
            assert!(has_waited() && Waits::of_this_request().has_waited);
        });
        poll_fn(|context| {
            let polled = waits.poll(request.as_mut(), context);
            assert!(!has_waited(), "between its polls others are polled");
            polled
        })
        .await;
        assert!(waits.has_waited);
        note();
        assert!(!has_waited(), "what is no request remembers nothing");
    }
}
