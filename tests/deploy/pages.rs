//! The pages: each file of `deploy/` has its place on the map, and every link leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::read;
use crate::yaml::documents;

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

fn deployed() -> Vec<PathBuf> {
    let mut all = Vec::new();
    files(Path::new("deploy"), &mut all);
    assert!(all.len() > 15, "the files are not where this test looks");
    all
}

#[test]
fn the_map_shows_every_file() {
    let page = read("deploy/README.md");
    for file in deployed() {
        let below = file.strip_prefix("deploy").unwrap();
        let is_shown = below.ancestors().any(|place| {
            let place = place.to_str().unwrap();
            !place.is_empty()
                && page.contains(&format!("`{place}{}`", if below == Path::new(place) { "" } else { "/" }))
        });
        assert!(is_shown || below == Path::new("README.md"), "{} is not on the map", below.display());
    }
}

#[test]
fn every_yaml_file_can_be_read() {
    let is_yaml = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let all = deployed();
    let files: Vec<&PathBuf> = all.iter().filter(is_yaml).collect();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        assert!(!documents(file.to_str().unwrap()).is_empty(), "{}", file.display());
    }
}

/// The links of a page: `](target)`.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// A heading's name in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars();
    let kept = kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let mut pages: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "deploy/README.md"].map(PathBuf::from).into();
    files(Path::new("docs"), &mut pages);
    let mut seen = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = read(page.to_str().unwrap());
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let there =
                || read(target.to_str().unwrap()).lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            assert!(heading.is_empty() || there(), "{}: {link}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
