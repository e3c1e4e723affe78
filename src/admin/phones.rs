//! What the support desk asks about a phone or a verification, and what it may change. Answers show phones masked.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::AdminRequest;
use super::answer::AdminAnswer;
use crate::clock::Moment;
use crate::config::file::{duration_text, parse_duration};
use crate::gateway::Gateway;
use crate::gateway::exemptions::{LONGEST, MOST, USUAL, Unchanged, Until};
use crate::ledger::Look;
use crate::metrics::Change;
use crate::phone::Phone;
use crate::policy::{Key, Limit, Mode};

/// `GET /v1/phones/{phone}`.
pub(super) async fn look(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let Some(phone) = phone(&asked.parameter) else { return no_phone() };
    AdminAnswer::json(&of_phone(gateway, phone).await)
}

/// `DELETE /v1/phones/{phone}`.
pub(super) async fn clear(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let Some(phone) = phone(&asked.parameter) else { return no_phone() };
    let cleared = gateway.clear(phone).await;
    let hold = if cleared.hold { " and a hold" } else { "" };
    let what = format!("{} codes, {} cooldowns{hold}", cleared.codes, cleared.cooldowns);
    audit(gateway, asked, Change::ClearPhone, Some(phone), &what);
    let cleared = json!({ "codes": cleared.codes, "cooldowns": cleared.cooldowns, "hold": cleared.hold });
    AdminAnswer::json(&json!({ "phone": phone.to_string(), "cleared": cleared }))
}

/// `GET /v1/verifications/{id}`.
pub(super) async fn verification(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let Some((known, is_root)) = gateway.whose(&asked.parameter).await else {
        return AdminAnswer::json(&json!({ "known": false }));
    };
    let now = gateway.now();
    let look = gateway.look(Key::Verification(known.root)).await;
    let root = format!("{:02x}{:016x}", known.root.group, known.root.within);
    let mut value = json!({ "known": true, "phone": known.phone.to_string(), "root": root, "is_root": is_root });
    extend(&mut value, standing(&look, &gateway.limits(), now));
    AdminAnswer::json(&value)
}

/// `GET /v1/exemptions`.
pub(super) fn exemptions(gateway: &Gateway) -> AdminAnswer {
    let now = gateway.now();
    let one = |(phone, until): (Phone, Until)| exemption_of(phone, Some(until), now);
    let all: Vec<Value> = gateway.exemptions().list(now).into_iter().map(one).collect();
    AdminAnswer::json(&json!({ "exemptions": all, "max": MOST }))
}

/// `GET /v1/exemptions/{phone}`.
pub(super) fn exemption(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let Some(phone) = phone(&asked.parameter) else { return no_phone() };
    let now = gateway.now();
    AdminAnswer::json(&exemption_of(phone, gateway.exemptions().get(phone, now), now))
}

/// `PUT /v1/exemptions/{phone}?for=1h`.
pub(super) fn exempt(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let Some(phone) = phone(&asked.parameter) else { return no_phone() };
    let Some(span) = span(&asked.query) else {
        let message = "Expected ?for= with a duration from 1s to 7d, such as 30m; 1h if there is none.";
        return AdminAnswer::error(StatusCode::BAD_REQUEST, "invalid_request", message);
    };
    let now = gateway.now();
    match gateway.exemptions().put(phone, now + span, now) {
        Ok(()) => {
            audit(gateway, asked, Change::Exempt, Some(phone), &duration_text(span));
            AdminAnswer::json(&exemption_of(phone, Some(Until::Moment(now + span)), now))
        }
        // It is exempt already, and for longer.
        Err(Unchanged::Configured) => AdminAnswer::json(&exemption_of(phone, Some(Until::Configured), now)),
        Err(_) => {
            let message =
                format!("{MOST} phones are exempt for a while already: remove one, or use the configuration.");
            AdminAnswer::error(StatusCode::CONFLICT, "too_many", &message)
        }
    }
}

/// `DELETE /v1/exemptions/{phone}`.
pub(super) fn unexempt(gateway: &Gateway, asked: &AdminRequest) -> AdminAnswer {
    let Some(phone) = phone(&asked.parameter) else { return no_phone() };
    let now = gateway.now();
    match gateway.exemptions().remove(phone, now) {
        Ok(()) => {
            audit(gateway, asked, Change::Unexempt, Some(phone), "");
            AdminAnswer::json(&exemption_of(phone, None, now))
        }
        Err(Unchanged::Configured) => {
            let message = "This phone is exempt by the configuration: only that can change it.";
            AdminAnswer::error(StatusCode::CONFLICT, "configured", message)
        }
        Err(_) => AdminAnswer::error(StatusCode::NOT_FOUND, "not_found", "This phone is not exempt."),
    }
}

/// Says in the log who changed what, and counts it.
pub(super) fn audit(gateway: &Gateway, asked: &AdminRequest, change: Change, phone: Option<Phone>, what: &str) {
    gateway.metrics().changed(change);
    let phone = phone.map(|phone| phone.to_string()).unwrap_or_default();
    let (action, operator, phone) = (change.name(), asked.operator.as_str(), phone.as_str());
    tracing::info!(target: "audit", action, operator, phone, what, "changed over the admin API");
}

/// Who says that they ask: what a line of a log may hold of it. As many digits as a phone has are none of a name.
pub(super) fn operator(header: Option<&HeaderValue>) -> String {
    const MOST: usize = 64;
    const DIGITS: usize = 7;
    let bytes = header.map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    let mut name = String::new();
    for run in bytes.chunk_by(|one, other| one.is_ascii_digit() == other.is_ascii_digit()) {
        if run.len() >= DIGITS && run.iter().all(u8::is_ascii_digit) {
            name.push_str("•••");
        } else {
            let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
            name.extend(run.iter().map(shown));
        }
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

async fn of_phone(gateway: &Gateway, phone: Phone) -> Value {
    let now = gateway.now();
    let look = gateway.look(Key::Phone(phone)).await;
    let exempt = gateway.exemptions().get(phone, now);
    let mut value = json!({ "phone": phone.to_string(), "exempt": exempt.map(|until| end(until, now)) });
    extend(&mut value, standing(&look, &gateway.limits(), now));
    // For one account, or two: others may have codes, so it says nothing about the next one.
    let held = gateway.held_for_an_account(phone).map(|until| at(now, until.since(now)));
    extend(&mut value, json!({ "account_hold": held }));
    value
}

/// The limits of a key, its hold, and when its next code may go.
fn standing(look: &Look, limits: &[Limit], now: Moment) -> Value {
    let with_limits = look.standings.iter().filter_map(|standing| Some((standing, limits.get(standing.place)?)));
    let enforced =
        with_limits.clone().filter(|(_, limit)| limit.mode == Mode::Enforce).filter_map(|(standing, _)| standing.wait);
    let hold = look.held_until.map(|until| until.since(now));
    let wait = enforced.chain(hold).max().unwrap_or_default();
    let limits: Vec<Value> = with_limits
        .map(|(standing, limit)| {
            json!({
                "name": limit.name,
                "mode": mode(limit.mode),
                "counts": counts(limit),
                "max": limit.max,
                "window": duration_text(limit.window),
                "used": standing.used,
                "remaining": (limit.max as usize).saturating_sub(standing.used),
                "next": at(now, standing.wait.unwrap_or_default()),
            })
        })
        .collect();
    json!({ "limits": limits, "hold": hold.map(|wait| at(now, wait)), "next": at(now, wait) })
}

/// A moment that is so far away, as both ways to say it; seconds are rounded up.
fn at(now: Moment, wait: Duration) -> Value {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    json!({ "at": (now + wait).to_string(), "seconds": seconds })
}

fn exemption_of(phone: Phone, until: Option<Until>, now: Moment) -> Value {
    json!({ "phone": phone.to_string(), "exempt": until.map(|until| end(until, now)) })
}

/// How long an exemption lasts.
fn end(until: Until, now: Moment) -> Value {
    match until {
        Until::Configured => json!({ "by": "configuration", "until": null }),
        Until::Moment(end) => json!({ "by": "admin", "until": at(now, end.since(now)) }),
    }
}

/// What stands in the config for it.
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

/// What stands in the config for it.
pub(super) fn counts(limit: &Limit) -> Vec<&'static str> {
    let kinds = [(limit.counts.send, "send"), (limit.counts.resend, "resend")];
    kinds.into_iter().filter_map(|(is_counted, kind)| is_counted.then_some(kind)).collect()
}

/// A phone in E.164; its `+` may be missing.
fn phone(text: &str) -> Option<Phone> {
    format!("+{}", text.strip_prefix('+').unwrap_or(text)).parse().ok()
}

/// How long an exemption is asked for.
fn span(query: &str) -> Option<Duration> {
    if query.is_empty() {
        return Some(USUAL);
    }
    let span = query.strip_prefix("for=").and_then(parse_duration)?;
    (Duration::from_secs(1)..=LONGEST).contains(&span).then_some(span)
}

fn no_phone() -> AdminAnswer {
    let message = "Expected a phone in E.164, such as %2B15550100123 or 15550100123.";
    AdminAnswer::error(StatusCode::BAD_REQUEST, "invalid_phone_format", message)
}

fn extend(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_name_fits_a_line_whatever_it_is() {
        let name = |bytes: &[u8]| operator(HeaderValue::from_bytes(bytes).ok().as_ref());
        assert_eq!(name(b" Ada L. <ada@example.com> "), "Ada L. <ada@example.com>");
        assert_eq!(name("Zoë\tX".as_bytes()), "Zo???X");
        assert_eq!(name(&[b'a'; 500]).len(), 64);
        assert_eq!(name(b"ada 42 for +15550100123, 555010"), "ada 42 for +•••, 555010");
        assert_eq!((name(b" "), operator(None)), ("unknown".to_owned(), "unknown".to_owned()));
    }

    #[test]
    fn a_phone_may_come_without_its_plus() {
        assert_eq!(phone("+15550100123"), phone("15550100123"));
        assert_eq!([phone("++15550100123"), phone("+1555 0100123"), phone(""), phone("05550100123")], [None; 4]);
    }

    #[test]
    fn an_exemption_lasts_an_hour_unless_it_says_and_a_week_at_most() {
        let seconds = |query| span(query).map(|span| span.as_secs());
        assert_eq!([seconds(""), seconds("for=90s"), seconds("for=7d")], [Some(3600), Some(90), Some(604_800)]);
        for query in ["for=8d", "for=0s", "for=", "for=1", "until=1h", "for=1h&x=1"] {
            assert_eq!(span(query), None, "{query}");
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        let at = |millis| at(Moment::from_micros(0), Duration::from_millis(millis));
        assert_eq!(at(1001), json!({ "at": "1970-01-01T00:00:01.001Z", "seconds": 2 }));
        assert_eq!(at(0)["seconds"], 0);
    }
}
