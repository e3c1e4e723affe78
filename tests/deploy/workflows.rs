//! What is run and shown where the repository is hosted. `tests/deploy/install` installs actionlint.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::read;
use crate::yaml::document;

fn files(folder: &str) -> Vec<PathBuf> {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 1, "{folder}: {files:?}");
    files
}

fn workflows() -> Vec<String> {
    files(".github/workflows").iter().map(|file| read(file.to_str().unwrap())).collect()
}

/// What actionlint finds wrong with a workflow.
fn mistakes(workflow: &str) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/deploy-python/bin/actionlint");
    let mut child = Command::new(program)
        .args(["-no-color", "-oneline", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("actionlint: {error} (tests/deploy/install installs it)"));
    child.stdin.take().unwrap().write_all(workflow.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

#[test]
fn actionlint_has_nothing_against_the_workflows() {
    for workflow in workflows() {
        assert_eq!(mistakes(&workflow), "");
        assert_ne!(mistakes(&workflow.replace("github.ref", "github.reference")), "", "it looks");
    }
}

#[test]
fn an_action_is_pinned_to_a_commit() {
    let mut used = 0;
    for workflow in workflows() {
        for line in workflow.lines().filter(|line| line.contains("uses: ")) {
            let (_, rest) = line.split_once('@').unwrap_or_else(|| panic!("{line}"));
            let (commit, version) = rest.split_once(" # v").unwrap_or_else(|| panic!("{line}: which version is it?"));
            assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
            assert!(version.contains('.'), "{line}");
            used += 1;
        }
    }
    assert!(used > 2);
}

#[test]
fn ci_runs_what_a_developer_runs_and_builds_with_the_oldest_rust() {
    let ci = read(".github/workflows/ci.yml");
    assert!(ci.contains("- run: .ci/run\n") && read(".ci/run").contains("exec scripts/test\n"));
    let manifest = read("Cargo.toml");
    let oldest = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"')).unwrap();
    assert!(ci.contains(&format!("container: rust:{oldest}-bookworm")), "{oldest}");
}

#[test]
fn a_release_publishes_what_its_page_lists() {
    let (page, script) = (read("RELEASING.md"), read("scripts/release"));
    assert!(read(".github/workflows/release.yml").contains("scripts/release --tag \"$TAG\"\n"));
    for (listed, made) in [
        ("sendly-gateway-VERSION-linux-ARCH.tar.gz", "name=sendly-gateway-$version-linux-$architecture\n"),
        ("sendly-gateway_VERSION-1_ARCH.deb", "cargo deb "),
        ("sendly-gateway-VERSION-ARCH.cdx.json", ">\"$out/sendly-gateway-$version-$architecture.cdx.json\"\n"),
        ("SHA256SUMS-ARCH", "\"SHA256SUMS-$architecture\")\n"),
    ] {
        assert!(page.contains(&format!("| `{listed}` |")), "{listed}");
        assert!(script.contains(made), "{made}");
    }
}

#[test]
fn the_forms_for_issues_can_be_read_and_ask_for_no_secret() {
    for file in files(".github/ISSUE_TEMPLATE") {
        let form = document(file.to_str().unwrap());
        if file.ends_with("config.yml") {
            continue;
        }
        assert!(form["name"].is_string() && form["description"].is_string(), "{}", file.display());
        let fields = form["body"].as_array().unwrap();
        assert!(fields.iter().any(|field| field["validations"]["required"] == true), "{}", file.display());
    }
    assert!(read(".github/ISSUE_TEMPLATE/bug.yml").contains("SECURITY.md"));
}
