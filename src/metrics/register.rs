//! Making metrics: each gets the gateway's prefix and is registered, and a family's series are looked up here and nowhere else.

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What cannot be registered: never one of the names that are written in these modules; tests register them all.
pub(super) type Result<T> = std::result::Result<T, prometheus::Error>;

/// Registers metrics under the gateway's prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Register<'r>(pub(super) &'r Registry);

impl Register<'_> {
    pub(super) fn counter(self, name: &str, help: &str) -> Result<IntCounter> {
        self.keep(IntCounter::with_opts(opts(name, help))?)
    }

    pub(super) fn counters(self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.keep(IntCounterVec::new(opts(name, help), labels)?)
    }

    pub(super) fn gauge(self, name: &str, help: &str) -> Result<IntGauge> {
        self.keep(IntGauge::with_opts(opts(name, help))?)
    }

    /// A gauge of seconds, or of what else is no whole number.
    pub(super) fn float_gauge(self, name: &str, help: &str) -> Result<Gauge> {
        self.keep(Gauge::with_opts(opts(name, help))?)
    }

    pub(super) fn histogram(self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.keep(Histogram::with_opts(HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec()))?)
    }

    pub(super) fn histograms(self, name: &str, help: &str, label: &str, buckets: &[f64]) -> Result<HistogramVec> {
        self.keep(HistogramVec::new(HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec()), &[label])?)
    }

    /// Always 1: what it tells stands in its labels.
    pub(super) fn info(self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<()> {
        let opts = labels.iter().fold(opts(name, help), |opts, (label, value)| opts.const_label(*label, *value));
        self.keep(IntGauge::with_opts(opts)?)?.set(1);
        Ok(())
    }

    fn keep<C: Collector + Clone + 'static>(self, collector: C) -> Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("sendly_gateway_{name}"), help)
}
