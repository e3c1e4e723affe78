//! What is asked of a gateway that runs: each verb is a question to its admin API, and a table for people.

use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::ask::{Target, Where};
use super::table::{self, Table};
use super::{Failure, say};
use crate::phone::Phone;

/// How a phone stands with each limit.
#[derive(Debug, Args)]
pub(super) struct OfPhone {
    /// The phone, in E.164.
    #[arg(value_parser = phone)]
    phone: Phone,
    /// Clear its counts and its hold: it has all its limits again.
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    target: Target,
}

/// Show the phone and the cooldown of a verification.
#[derive(Debug, Args)]
pub(super) struct OfVerification {
    /// One of its ids.
    id: String,
    #[command(flatten)]
    target: Target,
}

/// Phones that no limit refuses.
#[derive(Debug, Subcommand)]
pub(super) enum Exempt {
    /// Exempt a phone for a while. Its codes are charged all the same, and Sendly's own refusals hold for it.
    Add {
        /// The phone, in E.164.
        #[arg(value_parser = phone)]
        phone: Phone,
        /// For how long: 1s to 7d.
        #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
        span: String,
        #[command(flatten)]
        target: Target,
    },
    /// End the exemption of a phone.
    Remove {
        /// The phone, in E.164.
        #[arg(value_parser = phone)]
        phone: Phone,
        #[command(flatten)]
        target: Target,
    },
    /// Show them, masked.
    List {
        #[command(flatten)]
        target: Target,
    },
}

/// A phone; its plus may be missing.
fn phone(text: &str) -> Result<Phone, String> {
    let phone = format!("+{}", text.strip_prefix('+').unwrap_or(text)).parse();
    phone.map_err(|_| "expected a phone in E.164 such as +15550100123".to_owned())
}

/// Asks, and shows what came: as it came, or as `table` makes it.
fn show(target: &Target, method: &Method, path: &str, table: impl FnOnce(&Value) -> String) -> Result<Value, Failure> {
    let value = target.ask(method, path)?;
    say(&if target.json { format!("{value}\n") } else { table(&value) })?;
    Ok(value)
}

fn path(of: &str, what: &str) -> String {
    format!("/v1/{of}/{}", utf8_percent_encode(what, NON_ALPHANUMERIC))
}

pub(super) fn health(whereabouts: &Where) -> Result<(), Failure> {
    let answer = whereabouts.ask("/readyz")?;
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status.is_success() { say(&text) } else { Err(Failure::unavailable(text.trim_end())) }
}

pub(super) fn status(target: &Target) -> Result<(), Failure> {
    show(target, &Method::GET, "/v1/status", table::status).map(drop)
}

pub(super) fn of_phone(OfPhone { phone, clear, target }: &OfPhone) -> Result<(), Failure> {
    let path = path("phones", &phone.to_e164());
    if *clear {
        return show(target, &Method::DELETE, &path, table::cleared).map(drop);
    }
    show(target, &Method::GET, &path, table::standing).map(drop)
}

pub(super) fn of_verification(OfVerification { id, target }: &OfVerification) -> Result<(), Failure> {
    let value = show(target, &Method::GET, &path("verifications", id), |value| match table::is(value, "/known") {
        true => table::standing(value),
        false => String::new(),
    })?;
    let unknown = Failure { code: 1, message: "This gateway does not know that verification.".to_owned() };
    if table::is(&value, "/known") { Ok(()) } else { Err(unknown) }
}

pub(super) fn exempt(exempt: &Exempt) -> Result<(), Failure> {
    let one = |value: &Value| format!("{}: {}\n", table::text(value, "/phone"), table::exemption(value));
    match exempt {
        Exempt::Add { phone, span, target } => {
            let span = utf8_percent_encode(span, NON_ALPHANUMERIC);
            let path = format!("{}?for={span}", path("exemptions", &phone.to_e164()));
            show(target, &Method::PUT, &path, one)
        }
        Exempt::Remove { phone, target } => show(target, &Method::DELETE, &path("exemptions", &phone.to_e164()), one),
        Exempt::List { target } => show(target, &Method::GET, "/v1/exemptions", |value| {
            let all = table::all(value, "/exemptions");
            let row = |one: &Value| vec![table::text(one, "/phone"), table::exemption(one)];
            Table::new(&["PHONE", "EXEMPT"]).rows(all.iter().map(row)).or("No phone is exempt.")
        }),
    }
    .map(drop)
}
