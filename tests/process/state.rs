//! What outlives the process, by the program itself: it is killed, its disk takes nothing, its files are damaged.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::hand_over_faults::{CONFIG, Load};
use crate::client::Answer;
use crate::process::{Process, Serving, config_file};
use crate::upstream::{Act, Upstream};

/// A folder that is not there yet.
fn folder() -> PathBuf {
    PathBuf::from(config_file("")).with_extension("state")
}

async fn gateway(upstream: &Upstream, dir: &std::path::Path) -> Serving {
    Process::gateway("", &upstream.url(), &[("STATE_DIR", dir.to_str().unwrap())]).await
}

async fn send(serving: &Serving, phone: &str) -> Answer {
    serving.ask("POST", "/api/v1/verify", &[], &format!(r#"{{"to":"{phone}"}}"#)).await
}

async fn metric(serving: &Serving, name: &str) -> f64 {
    let text = String::from_utf8(serving.admin("/metrics").await.body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("sendly_gateway_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_that_is_stopped_at_once_under_load_has_charged_counts_in_the_next_one() {
    for signals in [["INT"].as_slice(), &["TERM", "TERM"], &["TERM", "INT"], &["INT"]] {
        let (upstream, dir) = (Upstream::start().await, folder());
        let state = [("STATE_DIR", dir.to_str().unwrap())];
        let serving = Process::gateway(CONFIG, &upstream.url(), &state).await;
        let load = Load::on(&serving);
        upstream.has_seen(40).await;
        for signal in signals {
            // It may have ended by the first, where that found nothing in flight.
            serving.process.signal_if_there(signal);
        }
        assert_eq!(serving.process.code().await, 0);
        load.ends().await;
        let next = Process::gateway(CONFIG, &upstream.url(), &state).await;
        for phone in load.phones(&upstream).into_keys() {
            while send(&next, &phone).await.status == 201 {}
        }
        for (phone, codes) in load.phones(&upstream) {
            assert!(codes <= 5, "{signals:?}: {phone} got {codes}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_it_is_killed_no_phone_gets_a_code_too_many() {
    let (upstream, dir) = (Upstream::start().await, folder());
    let phones: Vec<String> = (0..16).map(|nth| format!("+1555010{nth:04}")).collect();
    for kill in 0..6 {
        let serving = gateway(&upstream, &dir).await;
        let before = upstream.seen().len();
        let asking: Vec<_> = phones
            .iter()
            .cycle()
            .take(16)
            .cloned()
            .map(|phone| {
                let address = serving.address;
                tokio::spawn(async move {
                    let mut wire = crate::client::Wire::connect(address).await;
                    let body = format!(r#"{{"to":"{phone}"}}"#);
                    wire.request("POST", "/api/v1/verify", &[], body.as_bytes()).await;
                    wire.answer().await.map(|answer| answer.status.as_u16())
                })
            })
            .collect();
        // In the midst of it, as long as anything is let through at all.
        if kill < 4 {
            upstream.has_seen(before + 2).await;
        }
        serving.process.signal("KILL");
        assert_eq!(serving.process.code().await, -1);
        for one in asking {
            // Whatever it was told, or not told any more: a client that was just being accepted has no connection.
            let _ = one.await;
        }
    }
    let serving = gateway(&upstream, &dir).await;
    for phone in &phones {
        // To the last one that it may have; no code was charged that was not sent, or may not have been.
        while send(&serving, phone).await.status == 201 {}
        assert!(upstream.codes(phone) <= 5, "{phone} got {}", upstream.codes(phone));
    }
    let sent: usize = phones.iter().map(|phone| upstream.codes(phone)).sum();
    assert!(sent > phones.len(), "nearly nobody got any: {sent}");
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_an_id_that_was_told_is_known_with_its_cooldown() {
    let (upstream, dir) = (Upstream::start().await, folder());
    let serving = gateway(&upstream, &dir).await;
    let id = send(&serving, "+15550100123").await.json()["id"].as_str().unwrap().to_owned();
    let resend = format!("/api/v1/verify/{id}/resend");
    assert_eq!(serving.ask("POST", &resend, &[], "").await.status, 200);
    serving.process.signal("KILL");
    serving.process.code().await;
    let serving = gateway(&upstream, &dir).await;
    serving.process.logs("the state is restored").await;
    let refused = serving.ask("POST", &resend, &[], "").await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (429, "resend_cooldown"));
    assert_eq!(upstream.count(crate::upstream::Seen::is_lookup), 1, "only whether Sendly shows it to this key");
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_before_a_kill_was_never_charged_and_what_was_in_flight_stays() {
    let (upstream, dir) = (Upstream::start().await, folder());
    let serving = gateway(&upstream, &dir).await;
    upstream.script(|_| Act::error(400, "invalid_request"));
    for _ in 0..7 {
        assert_eq!(send(&serving, "+15550100123").await.status, 400);
    }
    upstream.script(|_| Act::Hang);
    let mut wire = serving.connect().await;
    wire.request("POST", "/api/v1/verify", &[], br#"{"to":"+15550100123"}"#).await;
    upstream.has_seen(8).await;
    serving.process.signal("KILL");
    serving.process.code().await;
    upstream.behave();
    let serving = gateway(&upstream, &dir).await;
    for _ in 0..4 {
        assert_eq!(send(&serving, "+15550100123").await.status, 201);
    }
    assert_eq!(send(&serving, "+15550100123").await.status, 429, "of the one in flight nobody knows: it may be out");
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_stops_nobody_and_once_it_is_not_nothing_is_missing() {
    let (upstream, dir) = (Upstream::start().await, folder());
    let serving = gateway(&upstream, &dir).await;
    let pid = Pid::from_raw(serving.process.id().try_into().unwrap());
    let before = prlimit(pid, Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    for _ in 0..3 {
        assert_eq!(send(&serving, "+15550100123").await.status, 201);
    }
    let told = serving.process.lines("the state cannot be saved", 1).await;
    assert!(metric(&serving, "state_waiting_records").await >= 6.0);
    assert!(metric(&serving, "state_failures_total").await >= 1.0);
    assert_eq!(metric(&serving, "state_lost_records_total").await, 0.0);
    prlimit(pid, Resource::Fsize, before).unwrap();
    serving.process.logs("the state is saved again").await;
    assert_eq!(serving.process.lines("the state cannot be saved", 1).await, told, "it is said once");
    assert_eq!(metric(&serving, "state_waiting_records").await, 0.0);
    serving.process.signal("KILL");
    serving.process.code().await;
    let serving = gateway(&upstream, &dir).await;
    assert_eq!([send(&serving, "+15550100123").await.status, send(&serving, "+15550100123").await.status], [201, 201]);
    assert_eq!(send(&serving, "+15550100123").await.status, 429);
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_and_what_is_intact_is_used() {
    let (upstream, dir) = (Upstream::start().await, folder());
    let serving = gateway(&upstream, &dir).await;
    for _ in 0..5 {
        assert_eq!(send(&serving, "+15550100123").await.status, 201);
    }
    serving.process.signal("KILL");
    serving.process.code().await;
    let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-"));
    let mut bytes = fs::read(&files[0]).unwrap();
    // A file's beginning and each record have 48 bytes; the first record tells of the clock. The first code is overwritten, and the last
    // record torn off.
    bytes[108..118].fill(0xaa);
    bytes.truncate(bytes.len() - 5);
    fs::write(&files[0], bytes).unwrap();
    let serving = gateway(&upstream, &dir).await;
    serving.process.logs("some of the state is damaged").await;
    assert!(metric(&serving, "state_damaged_bytes").await >= 48.0);
    assert_eq!(send(&serving, "+15550100123").await.status, 201, "one of five is not known any more");
    assert_eq!(send(&serving, "+15550100123").await.status, 429);
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_another_gateway_has_is_refused_and_named() {
    let (upstream, dir) = (Upstream::start().await, folder());
    let serving = gateway(&upstream, &dir).await;
    let file = config_file("");
    let second = Process::start(&["run", "--config", &file], &[("STATE_DIR", dir.to_str().unwrap())]);
    assert_eq!(second.code().await, 69);
    assert!(second.err().contains("state.dir: ") && second.err().contains("another process has this folder"));
    assert_eq!(serving.admin("/readyz").await.status, 200);
    drop(serving);
    fs::remove_dir_all(dir).unwrap();
}
