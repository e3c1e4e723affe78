//! Yielding to other tasks that are ready.

use std::future::poll_fn;
use std::task::Poll;

/// Moves this task to the end of its worker's queue once, so that the tasks that are ready run first.
///
/// Requests yield between their steps, so all that are ready run the first step one after the other, and then the second. The code of
/// a step does not fit the instruction cache together with the others; this way it is fetched once for all requests and not once for
/// each. If no other task is ready, yielding costs nothing.
pub(crate) async fn yield_to_ready_tasks() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            // A task that is woken while it runs goes to the end of its queue.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
