//! The way in to codes, which can be closed: while it is, limited requests wait before they are judged.
//!
//! It is closed for the moment in which another process takes over the counts. Requests that waited are judged by that one then; or here,
//! if nothing came of it.
//!
//! A request is inside from before it is judged until its exchange has ended. In between it may wait for long: for a look-up, the proof of
//! its key, others' charges. So it asks again at the moment in which it is judged ([`Gate::judge`]). Two processes never judge at the same
//! time: the one that leaves waits until nobody is being judged, however long that takes, and for those who are inside only for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use super::successor::Successor;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Whether it is closed, how many are inside in steps of [`ONE`], and how many are being judged in steps of [`JUDGED`]: one word, so
    /// that nobody slips in as it closes.
    word: AtomicU64,
    /// One of those has left.
    left: Notify,
    way: watch::Sender<Destination>,
}

const CLOSED: u64 = 1;
const ONE: u64 = 1 << 1;
const JUDGED: u64 = 1 << 32;

/// Where the way leads.
#[derive(Clone, Debug)]
enum Destination {
    Here,
    Nowhere,
    There(Arc<Successor>),
}

/// Where whoever came to the gate is to be served.
pub(crate) enum Entered<'g> {
    /// Here; the gate is not empty before this is gone.
    Here(Inside<'g>),
    /// By another process.
    There(Arc<Successor>),
}

/// Somebody who is inside, for as long as this lives.
pub(crate) struct Inside<'g>(&'g Gate);

/// Somebody who is being judged, for as long as this lives.
pub(crate) struct Judging<'g>(&'g Gate);

impl Default for Gate {
    fn default() -> Self {
        Self { word: AtomicU64::new(0), left: Notify::new(), way: watch::Sender::new(Destination::Here) }
    }
}

impl Gate {
    /// Goes in; while it is closed, waits for where the way leads next.
    pub(crate) async fn enter(&self) -> Entered<'_> {
        loop {
            let before = self.word.fetch_add(ONE, Ordering::AcqRel);
            let inside = Inside(self);
            if before & CLOSED == 0 {
                return Entered::Here(inside);
            }
            drop(inside);
            let mut ways = self.way.subscribe();
            // It ends with the gate, which is here.
            let Ok(way) = ways.wait_for(|way| !matches!(way, Destination::Nowhere)).await else { continue };
            if let Destination::There(successor) = &*way {
                return Entered::There(Arc::clone(successor));
            }
        }
    }

    /// Lets no code be judged any more. Once it returns, what was charged is written. With Redis it takes `ledger.timeout` at most.
    pub(crate) async fn stop_judging(&self) {
        self.close();
        self.has_judged().await;
    }

    /// Lets nobody in any more.
    fn close(&self) {
        self.way.send_replace(Destination::Nowhere);
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether it is closed: who is inside and has not been judged yet is to leave.
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Lets somebody who is inside be judged. `None` once it is closed: then they are to leave, and come in again.
    pub(crate) fn judge(&self) -> Option<Judging<'_>> {
        let before = self.word.fetch_add(JUDGED, Ordering::AcqRel);
        let judging = Judging(self);
        (before & CLOSED == 0).then_some(judging)
    }

    /// Waits until nobody is being judged.
    async fn has_judged(&self) {
        self.falls_below(JUDGED).await;
    }

    /// Waits until nobody is inside.
    pub(crate) async fn is_empty(&self) {
        self.falls_below(ONE).await;
    }

    async fn falls_below(&self, bound: u64) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.word.load(Ordering::Acquire) < bound {
                return;
            }
            left.await;
        }
    }

    /// Lets everybody in again.
    pub(crate) fn open(&self) {
        self.word.fetch_and(!CLOSED, Ordering::AcqRel);
        self.way.send_replace(Destination::Here);
    }

    /// Shows everybody the way to another process, from now on.
    pub(crate) fn lead_to(&self, successor: Arc<Successor>) {
        self.way.send_replace(Destination::There(successor));
    }

    /// Whether it leads to another process.
    pub(crate) fn leads_away(&self) -> bool {
        matches!(*self.way.borrow(), Destination::There(_))
    }
}

impl Gate {
    fn leaves(&self, whose: u64) {
        // Only while it is closed does anybody wait for that.
        if self.word.fetch_sub(whose, Ordering::AcqRel) & CLOSED != 0 {
            self.left.notify_waiters();
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leaves(ONE);
    }
}

impl Drop for Judging<'_> {
    fn drop(&mut self) {
        self.0.leaves(JUDGED);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    async fn is_waiting(gate: &Gate) -> bool {
        tokio::select! {
            biased;
            _ = gate.enter() => false,
            () = tokio::task::yield_now() => true,
        }
    }

    #[tokio::test]
    async fn whoever_comes_while_it_is_closed_waits_and_goes_in_when_it_opens() {
        let gate = Arc::new(Gate::default());
        let Entered::Here(inside) = gate.enter().await else { panic!("it leads nowhere else") };
        gate.close();
        assert!(is_waiting(&gate).await);
        let emptied = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.is_empty().await }
        });
        drop(inside);
        emptied.await.unwrap();
        gate.open();
        assert!(!is_waiting(&gate).await);
    }

    #[tokio::test]
    async fn who_is_inside_is_judged_only_before_it_closes_and_is_waited_for() {
        let gate = Gate::default();
        let Entered::Here(inside) = gate.enter().await else { panic!("it leads nowhere else") };
        let judging = gate.judge().unwrap();
        gate.close();
        assert!(gate.judge().is_none());
        let mut judged = std::pin::pin!(gate.has_judged());
        tokio::select! {
            biased;
            () = &mut judged => panic!("somebody is still being judged"),
            () = tokio::task::yield_now() => {}
        }
        drop(judging);
        judged.await;
        drop(inside);
        gate.is_empty().await;
        gate.open();
        assert!(gate.judge().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_inside_once_it_is_closed_and_empty() {
        for _ in 0..300 {
            let gate = Arc::new(Gate::default());
            let inside = Arc::new(AtomicUsize::new(0));
            let crowd: Vec<_> = (0..4)
                .map(|_| {
                    let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                    tokio::spawn(async move {
                        for _ in 0..20 {
                            let entered = gate.enter().await;
                            inside.fetch_add(1, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(entered);
                        }
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            gate.close();
            gate.is_empty().await;
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            gate.open();
            for one in crowd {
                one.await.unwrap();
            }
        }
    }
}
