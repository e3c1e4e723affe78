//! One process takes over from another, by the program itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::client::Wire;
use crate::process::{PROGRAM, Process, Serving, config_file};
use crate::upstream::{Act, Seen, Upstream};

/// Two processes that can meet.
pub(crate) struct Meeting {
    pub(crate) config: String,
    socket: String,
    pub(crate) upstream: Upstream,
}

impl Meeting {
    pub(crate) async fn new(config: &str) -> Self {
        let socket = config_file("").replace(".toml", ".sock");
        Self { config: config_file(config), socket, upstream: Upstream::start().await }
    }

    pub(crate) fn start(&self, more: &[&str], variables: &[(&str, &str)]) -> Process {
        self.start_program(PROGRAM, more, variables)
    }

    /// The same of another program.
    pub(crate) fn start_program(&self, program: &str, more: &[&str], variables: &[(&str, &str)]) -> Process {
        let url = self.upstream.url();
        let all = [&[("UPSTREAM_URL", url.as_str()), ("UPGRADE_SOCKET", &self.socket)], variables].concat();
        Process::start_program(program, &[&["run", "--config", &self.config], more].concat(), &all)
    }

    /// Where a state may be kept.
    pub(crate) fn folder(&self) -> String {
        self.config.replace(".toml", ".state")
    }

    pub(crate) async fn old(&self) -> Serving {
        Serving::of(self.start(&[], &[])).await
    }

    /// The process that takes over from this one.
    pub(crate) async fn succeed(&self, old: &Serving, variables: &[(&str, &str)]) -> Serving {
        let new = self.start(&["--upgrade"], variables);
        new.logs("waiting for the gateway that runs").await;
        old.process.signal("QUIT");
        Serving::of(new).await
    }
}

pub(crate) async fn send(wire: &mut Wire, phone: &str) -> u16 {
    let body = format!(r#"{{"to":"{phone}"}}"#);
    wire.request("POST", "/api/v1/verify", &[], body.as_bytes()).await;
    wire.answer().await.expect("the connection ends without an answer").status.as_u16()
}

pub(crate) async fn sends(serving: &Serving, phone: &str, many: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..many {
        all.push(send(&mut serving.connect().await, phone).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_connection_fails_and_no_phone_gets_a_code_too_many() {
    let meeting = Meeting::new("").await;
    let old = meeting.old().await;
    let (done, asked, goes_on) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let clients: Vec<_> = (0..12_usize)
        .map(|client| {
            let (address, done, asked, goes_on) = (old.address, done.clone(), asked.clone(), goes_on.clone());
            tokio::spawn(async move {
                let mut wire = Wire::connect(address).await;
                let mut sent = Vec::new();
                let mut nth = client;
                // Until it has met the new process often enough, on a connection that it keeps for as long as it is let.
                while goes_on.load(Ordering::Relaxed) {
                    nth += 7;
                    // Old phones, which all clients ask for, and new ones.
                    let phone = if nth % 3 == 0 { nth % 5 } else { 100 + asked.fetch_add(1, Ordering::Relaxed) / 9 };
                    let (method, target) =
                        if nth % 4 == 0 { ("GET", "/api/v1/other") } else { ("POST", "/api/v1/verify") };
                    let body = format!(r#"{{"to":"+1555{phone:07}"}}"#);
                    wire.request(method, target, &[], body.as_bytes()).await;
                    let answer = wire.answer().await.expect("the connection ends without an answer");
                    assert!([200, 201, 429].contains(&answer.status.as_u16()), "{answer:?}");
                    if answer.status == 201 {
                        sent.push(phone);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        wire = Wire::connect(address).await;
                    }
                }
                sent
            })
        })
        .collect();
    meeting.upstream.has_seen(200).await;
    let new = meeting.succeed(&old, &[]).await;
    assert_eq!((new.address, new.admin), (old.address, old.admin), "the sockets are the same");
    let before = done.load(Ordering::Relaxed);
    while done.load(Ordering::Relaxed) < before + 2000 {
        tokio::task::yield_now().await;
    }
    goes_on.store(false, Ordering::Relaxed);
    let mut got = std::collections::HashMap::new();
    for client in clients {
        for phone in client.await.unwrap() {
            *got.entry(phone).or_insert(0) += 1;
        }
    }
    assert_eq!(old.process.code().await, 0);
    assert!(old.process.err().contains("another process has taken over"));
    for nth in 0..5 {
        let phone = format!("+1555{nth:07}");
        assert_eq!((got.get(&nth), meeting.upstream.codes(&phone)), (Some(&5), 5), "{phone}");
    }
    for (phone, codes) in got {
        assert!(codes <= 5, "{phone} got {codes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_process_knew_the_new_one_knows() {
    let meeting = Meeting::new("[admin]\ntoken = \"0123456789abcdef\"\n").await;
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100001", 5).await, [201; 5]);
    let answer = old.ask("POST", "/api/v1/verify", &[], r#"{"to":"+15550100002"}"#).await;
    let resend = format!("/api/v1/verify/{}/resend", answer.json()["id"].as_str().unwrap());
    assert_eq!(old.ask("POST", &resend, &[], "").await.status, 200);
    // Sendly itself refuses this one for a while.
    meeting
        .upstream
        .script(|_| Act::json(429, &serde_json::json!({ "error": "rate_limit_exceeded", "retryAfter": 900 })));
    assert_eq!(sends(&old, "+15550100003", 1).await, [429]);
    // This one's answer is lost with its client, and waits for the retry.
    meeting.upstream.script(|_| Act::AnswerWhenLet(201, br#"{"id":"ver_7","phone":"+15550100004"}"#.as_slice().into()));
    let mut wire = old.connect().await;
    let seen = meeting.upstream.seen().len();
    wire.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100004"}"#).await;
    meeting.upstream.has_seen(seen + 1).await;
    wire.reset();
    old.until_it_exposes("unclaimed_exchanges 1").await;
    meeting.upstream.let_go(1);
    old.until_it_exposes("kept_answers 1").await;
    meeting.upstream.behave();
    let exempt = [("authorization", "Bearer 0123456789abcdef")];
    let mut wire = Wire::connect(old.admin).await;
    wire.request("PUT", "/v1/exemptions/+15550100001?for=1h", &exempt, b"").await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    drop(wire);

    let new = meeting.succeed(&old, &[]).await;
    assert_eq!(old.process.code().await, 0);
    let refused = new.ask("POST", &resend, &[], "").await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "resend_cooldown"));
    assert_eq!(meeting.upstream.count(Seen::is_lookup), 1, "only whether Sendly shows it to this key");
    assert_eq!(sends(&new, "+15550100003", 1).await, [429], "held");
    let before = meeting.upstream.seen().len();
    let retried = new.ask("POST", "/api/v1/verify", &[], r#"{"to":"+15550100004"}"#).await;
    assert_eq!((retried.status.as_u16(), retried.json()["id"].as_str()), (201, Some("ver_7")));
    assert_eq!(meeting.upstream.seen().len(), before, "nothing was bought twice");
    assert_eq!(sends(&new, "+15550100001", 1).await, [201], "exempt");
    let mut wire = Wire::connect(new.admin).await;
    wire.request("DELETE", "/v1/exemptions/+15550100001", &exempt, b"").await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert_eq!(sends(&new, "+15550100001", 1).await, [429], "its five codes are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_still_comes_to_the_old_process_the_new_one_judges() {
    let meeting = Meeting::new("").await;
    let old = meeting.old().await;
    let mut wires = [old.connect().await, old.connect().await, old.connect().await];
    for wire in &mut wires {
        assert_eq!(send(wire, "+15550100001").await, 201);
    }
    let new = meeting.succeed(&old, &[]).await;
    assert_eq!(sends(&new, "+15550100001", 1).await, [201]);
    let mut told = Vec::new();
    for wire in &mut wires {
        wire.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100001"}"#).await;
        let answer = wire.answer().await.expect("the connection ends without an answer");
        assert_eq!(answer.header("connection"), Some("close"));
        told.push(answer.status.as_u16());
        assert!(wire.is_closed().await);
    }
    assert_eq!(told, [201, 429, 429]);
    assert_eq!(meeting.upstream.codes("+15550100001"), 5);
    assert_eq!(old.process.code().await, 0);
    new.until_it_exposes(r#"requests_total{operation="send",outcome="refused"} 2"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_that_was_looked_up_over_the_hand_over_is_judged_by_the_new_process_alone() {
    let meeting = Meeting::new("[upstream]\nlookup_timeout = \"15s\"\n").await;
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100001", 4).await, [201; 4]);
    let shown = br#"{"id":"ver_elsewhere","phone":"+15550100001"}"#.as_slice();
    meeting.upstream.knows("ver_elsewhere", "+15550100001");
    let like_sendly = meeting.upstream.like_sendly();
    meeting.upstream.script(move |seen| match seen.is_lookup() {
        true => Act::AnswerWhenLet(200, shown.into()),
        false => like_sendly(seen),
    });
    let mut resend = old.connect().await;
    resend.request("POST", "/api/v1/verify/ver_elsewhere/resend", &[], b"").await;
    meeting.upstream.has_seen(5).await;
    let new = meeting.succeed(&old, &[]).await;
    assert_eq!(sends(&new, "+15550100001", 1).await, [201], "the fifth");
    meeting.upstream.let_go(1);
    // The new process has to look it up, too: the old one tells no more of what it learns than that.
    meeting.upstream.behave();
    assert_eq!(resend.answer().await.expect("an answer").status, 429);
    assert_eq!(meeting.upstream.count(Seen::is_resend), 0);
    assert_eq!(meeting.upstream.codes("+15550100001"), 5);
    assert_eq!(old.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_in_flight_ends_where_it_began_and_is_settled_where_it_counts() {
    let meeting = Meeting::new("").await;
    let old = meeting.old().await;
    let body = br#"{"id":"ver_9","phone":"+15550100001"}"#.as_slice();
    assert_eq!(sends(&old, "+15550100002", 1).await, [201], "that proves the key");
    meeting.upstream.script(move |_| Act::AnswerWhenLet(400, body.into()));
    let mut rejected = old.connect().await;
    rejected.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100001"}"#).await;
    meeting.upstream.has_seen(2).await;
    meeting.upstream.script(move |_| Act::AnswerWhenLet(201, body.into()));
    let mut sent = old.connect().await;
    sent.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100001"}"#).await;
    meeting.upstream.has_seen(3).await;
    // They take longer than anybody waits for them.
    let new = meeting.succeed(&old, &[]).await;
    meeting.upstream.let_go(2);
    assert_eq!(rejected.answer().await.unwrap().status, 400);
    assert_eq!(sent.answer().await.unwrap().status, 201);
    assert_eq!(old.process.code().await, 0);
    new.process.logs("the old process has ended").await;
    meeting.upstream.behave();
    meeting.upstream.knows("ver_9", "+15550100001");
    assert_eq!(new.ask("POST", "/api/v1/verify/ver_9/resend", &[], "").await.status, 200);
    assert_eq!(meeting.upstream.count(Seen::is_lookup), 0, "whose it is was told");
    assert_eq!(sends(&new, "+15550100001", 4).await, [201, 201, 201, 429], "one was given back, one kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_state_on_disk_too_nothing_is_missing_after_the_next_kill() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let state = [("STATE_DIR", dir.as_str())];
    let old = Serving::of(meeting.start(&[], &state)).await;
    assert_eq!(sends(&old, "+15550100001", 3).await, [201; 3]);
    let new = meeting.succeed(&old, &state).await;
    assert_eq!(sends(&new, "+15550100001", 1).await, [201]);
    assert_eq!(old.process.code().await, 0);
    new.process.signal("KILL");
    new.process.code().await;
    let next = Serving::of(meeting.start(&[], &state)).await;
    assert_eq!(sends(&next, "+15550100001", 2).await, [201, 429]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_begins_with_the_new_process_has_what_the_old_one_knew() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100001", 4).await, [201; 4]);
    let new = meeting.succeed(&old, &[("STATE_DIR", &dir)]).await;
    assert_eq!(old.process.code().await, 0);
    new.process.signal("KILL");
    new.process.code().await;
    let next = Serving::of(meeting.start(&[], &[("STATE_DIR", &dir)])).await;
    assert_eq!(sends(&next, "+15550100001", 2).await, [201, 429]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_begins_with_the_new_process_is_written_under_a_configured_key_too() {
    let meeting = Meeting::new("hash_key = \"0123456789abcdef0123456789abcdef\"\n").await;
    let dir = meeting.folder();
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100001", 5).await, [201; 5]);
    let new = meeting.succeed(&old, &[("STATE_DIR", &dir)]).await;
    assert_eq!(old.process.code().await, 0);
    new.process.signal("KILL");
    new.process.code().await;
    let next = Serving::of(meeting.start(&[], &[("STATE_DIR", &dir)])).await;
    assert_eq!(sends(&next, "+15550100001", 1).await, [429]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_new_folder_told_before_is_counted_no_more_once_the_new_process_serves() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100001", 3).await, [201; 3]);
    // As an attempt leaves it that died late: it had written all that it was told.
    std::fs::create_dir(&dir).unwrap();
    let first = meeting.succeed(&old, &[("STATE_DIR", &dir)]).await;
    assert_eq!(old.process.code().await, 0);
    assert!(std::fs::metadata(format!("{dir}/journal-00000001")).unwrap().len() > 3 * 48);
    let second = meeting.succeed(&first, &[]).await;
    assert_eq!(first.process.code().await, 0);
    let third = meeting.succeed(&second, &[("STATE_DIR", &dir)]).await;
    assert_eq!(second.process.code().await, 0);
    third.process.signal("KILL");
    third.process.code().await;
    let next = Serving::of(meeting.start(&[], &[("STATE_DIR", &dir)])).await;
    assert_eq!(sends(&next, "+15550100001", 3).await, [201, 201, 429], "three, and not six");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_take_over_says_why_and_the_old_one_goes_on() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let state = [("STATE_DIR", dir.as_str())];
    let old = Serving::of(meeting.start(&[], &state)).await;
    assert_eq!(sends(&old, "+15550100001", 4).await, [201; 4]);
    let new = meeting.start(&["--upgrade"], &[("LISTEN", "127.0.0.2:0")]);
    new.logs("waiting for the gateway that runs").await;
    old.process.signal("QUIT");
    assert_eq!(new.code().await, 69);
    assert!(new.err().contains("listen is 127.0.0.2:0 here"), "{}", new.err());
    old.process.logs("nobody has taken over: this process goes on").await;
    assert_eq!(sends(&old, "+15550100001", 2).await, [201, 429]);
    // It still can be taken over from.
    let new = meeting.succeed(&old, &state).await;
    assert_eq!(old.process.code().await, 0);
    assert_eq!(sends(&new, "+15550100001", 1).await, [429]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_breaks_off_while_it_takes_over_changes_nothing() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let old = Serving::of(meeting.start(&[], &[("STATE_DIR", &dir)])).await;
    assert_eq!(sends(&old, "+15550100001", 4).await, [201; 4]);
    // Somebody who takes the sockets, says nothing and leaves.
    let listener = std::os::unix::net::UnixListener::bind(&meeting.socket).unwrap();
    old.process.signal("QUIT");
    drop(tokio::task::spawn_blocking(move || listener.accept().unwrap()).await.unwrap());
    old.process.logs("nobody has taken over: this process goes on").await;
    assert_eq!(sends(&old, "+15550100001", 2).await, [201, 429]);
    std::fs::remove_file(&meeting.socket).unwrap();
    old.process.signal("KILL");
    old.process.code().await;
    let next = Serving::of(meeting.start(&[], &[("STATE_DIR", &dir)])).await;
    assert_eq!(sends(&next, "+15550100001", 1).await, [429]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_while_it_takes_over_leaves_one_that_judges_or_none_and_never_two() {
    let meeting = Meeting::new("").await;
    let dir = meeting.folder();
    let state = [("STATE_DIR", dir.as_str())];
    let old = Serving::of(meeting.start(&[], &state)).await;
    let mut wires = Vec::new();
    for round in 0..6_usize {
        let phone = format!("+155501000{round:02}");
        assert_eq!(sends(&old, &phone, 3).await, [201; 3]);
        let new = meeting.start(&["--upgrade"], &state);
        new.logs("waiting for the gateway that runs").await;
        old.process.signal("QUIT");
        new.logs("taking over").await;
        // Somewhere in the middle of it: requests come, and the new one is killed.
        let asking: Vec<_> = (0..8)
            .map(|_| {
                let (address, phone) = (old.address, phone.clone());
                tokio::spawn(async move {
                    let mut wire = Wire::connect(address).await;
                    let body = format!(r#"{{"to":"{phone}"}}"#);
                    wire.request("POST", "/api/v1/verify", &[], body.as_bytes()).await;
                    (wire.answer().await.map(|answer| answer.status.as_u16()), wire)
                })
            })
            .collect();
        new.signal("KILL");
        assert_eq!(new.code().await, -1);
        for one in asking {
            // Whoever was with the new one has lost its connection; all others have an answer.
            wires.extend(one.await.map(|(_, wire)| wire));
        }
        assert!(meeting.upstream.codes(&phone) <= 5, "{phone} got {}", meeting.upstream.codes(&phone));
        if old.process.err().contains("another process has taken over") {
            break;
        }
        old.process.lines("nobody has taken over: this process goes on", round + 1).await;
        assert_eq!(sends(&old, &phone, 6).await.last(), Some(&429));
        assert_eq!(meeting.upstream.codes(&phone), 5);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_waits_it_starts_its_successor_itself() {
    let meeting = Meeting::new("").await;
    let old = meeting.old().await;
    assert_eq!(sends(&old, "+15550100001", 4).await, [201; 4]);
    old.process.signal("QUIT");
    let line = old.process.lines("starting a process that takes over", 1).await.remove(0);
    let child = serde_json::from_str::<serde_json::Value>(&line).unwrap()["process"].as_u64().unwrap();
    let _ended = EndLater(child.to_string());
    old.process.logs("another process has taken over").await;
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    assert_ne!(parent, old.process.id().to_string(), "a supervisor could not wait for its end");
    assert_eq!(sends(&old, "+15550100001", 2).await, [201, 429], "at the same address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_with_a_mistake_in_its_configuration_is_told_of_at_once_in_a_line_of_the_log() {
    let meeting = Meeting::new("reload.watch = false\n").await;
    let old = meeting.old().await;
    std::fs::write(&meeting.config, "drain_timeot = \"40s\"\n").unwrap();
    old.process.signal("QUIT");
    let line = old.process.lines("this process goes on", 1).await.remove(0);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let why = line["error"].as_str().unwrap();
    assert!(why.contains("exit status: 64") && why.contains("drain_timeot"), "{why}");
    assert!(!old.process.err().contains("\ndrain_timeot"), "and nowhere else");
    assert_eq!(sends(&old, "+15550100001", 1).await, [201]);
    old.process.signal("TERM");
    assert_eq!(old.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_has_handed_over_keeps_its_clients_whatever_a_supervisor_sends_to_stop_the_service() {
    let meeting = Meeting::new("").await;
    let old = meeting.old().await;
    let body = br#"{"id":"ver_9","phone":"+15550100001"}"#.as_slice();
    meeting.upstream.script(move |_| Act::AnswerWhenLet(201, body.into()));
    let mut sent = old.connect().await;
    sent.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100001"}"#).await;
    meeting.upstream.has_seen(1).await;
    let _new = meeting.succeed(&old, &[]).await;
    old.process.logs("another process has taken over").await;
    for round in 1..=2 {
        old.process.signal("TERM");
        old.process.lines("this process ends with its last connection", round).await;
    }
    meeting.upstream.let_go(1);
    assert_eq!(sent.answer().await.unwrap().status, 201);
    assert_eq!(old.process.code().await, 0);
}

/// A process that a test has not started itself.
struct EndLater(String);

impl Drop for EndLater {
    fn drop(&mut self) {
        let _ = std::process::Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.0)).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_socket_to_meet_at_it_says_so_and_goes_on() {
    let upstream = Upstream::start().await;
    let serving = Process::gateway("", &upstream.url(), &[]).await;
    serving.process.signal("QUIT");
    serving.process.logs("upgrade.socket is not set").await;
    assert_eq!(serving.admin("/readyz").await.status, 200);
    let file = config_file("");
    let new = Process::start(&["run", "--config", &file, "--upgrade"], &[]);
    assert_eq!(new.code().await, 64);
    assert!(new.err().contains("upgrade.socket: --upgrade needs it"));
}

/// A certificate, as files, and who trusts it.
pub(crate) fn tls() -> (String, Arc<rustls::ClientConfig>) {
    let signed = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).unwrap();
    let (certificate, key) = (config_file(&signed.cert.pem()), config_file(&signed.signing_key.serialize_pem()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (format!("[tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\n"), Arc::new(client))
}

pub(crate) async fn over_tls(
    address: std::net::SocketAddr,
    client: &rustls::ClientConfig,
    protocol: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut client = client.clone();
    client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = rustls::pki_types::ServerName::try_from("gateway.test").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap()
}

type Http2 = hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>>;

async fn http2(address: std::net::SocketAddr, client: &rustls::ClientConfig) -> Http2 {
    let stream = hyper_util::rt::TokioIo::new(over_tls(address, client, "h2").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// What clients have done, and whether they are to stop.
#[derive(Default)]
struct Load {
    done: AtomicUsize,
    stops: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stops.load(Ordering::Relaxed)
    }
}

/// Sends codes to one phone, again and again, on a connection that is kept for as long as it is let: returns how many were sent.
async fn http2_sends(
    address: std::net::SocketAddr,
    client: Arc<rustls::ClientConfig>,
    phone: usize,
    load: Arc<Load>,
) -> usize {
    let (mut sender, mut sent) = (http2(address, &client).await, 0);
    while load.goes_on() {
        // A connection that takes no more streams has said so before.
        while sender.ready().await.is_err() {
            sender = http2(address, &client).await;
        }
        let body = bytes::Bytes::from(format!(r#"{{"to":"+1555{phone:07}"}}"#));
        let request = http::Request::post("https://gateway.test/api/v1/verify")
            .header("authorization", crate::client::KEY)
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(body))
            .unwrap();
        let answer = match sender.try_send_request(request).await {
            Ok(answer) => answer,
            Err(mut error) => {
                // It never left, if it is here: the connection was told in between to take no more.
                assert!(error.take_message().is_some(), "a stream breaks off: {:?}", error.into_error());
                continue;
            }
        };
        let (head, body) = answer.into_parts();
        http_body_util::BodyExt::collect(body).await.expect("an answer is whole");
        assert!([201, 429].contains(&head.status.as_u16()), "{head:?}");
        load.done.fetch_add(1, Ordering::Relaxed);
        sent += usize::from(head.status == 201);
    }
    sent
}

/// The same over HTTP/1.1.
async fn http1_sends(
    address: std::net::SocketAddr,
    client: Arc<rustls::ClientConfig>,
    phone: usize,
    load: Arc<Load>,
) -> usize {
    let connect = async || Wire::over(over_tls(address, &client, "http/1.1").await);
    let (mut wire, mut sent) = (connect().await, 0);
    while load.goes_on() {
        wire.request("POST", "/api/v1/verify", &[], format!(r#"{{"to":"+1555{phone:07}"}}"#).as_bytes()).await;
        let answer = wire.answer().await.expect("the connection ends without an answer");
        assert!([201, 429].contains(&answer.status.as_u16()), "{answer:?}");
        load.done.fetch_add(1, Ordering::Relaxed);
        sent += usize::from(answer.status == 201);
        if answer.header("connection") == Some("close") {
            wire = connect().await;
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_and_http2_too_no_request_fails_and_no_phone_gets_a_code_too_many() {
    let (tls, client) = tls();
    let meeting = Meeting::new(&tls).await;
    let old = meeting.old().await;
    let load = Arc::new(Load::default());
    let phones = 3;
    let mut clients = Vec::new();
    for nth in 0..6 {
        let (client, load) = (Arc::clone(&client), Arc::clone(&load));
        clients.push((nth % phones, tokio::spawn(http1_sends(old.address, client, nth % phones, load))));
    }
    for nth in 0..6 {
        let (client, load) = (Arc::clone(&client), Arc::clone(&load));
        clients.push((nth % phones, tokio::spawn(http2_sends(old.address, client, nth % phones, load))));
    }
    // Connections that say nothing meanwhile, and come back: each kind is served, or is told before that it is over.
    let (mut idle, mut idle2) =
        (Wire::over(over_tls(old.address, &client, "http/1.1").await), http2(old.address, &client).await);
    assert_eq!(send(&mut idle, "+15559999999").await, 201);
    idle2.ready().await.unwrap();
    meeting.upstream.has_seen(3 * 5 + 1).await;
    let _new = meeting.succeed(&old, &[]).await;
    assert_eq!(send(&mut idle, "+15559999999").await, 201);
    assert!(idle.is_closed().await);
    let before = load.done.load(Ordering::Relaxed);
    while load.done.load(Ordering::Relaxed) < before + 1000 {
        tokio::task::yield_now().await;
    }
    load.stops.store(true, Ordering::Relaxed);
    let mut got = vec![0; phones];
    for (phone, client) in clients {
        got[phone] += client.await.unwrap();
    }
    for (phone, got) in got.into_iter().enumerate() {
        assert_eq!((got, meeting.upstream.codes(&format!("+1555{phone:07}"))), (5, 5), "phone {phone}");
    }
    assert_eq!(old.process.code().await, 0, "nobody holds it up");
    assert!(idle2.ready().await.is_err(), "it was told to come back");
    assert_eq!(meeting.upstream.codes("+15559999999"), 2);
}
