//! What follows from the configuration: everything that a reload replaces, in one piece.
//!
//! A request takes it once, when its head has been read, and ends with it: nothing that it meets on its way comes from another
//! configuration. What outlives a reload (the ledger, the clock, the exchanges that a retry may repeat, the metrics' registry) is the
//! gateway's own.

use std::sync::Arc;

use super::refusals::Refusals;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::metrics::{Metrics, Series};
use crate::policy::Policy;
use crate::throttle::Throttles;
use crate::tls_roots::Authorities;
use crate::trace::Tracer;
use crate::upstream::peer::Peer;
use crate::upstream::{Sendly, authorities};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) config: Config,
    pub(crate) policy: Policy,
    /// The same for exempt phones.
    pub(crate) exempting: Policy,
    pub(crate) throttles: Throttles,
    pub(crate) refusals: Refusals,
    pub(crate) series: Series,
    /// Kept by a reload that changes nothing about it, and its connections with it.
    pub(crate) upstream: Arc<UpstreamClients>,
    /// Kept in the same way.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// The two ways to Sendly: for codes and look-ups, and for what is passed through.
#[derive(Debug)]
pub(crate) struct UpstreamClients {
    pub(crate) sendly: Sendly,
    pub(crate) peer: Peer,
    authorities: Arc<Authorities>,
    /// Whom pingora's connector was told to trust, when the process started.
    at_start: Arc<Authorities>,
}

impl UpstreamClients {
    fn new(config: &config::Upstream, clock: &Clock) -> Result<Self, String> {
        let authorities = Arc::new(authorities(config)?);
        Ok(Self {
            sendly: Sendly::trusting(config, &authorities, clock.clone())?,
            peer: Peer::new(config)?,
            at_start: Arc::clone(&authorities),
            authorities,
        })
    }

    /// Another in its place.
    fn succeed(&self, config: &config::Upstream, authorities: Authorities, clock: &Clock) -> Result<Self, String> {
        let others = Some(&authorities).filter(|authorities| **authorities != *self.at_start);
        Ok(Self {
            sendly: Sendly::trusting(config, &authorities, clock.clone())?,
            peer: self.peer.succeed(config, others)?,
            at_start: Arc::clone(&self.at_start),
            authorities: Arc::new(authorities),
        })
    }
}

/// What would keep a gateway from starting with this configuration, as far as files tell.
pub(crate) fn examine(config: &Config, clock: &Clock) -> Vec<String> {
    let upstream = UpstreamClients::new(&config.upstream, clock).err();
    // How Redis is reached is its client's own: only the file is looked at here.
    let ledger = config.ledger.ca_file.as_deref().map(|file| Authorities::of(true, Some(file))).and_then(Result::err);
    upstream.into_iter().chain(ledger).chain(Tracer::new(&config.traces).err()).collect()
}

impl Settings {
    /// # Errors
    /// What is wrong with the way to Sendly, or to the collector of traces.
    pub(crate) fn new(config: Config, metrics: &Metrics, clock: &Clock) -> Result<Self, String> {
        let upstream = Arc::new(UpstreamClients::new(&config.upstream, clock)?);
        let throttles = Throttles::new(&config.throttles, clock);
        let policy = Policy::new(config.limits.clone());
        let tracer = Tracer::new(&config.traces)?.map(Arc::new);
        Ok(Self::of(config, policy, throttles, upstream, tracer, metrics))
    }

    /// What follows from another configuration, where these are in force. It reads files, and waits for them.
    ///
    /// # Errors
    /// What is wrong with the way to Sendly, or to the collector of traces.
    pub(crate) fn succeed(&self, config: Config, metrics: &Metrics, clock: &Clock) -> Result<Self, String> {
        let authorities = authorities(&config.upstream)?;
        let upstream = if config.upstream == self.config.upstream && authorities == *self.upstream.authorities {
            Arc::clone(&self.upstream)
        } else {
            Arc::new(self.upstream.succeed(&config.upstream, authorities, clock)?)
        };
        let throttles = self.throttles.succeed(&config.throttles, clock);
        let policy = self.policy.succeed(config.limits.clone(), clock.now());
        let tracer = Tracer::new(&config.traces)?.map(|tracer| match &self.tracer {
            Some(same) if same.is_as(&tracer) => Arc::clone(same),
            _ => Arc::new(tracer),
        });
        Ok(Self::of(config, policy, throttles, upstream, tracer, metrics))
    }

    fn of(
        config: Config,
        policy: Policy,
        throttles: Throttles,
        upstream: Arc<UpstreamClients>,
        tracer: Option<Arc<Tracer>>,
        metrics: &Metrics,
    ) -> Self {
        let names = config.throttles.iter().map(|throttle| throttle.name.as_str());
        Self {
            series: metrics.series(&policy, names, config.tariff.clone()),
            refusals: Refusals::new(&policy, config.replies.ratelimit_headers),
            exempting: policy.for_exempt_phones(),
            policy,
            throttles,
            upstream,
            tracer,
            config,
        }
    }

    /// The same, with nothing kept for limits that they have replaced.
    pub(crate) fn without_past(&self) -> Self {
        Self { policy: self.policy.without_past(), exempting: self.exempting.without_past(), ..self.clone() }
    }

    /// The configuration that they follow from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Finds Sendly's addresses, unless one is known. Returns whether one is now.
    pub async fn find_upstream(&self) -> bool {
        self.knows_upstream() || self.upstream.peer.resolve().await
    }

    /// Whether any of Sendly's addresses is known.
    pub fn knows_upstream(&self) -> bool {
        self.upstream.peer.is_known()
    }
}
