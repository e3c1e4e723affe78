//! What operators ask of a gateway, and what they may change in it. No request comes this way.

use super::Gateway;
use super::exemptions::Exemptions;
use crate::clock::Moment;
use crate::config::{Config, Token};
use crate::ledger::{Cleared, Known, Look};
use crate::metrics::Metrics;
use crate::metrics::refused::Refused;
use crate::metrics::sample::Sample;
use crate::phone::Phone;
use crate::policy::{Key, Limit};

impl Gateway {
    /// The configuration that is in force.
    pub fn config(&self) -> Config {
        self.settings().config().clone()
    }

    /// The limits that are in force, in their order.
    pub fn limits(&self) -> Vec<Limit> {
        self.settings().policy.limits().to_vec()
    }

    /// What has to be shown to the admin API.
    pub fn admin_token(&self) -> Option<Token> {
        self.settings().config.admin.token.clone()
    }

    /// The time that it goes by.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// How a key stands.
    pub async fn look(&self, key: Key) -> Look {
        self.ledger.look(&self.settings().policy, key, self.now()).await
    }

    /// Gives a phone its full limits again, and ends its hold and its verifications' cooldowns.
    pub async fn clear(&self, phone: Phone) -> Cleared {
        let was_held = self.clear_holds(phone);
        let cleared = self.ledger.clear_phone(&self.settings().policy, phone, self.now()).await;
        Cleared { hold: cleared.hold || was_held, ..cleared }
    }

    /// What is known of the verification with this id, and whether that is the id under which it was met first.
    pub async fn whose(&self, id: &str) -> Option<(Known, bool)> {
        let verification = self.hash_key.verification(id);
        let known = self.ledger.whose(verification, self.now()).await?;
        Some((known, known.root == verification))
    }

    /// The phones that no limit refuses.
    pub fn exemptions(&self) -> &Exemptions {
        &self.exemptions
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What is counted, as of now.
    pub fn sample(&self) -> Sample {
        self.metrics.sample(&self.settings().series)
    }

    /// Whom limits refused of late.
    pub fn refused(&self) -> &Refused {
        self.metrics.whom()
    }
}
