//! What a collector is told: spans, and the buffer that they wait in.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Context, Recorded, TraceId, TracedCall, Tracer};
use crate::api::Operation;
use crate::clock::Moment;
use crate::metrics::Outcome;
use crate::phone::Phone;

/// How many spans may wait. They take some 200 bytes each.
const ROOM: usize = 16_384;

/// A piece of work that is over.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(super) trace: TraceId,
    pub(super) own: NonZeroU64,
    pub(super) parent: Option<NonZeroU64>,
    pub(super) began: Moment,
    pub(super) ended: Moment,
    pub(super) what: What,
}

/// What was done.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A client was served.
    Request {
        /// Whether it came over TLS.
        over_tls: bool,
        /// Its method, if it is one of HTTP's own.
        method: &'static str,
        /// What it asked for.
        operation: Operation,
        /// What became of it.
        outcome: Outcome,
        /// The status that it was answered with; 0 if it was not.
        status: u16,
        /// The phone that it was about. It is told masked.
        phone: Option<Phone>,
        /// The name of the limit or throttle that refused it.
        refused_by: Option<Arc<str>>,
        /// Who called.
        client: Option<IpAddr>,
    },
    /// Sendly was asked.
    Call {
        /// The method.
        method: &'static str,
        /// What was asked for.
        operation: Operation,
        /// Sendly's host and port.
        server: (String, u16),
        /// What it answered with, if that much is known.
        status: Option<u16>,
        /// Why there is no whole answer.
        failure: Option<CallFailure>,
    },
}

/// Why there is no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// Sendly could not be reached.
    NotSent,
    /// It did not answer in time.
    Timeout,
    /// The connection broke before it answered.
    Broken,
    /// The answer broke off.
    Cut,
}

impl CallFailure {
    /// Its name in spans.
    pub(super) const fn name(self) -> &'static str {
        match self {
            CallFailure::NotSent => "not_sent",
            CallFailure::Timeout => "timeout",
            CallFailure::Broken => "broken",
            CallFailure::Cut => "cut",
        }
    }
}

impl Span {
    /// That of a request, if its trace is recorded.
    pub(crate) fn of_request(
        context: Context,
        (began, ended): (Moment, Moment),
        what: impl FnOnce() -> What,
    ) -> Option<Self> {
        let Recorded { own, parent } = context.recorded?;
        Some(Self { trace: context.trace, own, parent, began, ended, what: what() })
    }

    /// That of a call.
    pub(crate) fn of_call(call: &TracedCall, (began, ended): (Moment, Moment), what: What) -> Self {
        Self { trace: call.trace, own: call.own, parent: Some(call.parent), began, ended, what }
    }
}

/// Spans that wait to be told, and what became of the others.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    waiting: Mutex<VecDeque<Span>>,
    /// A whole batch waits.
    batch: Notify,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    /// The collector took them.
    pub exported: u64,
    /// It did not.
    pub failed: u64,
    /// There was no room for them to wait, or no collector any more.
    pub dropped: u64,
}

impl Spans {
    /// Adds one, if there is room.
    pub(crate) fn add(&self, span: Span) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= ROOM {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(span);
        if waiting.len() == Tracer::BATCH {
            drop(waiting);
            self.batch.notify_one();
        }
    }

    /// Takes a batch out: those that have waited longest.
    pub(crate) fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting.lock();
        let some = waiting.len().min(Tracer::BATCH);
        waiting.drain(..some).collect()
    }

    /// Waits until there are enough for a batch.
    pub(crate) async fn batch(&self) {
        self.batch.notified().await;
    }

    /// So many were told, or were not.
    pub(crate) fn told(&self, many: usize, were_taken: bool) {
        let fate = if were_taken { &self.exported } else { &self.failed };
        fate.fetch_add(many as u64, Ordering::Relaxed);
    }

    /// There is nobody to tell.
    pub(crate) fn clear(&self) {
        let dropped = std::mem::take(&mut *self.waiting.lock()).len();
        self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    }

    /// What became of those before.
    pub(crate) fn fates(&self) -> Fates {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Fates { exported: count(&self.exported), failed: count(&self.failed), dropped: count(&self.dropped) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(nth: u64) -> Span {
        let own = NonZeroU64::new(nth + 1).unwrap();
        let what = What::Call {
            method: "POST",
            operation: Operation::Send,
            server: ("sendly.live".to_owned(), 443),
            status: Some(201),
            failure: None,
        };
        let at = Moment::default();
        Span { trace: TraceId::random(), own, parent: None, began: at, ended: at, what }
    }

    #[test]
    fn spans_leave_in_their_order_a_batch_at_a_time() {
        let spans = Spans::default();
        let many = Tracer::BATCH as u64 + 2;
        (0..many).for_each(|nth| spans.add(span(nth)));
        let (first, second) = (spans.take(), spans.take());
        assert_eq!((first.len(), second.len(), spans.take().len()), (Tracer::BATCH, 2, 0));
        assert!(first.iter().chain(&second).map(|span| span.own.get()).eq(1..=many));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_so_is_what_nobody_wants_any_more() {
        let spans = Spans::default();
        (0..ROOM as u64 + 7).for_each(|nth| spans.add(span(nth)));
        assert_eq!(spans.fates(), Fates { dropped: 7, ..Fates::default() });
        let taken = spans.take().len();
        spans.told(taken, true);
        spans.told(1, false);
        spans.clear();
        assert!(spans.take().is_empty());
        let fates = Fates { exported: taken as u64, failed: 1, dropped: 7 + (ROOM - taken) as u64 };
        assert_eq!(spans.fates(), fates);
    }
}
