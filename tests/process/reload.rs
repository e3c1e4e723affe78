//! Another configuration while it runs: on SIGHUP, and when one of its files says something else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Process, Serving, config_file};
use crate::upstream::Upstream;

const SEND: &str = "/api/v1/verify";

fn at_most(max: u32) -> String {
    format!("[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = {max}\nwindow = \"1h\"\n")
}

/// A folder of its own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A gateway with this configuration, which is not looked at by itself unless it says so.
async fn serving(file: &str, upstream: &Upstream) -> Serving {
    Serving::of(Process::start(&["run", "--config", file], &[("UPSTREAM_URL", &upstream.url())])).await
}

impl Serving {
    /// The statuses of so many sends to one phone.
    async fn sends(&self, phone: &str, many: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..many {
            let body = format!("{{\"to\":\"{phone}\"}}");
            statuses.push(self.ask("POST", SEND, &[], &body).await.status.as_u16());
        }
        statuses
    }

    async fn exposes(&self, line: &str) {
        let metrics = String::from_utf8(self.admin("/metrics").await.body).unwrap();
        assert!(metrics.lines().any(|other| other == format!("sendly_gateway_{line}")), "{line} is not in\n{metrics}");
    }

    /// Waits until it has been loaded anew so many times.
    async fn loaded(&self, times: usize) {
        self.process.lines("the configuration was loaded anew", times).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_loads_it_and_what_was_counted_counts() {
    let upstream = Upstream::start().await;
    let file = config_file(&format!("reload.watch = false\n{}", at_most(2)));
    let serving = serving(&file, &upstream).await;
    assert_eq!(serving.sends("+15550100123", 3).await, [201, 201, 429]);
    fs::write(&file, format!("reload.watch = false\nworkers = 3\n{}", at_most(3))).unwrap();
    serving.process.signal("HUP");
    serving.loaded(1).await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429]);
    serving.process.lines("takes a restart", 1).await;
    assert!(serving.process.err().contains("\"keys\":\"workers\""), "{}", serving.process.err());
    serving.exposes("config_reloads_total{result=\"partial\"} 1").await;
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_told_as_check_tells_it_and_changes_nothing() {
    let upstream = Upstream::start().await;
    let file = config_file(&at_most(1));
    let serving = serving(&file, &upstream).await;
    serving.exposes("config_last_reload_successful 1").await;
    fs::write(&file, "wurkers = 2\n[upstream]\nconnect_timeout = \"soon\"\n[[limits]]\nname = \"A\"\n").unwrap();
    serving.process.signal("HUP");
    let check = Process::start(&["check", "--config", &file], &[]);
    assert_eq!(check.code().await, 64);
    let mistakes: Vec<String> = check.err().lines().map(str::to_owned).collect();
    assert!(mistakes.len() > 3, "{mistakes:?}");
    let lines = serving.process.lines("the configuration is not taken", mistakes.len()).await;
    let told: Vec<String> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["mistake"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told[..mistakes.len()], mistakes);
    serving.exposes("config_last_reload_successful 0").await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429], "the old one is in force");
    // Mended, it is taken by itself.
    fs::write(&file, at_most(2)).unwrap();
    serving.loaded(1).await;
    serving.exposes("config_last_reload_successful 1").await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_is_loaded_by_itself() {
    let upstream = Upstream::start().await;
    let file = config_file(&at_most(1));
    let serving = serving(&file, &upstream).await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429]);
    // As editors do: beside it, and then over it.
    let beside = config_file(&at_most(2));
    fs::rename(&beside, &file).unwrap();
    serving.loaded(1).await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_is_loaded_when_its_link_is_turned() {
    let upstream = Upstream::start().await;
    let volume = folder("config-map");
    let signed = ["old", "new"].map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    for (version, signed, max) in [("..1", &signed[0], 1), ("..2", &signed[1], 2)] {
        fs::create_dir_all(volume.join(version)).unwrap();
        let tls = format!("[tls]\ncert_file = {:?}\nkey_file = {:?}\n", volume.join("tls.crt"), volume.join("tls.key"));
        fs::write(volume.join(version).join("gateway.toml"), format!("{tls}{}", at_most(max))).unwrap();
        fs::write(volume.join(version).join("tls.crt"), signed.cert.pem()).unwrap();
        fs::write(volume.join(version).join("tls.key"), signed.signing_key.serialize_pem()).unwrap();
    }
    symlink("..1", volume.join("..data")).unwrap();
    for name in ["gateway.toml", "tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
    }
    let serving = serving(volume.join("gateway.toml").to_str().unwrap(), &upstream).await;
    let curl = || {
        let send = format!("https://localhost:{}{SEND}", serving.address.port());
        let status = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .args([volume.join("tls.crt").to_str().unwrap(), "-d", "{\"to\":\"+15550100123\"}"])
            .args(["-H", "authorization: Bearer sk_test_v1_test", "-H", "content-type: application/json", &send])
            .output()
            .unwrap();
        String::from_utf8(status.stdout).unwrap()
    };
    assert_eq!([curl(), curl()], ["201", "429"]);
    // As the kubelet does: another link, renamed over the first.
    symlink("..2", volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    serving.loaded(1).await;
    assert_eq!([curl(), curl()], ["201", "429"], "one more, with the certificate of now");
    fs::remove_dir_all(volume).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_half_written_does_no_harm() {
    let upstream = Upstream::start().await;
    let file = config_file(&at_most(2));
    let serving = serving(&file, &upstream).await;
    assert_eq!(serving.sends("+15550100123", 1).await, [201]);
    // It stays cut off, as on a disk that is full, for as long as it takes to be seen.
    let whole = at_most(3);
    for (half, told) in [(&whole[..whole.len() / 2], "not TOML"), ("", "the file is empty")] {
        fs::write(&file, half).unwrap();
        serving.process.logs(told).await;
        serving.exposes("config_last_reload_successful 0").await;
    }
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429], "what was in force is");
    fs::write(&file, &whole).unwrap();
    serving.loaded(1).await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_changes_with_it() {
    let upstream = Upstream::start().await;
    let file = config_file("log.access = false\n");
    let serving = serving(&file, &upstream).await;
    let reload = async |text: &str, times: usize| {
        fs::write(&file, text).unwrap();
        serving.process.signal("HUP");
        serving.loaded(times).await;
    };
    let ask = async || assert_eq!(serving.ask("GET", SEND, &[], "").await.status, 200);
    ask().await;
    reload("log.access = true\n", 1).await;
    ask().await;
    serving.process.lines("\"access\"", 1).await;
    reload("log.filter = \"info,access=off\"\n", 2).await;
    ask().await;
    reload("# as it comes\n", 3).await;
    ask().await;
    let lines = serving.process.lines("\"access\"", 2).await;
    // A filter that lets nothing through is in force before it could be told.
    fs::write(&file, "log.filter = \"off\"\n").unwrap();
    serving.process.signal("HUP");
    let state = "sendly_gateway_config_reloads_total{result=\"applied\"} 4";
    while !String::from_utf8(serving.admin("/metrics").await.body).unwrap().contains(state) {}
    ask().await;
    serving.process.signal("TERM");
    assert_eq!(serving.process.code().await, 0);
    assert_eq!(lines.len(), 2);
    assert_eq!(serving.process.err().matches("\"access\"").count(), 2, "of five requests");
    assert!(!serving.process.err().contains("stopped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_file_there_is_nothing_to_load() {
    let serving = Serving::of(Process::start(&["run", "--sandbox"], &[])).await;
    serving.process.signal("HUP");
    serving.process.logs("there is nothing to load").await;
    assert_eq!(serving.sends("+15550100123", 1).await, [201]);
    let sandbox = Process::start(&["sandbox", "--listen", "127.0.0.1:0"], &[]);
    sandbox.logs("sandbox Sendly").await;
    sandbox.signal("HUP");
    sandbox.logs("there is nothing to load").await;
    sandbox.signal("TERM");
    assert_eq!(sandbox.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_with_a_file_stays_one() {
    let file = config_file(&at_most(1));
    let serving = Serving::of(Process::start(&["run", "--sandbox", "--config", &file], &[])).await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429]);
    fs::write(&file, at_most(2)).unwrap();
    serving.process.signal("HUP");
    serving.loaded(1).await;
    assert_eq!(serving.sends("+15550100123", 2).await, [201, 429], "asked of the same sandbox");
    assert!(!serving.process.err().contains("takes a restart"), "{}", serving.process.err());
}
