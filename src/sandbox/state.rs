//! Everything that the sandbox knows, and what each route does to it.

use http::{Request, StatusCode};
use serde_json::{Map, Value, json};

use super::Options;
use super::bounded::Bounded;
use super::caller::ApiCaller;
use super::fate::PhoneFate;
use super::limits::{self, Quota, Requests, SentCodes};
use super::profiles::{self, Profiles};
use super::replays::Replays;
use super::reply::{SandboxRefusal, SandboxReply};
use super::route::SandboxRoute;
use super::verification::{Ask, Status, StoredVerification};
use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::{Account, HashKey};

/// How many verifications a list shows that does not say.
const LIST_DEFAULT: usize = 20;
const LIST_MOST: usize = 100;

/// What the sandbox keeps. One lock guards all of it: no request holds it longer than it takes to write an answer.
pub(super) struct SandboxState {
    options: Options,
    secret: HashKey,
    /// Ids and codes drawn so far.
    drawn: u64,
    /// Codes sent so far.
    pub(super) sent: u64,
    verifications: Bounded<String, StoredVerification>,
    phones: Bounded<Phone, SentCodes>,
    accounts: Bounded<Account, SentCodes>,
    requests: Bounded<Account, Requests>,
    profiles: Profiles,
    pub(super) replays: Replays,
}

impl SandboxState {
    pub(super) fn new(options: Options, secret: HashKey) -> Self {
        Self {
            options,
            secret,
            drawn: 0,
            sent: 0,
            verifications: Bounded::new(options.capacity),
            phones: Bounded::new(options.capacity),
            accounts: Bounded::new(options.capacity),
            requests: Bounded::new(options.capacity),
            profiles: Profiles::new(),
            replays: Replays::new(options.capacity),
        }
    }

    /// Codes that this phone was sent.
    pub(super) fn sent_to(&self, phone: Phone) -> u64 {
        self.phones.get(&phone).map_or(0, SentCodes::total)
    }

    /// Counts a request, whatever it asks for.
    pub(super) fn count(&mut self, caller: &ApiCaller, now: Moment) -> Quota {
        self.requests.update(caller.account, |requests| requests.count(caller.live, now))
    }

    /// Does what a route asks for.
    pub(super) fn run<B: AsRef<[u8]>>(
        &mut self,
        caller: &ApiCaller,
        route: SandboxRoute,
        request: &Request<B>,
        now: Moment,
    ) -> Result<SandboxReply, SandboxRefusal> {
        match route {
            SandboxRoute::Send => self.send(caller, Ask::read(&fields(request)?)?, now),
            SandboxRoute::Resend(id) => {
                may_be_empty(request.body().as_ref())?;
                self.resend(caller, &id, now)
            }
            SandboxRoute::Check(id) => self.check(caller, &id, &fields(request)?, now),
            SandboxRoute::Get(id) => {
                self.found(caller, &id, now).map(|found| SandboxReply::new(StatusCode::OK, found.told()))
            }
            SandboxRoute::List => self.list(caller, request.uri().query().unwrap_or_default(), now),
            SandboxRoute::Profiles => Ok(self.profiles.list(caller)),
            SandboxRoute::NewProfile => {
                let id = self.draw_id("vp_");
                self.profiles.create(caller, id, fields(request)?, now)
            }
            SandboxRoute::Profile(id) => self.profiles.get(caller, &id),
            SandboxRoute::ChangeProfile(id) => self.profiles.change(caller, &id, fields(request)?, now),
            SandboxRoute::DeleteProfile(id) => self.profiles.delete(caller, &id),
            SandboxRoute::NewSession => profiles::new_session(&self.draw_id("vs_"), &fields(request)?, now),
            SandboxRoute::ValidateSession => profiles::validate_session(&fields(request)?),
        }
    }

    fn send(&mut self, caller: &ApiCaller, ask: Ask, now: Moment) -> Result<SandboxReply, SandboxRefusal> {
        self.admit(ask.to, caller.account, now)?;
        let id = self.draw_id("ver_");
        let code = self.draw_code(ask.code_length);
        self.hand_over(StoredVerification::new(id, code, caller, ask, now), StatusCode::CREATED, now)
    }

    fn resend(&mut self, caller: &ApiCaller, id: &str, now: Moment) -> Result<SandboxReply, SandboxRefusal> {
        let found = self.found(caller, id, now)?;
        found.may_resend()?;
        let mut verification = found.clone();
        self.admit(verification.ask.to, caller.account, now)?;
        let mut code = self.draw_code(verification.ask.code_length);
        while code == verification.code {
            code = self.draw_code(verification.ask.code_length);
        }
        verification.renew(code, now);
        if self.options.renew_ids {
            verification.id = self.draw_id("ver_");
            verification.created_at = now;
        }
        self.hand_over(verification, StatusCode::OK, now)
    }

    /// Whether a code may go out at all. A refusal changes nothing, and uses up no budget.
    fn admit(&self, phone: Phone, account: Account, now: Moment) -> Result<(), SandboxRefusal> {
        if let Some(refusal) = PhoneFate::of(phone).refusal() {
            return Err(refusal);
        }
        if self.options.limits {
            self.phones.get(&phone).map_or(Ok(()), |codes| codes.fit(&limits::PHONE, now))?;
            self.accounts.get(&account).map_or(Ok(()), |codes| codes.fit(&limits::ACCOUNT, now))?;
        }
        Ok(())
    }

    /// Hands a verification's code to the carrier, and keeps it.
    fn hand_over(
        &mut self,
        mut verification: StoredVerification,
        status: StatusCode,
        now: Moment,
    ) -> Result<SandboxReply, SandboxRefusal> {
        let (phone, fate) = (verification.ask.to, PhoneFate::of(verification.ask.to));
        let outcome = match fate {
            PhoneFate::NotHandedOver => Err(SandboxRefusal::DeliveryFailed),
            PhoneFate::Broken => Err(SandboxRefusal::Internal),
            _ => Ok(SandboxReply::new(status, verification.shown()).leaving(fate.leaves())),
        };
        if fate == PhoneFate::NotHandedOver {
            verification.fail();
        } else {
            verification.delivered = fate != PhoneFate::Undelivered;
            self.sent += 1;
            self.phones.update(phone, |codes| codes.record(now));
            self.accounts.update(verification.account, |codes| codes.record(now));
            tracing::info!(%phone, total = self.sent, "sandbox: a code went out");
        }
        self.verifications.insert(verification.id.clone(), verification);
        outcome
    }

    fn check(
        &mut self,
        caller: &ApiCaller,
        id: &str,
        fields: &Map<String, Value>,
        now: Moment,
    ) -> Result<SandboxReply, SandboxRefusal> {
        let Some(Value::String(code)) = fields.get("code") else {
            return Err(SandboxRefusal::InvalidRequest("`code` is required, as a string."));
        };
        let found = self.found(caller, id, now)?;
        found.check(code, now)?;
        Ok(SandboxReply::new(StatusCode::OK, found.confirmed()))
    }

    fn list(&mut self, caller: &ApiCaller, query: &str, now: Moment) -> Result<SandboxReply, SandboxRefusal> {
        let (mut limit, mut wanted) = (LIST_DEFAULT, None);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "limit" => {
                    limit = value.parse().ok().filter(|limit| (1..=LIST_MOST).contains(limit)).ok_or(BAD_LIMIT)?;
                }
                "status" => wanted = Some(Status::named(value).ok_or(BAD_STATUS)?),
                _ => {}
            }
        }
        self.verifications.values_mut().filter(|each| each.account == caller.account).for_each(|each| each.look(now));
        let asked_for = |each: &&StoredVerification| {
            each.account == caller.account && wanted.is_none_or(|status| each.status == status)
        };
        let mut found = self.verifications.newest_first().filter(asked_for).map(StoredVerification::told);
        let verifications: Vec<Value> = found.by_ref().take(limit).collect();
        let pagination = json!({ "limit": limit, "has_more": found.next().is_some() });
        Ok(SandboxReply::new(StatusCode::OK, json!({ "verifications": verifications, "pagination": pagination })))
    }

    /// The caller's own verification, looked at. Another account's is not there.
    fn found(&mut self, caller: &ApiCaller, id: &str, now: Moment) -> Result<&mut StoredVerification, SandboxRefusal> {
        let found = self.verifications.get_mut(&id.to_owned()).filter(|found| found.account == caller.account);
        let found = found.ok_or(SandboxRefusal::NotFound)?;
        found.look(now);
        Ok(found)
    }

    fn draw_id(&mut self, prefix: &str) -> String {
        format!("{prefix}{:032x}", self.draw(b"id"))
    }

    fn draw_code(&mut self, length: u32) -> String {
        let codes = 10_u128.saturating_pow(length);
        format!("{:0width$}", self.draw(b"code") % codes, width = length as usize)
    }

    /// A number that nobody can tell from the ones before it: the secret is random, and never shown.
    fn draw(&mut self, domain: &[u8]) -> u128 {
        self.drawn += 1;
        self.secret.hash(domain, [self.drawn.to_le_bytes().as_slice()])
    }
}

const BAD_LIMIT: SandboxRefusal = SandboxRefusal::InvalidRequest("`limit` must be from 1 to 100.");
const BAD_STATUS: SandboxRefusal =
    SandboxRefusal::InvalidRequest("`status` must be pending, verified, expired or failed.");

/// The fields of a JSON body. Of a key that stands there twice the last one counts, as in JavaScript.
fn fields<B: AsRef<[u8]>>(request: &Request<B>) -> Result<Map<String, Value>, SandboxRefusal> {
    let media = request.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(SandboxRefusal::InvalidRequest("Content-Type must be application/json."));
    }
    serde_json::from_slice(request.body().as_ref())
        .map_err(|_| SandboxRefusal::InvalidRequest("The body must be a JSON object."))
}

/// A resend needs no body; what SDKs send instead of none is empty, `{}` or `[]`. Some send `null`, and are refused.
fn may_be_empty(body: &[u8]) -> Result<(), SandboxRefusal> {
    if body.is_empty() {
        return Ok(());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(_) | Value::Array(_)) => Ok(()),
        _ => Err(SandboxRefusal::InvalidRequest("The body must be empty, or a JSON object.")),
    }
}
