//! Every query of the dashboard and of the rules, asked of a Prometheus that scrapes two gateways.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::load;
use crate::prometheus::Prometheus;

/// For a machine that is busy; on an idle one, all is there within a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every query of the dashboard, with the title of its panel and its variables put in.
fn of_dashboard() -> Vec<(String, String)> {
    let text = include_str!("../../deploy/grafana/sendly-gateway.json");
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array();
        assert!(panel["type"] == "row" || targets.is_some_and(|targets| !targets.is_empty()), "{title} asks nothing");
        for target in targets.into_iter().flatten() {
            let variables = [("$__rate_interval", "30s"), ("$__range", "10m"), ("$instance", ".+"), ("$job", ".+")];
            let written = target["expr"].as_str().unwrap().to_owned();
            let query = variables.iter().fold(written, |query, (name, value)| query.replace(name, value));
            assert!(!query.replace("${1}", "").contains('$'), "{title}: an unknown variable in {query}");
            queries.push((title.to_owned(), query));
        }
    }
    assert!(queries.len() > 50, "the dashboard is not as this test reads it");
    queries
}

#[test]
fn each_panel_has_a_place_of_its_own_and_asks_the_data_source_that_was_chosen() {
    let text = include_str!("../../deploy/grafana/sendly-gateway.json");
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: another has its id");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} is out of the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies over another");
        }
        let asking = panel["targets"].as_array().into_iter().flatten().chain((panel["type"] != "row").then_some(panel));
        assert!(asking.into_iter().all(|one| one["datasource"]["uid"] == "${datasource}"), "{title}");
    }
    assert!(ids.len() > 40);
}

/// Asks again and again until each query finds a number.
async fn all_find(prometheus: &Prometheus, mut queries: Vec<(String, String)>) {
    let waiting = async {
        let mut place = 0;
        while !queries.is_empty() {
            let (title, query) = &queries[place];
            let found = prometheus.query(query).await.unwrap_or_else(|error| panic!("{title}: {error} in {query}"));
            if found.iter().any(|number| number.is_finite()) {
                queries.remove(place);
            } else {
                place += 1;
            }
            place = if place < queries.len() { place } else { 0 };
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        let without: Vec<_> = queries.iter().map(|(title, query)| format!("{title}: {query}")).collect();
        panic!("{} find nothing:\n{}", without.len(), without.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboard_and_of_the_rules_finds_what_it_asks_for() {
    let (gateway, secure) = tokio::join!(load::gateway(), load::secure_gateway());
    // In two rounds: what a counter had when it was scraped first is no increase.
    load::round(&gateway, 1).await;
    let prometheus = Prometheus::start(&[gateway.admin, secure.admin]);
    let began = "count(sendly_gateway_codes_sent_total) and count(up == 1) == 2".to_owned();
    all_find(&prometheus, vec![("the first scrape".to_owned(), began)]).await;
    load::round(&gateway, 2).await;

    let rules = prometheus.rules().await;
    let mut queries = of_dashboard();
    for rule in &rules {
        let (name, query) = (rule["name"].as_str().unwrap().to_owned(), rule["query"].as_str().unwrap().to_owned());
        match rule["type"].as_str() {
            Some("recording") => queries.push((name, query)),
            // Nothing is wrong here, so it finds nothing; but it has to be a question.
            _ => drop(prometheus.query(&query).await.unwrap_or_else(|error| panic!("{name}: {error}"))),
        }
    }
    all_find(&prometheus, queries).await;
    for rule in prometheus.rules().await {
        assert_eq!(rule["lastError"].as_str(), None, "{rule}");
    }
    let converted = r#"sum(sendly_gateway_verifications_confirmed_total{country="US"})"#;
    assert_eq!(prometheus.query(converted).await, Ok(vec![2.0]), "one a round, though each was checked twice");
}
