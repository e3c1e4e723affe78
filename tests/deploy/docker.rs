//! The image.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::{check, ports, read, scratch};

const DOCKERFILE: &str = "deploy/docker/Dockerfile";
const CONFIG: &str = "deploy/docker/gateway.toml";

/// The instructions of the Dockerfile: name and arguments, continued lines put together.
fn instructions() -> Vec<(String, String)> {
    let text: String =
        read(DOCKERFILE).lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let lines = text.replace("\\\n", " ");
    let instruction = |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()));
    lines.lines().filter_map(instruction).collect()
}

/// The arguments of all instructions of this name.
fn all(name: &str) -> Vec<String> {
    instructions().into_iter().filter(|(other, _)| other == name).map(|(_, arguments)| arguments).collect()
}

fn only(name: &str) -> String {
    let mut all = all(name);
    assert_eq!(all.len(), 1, "{name}");
    all.remove(0)
}

/// A list in brackets.
fn list(arguments: &str) -> Vec<String> {
    serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{arguments}: {error}"))
}

/// Who it runs as.
pub(crate) fn user() -> u64 {
    let user = only("USER");
    let ids: Vec<u64> =
        user.split(':').map(|id| id.parse().unwrap_or_else(|_| panic!("{user} is no number"))).collect();
    assert!(ids.len() == 2 && !ids.contains(&0), "{user}");
    ids[0]
}

/// What is copied from the repository, and where to.
fn copied() -> Vec<(Vec<String>, String)> {
    let from_here = all("COPY").into_iter().filter(|arguments| !arguments.starts_with("--from"));
    let split = from_here.map(|arguments| {
        let mut words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let target = words.pop().unwrap();
        (words, target)
    });
    split.collect()
}

#[test]
fn it_runs_as_a_number_that_is_not_root_and_is_told_to_stop_as_the_program_expects() {
    assert_eq!(user(), 65532, "distroless' nonroot");
    let last = instructions().iter().rposition(|(name, _)| name == "FROM").unwrap();
    assert!(instructions()[last..].iter().any(|(name, _)| name == "USER"), "of the stage that is shipped");
    assert_eq!(only("STOPSIGNAL"), "SIGTERM");
}

#[test]
fn base_images_are_pinned_by_tag_and_the_toolchain_is_the_oldest_that_is_promised() {
    let images: Vec<String> = all("FROM").iter().map(|from| from.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(images.len(), 2);
    for image in &images {
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert_ne!(tag, "latest");
    }
    let manifest = read("Cargo.toml");
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(images[0].starts_with(&format!("rust:{rust}-")), "{images:?}");
    // Both are Debian 12: the binary finds the glibc that it was linked to.
    assert!(images[0].ends_with("bookworm") && images[1].contains("debian12"), "{images:?}");
}

#[test]
fn all_that_is_copied_is_there_and_not_ignored_and_nothing_else_is_sent_to_the_build() {
    let ignore = read("deploy/docker/Dockerfile.dockerignore");
    let mut lines = ignore.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    let sent: Vec<&str> = lines.map(|line| line.strip_prefix('!').unwrap()).collect();
    let mut sources: Vec<String> = copied().into_iter().flat_map(|(sources, _)| sources).collect();
    assert!(sources.iter().all(|source| Path::new(source).exists()), "{sources:?}");
    sources.sort_unstable();
    assert_eq!(sources, sent);
}

#[test]
fn what_is_copied_is_a_whole_crate() {
    let folder = scratch("image");
    for (sources, target) in copied().iter().filter(|(_, target)| !target.starts_with("/image")) {
        for source in sources {
            let is_folder = target.ends_with('/') && Path::new(source).is_file();
            let target = if is_folder {
                folder.join(target).join(Path::new(source).file_name().unwrap())
            } else {
                folder.join(target)
            };
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            let copy = Command::new("cp").arg("-r").arg(source).arg(&target).status().unwrap();
            assert!(copy.success(), "{source}");
        }
    }
    let manifest = folder.join("Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version=1", "--manifest-path"])
        .arg(manifest);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.join("scripts/setup").is_file(), "{}", folder.display());
}

#[test]
fn its_configuration_is_valid_stands_where_it_is_looked_for_and_listens_on_the_ports_that_are_exposed() {
    assert_eq!(check(&read(CONFIG), &[]), None);
    let command = list(&only("CMD"));
    let (_, place) = copied().into_iter().find(|(sources, _)| sources[0] == CONFIG).unwrap();
    assert_eq!(command, ["run", "--config", place.strip_prefix("/image").unwrap()]);
    let exposed: Vec<u64> = only("EXPOSE").split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(exposed, ports(&read(CONFIG)));
}

#[test]
fn it_is_checked_by_the_program_itself_and_holds_no_secret() {
    let program = list(&only("ENTRYPOINT"));
    let health = only("HEALTHCHECK");
    let (_, health) = health.split_once("CMD ").unwrap();
    assert_eq!(list(health), [program[0].as_str(), "health"]);
    assert!(all("ENV").is_empty(), "nothing is baked in");
    assert_eq!(all("ARG"), ["REVISION=unknown"], "which commit it is of, and nothing else");
    assert!(instructions().iter().any(|(name, run)| name == "RUN" && run.contains(&format!("/image{}", program[0]))));
}
