//! Profiles and hosted sessions: what sits where an id sits, as small as it can be and still be there.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::bounded::Bounded;
use super::caller::ApiCaller;
use super::reply::{SandboxRefusal, SandboxReply};
use crate::clock::Moment;
use crate::policy::subject::Account;

/// Profiles that are kept, over all accounts.
const CAPACITY: usize = 1000;

/// The most that a profile's fields may have, in bytes.
const MAX_FIELDS: usize = 4096;

/// The profiles of all accounts.
#[derive(Debug)]
pub(super) struct Profiles(Bounded<String, (Account, Map<String, Value>)>);

impl Profiles {
    pub(super) fn new() -> Self {
        Self(Bounded::new(CAPACITY))
    }

    /// Keeps whatever fields it is given, under `id`.
    pub(super) fn create(
        &mut self,
        caller: &ApiCaller,
        id: String,
        fields: Map<String, Value>,
        now: Moment,
    ) -> Result<SandboxReply, SandboxRefusal> {
        if !fields.get("name").is_some_and(Value::is_string) {
            return Err(SandboxRefusal::InvalidRequest("`name` is required."));
        }
        let own = [("id", Value::from(id.clone())), ("created_at", now.to_string().into())];
        let profile = merged(fields, own, now)?;
        self.0.insert(id, (caller.account, profile.clone()));
        Ok(SandboxReply::new(StatusCode::CREATED, profile.into()))
    }

    pub(super) fn list(&self, caller: &ApiCaller) -> SandboxReply {
        let mine: Vec<_> = self.0.newest_first().filter(|(account, _)| *account == caller.account).collect();
        let profiles: Vec<_> = mine.into_iter().map(|(_, profile)| profile).collect();
        SandboxReply::new(StatusCode::OK, json!({ "profiles": profiles }))
    }

    pub(super) fn get(&self, caller: &ApiCaller, id: &String) -> Result<SandboxReply, SandboxRefusal> {
        match self.0.get(id) {
            Some((account, profile)) if *account == caller.account => {
                Ok(SandboxReply::new(StatusCode::OK, profile.clone().into()))
            }
            _ => Err(SandboxRefusal::NotFound),
        }
    }

    /// Merges the fields that it is given; PUT and PATCH are the same here.
    pub(super) fn change(
        &mut self,
        caller: &ApiCaller,
        id: &String,
        fields: Map<String, Value>,
        now: Moment,
    ) -> Result<SandboxReply, SandboxRefusal> {
        let Some((_, profile)) = self.0.get_mut(id).filter(|(account, _)| *account == caller.account) else {
            return Err(SandboxRefusal::NotFound);
        };
        let own = ["id", "created_at"].map(|name| (name, profile.get(name).cloned().unwrap_or_default()));
        let mut changed = profile.clone();
        changed.extend(fields);
        *profile = merged(changed, own, now)?;
        Ok(SandboxReply::new(StatusCode::OK, profile.clone().into()))
    }

    pub(super) fn delete(&mut self, caller: &ApiCaller, id: &String) -> Result<SandboxReply, SandboxRefusal> {
        self.get(caller, id)?;
        self.0.remove(id);
        Ok(SandboxReply::empty())
    }
}

/// A profile of these fields: those of Sendly's own win.
fn merged(
    mut fields: Map<String, Value>,
    own: [(&str, Value); 2],
    now: Moment,
) -> Result<Map<String, Value>, SandboxRefusal> {
    fields.extend(own.map(|(name, value)| (name.to_owned(), value)));
    fields.insert("updated_at".to_owned(), now.to_string().into());
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    if size > MAX_FIELDS {
        return Err(SandboxRefusal::InvalidRequest("A profile may have 4 KiB."));
    }
    Ok(fields)
}

/// A hosted session that nobody can visit: the sandbox has no pages. It is not kept.
pub(super) fn new_session(id: &str, fields: &Map<String, Value>, now: Moment) -> Result<SandboxReply, SandboxRefusal> {
    if !fields.get("success_url").is_some_and(Value::is_string) {
        return Err(SandboxRefusal::InvalidRequest("`success_url` is required."));
    }
    let given = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let session = json!({
        "id": id,
        "url": format!("https://sendly.invalid/verify/{id}"),
        "status": "pending",
        "success_url": given("success_url"),
        "cancel_url": given("cancel_url"),
        "brand_name": given("brand_name"),
        "brand_color": given("brand_color"),
        "metadata": given("metadata"),
        "expires_at": (now + Duration::from_secs(1800)).to_string(),
        "created_at": now.to_string(),
    });
    Ok(SandboxReply::new(StatusCode::CREATED, session))
}

/// No session is ever completed here, so no token is valid.
pub(super) fn validate_session(fields: &Map<String, Value>) -> Result<SandboxReply, SandboxRefusal> {
    match fields.get("token") {
        Some(Value::String(_)) => Ok(SandboxReply::new(StatusCode::OK, json!({ "valid": false }))),
        _ => Err(SandboxRefusal::InvalidRequest("`token` is required.")),
    }
}
