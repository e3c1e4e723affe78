//! Answers of the admin API, for people.

use std::fmt::Write;

use serde_json::Value;

use crate::metrics::Outcome;

/// Columns that stand under each other.
#[derive(Debug)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(heads: &[&str]) -> Self {
        Self(vec![heads.iter().map(|head| (*head).to_owned()).collect()])
    }

    pub(super) fn rows(mut self, rows: impl Iterator<Item = Vec<String>>) -> Self {
        self.0.extend(rows);
        self
    }

    /// Its text; or that of nothing, where it has no rows.
    pub(super) fn or(&self, nothing: &str) -> String {
        if self.0.len() > 1 { self.text() } else { format!("{nothing}\n") }
    }

    fn text(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.0 {
            widths.resize(widths.len().max(row.len()), 0);
            widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
        }
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text or the number at this place; nothing is `-`.
pub(super) fn text(value: &Value, place: &str) -> String {
    match value.pointer(place) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

pub(super) fn is(value: &Value, place: &str) -> bool {
    value.pointer(place).and_then(Value::as_bool).unwrap_or_default()
}

pub(super) fn all<'v>(value: &'v Value, place: &str) -> &'v [Value] {
    value.pointer(place).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value, place: &str) -> u64 {
    value.pointer(place).and_then(Value::as_u64).unwrap_or_default()
}

/// `now`, or when and how far away that is.
fn time(value: &Value, place: &str) -> String {
    match number(value, &format!("{place}/seconds")) {
        0 => "now".to_owned(),
        seconds => format!("{} (in {})", text(value, &format!("{place}/at")), span(seconds)),
    }
}

fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

pub(super) fn exemption(value: &Value) -> String {
    match value.pointer("/exempt/by").and_then(Value::as_str) {
        None => "not exempt".to_owned(),
        Some("configuration") => "exempt by the configuration".to_owned(),
        Some(_) => format!("exempt until {}", time(value, "/exempt/until")),
    }
}

pub(super) fn cleared(value: &Value) -> String {
    let hold = if is(value, "/cleared/hold") { " and a hold" } else { "" };
    let (phone, codes) = (text(value, "/phone"), text(value, "/cleared/codes"));
    format!("{phone}: {codes} codes, {} cooldowns{hold} cleared\n", text(value, "/cleared/cooldowns"))
}

/// How a phone or a verification stands.
pub(super) fn standing(value: &Value) -> String {
    let mut head = text(value, "/phone");
    if value.get("root").is_some() {
        let _ =
            write!(head, ", root {}{}", text(value, "/root"), if is(value, "/is_root") { " (this id)" } else { "" });
    }
    let mut lines = vec![head, format!("next code: {}", time(value, "/next"))];
    if value.get("hold").is_some_and(|hold| !hold.is_null()) {
        lines.push(format!("held by Sendly until {}", time(value, "/hold")));
    }
    if value.get("account_hold").is_some_and(|hold| !hold.is_null()) {
        lines.push(format!("held by Sendly for an account until {}", time(value, "/account_hold")));
    }
    if value.get("exempt").is_some_and(|exempt| !exempt.is_null()) {
        lines.push(exemption(value));
    }
    let row = |limit: &Value| {
        let mode = if text(limit, "/mode") == "shadow" { " (shadow)" } else { "" };
        vec![
            text(limit, "/name") + mode,
            format!("{} in {}", text(limit, "/max"), text(limit, "/window")),
            text(limit, "/used"),
            text(limit, "/remaining"),
            time(limit, "/next"),
        ]
    };
    let limits =
        Table::new(&["LIMIT", "AT MOST", "USED", "LEFT", "NEXT CODE"]).rows(all(value, "/limits").iter().map(row));
    format!("{}\n\n{}", lines.join("\n"), limits.or("No limit counts for it."))
}

pub(super) fn status(value: &Value) -> String {
    let health = if is(value, "/ready") { "healthy".to_owned() } else { format!("not ready: {}", text(value, "/why")) };
    let mut out = format!(
        "{health}. Version {}, up {}, {} in flight, {} of {} keys tracked, {}\n\n",
        text(value, "/version"),
        span(number(value, "/uptime_seconds")),
        text(value, "/in_flight"),
        text(value, "/keys/tracked"),
        text(value, "/keys/max"),
        match value.pointer("/state").filter(|state| !state.is_null()) {
            Some(state) => format!("state saved {} ago", span(number(state, "/age_seconds"))),
            None => "no state on disk".to_owned(),
        },
    );
    let row = |outcome: &Outcome| {
        let name = outcome.name();
        let of = |part: &str| text(value, &format!("/requests/{part}/{name}"));
        vec![name.to_owned(), of("per_second"), of("hour"), of("total")]
    };
    out += &Table::new(&["REQUESTS", "NOW/S", "HOUR", "IN ALL"]).rows(Outcome::ALL.iter().map(row)).text();
    let row = |limit: &Value| {
        let denied = if text(limit, "/mode") == "shadow" { "shadow_deny" } else { "deny" };
        let of = |part: &str, verdict: &str| text(limit, &format!("/{part}/{verdict}"));
        vec![
            text(limit, "/name"),
            format!("{} in {} per {}", text(limit, "/max"), text(limit, "/window"), text(limit, "/per")),
            text(limit, "/mode"),
            of("per_second", "allow"),
            of("per_second", denied),
            of("hour", "allow"),
            of("hour", denied),
        ]
    };
    let heads = ["LIMIT", "AT MOST", "MODE", "PASS/S", "REFUSED/S", "HOUR", "REFUSED"];
    out.push('\n');
    out += &Table::new(&heads).rows(all(value, "/limits").iter().map(row)).or("No limits are configured.");
    let _ = writeln!(
        out,
        "\nIn the last hour: {} codes sent for {} credits; {} refused, which saved {} credits.\nSendly answers half within {}, 99 % within {}.",
        text(value, "/codes/sent/hour"),
        text(value, "/credits/sent/hour"),
        text(value, "/codes/refused/hour"),
        text(value, "/credits/refused/hour"),
        millis(value, "/upstream/hour/p50"),
        millis(value, "/upstream/hour/p99"),
    );
    let row = |one: &Value| vec![text(one, "/key"), text(one, "/limit"), text(one, "/count")];
    let most = all(value, "/refused/most");
    if !most.is_empty() {
        out.push('\n');
        out += &Table::new(&["REFUSED MOST", "BY", "TIMES"]).rows(most.iter().take(10).map(row)).text();
    }
    out
}

fn millis(value: &Value, place: &str) -> String {
    let seconds = value.pointer(place).and_then(Value::as_f64);
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_stand_under_each_other_however_wide_their_letters_are() {
        let rows = [["+1555•••0123", "x"], ["a", "longer"]].map(|row| row.map(str::to_owned).to_vec());
        let table = Table::new(&["A", "B"]).rows(rows.into_iter());
        assert_eq!(table.or("none"), "A             B\n+1555•••0123  x\na             longer\n");
        assert_eq!(Table::new(&["A"]).or("none"), "none\n");
    }

    #[test]
    fn a_time_is_told_as_it_is_and_as_how_far_away() {
        let at = |seconds: u64| json!({ "next": { "at": "2026-11-23T09:00:00.000Z", "seconds": seconds } });
        assert_eq!(time(&at(0), "/next"), "now");
        assert_eq!(time(&at(61), "/next"), "2026-11-23T09:00:00.000Z (in 1 min 1 s)");
        assert_eq!([span(59), span(3600), span(90_000)], ["59 s", "1 h 0 min", "1 d 1 h"]);
    }
}
