//! Another configuration for a gateway that serves: first all that can go wrong, then all that takes effect.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::tls::{Certificate, Shown};
use crate::clock::Moment;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::settings::Settings;
use crate::metrics;

/// How long the name of another upstream may take to be resolved.
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);

/// What gives a running gateway another configuration. Cheap to clone; clones take turns.
#[derive(Clone, Debug)]
pub struct Reloader {
    pub(super) gateway: Arc<Gateway>,
    /// The certificate that is shown, where there is TLS.
    pub(super) shown: Option<Arc<Shown>>,
    pub(super) turn: Arc<Mutex<()>>,
}

/// A configuration that can be taken. Nothing of it is in force yet.
#[derive(Debug)]
pub struct Prepared {
    reload: Reloader,
    settings: Settings,
    certificate: Option<Certificate>,
    kept: Vec<&'static str>,
    differences: Vec<&'static str>,
    _turn: OwnedMutexGuard<()>,
}

/// What a configuration has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The sections that are not as they were.
    pub changed: Vec<&'static str>,
    /// The keys that take a restart, and are as they were.
    pub kept: Vec<&'static str>,
    /// The limits that ask for codes which may have been forgotten, each with the time from which it counts all that it asks for.
    pub catching_up: Vec<(String, Moment)>,
}

impl Reloader {
    /// The configuration that is in force.
    pub fn config(&self) -> Config {
        self.gateway.settings().config().clone()
    }

    /// Whether the configuration in force wants its files to be watched.
    pub fn is_watching(&self) -> bool {
        self.gateway.settings().config().reload.watch
    }

    /// Makes ready whatever follows from a configuration: reads certificates, resolves the upstream's name.
    ///
    /// # Errors
    /// All that is wrong with it, one thing each.
    pub async fn prepare(&self, mut config: Config) -> Result<Prepared, Vec<String>> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let before = self.gateway.settings();
        let kept = config.keep_what_is_fixed(before.config());
        let differences = config.differences(before.config());
        let gateway = Arc::clone(&self.gateway);
        // It reads files, maybe from afar: no request is to wait for that.
        let reading = tokio::task::spawn_blocking(move || {
            let certificate = config.tls.as_ref().map(Certificate::read).transpose();
            (certificate, gateway.prepare(config))
        });
        let (settings, certificate) = match reading.await.map_err(|error| vec![error.to_string()])? {
            (Ok(certificate), Ok(settings)) => (settings, certificate),
            (certificate, settings) => return Err(certificate.err().into_iter().chain(settings.err()).collect()),
        };
        // Before anybody is sent there.
        let known = tokio::time::timeout(RESOLVE_WITHIN, settings.find_upstream()).await;
        if !known.unwrap_or(false) && before.knows_upstream() {
            let host = &settings.config().upstream.origin.host;
            return Err(vec![format!("upstream.url: the name {host} cannot be resolved")]);
        }
        Ok(Prepared { reload: self.clone(), settings, certificate, kept, differences, _turn: turn })
    }

    /// A configuration could not be taken.
    pub fn reject(&self) {
        self.gateway.reloaded(metrics::ReloadResult::Rejected);
    }
}

impl Prepared {
    /// The configuration, as it will be in force.
    pub fn config(&self) -> &Config {
        self.settings.config()
    }

    /// Puts it in force, in one step for each request: one whose head has been read ends as it began.
    pub fn apply(self) -> Applied {
        let Reloader { gateway, shown, .. } = self.reload;
        if let (Some(shown), Some(certificate)) = (shown, self.certificate) {
            shown.show(&certificate);
            gateway.shows_certificate(certificate.expires);
        }
        let catching_up = gateway.adopt(self.settings);
        gateway.reloaded(match self.kept.is_empty() {
            true => metrics::ReloadResult::Applied,
            false => metrics::ReloadResult::Partial,
        });
        Applied { changed: self.differences, kept: self.kept, catching_up }
    }
}
