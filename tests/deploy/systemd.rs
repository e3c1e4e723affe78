//! The unit, as systemd reads it. `scripts/setup test` installs what it is read with; nothing is started.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::program::{PROGRAM, read, scratch, takes_to_stop};

const UNIT: &str = "deploy/sendly-gateway.service";

/// The most that `systemd-analyze security` may think it exposed, in tenths. An unhardened unit is at 96.
const EXPOSED: &str = "20";

/// The values of a setting.
fn all(unit: &str, setting: &str) -> Vec<String> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).map(str::to_owned).collect()
}

fn only(unit: &str, setting: &str) -> String {
    let mut all = all(unit, setting);
    assert_eq!(all.len(), 1, "{setting}");
    all.remove(0)
}

/// The unit as a file, for the program of this test.
fn file(text: &str) -> PathBuf {
    let file = scratch("unit").join("sendly-gateway.service");
    fs::write(&file, text.replace("/usr/local/bin/sendly-gateway", PROGRAM)).unwrap();
    file
}

fn analyze(arguments: &[&str], unit: &str) -> Output {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(arguments).arg(file(unit)).env("SYSTEMD_PAGER", "cat").output();
    output.unwrap_or_else(|error| panic!("systemd-analyze: {error} (scripts/setup test installs it)"))
}

/// What systemd says against it.
fn complaints(unit: &str) -> String {
    let Output { status, stdout, stderr } = analyze(&["verify", "--man=no", "--recursive-errors=no"], unit);
    let said = [stdout, stderr].concat();
    format!("{}{}", String::from_utf8_lossy(&said), if status.success() { "" } else { "failed" })
}

#[test]
fn systemd_has_nothing_against_it() {
    let unit = read(UNIT);
    assert_eq!(complaints(&unit), "");
    assert!(complaints(&unit.replace("ProtectHome=yes", "ProtectHouse=yes")).contains("ProtectHouse"));
    assert_ne!(complaints(&unit.replace("Type=notify", "Type=ready")), "");
}

#[test]
fn it_is_hardened() {
    let security = ["security", "--offline=true", "--threshold", EXPOSED];
    let Output { status, stdout, .. } = analyze(&security, &read(UNIT));
    assert!(status.success(), "{}", String::from_utf8_lossy(&stdout));
    let soft: String =
        read(UNIT).lines().filter(|line| !line.starts_with("Protect")).map(|line| format!("{line}\n")).collect();
    assert!(!analyze(&security, &soft).status.success(), "the threshold is so that it matters");
}

#[test]
fn it_waits_for_readiness_and_is_stopped_as_the_program_expects() {
    let unit = read(UNIT);
    assert_eq!(only(&unit, "Type"), "notify");
    assert_eq!(only(&unit, "KillSignal"), "SIGTERM");
    assert!(only(&unit, "TimeoutStopSec").parse::<u64>().unwrap() >= takes_to_stop(""));
    assert_eq!(only(&unit, "RestartPreventExitStatus"), "64");
}

#[test]
fn its_counts_outlive_a_restart_and_another_process_can_take_over() {
    let unit = read(UNIT);
    for (folder, variable) in [
        ("StateDirectory", "SENDLY_GATEWAY_STATE_DIR=%S/sendly-gateway"),
        ("RuntimeDirectory", "SENDLY_GATEWAY_UPGRADE_SOCKET=%t/sendly-gateway/upgrade.sock"),
    ] {
        assert_eq!(only(&unit, folder), "sendly-gateway");
        assert_eq!(only(&unit, &format!("{folder}Mode")), "0700");
        assert!(all(&unit, "Environment").contains(&variable.to_owned()), "{variable}");
    }
    // Both are told by the process that systemd knows as the main one.
    assert_eq!(only(&unit, "NotifyAccess"), "main");
}

#[test]
fn it_waits_for_a_right_clock_and_loses_no_line_of_its_log() {
    let unit = read(UNIT);
    assert!(only(&unit, "After").split(' ').any(|after| after == "time-sync.target"));
    // systemd takes an interval of 0 for none, and then journald's default holds. `scripts/test-systemd` counts the lines.
    assert_eq!(only(&unit, "LogRateLimitIntervalSec"), "1s");
    assert!(only(&unit, "LogRateLimitBurst").parse::<u64>().unwrap() >= 1_000_000);
}

#[test]
fn its_secrets_are_of_the_group_that_the_readme_makes() {
    let (page, hook) = (read("deploy/README.md"), read("deploy/certbot-deploy-hook"));
    let group = only(&read("deploy/sendly-gateway-secrets.conf"), "SupplementaryGroups");
    assert!(page.contains(&format!("groupadd --system {group}\n")));
    for line in page.lines().chain(hook.lines()).filter(|line| line.contains("install ") && line.contains(" -g ")) {
        assert!(line.contains(&format!(" -g {group} ")), "{line}");
    }
}

#[test]
fn what_it_starts_and_reloads_is_what_the_readme_installs() {
    let (unit, page) = (read(UNIT), read("deploy/README.md"));
    let start = only(&unit, "ExecStart");
    let words: Vec<&str> = start.split(' ').collect();
    let [program, "run", "--config", config] = words[..] else { panic!("{start}") };
    let reload = [format!("{program} check --config {config}"), "/bin/kill -HUP $MAINPID".to_owned()];
    assert_eq!(all(&unit, "ExecReload"), reload);
    let (folder, _) = program.rsplit_once('/').unwrap();
    assert!(page.contains(&format!("install -m 755 target/release/sendly-gateway {folder}/\n")));
    assert!(page.contains(&format!("install -D -m 644 config/gateway.toml {config}\n")));
}
