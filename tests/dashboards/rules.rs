//! The rules themselves: sound, tested, and each alert with a page that says what to do.

use std::collections::BTreeSet;

use crate::load;
use crate::prometheus::{Prometheus, SHIPPED, promtool};

fn shipped(file: &str) -> String {
    format!("{SHIPPED}/{file}")
}

#[test]
fn the_rules_and_the_sample_configuration_are_sound() {
    promtool(&["check", "rules", &shipped("rules.yml")], b"");
    promtool(&["check", "config", &shipped("prometheus.yml")], b"");
}

#[test]
fn each_alert_fires_when_it_has_to_and_only_then() {
    promtool(&["test", "rules", &shipped("rules.test.yml")], b"");
}

#[test]
fn alerts_that_look_back_for_a_day_fire_when_they_have_to_and_only_then() {
    promtool(&["test", "rules", &shipped("rules.days.test.yml")], b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exposed_keeps_to_prometheus_conventions() {
    let gateway = load::gateway().await;
    load::round(&gateway, 1).await;
    promtool(&["check", "metrics"], &gateway.admin("/metrics").await.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_is_tested_and_says_what_it_is_how_bad_and_what_to_do() {
    let runbook = include_str!("../../docs/runbook.md");
    let headings: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let tests = ["rules.test.yml", "rules.days.test.yml"].map(|file| std::fs::read_to_string(shipped(file)).unwrap());
    let mut told = BTreeSet::new();
    let rules = Prometheus::start(&[]).rules().await;
    for rule in rules.iter().filter(|rule| rule["type"] == "alerting") {
        let name = rule["name"].as_str().unwrap();
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{name} has no {annotation}");
        }
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        let page = rule["annotations"]["runbook"].as_str().unwrap_or_else(|| panic!("{name} has no runbook"));
        let anchor = page.strip_prefix("docs/runbook.md#").unwrap();
        let heading = headings.iter().find(|heading| heading.to_lowercase() == anchor);
        told.insert(*heading.unwrap_or_else(|| panic!("the runbook has no {anchor}")));
        for expected in [format!("{name} fires"), format!("{name} is quiet")] {
            assert!(tests.iter().any(|test| test.contains(&expected)), "no test says when {expected}");
        }
    }
    assert!(told.len() > 15, "{told:?}");
    assert_eq!(told, headings, "the runbook tells of what no alert says");
}
