//! Counting what is under way, so that a process that was told to stop knows when it may.

use std::sync::Arc;

use tokio::sync::watch;

/// A count of things under way.
#[derive(Clone, Debug)]
pub struct Work {
    under_way: Arc<watch::Sender<usize>>,
}

/// One thing under way, for as long as this lives.
#[derive(Debug)]
pub struct UnderWay(Arc<watch::Sender<usize>>);

impl Default for Work {
    fn default() -> Self {
        Self { under_way: Arc::new(watch::Sender::new(0)) }
    }
}

impl Work {
    /// Counts one more.
    pub fn begin(&self) -> UnderWay {
        self.under_way.send_modify(|count| *count += 1);
        UnderWay(Arc::clone(&self.under_way))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        *self.under_way.borrow()
    }

    /// Waits until there is none.
    pub async fn none_left(&self) {
        // The sender is held by `self`: waiting cannot fail.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_last_one() {
        let work = Work::default();
        let (first, second) = (work.begin(), work.begin());
        assert_eq!(work.count(), 2);
        drop(first);
        let waiting = tokio::spawn({
            let work = work.clone();
            async move { work.none_left().await }
        });
        drop(second);
        waiting.await.unwrap();
        assert_eq!(work.count(), 0);
    }
}
