//! One verification and the states it goes through.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::caller::ApiCaller;
use super::reply::SandboxRefusal;
use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::Account;

/// Wrong codes that a verification takes.
const MAX_ATTEMPTS: u32 = 3;

/// The longest name or id that a send may carry, in bytes: verifications are kept, and there are many.
const MAX_TEXT: usize = 255;

/// What a send asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) to: Phone,
    timeout: Duration,
    pub(super) code_length: u32,
    app_name: Option<String>,
    template_id: Option<String>,
    profile_id: Option<String>,
}

impl Ask {
    /// What a send's body says. What is out of range is clamped; what is of the wrong type is refused.
    pub(super) fn read(fields: &Map<String, Value>) -> Result<Ask, SandboxRefusal> {
        let to = match fields.get("to") {
            Some(Value::String(to)) => to.parse().map_err(|_| SandboxRefusal::InvalidPhone)?,
            _ => return Err(SandboxRefusal::InvalidRequest("`to` is required: a phone number in E.164 format.")),
        };
        Ok(Ask {
            to,
            timeout: Duration::from_secs(clamped(fields.get("timeout_secs"), 300, 60, 3600)?.into()),
            code_length: clamped(fields.get("code_length"), 6, 4, 10)?,
            app_name: text(fields.get("app_name"))?,
            template_id: text(fields.get("template_id"))?,
            profile_id: text(fields.get("profile_id"))?,
        })
    }
}

fn clamped(value: Option<&Value>, default: u32, least: u32, most: u32) -> Result<u32, SandboxRefusal> {
    match value {
        None | Some(Value::Null) => Ok(default),
        // A float's cast saturates, and what it cuts off is clamped away or less than a second.
        Some(Value::Number(number)) => Ok((number.as_f64().unwrap_or_default() as u32).clamp(least, most)),
        Some(_) => Err(SandboxRefusal::InvalidRequest("`timeout_secs` and `code_length` must be numbers.")),
    }
}

fn text(value: Option<&Value>) -> Result<Option<String>, SandboxRefusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_TEXT => Ok(Some(text.clone())),
        Some(_) => Err(SandboxRefusal::InvalidRequest("Names and ids must be strings of at most 255 bytes.")),
    }
}

/// Where a verification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    Verified,
    Expired,
    Failed,
}

impl Status {
    const ALL: [Status; 4] = [Status::Pending, Status::Verified, Status::Expired, Status::Failed];

    const fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Verified => "verified",
            Status::Expired => "expired",
            Status::Failed => "failed",
        }
    }

    pub(super) fn named(name: &str) -> Option<Status> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A verification.
#[derive(Clone, Debug)]
pub(super) struct StoredVerification {
    pub(super) id: String,
    pub(super) account: Account,
    live: bool,
    pub(super) ask: Ask,
    pub(super) code: String,
    pub(super) status: Status,
    /// The carrier took the code, and it arrived. The sandbox knows no state between.
    pub(super) delivered: bool,
    attempts: u32,
    pub(super) created_at: Moment,
    expires_at: Moment,
    verified_at: Option<Moment>,
}

impl StoredVerification {
    pub(super) fn new(id: String, code: String, caller: &ApiCaller, ask: Ask, now: Moment) -> Self {
        Self {
            id,
            account: caller.account,
            live: caller.live,
            code,
            status: Status::Pending,
            delivered: true,
            attempts: 0,
            created_at: now,
            expires_at: now + ask.timeout,
            verified_at: None,
            ask,
        }
    }

    /// Looks at it: a pending one past its expiry is expired from then on. Whatever touches a verification looks first.
    pub(super) fn look(&mut self, now: Moment) {
        if self.status == Status::Pending && now >= self.expires_at {
            self.status = Status::Expired;
        }
    }

    /// Whether another code may go out for it. Not because a user just did not get the first one.
    pub(super) fn may_resend(&self) -> Result<(), SandboxRefusal> {
        match self.status {
            Status::Expired => Ok(()),
            Status::Pending if !self.delivered => Ok(()),
            Status::Pending => {
                Err(SandboxRefusal::InvalidState("The verification is still pending. Send a new one instead."))
            }
            Status::Verified => Err(SandboxRefusal::InvalidState("The verification is verified already.")),
            Status::Failed => Err(SandboxRefusal::InvalidState("The verification has failed. Send a new one instead.")),
        }
    }

    /// Begins anew with another code.
    pub(super) fn renew(&mut self, code: String, now: Moment) {
        self.code = code;
        self.status = Status::Pending;
        self.delivered = true;
        self.attempts = 0;
        self.expires_at = now + self.ask.timeout;
    }

    /// No carrier took the code.
    pub(super) fn fail(&mut self) {
        self.status = Status::Failed;
        self.delivered = false;
    }

    /// Is this the code?
    pub(super) fn check(&mut self, code: &str, now: Moment) -> Result<(), SandboxRefusal> {
        match self.status {
            Status::Pending => {}
            Status::Expired => return Err(SandboxRefusal::Expired),
            // Whoever asks again is told the same; any other code is wrong.
            Status::Verified if code == self.code => return Ok(()),
            Status::Verified => return Err(SandboxRefusal::InvalidCode { remaining: MAX_ATTEMPTS - self.attempts }),
            Status::Failed => return Err(SandboxRefusal::InvalidState("The verification has failed.")),
        }
        if self.attempts >= MAX_ATTEMPTS {
            return Err(SandboxRefusal::MaxAttempts);
        }
        if code != self.code {
            self.attempts += 1;
            return Err(SandboxRefusal::InvalidCode { remaining: MAX_ATTEMPTS - self.attempts });
        }
        self.status = Status::Verified;
        self.verified_at = Some(now);
        Ok(())
    }

    /// What a send or a resend answers.
    pub(super) fn shown(&self) -> Value {
        let mut shown = json!({
            "id": self.id,
            "status": self.status.name(),
            "phone": self.ask.to.to_e164(),
            "expires_at": self.expires_at.to_string(),
            "sandbox": !self.live,
        });
        if let (false, Some(fields)) = (self.live, shown.as_object_mut()) {
            fields.insert("sandbox_code".to_owned(), self.code.clone().into());
            fields.insert("message".to_owned(), "Test key: no SMS was sent. Use sandbox_code to verify.".into());
        }
        shown
    }

    /// What a successful check answers.
    pub(super) fn confirmed(&self) -> Value {
        json!({
            "id": self.id,
            "status": self.status.name(),
            "phone": self.ask.to.to_e164(),
            "verified_at": self.verified_at.map(|at| at.to_string()),
        })
    }

    /// What a get answers, and a list for each.
    pub(super) fn told(&self) -> Value {
        json!({
            "id": self.id,
            "status": self.status.name(),
            "phone": self.ask.to.to_e164(),
            "delivery_status": if self.delivered { "delivered" } else { "failed" },
            "attempts": self.attempts,
            "max_attempts": MAX_ATTEMPTS,
            "expires_at": self.expires_at.to_string(),
            "verified_at": self.verified_at.map(|at| at.to_string()),
            "created_at": self.created_at.to_string(),
            "sandbox": !self.live,
            "app_name": self.ask.app_name,
            "template_id": self.ask.template_id,
            "profile_id": self.ask.profile_id,
        })
    }
}
