//! What the status page shows, as JSON: for whoever reaches the listener, so phones stand in it as in logs.

use serde_json::{Map, Value, json};

use super::config::on_outage;
use super::history::{Board, Period, View};
use super::phones::{counts, mode};
use super::top_refused::{COUNTERS, Share};
use crate::clock::Moment;
use crate::config::file::duration_text;
use crate::gateway::Gateway;
use crate::ledger::redis::{Reason, RedisState};
use crate::metrics::refused::Whom;
use crate::metrics::sample::{Sample, Verdicts};
use crate::metrics::{Fate, Outcome, Saved};
use crate::policy::subject::Account;
use crate::policy::{Limit, Mode, OnOutage};

/// `GET /v1/status`.
pub(super) fn status(gateway: &Gateway, board: &Board, not_ready: Option<&str>) -> Value {
    let view = board.view();
    let limits = gateway.limits();
    let sizes = gateway.sizes();
    let View { began, now, recent, hour, minutes, .. } = &view;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": now.at.to_string(),
        "started": began.to_string(),
        "uptime_seconds": now.at.since(*began).as_secs(),
        "ready": not_ready.is_none(),
        "why": not_ready,
        "admin_token": gateway.admin_token().is_some(),
        "in_flight": sizes.in_flight,
        "keys": { "tracked": sizes.tracked, "max": sizes.capacity, "uncounted": sizes.uncounted },
        "verifications": sizes.verifications,
        "state": gateway.saved().map(|saved| state(&saved, now.at)),
        "ledger": ledger(gateway),
        "exemptions": gateway.exemptions().list(now.at).len(),
        "requests": {
            "total": outcomes(&now.sample, |count| json!(count)),
            "per_second": outcomes(&recent.came, |count| json!(recent.rate(count))),
            "hour": outcomes(&hour.came, |count| json!(count)),
        },
        "codes": fates(now.sample.codes, hour.came.codes),
        "credits": fates(now.sample.credits, hour.came.credits),
        "limits": limits.iter().map(|limit| of_limit(limit, &view)).collect::<Vec<_>>(),
        "hold": { "total": now.sample.held, "per_second": recent.rate(recent.came.held), "hour": hour.came.held },
        "minutes": minutes.iter().map(minute).collect::<Vec<_>>(),
        "upstream": { "recent": waits(&recent.came), "hour": waits(&hour.came) },
        "refused": {
            "since": view.top_since.to_string(),
            "noted": view.top_noted,
            "error_at_most": view.top_noted.div_ceil(COUNTERS as u64),
            "most": view.top.iter().map(refused).collect::<Vec<_>>(),
        },
    })
}

/// How much of what is counted outlives the process.
fn state(saved: &Saved, now: Moment) -> Value {
    json!({
        "saved": saved.at.to_string(),
        "age_seconds": now.since(saved.at).as_secs(),
        "waiting_records": saved.waiting,
        "lost_records": saved.lost,
        "bytes": saved.bytes,
    })
}

/// How it stands with the ledger that gateways share.
fn ledger(gateway: &Gateway) -> Value {
    let Some(state) = gateway.shared_ledger() else { return json!({ "backend": "memory" }) };
    json!({
        "backend": "redis",
        "up": state.away.is_none(),
        "since": state.since.to_string(),
        "reason": state.away.map(Reason::name),
        "on_outage": on_outage(state.on_outage),
        "backlog": state.backlog,
        "merged": state.merged,
        "lost": state.lost,
    })
}

/// The same for people, in a line; nothing, where none is shared.
pub(super) fn ledger_line(gateway: &Gateway) -> String {
    let Some(RedisState { since, away, on_outage, backlog, .. }) = gateway.shared_ledger() else {
        return String::new();
    };
    match away {
        None => format!("ledger: Redis is there since {since}\n"),
        Some(reason) => {
            let goes_on = match on_outage {
                OnOutage::Local => "this gateway counts by itself",
                OnOutage::Refuse => "codes are refused",
                OnOutage::Allow => "codes go out whatever limits say",
            };
            let reason = reason.name();
            format!("ledger: Redis is away since {since} ({reason}): {goes_on}; {backlog} to be told\n")
        }
    }
}

fn outcomes(sample: &Sample, value: impl Fn(u64) -> Value) -> Value {
    let one = |(outcome, count): (Outcome, u64)| (outcome.name().to_owned(), value(count));
    Value::Object(Outcome::ALL.into_iter().zip(sample.outcomes).map(one).collect::<Map<_, _>>())
}

fn fates<const N: usize>(total: [u64; N], hour: [u64; N]) -> Value {
    let one =
        |(fate, (total, hour)): (Fate, (u64, u64))| (fate.name().to_owned(), json!({ "total": total, "hour": hour }));
    Value::Object(Fate::ALL.into_iter().zip(total.into_iter().zip(hour)).map(one).collect::<Map<_, _>>())
}

fn of_limit(limit: &Limit, view: &View) -> Value {
    let verdicts = |sample: &Sample| sample.verdicts(&limit.name);
    let deny = if limit.mode == Mode::Enforce { "deny" } else { "shadow_deny" };
    let told = |Verdicts { allow, deny: denied, exempt }: Verdicts, value: &dyn Fn(u64) -> Value| json!({ "allow": value(allow), deny: value(denied), "exempt": value(exempt) });
    json!({
        "name": limit.name,
        "per": limit.per.name(),
        "max": limit.max,
        "window": duration_text(limit.window),
        "mode": mode(limit.mode),
        "counts": counts(limit),
        "total": told(verdicts(&view.now.sample), &|count| json!(count)),
        "per_second": told(verdicts(&view.recent.came), &|count| json!(view.recent.rate(count))),
        "hour": told(verdicts(&view.hour.came), &|count| json!(count)),
    })
}

/// One minute, as the plots need it.
fn minute(span: &Period) -> Value {
    let requests = |outcomes: &[Outcome]| -> u64 {
        outcomes.iter().filter_map(|outcome| span.came.outcomes.get(*outcome as usize)).sum()
    };
    let [sent, refused, _] = span.came.codes;
    let [spent, saved, _] = span.came.credits;
    json!({
        "from": span.from.to_string(),
        "seconds": span.seconds,
        "passed": requests(&[Outcome::Passed, Outcome::Allowed, Outcome::Retry]),
        "refused": requests(&[Outcome::Refused, Outcome::Throttled]),
        "failed": requests(&[Outcome::Rejected, Outcome::NoRoom, Outcome::Failed, Outcome::Abandoned]),
        "codes": { "sent": sent, "refused": refused },
        "credits": { "sent": spent, "refused": saved },
        "upstream_p99": span.came.quantile(0.99),
    })
}

fn waits(came: &Sample) -> Value {
    json!({
        "answers": came.answered.last(),
        "p50": came.quantile(0.5),
        "p90": came.quantile(0.9),
        "p99": came.quantile(0.99),
    })
}

fn refused(Share { who, count, error }: &Share) -> Value {
    let (per, key) = match who.whom {
        Whom::Phone(phone) => ("phone", phone.to_string()),
        Whom::Account(short) => ("account", format!("{short:0width$x}", width = Account::SHORT)),
        Whom::Unknown => ("verification", "•••".to_owned()),
    };
    json!({ "per": per, "key": key, "limit": *who.limit, "count": count, "error": error })
}
