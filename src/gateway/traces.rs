//! What of requests stands in traces, and telling a collector of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::settings::Settings;
use super::{Gateway, Request};
use crate::api::{self, Operation};
use crate::clock::Moment;
use crate::trace::{self, CallFailure, Fates, Span, Spans, Tracer, What};

/// Spans that wait, and who tells of them.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    spans: Spans,
    /// Whoever has it tells the collector. One at a time, so that whoever waits for it knows what was taken before to be told.
    telling: tokio::sync::Mutex<()>,
    /// Whether the collector refused what it was told last.
    is_refused: AtomicBool,
}

impl Traces {
    /// What became of spans.
    pub(crate) fn fates(&self) -> Fates {
        self.spans.fates()
    }
}

impl Gateway {
    /// A request is over: it is a span, if its trace is recorded.
    pub(crate) fn served(&self, request: &Request, method: &str, status: u16, ended: Moment) {
        let Some(trace) = request.trace else { return };
        let span = Span::of_request(trace, (request.began, ended), || What::Request {
            // A listener speaks TLS or does not, whatever is loaded anew.
            over_tls: self.settings.load().config.tls.is_some(),
            method: api::method(method),
            operation: request.operation,
            outcome: request.outcome,
            status,
            phone: request.phone,
            refused_by: request.refused_by.clone(),
            client: request.client,
        });
        if let Some(span) = span {
            self.traces.spans.add(span);
        }
    }

    /// A call to Sendly is over, from a moment to another: it is a span, if its trace is recorded.
    pub(crate) fn called(
        &self,
        settings: &Settings,
        traced: Option<Box<trace::TracedCall>>,
        (method, operation): (&str, Operation),
        time: (Moment, Moment),
        (status, failure): (Option<u16>, Option<CallFailure>),
    ) {
        let Some(call) = traced else { return };
        let origin = &settings.config.upstream.origin;
        let what = What::Call {
            method: api::method(method),
            operation,
            server: (origin.host.clone(), origin.port),
            status,
            failure,
        };
        self.traces.spans.add(Span::of_call(&call, time, what));
    }

    /// Waits until there are spans for the collector, but no longer than that.
    pub async fn has_spans(&self, patience: Duration) {
        // Whether there are enough, or that is all there will be: they are told then.
        let _ = tokio::time::timeout(patience, self.traces.spans.batch()).await;
    }

    /// Tells the collector of all spans that wait. It takes as long as the collector does.
    pub async fn tell_spans(&self) {
        let _telling = self.traces.telling.lock().await;
        let Traces { spans, is_refused, .. } = &self.traces;
        loop {
            let Some(tracer) = self.settings().tracer.clone() else { return spans.clear() };
            let batch = spans.take();
            if batch.is_empty() {
                return;
            }
            let many = batch.len();
            let told = tracer.export(batch).await;
            spans.told(many, told.is_ok());
            match told {
                Ok(()) => {
                    if is_refused.swap(false, Ordering::Relaxed) {
                        tracing::info!("the collector takes spans again");
                    }
                }
                // Once, however long it lasts: the metrics tell how much.
                Err(error) if !is_refused.swap(true, Ordering::Relaxed) => {
                    tracing::warn!(%error, spans = many, "the collector did not take spans");
                }
                Err(_) => {}
            }
            if many < Tracer::BATCH {
                return;
            }
        }
    }
}
