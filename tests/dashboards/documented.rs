//! `docs/metrics.md` tells of each metric, and of none that is not there.

use std::collections::{BTreeMap, BTreeSet};

use crate::load;

/// Of each metric, its type and the names of its labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// What a gateway exposes, in the text format.
fn exposed(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                let family = name.strip_suffix(end)?;
                metrics.contains_key(family).then_some(family)
            });
            let (_, labels) = metrics.get_mut(family.unwrap_or(name)).unwrap();
            let within =
                line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(within, _)| within);
            // No value here has a comma in it.
            let names = within.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            labels.extend(names.filter(|label| label != "le"));
        }
    }
    metrics
}

/// What the page says: rows of `name`, type, `labels`, and what it tells.
fn documented() -> Metrics {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 5);
    let in_ticks = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut metrics = Metrics::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = in_ticks(cells[1]).remove(0);
        let labels = in_ticks(cells[3]).into_iter().collect();
        assert!(metrics.insert(name, (cells[2].to_owned(), labels)).is_none(), "twice: {row}");
        assert!(cells[4].len() > 20, "it says nothing: {row}");
    }
    metrics
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let (gateway, secure) = tokio::join!(load::gateway(), load::secure_gateway());
    load::round(&gateway, 1).await;
    let mut there = Metrics::new();
    for gateway in [&gateway, &secure] {
        for (name, (kind, labels)) in exposed(std::str::from_utf8(&gateway.admin("/metrics").await.body).unwrap()) {
            there.entry(name).or_insert((kind, BTreeSet::new())).1.extend(labels);
        }
    }
    let documented = documented();
    assert!(there.len() > 30);
    let names = |metrics: &Metrics| metrics.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&there), names(&documented));
    for (name, expected) in &there {
        assert_eq!(documented.get(name), Some(expected), "{name}");
    }
}
