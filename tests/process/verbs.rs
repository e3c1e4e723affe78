//! The verbs that ask a gateway which runs: what they show, to people and to scripts, and how they end.

use std::process::{Command, Output};

use tokio::net::TcpListener;

use crate::process::{Process, Serving, config_file};

const TOKEN: &str = "t0ken-0123456789";

/// A gateway with its sandbox.
async fn sandbox() -> Serving {
    Serving::of(Process::start(&["run", "--sandbox"], &[("ADMIN_TOKEN", TOKEN)])).await
}

/// Runs a verb to its end: its exit code, and what it said.
async fn verb(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendly-gateway"));
    command.args(arguments).env_remove("SENDLY_GATEWAY_ADMIN_TOKEN").env("USER", "ada");
    command.envs(variables.iter().map(|(name, value)| (format!("SENDLY_GATEWAY_{name}"), value)));
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

impl Serving {
    async fn verb(&self, arguments: &[&str]) -> (i32, String, String) {
        verb(arguments, &[("ADMIN_URL", &format!("http://{}", self.admin)), ("ADMIN_TOKEN", TOKEN)]).await
    }

    /// What it shows people.
    async fn shown(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.verb(arguments).await;
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(!out.contains("5550100123"), "{out}");
        out
    }

    /// What it shows scripts.
    async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.shown(&[arguments, &["--json"]].concat()).await).unwrap()
    }

    async fn sends_and_tells(&self, phone: &str, many: usize) -> String {
        let mut id = String::new();
        for _ in 0..many {
            let answer = self.ask("POST", "/api/v1/verify", &[], &format!("{{\"to\":\"{phone}\"}}")).await;
            id = answer.json()["id"].as_str().unwrap_or(&id).to_owned();
        }
        id
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_is_shown_and_cleared() {
    let gateway = sandbox().await;
    gateway.sends_and_tells("+15550100123", 6).await;
    let shown = gateway.shown(&["phone", "+15550100123"]).await;
    let row = shown.lines().find(|line| line.starts_with("phone-10m")).unwrap();
    assert_eq!(
        row.split_whitespace().take(6).collect::<Vec<_>>(),
        ["phone-10m", "5", "in", "10m", "5", "0"],
        "{shown}"
    );
    assert!(shown.starts_with("+1555•••0123\n") && row.contains("(in "), "{shown}");
    assert_eq!(gateway.json(&["phone", "15550100123"]).await["limits"][0]["remaining"], 0);
    assert_eq!(
        gateway.shown(&["phone", "+15550100123", "--clear"]).await,
        "+1555•••0123: 5 codes, 0 cooldowns cleared\n"
    );
    let line = gateway.process.lines("clear_phone", 1).await.remove(0);
    assert!(line.contains("ada") && line.contains("+1555•••0123"), "{line}");
    assert_eq!(gateway.json(&["phone", "+15550100123"]).await["limits"][0]["used"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_is_shown_and_one_that_is_not_known_is_none() {
    let gateway = sandbox().await;
    let id = gateway.sends_and_tells("+15550100123", 1).await;
    let shown = gateway.shown(&["verification", &id]).await;
    assert!(
        shown.contains("+1555•••0123") && shown.contains("resend-cooldown") && shown.contains("(this id)"),
        "{shown}"
    );
    assert_eq!(gateway.json(&["verification", &id]).await["known"], true);
    let (code, out, err) = gateway.verb(&["verification", "ver_nobody"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("does not know"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_is_exempt_until_it_is_no_more() {
    let gateway = sandbox().await;
    assert_eq!(gateway.shown(&["exempt", "list"]).await, "No phone is exempt.\n");
    let added = gateway.shown(&["exempt", "add", "+15550100123", "--for", "2h"]).await;
    assert!(added.starts_with("+1555•••0123: exempt until ") && added.contains("(in 2 h 0 min)"), "{added}");
    assert!(gateway.shown(&["exempt", "list"]).await.contains("+1555•••0123"));
    assert_eq!(gateway.json(&["exempt", "list"]).await["exemptions"][0]["exempt"]["by"], "admin");
    assert_eq!(gateway.shown(&["exempt", "remove", "+15550100123"]).await, "+1555•••0123: not exempt\n");
    assert_eq!(gateway.verb(&["exempt", "remove", "+15550100123"]).await.0, 1);
    let (code, _, err) = gateway.verb(&["exempt", "add", "+15550100123", "--for", "9d"]).await;
    assert_eq!(code, 64);
    assert!(err.contains("7d"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_is_shown_and_needs_no_token() {
    let gateway = sandbox().await;
    gateway.sends_and_tells("+15550100123", 7).await;
    let url = format!("http://{}", gateway.admin);
    let (code, out, err) = verb(&["status", "--admin", &url], &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    for text in ["healthy. Version ", "phone-10m", "5 in 10m per phone", "+1555•••0123", "which saved 4 credits"]
    {
        assert!(out.contains(text), "{text} is not in\n{out}");
    }
    assert_eq!(gateway.json(&["status"]).await["requests"]["total"]["refused"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_an_exit_code() {
    let gateway = sandbox().await;
    let url = format!("http://{}", gateway.admin);
    assert_eq!(verb(&["health", "--admin", &url], &[]).await, (0, "ok\n".to_owned(), String::new()));
    gateway.process.signal("INT");
    assert_eq!(gateway.process.code().await, 0);
    let (code, out, err) = verb(&["health", "--admin", &url], &[]).await;
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains(&url) && err.to_lowercase().contains("refused"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_found_in_the_environment_or_in_a_file_and_without_one_it_is_told() {
    let gateway = sandbox().await;
    let url = format!("http://{}", gateway.admin);
    let (right, wrong) = (config_file(&format!("{TOKEN}\n")), config_file("another"));
    let ask = async |more: &[&str], variables: &[(&str, &str)]| {
        verb(&[&["exempt", "list", "--admin", &url], more].concat(), variables).await.0
    };
    assert_eq!(ask(&[], &[]).await, 77);
    assert_eq!(ask(&[], &[("ADMIN_TOKEN", "another")]).await, 77);
    assert_eq!(ask(&[], &[("ADMIN_TOKEN", TOKEN)]).await, 0);
    assert_eq!(ask(&[], &[("ADMIN_TOKEN_FILE", &right)]).await, 0);
    assert_eq!(ask(&["--token-file", &right], &[("ADMIN_TOKEN", "another")]).await, 0, "what is said last counts");
    assert_eq!(ask(&["--token-file", &wrong], &[("ADMIN_TOKEN", TOKEN)]).await, 77);
    assert_eq!(ask(&["--token-file", "not/there"], &[]).await, 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_a_mistake_and_who_does_not_answer_is_told() {
    for arguments in [
        &["phone"][..],
        &["phone", "nobody"],
        &["exempt"],
        &["exempt", "add", "12 34"],
        &["verification"],
        &["status", "--admin", "https://127.0.0.1:9090"],
        &["status", "--admin", "127.0.0.1"],
        &["health", "--admin", "http://127.0.0.1:9090/v1"],
    ] {
        let (code, out, err) = verb(arguments, &[]).await;
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?} {err}");
        assert!(!err.is_empty());
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, _, err) = verb(&["phone", "+15550100123", "--admin", &format!("http://{nobody}")], &[]).await;
    assert_eq!(code, 69);
    assert!(err.contains(&nobody.to_string()) && !err.contains("15550100123"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_asked_is_no_key_of_the_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml");
    let (code, _, err) = verb(&["check", "--config", file], &[("ADMIN_URL", "http://gateway:9090")]).await;
    assert_eq!((code, err.as_str()), (0, ""));
}
