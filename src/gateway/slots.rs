//! A bounded number of places that are taken for a while: connections to Sendly that are in use.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// See the module's documentation. How many there may be is said each time, since a reload may change it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Arc<SlotCount>);

#[derive(Debug, Default)]
struct SlotCount {
    taken: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<SlotCount>);

impl Slots {
    /// Takes a place, if fewer than `most` are taken.
    pub(crate) fn try_take(&self, most: usize) -> Option<Slot> {
        let more = |taken: usize| (taken < most).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Slot(Arc::clone(&self.0)))
    }

    /// The same; where all are taken, waits for one, at most for `patience`.
    pub(crate) async fn take(&self, most: usize, patience: Duration) -> Option<Slot> {
        match self.try_take(most) {
            // Boxed: to wait is seldom needed, and takes room.
            None => Box::pin(self.wait(most, patience)).await,
            slot => slot,
        }
    }

    async fn wait(&self, most: usize, patience: Duration) -> Option<Slot> {
        let _waiting = SlotWait::begin(&self.0);
        let taking = async {
            loop {
                let mut freed = pin!(self.0.freed.notified());
                // Before it is looked: what is freed after that is not missed.
                freed.as_mut().enable();
                if let Some(slot) = self.try_take(most) {
                    return slot;
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, taking).await.ok()
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.freed.notify_one();
        }
    }
}

struct SlotWait<'s>(&'s SlotCount);

impl<'s> SlotWait<'s> {
    fn begin(shared: &'s SlotCount) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for SlotWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn no_more_are_taken_than_there_may_be_and_one_that_is_freed_is_taken_by_one_that_waits() {
        let slots = Slots::default();
        let (first, second) = (slots.try_take(2).unwrap(), slots.try_take(2).unwrap());
        assert!(slots.try_take(2).is_none());
        assert!(slots.take(2, Duration::from_millis(1)).await.is_none(), "none comes free");
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(2, LONG).await }
        });
        drop(first);
        let third = waiting.await.unwrap().expect("one came free");
        assert_eq!(slots.taken(), 2);
        drop((second, third));
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn none_that_is_freed_is_missed_and_never_are_there_more() {
        let slots = Slots::default();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let slots = slots.clone();
                tokio::spawn(async move {
                    for _ in 0..2000 {
                        let slot = slots.take(2, LONG).await.expect("one comes free");
                        assert!(slots.taken() <= 2);
                        tokio::task::yield_now().await;
                        drop(slot);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(slots.taken(), 0);
    }
}
