//! What can be asked of the program, and how it ends.

use std::process::{Command, Output};

use tokio::net::TcpListener;

use crate::client::Wire;
use crate::process::{Process, Serving, config_file};

async fn ends(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let process = Process::start(arguments, variables);
    let code = process.code().await;
    (code, process.out(), process.err())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_no_mistake_in_the_configuration_that_comes_with_it() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml");
    let (code, out, err) = ends(&["check", "--config", file], &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("4 limits, 0 throttles, no mistake"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_run_name_every_mistake_at_once() {
    let file = config_file(
        "workers = -1\n[upstream]\nurl = \"ftp://sendly\"\nconect_timeout = \"3s\"\n[[limits]]\nname = \"A\"\nper = \"phone\"\n",
    );
    for command in ["check", "run"] {
        let (code, out, err) = ends(&[command, "--config", &file], &[("DRAIN_TIMEOUT", "soon")]).await;
        assert_eq!((code, out.as_str()), (64, ""), "{err}");
        for mistake in ["workers", "url", "conect_timeout", "name", "max", "window", "SENDLY_GATEWAY_DRAIN_TIMEOUT"] {
            assert!(err.contains(mistake), "{mistake} is not in\n{err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_run_warn_of_what_is_allowed_and_likely_not_meant() {
    let file = "clients.body_timeout = \"11s\"\ndrain_timeout = \"30s\"\nupstream.protocol = \"http2\"\n";
    let warnings = [
        "body_timeout and answer_within to be less than 30s together",
        "drain_timeout to be at least 65s",
        "upstream.protocol: expected \"http1\"",
    ];
    let (code, out, err) = ends(&["check", "--config", &config_file(file)], &[]).await;
    assert_eq!(code, 0, "files of 0.1 still start: {err}");
    for warning in warnings {
        assert_eq!(format!("{out}{err}").matches(warning).count(), 1, "{warning} in\n{out}{err}");
    }
    let running = Process::gateway(file, "http://127.0.0.1:1", &[]).await;
    for warning in warnings {
        running.process.logs(&warning.replace('"', "\\\"")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_reads_the_certificates_that_run_would_stumble_over() {
    let [one, other] = ["a", "b"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
    let [certificate, its_key] = [one.cert.pem(), one.signing_key.serialize_pem()].map(|text| config_file(&text));
    let (other_key, no_certificate) = (config_file(&other.signing_key.serialize_pem()), config_file("none"));
    let checked = |tls: String| async move { ends(&["check", "--config", &config_file(&tls)], &[]).await };
    let tls = |key: &str| format!("[tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\n");
    let (code, _, err) = checked(tls(&its_key)).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let (code, out, err) = checked(tls(&other_key)).await;
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains(&certificate), "{err}");
    let all = format!(
        "{}[upstream]\nca_file = {no_certificate:?}\n[traces]\nurl = \"https://a\"\nca_file = {no_certificate:?}\n\
         [ledger]\nbackend = \"redis\"\nurl = \"rediss://a\"\nhash_key = \"0123456789abcdef\"\n\
         ca_file = {no_certificate:?}\n",
        tls(&other_key)
    );
    let (code, _, err) = checked(all).await;
    assert_eq!((code, err.matches(&no_certificate).count(), err.lines().count()), (64, 3, 4), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_there_is_a_mistake() {
    for command in ["check", "run"] {
        let (code, _, err) = ends(&[command, "--config", "not/there.toml"], &[]).await;
        assert_eq!(code, 64);
        assert!(err.contains("not/there.toml"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_does_not_understand_is_a_mistake_and_help_is_none() {
    for arguments in [
        &["run", "--confg", "x"][..],
        &["run"],
        &["check"],
        &["serve"],
        &["sandbox", "--listen", "everywhere"],
        &["run", "--sandbox", "--listen", "8080"],
        &[],
    ] {
        let (code, out, err) = ends(arguments, &[]).await;
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}");
        assert!(!err.is_empty());
    }
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let (code, out, err) = ends(arguments, &[]).await;
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(out.contains("sendly-gateway"), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_told_and_nothing_serves() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, variables) in [
        (&["run", "--sandbox", "--listen", &address][..], &[][..]),
        (&["run", "--sandbox"], &[("LISTEN", address.as_str())]),
        (&["run", "--sandbox"], &[("ADMIN_LISTEN", address.as_str())]),
        (&["sandbox", "--listen", &address], &[]),
    ] {
        let (code, out, err) = ends(arguments, variables).await;
        assert_eq!((code, out.as_str()), (69, ""), "{arguments:?} {err}");
        let line = err.lines().last().unwrap();
        assert!(line.contains(&address) && line.to_lowercase().contains("in use"), "{err}");
    }
}

fn sh(script: &str) -> Output {
    Command::new("sh").arg("-c").arg(script).output().unwrap()
}

/// The lines to try: blocks that are set in, as they stand.
fn blocks(welcome: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in welcome.lines() {
        match line.strip_prefix("  ") {
            Some(line) => blocks.last_mut().unwrap().push_str(&format!("{line}\n")),
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_to_try_work_as_they_are_printed_and_the_last_code_is_refused() {
    let serving = Serving::of(Process::start(&["run", "--sandbox"], &[])).await;
    serving.process.says("Ctrl-C").await;
    let welcome = serving.process.out();
    assert!(welcome.contains(&format!("http://{}/api/v1", serving.address)), "{welcome}");
    let blocks = blocks(&welcome);
    let [send, more, counted] = blocks.as_slice() else { panic!("{blocks:?}") };

    let sent = sh(send);
    let body: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap_or_else(|_| panic!("{sent:?}"));
    assert!(body["sandbox_code"].is_string() && body["phone"] == "+15550100123", "{body}");

    let answers = String::from_utf8(sh(more).stdout).unwrap();
    let statuses: Vec<&str> = answers.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
    assert_eq!(statuses, ["201", "201", "201", "201", "429"], "{answers}");
    assert!(answers.to_lowercase().contains("\r\nretry-after: ") && answers.contains("\"retryAfter\":"), "{answers}");

    let counted = String::from_utf8(sh(counted).stdout).unwrap();
    for line in [
        r#"sendly_gateway_requests_total{operation="send",outcome="allowed"} 5"#,
        r#"sendly_gateway_requests_total{operation="send",outcome="refused"} 1"#,
        r#"sendly_gateway_decisions_total{decision="deny",limit="phone-10m"} 1"#,
    ] {
        assert!(counted.contains(line), "{line} is not in\n{counted}");
    }
    serving.process.signal("INT");
    assert_eq!(serving.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_alone_is_a_sendly() {
    for (arguments, last) in [(&["--limits"][..], 429), (&[], 201)] {
        let process = Process::start(&[&["sandbox", "--listen", "127.0.0.1:0"], arguments].concat(), &[]);
        let line = process.lines("sandbox Sendly", 1).await.remove(0);
        let address = line.split("address=").nth(1).unwrap().split(' ').next().unwrap();
        let mut wire = Wire::connect(address.parse().unwrap()).await;
        for expected in [201, 201, 201, 201, 201, last] {
            wire.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100123"}"#).await;
            assert_eq!(wire.answer().await.unwrap().status, expected);
        }
        process.signal("TERM");
        assert_eq!(process.code().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_json_lines_unless_people_read_them() {
    let upstream = crate::upstream::Upstream::start().await;
    for format in ["json", "text"] {
        let variables = if format == "json" { vec![] } else { vec![("LOG_FORMAT", "text")] };
        let serving = Process::gateway("", &upstream.url(), &variables).await;
        assert_eq!(serving.ask("GET", "/api/v1/verify", &[], "").await.status, 200);
        serving.process.lines("operation", 1).await;
        serving.process.signal("TERM");
        assert_eq!((serving.process.code().await, serving.process.out().as_str()), (0, ""));
        let err = serving.process.err();
        for line in err.lines() {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert_eq!(parsed.is_ok(), format == "json", "{line}");
            let Ok(line) = parsed else { continue };
            for field in ["timestamp", "level", "target"] {
                assert!(line[field].is_string(), "{line}");
            }
        }
        for word in ["serving", "draining", "stopped"] {
            assert!(err.contains(word), "{word} is not in\n{err}");
        }
    }
}
