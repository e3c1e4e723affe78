//! Everything that the sandbox knows, and what each route does to it.

use http::{Request, StatusCode};
use serde_json::{Map, Value, json};

use super::Options;
use super::bounded::Bounded;
use super::caller::Caller;
use super::fate::Fate;
use super::limits::{self, Codes, Quota, Requests};
use super::profiles::{self, Profiles};
use super::replays::Replays;
use super::reply::{Refusal, Reply};
use super::route::Route;
use super::verification::{Ask, Status, Verification};
use crate::clock::Moment;
use crate::phone::Phone;
use crate::policy::subject::{Account, HashKey};

/// How many verifications a list shows that does not say.
const LIST_DEFAULT: usize = 20;
const LIST_MOST: usize = 100;

/// What the sandbox keeps. One lock guards all of it: no request holds it longer than it takes to write an answer.
pub(super) struct State {
    options: Options,
    secret: HashKey,
    /// Ids and codes drawn so far.
    drawn: u64,
    /// Codes sent so far.
    pub(super) sent: u64,
    verifications: Bounded<String, Verification>,
    phones: Bounded<Phone, Codes>,
    accounts: Bounded<Account, Codes>,
    requests: Bounded<Account, Requests>,
    profiles: Profiles,
    pub(super) replays: Replays,
}

impl State {
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
        self.phones.get(&phone).map_or(0, Codes::total)
    }

    /// Counts a request, whatever it asks for.
    pub(super) fn count(&mut self, caller: &Caller, now: Moment) -> Quota {
        self.requests.update(caller.account, |requests| requests.count(caller.live, now))
    }

    /// Does what a route asks for.
    pub(super) fn run<B: AsRef<[u8]>>(
        &mut self,
        caller: &Caller,
        route: Route,
        request: &Request<B>,
        now: Moment,
    ) -> Result<Reply, Refusal> {
        match route {
            Route::Send => self.send(caller, Ask::read(&fields(request)?)?, now),
            Route::Resend(id) => {
                may_be_empty(request.body().as_ref())?;
                self.resend(caller, &id, now)
            }
            Route::Check(id) => self.check(caller, &id, &fields(request)?, now),
            Route::Get(id) => self.found(caller, &id, now).map(|found| Reply::new(StatusCode::OK, found.told())),
            Route::List => self.list(caller, request.uri().query().unwrap_or_default(), now),
            Route::Profiles => Ok(self.profiles.list(caller)),
            Route::NewProfile => {
                let id = self.draw_id("vp_");
                self.profiles.create(caller, id, fields(request)?, now)
            }
            Route::Profile(id) => self.profiles.get(caller, &id),
            Route::ChangeProfile(id) => self.profiles.change(caller, &id, fields(request)?, now),
            Route::DeleteProfile(id) => self.profiles.delete(caller, &id),
            Route::NewSession => profiles::new_session(&self.draw_id("vs_"), &fields(request)?, now),
            Route::ValidateSession => profiles::validate_session(&fields(request)?),
        }
    }

    fn send(&mut self, caller: &Caller, ask: Ask, now: Moment) -> Result<Reply, Refusal> {
        self.admit(ask.to, caller.account, now)?;
        let id = self.draw_id("ver_");
        let code = self.draw_code(ask.code_length);
        self.hand_over(Verification::new(id, code, caller, ask, now), StatusCode::CREATED, now)
    }

    fn resend(&mut self, caller: &Caller, id: &str, now: Moment) -> Result<Reply, Refusal> {
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
    fn admit(&self, phone: Phone, account: Account, now: Moment) -> Result<(), Refusal> {
        if let Some(refusal) = Fate::of(phone).refusal() {
            return Err(refusal);
        }
        if self.options.limits {
            self.phones.get(&phone).map_or(Ok(()), |codes| codes.fit(&limits::PHONE, now))?;
            self.accounts.get(&account).map_or(Ok(()), |codes| codes.fit(&limits::ACCOUNT, now))?;
        }
        Ok(())
    }

    /// Hands a verification's code to the carrier, and keeps it.
    fn hand_over(&mut self, mut verification: Verification, status: StatusCode, now: Moment) -> Result<Reply, Refusal> {
        let (phone, fate) = (verification.ask.to, Fate::of(verification.ask.to));
        let outcome = match fate {
            Fate::NotHandedOver => Err(Refusal::DeliveryFailed),
            Fate::Broken => Err(Refusal::Internal),
            _ => Ok(Reply::new(status, verification.shown()).leaving(fate.leaves())),
        };
        if fate == Fate::NotHandedOver {
            verification.fail();
        } else {
            verification.delivered = fate != Fate::Undelivered;
            self.sent += 1;
            self.phones.update(phone, |codes| codes.record(now));
            self.accounts.update(verification.account, |codes| codes.record(now));
            tracing::info!(%phone, total = self.sent, "sandbox: a code went out");
        }
        self.verifications.insert(verification.id.clone(), verification);
        outcome
    }

    fn check(&mut self, caller: &Caller, id: &str, fields: &Map<String, Value>, now: Moment) -> Result<Reply, Refusal> {
        let Some(Value::String(code)) = fields.get("code") else {
            return Err(Refusal::InvalidRequest("`code` is required, as a string."));
        };
        let found = self.found(caller, id, now)?;
        found.check(code, now)?;
        Ok(Reply::new(StatusCode::OK, found.confirmed()))
    }

    fn list(&mut self, caller: &Caller, query: &str, now: Moment) -> Result<Reply, Refusal> {
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
        let asked_for =
            |each: &&Verification| each.account == caller.account && wanted.is_none_or(|status| each.status == status);
        let mut found = self.verifications.newest_first().filter(asked_for).map(Verification::told);
        let verifications: Vec<Value> = found.by_ref().take(limit).collect();
        let pagination = json!({ "limit": limit, "has_more": found.next().is_some() });
        Ok(Reply::new(StatusCode::OK, json!({ "verifications": verifications, "pagination": pagination })))
    }

    /// The caller's own verification, looked at. Another account's is not there.
    fn found(&mut self, caller: &Caller, id: &str, now: Moment) -> Result<&mut Verification, Refusal> {
        let found = self.verifications.get_mut(&id.to_owned()).filter(|found| found.account == caller.account);
        let found = found.ok_or(Refusal::NotFound)?;
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

const BAD_LIMIT: Refusal = Refusal::InvalidRequest("`limit` must be from 1 to 100.");
const BAD_STATUS: Refusal = Refusal::InvalidRequest("`status` must be pending, verified, expired or failed.");

/// The fields of a JSON body. Of a key that stands there twice the last one counts, as in JavaScript.
fn fields<B: AsRef<[u8]>>(request: &Request<B>) -> Result<Map<String, Value>, Refusal> {
    let media = request.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::InvalidRequest("Content-Type must be application/json."));
    }
    serde_json::from_slice(request.body().as_ref())
        .map_err(|_| Refusal::InvalidRequest("The body must be a JSON object."))
}

/// A resend needs no body; what SDKs send instead of none is empty, `{}` or `[]`. Some send `null`, and are refused.
fn may_be_empty(body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() {
        return Ok(());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(_) | Value::Array(_)) => Ok(()),
        _ => Err(Refusal::InvalidRequest("The body must be empty, or a JSON object.")),
    }
}
