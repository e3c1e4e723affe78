//! Traces: which one a request belongs to (W3C Trace Context), and the spans of those that are recorded, for a collector (OTLP over HTTP).
//!
//! Without a collector the gateway takes part in no trace: `traceparent` passes as it came, and its id stands in the access log. With one, a
//! request is a span, and each call to Sendly that it leads to is a span below it, whose id Sendly is told. Whether a trace is recorded is
//! decided by whoever began it; where that is the gateway, by `traces.sample`.
//!
//! A request whose trace is not recorded makes no span and allocates nothing. One whose is leaves its spans in a bounded buffer
//! ([`Spans`]): it never waits for a collector, and a collector that takes nothing costs spans, which are counted.

mod collector;
mod parent;
mod span;

use std::num::NonZeroU64;

use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};

use crate::config::traces::Traces;
use crate::tls_roots::Authorities;
use collector::Collector;
use parent::Parent;
pub(crate) use parent::{TraceId, Traceparent};
pub(crate) use span::{CallFailure, Fates, Span, Spans, What};

/// Where a request stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    trace: TraceId,
    recorded: Option<Recorded>,
}

/// A request whose trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    own: NonZeroU64,
    parent: Option<NonZeroU64>,
}

impl Context {
    /// The trace that a request's `traceparent` fields name, which passes unchanged.
    pub(crate) fn passing<'f>(fields: impl Iterator<Item = &'f [u8]>) -> Option<Self> {
        Parent::of(fields).map(|parent| Self { trace: parent.trace, recorded: None })
    }

    /// Its trace.
    pub(crate) const fn trace(self) -> TraceId {
        self.trace
    }

    /// A call to Sendly that the request leads to, if its trace is recorded. Boxed, so that requests whose trace is not stay small.
    pub(crate) fn call(self) -> Option<Box<TracedCall>> {
        let Recorded { own, parent } = self.recorded?;
        let call = random_id();
        let traceparent = Traceparent::of(self.trace, call);
        Some(Box::new(TracedCall { trace: self.trace, own: call, parent: own, traceparent, begins: parent.is_none() }))
    }
}

/// A call to Sendly in a trace that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedCall {
    trace: TraceId,
    own: NonZeroU64,
    parent: NonZeroU64,
    traceparent: Traceparent,
    begins: bool,
}

impl TracedCall {
    /// What Sendly is told of it.
    pub const fn traceparent(&self) -> &Traceparent {
        &self.traceparent
    }

    /// Whether a header of the request's is replaced by what this call says: one of another trace, or of none.
    pub fn replaces(&self, name: &[u8]) -> bool {
        // What vendors have to say of a trace is of that one (W3C Trace Context, 3.3.1.3 and 4.2).
        name.eq_ignore_ascii_case(b"traceparent") || self.begins && name.eq_ignore_ascii_case(b"tracestate")
    }
}

/// Takes part in traces.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// A trace is begun if that of its id's last 63 bits is less.
    sample: u64,
    collector: Collector,
    traces: Traces,
    authorities: Authorities,
}

impl Tracer {
    /// What follows from a configuration: none, where it names no collector. Nothing is connected yet. It reads files, and waits for them.
    ///
    /// # Errors
    /// What is wrong with the certificate authorities or the collector's URL.
    pub(crate) fn new(traces: &Traces) -> Result<Option<Self>, String> {
        let Some(collector) = &traces.collector else { return Ok(None) };
        let authorities = Authorities::of(collector.origin.tls, collector.ca_file.as_deref())?;
        Ok(Some(Self {
            sample: threshold(traces.sample),
            collector: Collector::new(collector, &authorities, &traces.service)?,
            traces: traces.clone(),
            authorities,
        }))
    }

    /// Whether it is what another one was made of.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.traces == other.traces && self.authorities == other.authorities
    }

    /// Where a request with these `traceparent` fields stands: in its trace, in one that is begun, or in none.
    pub(crate) fn begin<'f>(&self, fields: impl Iterator<Item = &'f [u8]>) -> Option<Context> {
        let recorded = |parent| Some(Recorded { own: random_id(), parent });
        match Parent::of(fields) {
            Some(Parent { trace, span, is_recorded: true }) => Some(Context { trace, recorded: recorded(Some(span)) }),
            Some(Parent { trace, is_recorded: false, .. }) => Some(Context { trace, recorded: None }),
            None => {
                let trace = TraceId::random();
                // By its id, as other samplers of this trace decide it: OpenTelemetry's TraceIdRatioBased.
                (trace.low_bits() >> 1 < self.sample).then(|| Context { trace, recorded: recorded(None) })
            }
        }
    }

    /// Tells the collector of spans. It tries again by itself for ten seconds, where that may help.
    ///
    /// # Errors
    /// Why the collector did not take them.
    pub(crate) async fn export(&self, spans: Vec<Span>) -> Result<(), String> {
        self.collector.take(spans).await
    }

    /// How many spans to export at a time: few, since whoever puts them together serves no request meanwhile.
    pub(crate) const BATCH: usize = 128;
}

/// What of 63 random bits is less than this, this share of all.
fn threshold(share: f64) -> u64 {
    const ALL: u64 = 1 << 63;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 2^63, from 0 to all of it")]
    let some = (share * ALL as f64) as u64;
    some.min(ALL)
}

fn random_id() -> NonZeroU64 {
    let id = RandomIdGenerator::default().new_span_id();
    // None is zero (W3C Trace Context, 3.2.2.4).
    NonZeroU64::new(u64::from_be_bytes(id.to_bytes())).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const RECORDED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT_RECORDED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn tracer(sample: &str) -> Tracer {
        let text = format!("[traces]\nurl = \"http://127.0.0.1:1\"\nsample = {sample}");
        let config = Config::parse(&text, "test", std::iter::empty()).unwrap();
        Tracer::new(&config.traces).unwrap().unwrap()
    }

    fn begin(tracer: &Tracer, traceparents: &[&str]) -> Option<Context> {
        tracer.begin(traceparents.iter().map(|text| text.as_bytes()))
    }

    fn text(call: &TracedCall) -> &str {
        call.traceparent().as_str()
    }

    #[test]
    fn whoever_began_a_trace_decides_whether_it_is_recorded() {
        for sample in ["0", "1", "0.5"] {
            let tracer = tracer(sample);
            let call = begin(&tracer, &[RECORDED]).unwrap().call().unwrap();
            assert!(text(&call).starts_with(&format!("00-{TRACE}-")) && text(&call).ends_with("-01"), "{call:?}");
            assert!(!text(&call).contains("00f067aa0ba902b7"), "a call is a span of its own");
            assert!(call.replaces(b"Traceparent") && !call.replaces(b"tracestate"));
            let context = begin(&tracer, &[NOT_RECORDED]).unwrap();
            assert_eq!((context.call(), context.trace().to_string().as_str()), (None, TRACE));
        }
    }

    #[test]
    fn of_requests_without_a_trace_so_many_begin_one_as_were_asked_for() {
        let begun = |sample: &str| {
            let tracer = tracer(sample);
            (0..10_000).filter(|_| begin(&tracer, &[]).is_some()).count()
        };
        assert_eq!((begun("0"), begun("0.0"), begun("1"), begun("1.0")), (0, 0, 10_000, 10_000));
        // Nine standard deviations to either side.
        assert!((2_600..=3_400).contains(&begun("0.3")));
    }

    #[test]
    fn a_request_with_no_valid_traceparent_begins_a_trace_of_its_own() {
        let tracer = tracer("1");
        for wrong in [vec!["00-zz"], vec![RECORDED, RECORDED]] {
            let call = begin(&tracer, &wrong).unwrap().call().unwrap();
            assert!(!text(&call).contains(TRACE));
            assert!(call.replaces(b"traceparent") && call.replaces(b"TraceState"), "nothing of another trace");
        }
    }

    #[test]
    fn what_no_collector_asked_for_is_passed_and_never_recorded() {
        let context = Context::passing([RECORDED.as_bytes()].into_iter()).unwrap();
        assert_eq!((context.trace().to_string().as_str(), context.call()), (TRACE, None));
        let none = Config::parse("", "test", std::iter::empty()).unwrap();
        assert!(Tracer::new(&none.traces).unwrap().is_none());
    }

    #[test]
    fn a_share_of_all_is_a_share_of_the_random_bits() {
        assert_eq!((threshold(0.0), threshold(0.5), threshold(1.0)), (0, 1 << 62, 1 << 63));
    }
}
