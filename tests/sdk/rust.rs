//! Sendly's Rust SDK, which needs no driver.

use std::time::Duration;

use sendly::{Error, SendVerificationRequest, SendVerificationResponse, Sendly, SendlyConfig};
use sendly_gateway::clock::Clock;
use tokio::runtime::Runtime;

use crate::client::Outcome;

pub(crate) struct Client {
    sendly: Sendly,
    runtime: Runtime,
    clock: Clock,
}

impl Client {
    pub(crate) fn new(api_key: &str, base_url: &str, timeout: Duration) -> Self {
        let config = SendlyConfig::new().base_url(base_url).timeout(timeout);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { sendly: Sendly::with_config(api_key, config), runtime, clock: Clock::system() }
    }

    pub(crate) fn send(&self, to: &str) -> Outcome {
        self.outcome(self.sendly.verify().send(SendVerificationRequest::new(to)), sent)
    }

    pub(crate) fn resend(&self, id: &str) -> Outcome {
        self.outcome(self.sendly.verify().resend(id), sent)
    }

    pub(crate) fn check(&self, id: &str, code: &str) -> Outcome {
        self.outcome(self.sendly.verify().check(id, code), |checked| Outcome {
            id: Some(checked.id),
            phone: Some(checked.phone),
            status: Some(checked.status.to_string()),
            ..Outcome::default()
        })
    }

    pub(crate) fn get(&self, id: &str) -> Outcome {
        self.outcome(self.sendly.verify().get(id), |verification| Outcome {
            id: Some(verification.id),
            phone: Some(verification.phone),
            status: Some(verification.status.to_string()),
            delivery_status: Some(format!("{:?}", verification.delivery_status).to_lowercase()),
            ..Outcome::default()
        })
    }

    fn outcome<T>(
        &self,
        call: impl Future<Output = Result<T, Error>>,
        succeeded: impl FnOnce(T) -> Outcome,
    ) -> Outcome {
        let began = self.clock.now();
        let result = self.runtime.block_on(call);
        let elapsed_ms = self.clock.now().since(began).as_millis().try_into().unwrap();
        match result {
            Ok(answer) => Outcome { ok: true, elapsed_ms, ..succeeded(answer) },
            Err(error) => Outcome { elapsed_ms, ..failed(&error) },
        }
    }
}

fn sent(answer: SendVerificationResponse) -> Outcome {
    Outcome {
        id: Some(answer.id),
        phone: Some(answer.phone),
        status: Some(answer.status.to_string()),
        sandbox_code: answer.sandbox_code,
        ..Outcome::default()
    }
}

fn failed(error: &Error) -> Outcome {
    // The SDK gives a status for some errors only; for these the variant stands for it.
    let (class, http) = match error {
        Error::Authentication { .. } => ("Authentication", Some(401)),
        Error::InsufficientCredits { .. } => ("InsufficientCredits", Some(402)),
        Error::NotFound { .. } => ("NotFound", Some(404)),
        Error::RateLimit { .. } => ("RateLimit", Some(429)),
        Error::Validation { .. } => ("Validation", Some(400)),
        Error::Api { status_code, .. } => ("Api", Some(*status_code)),
        Error::Timeout => ("Timeout", None),
        _ => ("other", None),
    };
    Outcome {
        class: class.to_owned(),
        code: error.code().map(str::to_owned),
        http,
        retry_after: error.retry_after(),
        remaining_attempts: error.remaining_attempts().map(|left| left.try_into().unwrap()),
        message: Some(error.to_string()),
        ..Outcome::default()
    }
}
