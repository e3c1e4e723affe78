//! Counting what is under way, so that a process that was told to stop knows when it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A count of things under way.
#[derive(Clone, Debug, Default)]
pub struct Work(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    /// How many there are, in steps of [`ONE`], and whether anybody has asked to be told of none: one word, so that the last
    /// one to end cannot miss who asks meanwhile.
    state: AtomicUsize,
    none: Notify,
}

const AWAITED: usize = 1;
const ONE: usize = 2;

/// One thing under way, for as long as this lives.
#[derive(Debug)]
pub struct UnderWay(Arc<Count>);

impl Work {
    /// Counts one more.
    pub fn begin(&self) -> UnderWay {
        self.0.state.fetch_add(ONE, Ordering::Relaxed);
        UnderWay(Arc::clone(&self.0))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.state.load(Ordering::Acquire) / ONE
    }

    /// Waits until there is none.
    pub async fn none_left(&self) {
        loop {
            let mut none = std::pin::pin!(self.0.none.notified());
            none.as_mut().enable();
            if self.0.state.fetch_or(AWAITED, Ordering::AcqRel) < ONE {
                return;
            }
            none.await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.state.fetch_sub(ONE, Ordering::AcqRel) == ONE | AWAITED {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_last_one() {
        let work = Work::default();
        work.none_left().await;
        let (first, second) = (work.begin(), work.begin());
        assert_eq!(work.count(), 2);
        drop(first);
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let work = work.clone();
                tokio::spawn(async move { work.none_left().await })
            })
            .collect();
        drop(second);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert_eq!(work.count(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_waits_is_told_however_close_the_last_one_ends() {
        for _ in 0..10_000 {
            let work = Work::default();
            let last = work.begin();
            let waiting = tokio::spawn({
                let work = work.clone();
                async move { work.none_left().await }
            });
            drop(last);
            waiting.await.unwrap();
        }
    }
}
