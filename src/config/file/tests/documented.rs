//! `docs/configuration.md` tells of every key, and of none that is not there.

use std::collections::BTreeMap;

use super::shipped::{known, shipped_in_full};
use super::*;

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// A key as the page has it.
struct Row {
    kind: String,
    default: String,
    range: String,
}

/// The rows `key`, type, default, range, and what it is for, by the paths of their keys: `upstream.url`, `limits.max`.
fn rows() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        // A bar within a cell is escaped.
        let line = line.replace("\\|", "¦");
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('¦', "|")).collect();
        let [key, kind, default, range, what] = &cells[..] else { panic!("{} cells: {line}", cells.len()) };
        assert!(what.len() > 10 && !kind.is_empty(), "it says nothing: {line}");
        let row = Row { kind: kind.clone(), default: default.clone(), range: range.clone() };
        assert!(rows.insert(key.trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
    }
    rows
}

/// The values that the shipped file has, outside of arrays of tables, by the paths of their keys.
fn shipped_values() -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut values = BTreeMap::new();
    for line in SHIPPED.lines() {
        if line.starts_with("[[") {
            break;
        } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            values.insert(format!("{section}{key}"), value.to_owned());
        }
    }
    values
}

#[test]
fn every_key_is_on_the_page_and_every_key_on_the_page_is_one() {
    let documented: Vec<String> = rows().into_keys().collect();
    let known: Vec<String> = known(&shipped_in_full()).into_iter().collect();
    assert_eq!(documented, known);
}

#[test]
fn the_page_tells_the_defaults_of_the_shipped_file() {
    let (rows, values) = (rows(), shipped_values());
    let mut compared = 0;
    for (key, row) in &rows {
        if key.starts_with("limits.") || key.starts_with("throttles.") {
            continue;
        }
        // A tier is one line of the file, and two keys.
        let tier = key.strip_prefix("credits.").and_then(|key| key.split_once('.'));
        let expected = match tier {
            Some((tier, part)) => {
                let line = &values[&format!("credits.{tier}")];
                let (_, rest) = line.split_once(&format!("{part} = ")).unwrap();
                let end = if part == "credits" { rest.find(',') } else { rest.find(']').map(|end| end + 1) };
                Some(rest[..end.unwrap()].to_owned())
            }
            None => values.get(key).cloned(),
        };
        let told = if row.default == "none" { None } else { Some(row.default.trim_matches('`').to_owned()) };
        assert_eq!(told, expected, "{key}");
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
}

/// What a key, of whichever limit or throttle, says that it takes when it is given this.
fn expectation(key: &str, value: &str) -> String {
    let (text, path) = match key.split_once('.') {
        Some((section @ ("limits" | "throttles"), key)) => {
            (format!("[[{section}]]\n{key} = {value}\n"), format!("{section}[0].{key}"))
        }
        _ => (format!("{key} = {value}\n"), key.to_owned()),
    };
    let told = messages(&text, &[]);
    let mark = format!(": {path}: expected ");
    let rest = told.lines().find_map(|line| line.split_once(&mark)).unwrap_or_else(|| panic!("{key}: {told}")).1;
    rest.split(", found").next().unwrap().to_owned()
}

#[test]
fn the_page_tells_the_bounds_that_a_mistake_tells() {
    let mut bounded = 0;
    for (key, row) in rows() {
        let takes = expectation(&key, "{ no = 1 }");
        let expected = if takes.starts_with("a duration such as") {
            // Bounds are told for a duration that is out of them.
            Some(("duration", expectation(&key, "\"366d\"").replace("a duration from ", "")))
        } else if let Some(bounds) = takes.strip_prefix("a whole number from ") {
            Some(("number", bounds.to_owned()))
        } else {
            (takes == "true or false").then(|| ("flag", String::new()))
        };
        if let Some((kind, range)) = expected {
            assert_eq!((row.kind.as_str(), row.range), (kind, range), "{key}");
            bounded += 1;
        }
    }
    assert!(bounded > 25, "{bounded}");
}
