//! Taking turns with other tasks.

use std::future::poll_fn;
use std::task::Poll;

/// Lets whoever else is ready go on first.
///
/// A request that does so between two steps has all that are ready at the same time take the first step, one after the other, and then
/// the second. So the code of each step, which is larger than the processor's cache for it, is fetched once for all of them and not
/// once for each. It costs a place at the end of the worker's queue: where nobody else is ready, nothing.
pub async fn others_first() {
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
