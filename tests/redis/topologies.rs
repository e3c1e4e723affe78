//! Redis that is more than one server, or speaks TLS.

use std::time::Duration;

use sendly_gateway::policy::Key;

use crate::fleet::{Fleet, HASTY, PATIENCE, PATIENT, config};
use crate::server::{Server, free_port};
use crate::upstream::Act;

const PHONE: &str = "+15550100123";
const OTHER: &str = "+15550100124";

/// Three servers that have a third of all keys each.
async fn cluster() -> (Vec<Server>, String) {
    let servers: Vec<(Server, String)> = (0..3)
        .map(|_| {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            (Server::start(&cluster), bus)
        })
        .collect();
    let (servers, buses): (Vec<Server>, Vec<String>) = servers.into_iter().unzip();
    for (nth, server) in servers.iter().enumerate() {
        let (first, last) = (16384 * nth / 3, 16384 * (nth + 1) / 3 - 1);
        let range = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()].map(str::to_owned);
        assert_eq!(server.ask(&range.each_ref().map(String::as_str)), "+OK");
        // Or all of them call themselves the first.
        assert_eq!(server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(nth + 1).to_string()]), "+OK");
    }
    for (other, bus) in servers.iter().zip(&buses).skip(1) {
        assert_eq!(servers[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), bus]), "+OK");
    }
    let is_whole = |server: &Server| {
        let info = server.ask(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    let waiting = async {
        while !servers.iter().all(is_whole) {
            // They need the processor for it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 3, waiting).await.expect("the cluster does not come about");
    let hosts: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    let url = format!("redis://{}", hosts.join(","));
    (servers, url)
}

const CLUSTER: &str = "topology = \"cluster\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_a_cluster_let_five_codes_through_between_them() {
    let (servers, url) = cluster().await;
    let fleet = Fleet::of(2, &url, &format!("{PATIENT}{CLUSTER}")).await;
    let phones: Vec<String> = (0..12).map(|nth| format!("+1555010{nth:04}")).collect();
    let answers = fleet.storm(&phones.iter().map(String::as_str).collect::<Vec<_>>(), 16).await;
    assert_eq!(answers[&201], 60, "{answers:?}");
    for phone in &phones {
        assert_eq!(fleet.upstream.codes(phone), 5, "{phone}");
    }
    for server in &servers {
        assert_ne!(server.ask(&["DBSIZE"]), ":0", "each has a part of it");
    }
    assert_eq!(fleet.metric(0, "ledger_up").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_on_a_cluster_has_one_limit_and_what_it_refuses_no_phone_is_charged_for() {
    let (_servers, url) = cluster().await;
    let limits = "[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 5\nwindow = \"1h\"\n\
                  [[limits]]\nname = \"account\"\nper = \"account\"\nmax = 30\nwindow = \"1h\"\n";
    let config = config(&url, &format!("{PATIENT}{CLUSTER}"), "") + limits;
    let fleet = Fleet::with(&[config.clone(), config]).await;
    let phones: Vec<String> = (0..20).map(|nth| format!("+1555010{nth:04}")).collect();
    let answers = fleet.storm(&phones.iter().map(String::as_str).collect::<Vec<_>>(), 8).await;
    assert_eq!(answers[&201], 30, "{answers:?}");
    let left: usize = {
        let mut left = 0;
        for phone in &phones[..6] {
            // For another account, whose 30 are all there.
            left += fleet.codes_left(0, phone).await;
        }
        left
    };
    // All or nothing: whatever the account refused is back.
    let sent: usize = phones[..6].iter().map(|phone| fleet.upstream.codes(phone)).sum();
    assert_eq!(sent, 30, "each phone has its five: {left} of them for the other account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_cooldowns_are_shared_on_a_cluster() {
    let (_servers, url) = cluster().await;
    let fleet = Fleet::of(3, &url, &format!("{PATIENT}{CLUSTER}")).await;
    let id = fleet.send_ok(0, PHONE).await;
    fleet.upstream.knows("ver_another", PHONE);
    fleet.upstream.script(|_| Act::verification(200, "ver_another", PHONE));
    assert_eq!(fleet.resend(1, &id).await.status, 200);
    for nth in 0..3 {
        for id in [id.as_str(), "ver_another"] {
            assert_eq!(fleet.resend(nth, id).await.error(), "resend_cooldown", "{id} at {nth}");
        }
    }
    // Whether Sendly shows it to this key: asked by those that have not seen it.
    assert_eq!(fleet.upstream.count(crate::upstream::Seen::is_lookup), 2);
    fleet.upstream.script(|_| Act::error(402, "insufficient_credits"));
    assert_eq!(fleet.send(0, OTHER).await.status, 402);
    fleet.upstream.behave();
    assert_eq!((fleet.codes_left(1, PHONE).await, fleet.codes_left(1, OTHER).await), (3, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_a_phone_ends_its_cooldowns_on_a_cluster_too() {
    let (_servers, url) = cluster().await;
    let fleet = Fleet::of(2, &url, &format!("{PATIENT}{CLUSTER}")).await;
    crate::shared::a_phone_is_cleared_by_a_gateway_that_has_met_none_of_its_ids(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_of_which_nobody_knew_the_phone_has_its_cooldown_on_a_cluster_too() {
    let (_servers, url) = cluster().await;
    let fleet = Fleet::of(2, &url, &format!("{PATIENT}{CLUSTER}")).await;
    fleet.upstream.script(|seen| match seen.is_resend() {
        true => Act::verification(200, seen.id(), PHONE),
        false => Act::error(403, "insufficient_permissions"),
    });
    assert_eq!(fleet.resend(0, "ver_1").await.status, 200);
    // Now all know whose it is; and what it was charged before that counts.
    for nth in 0..2 {
        assert_eq!(fleet.resend(nth, "ver_1").await.error(), "resend_cooldown", "{nth}");
    }
    fleet.upstream.behave();
    assert_eq!(fleet.codes_left(1, PHONE).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_which_a_server_is_gone_is_away_and_comes_back() {
    let (mut servers, url) = cluster().await;
    let fleet = Fleet::of(1, &url, &format!("{HASTY}{CLUSTER}")).await;
    let phones: Vec<String> = (0..12).map(|nth| format!("+1555010{nth:04}")).collect();
    for phone in &phones {
        fleet.send_ok(0, phone).await;
    }
    servers[2].pause();
    let all = async {
        for phone in &phones {
            assert_eq!(fleet.codes_left(0, phone).await, 4, "nothing starts at zero");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("decisions are held up");
    servers[2].go_on();
    fleet.is_up(0, true).await;
    fleet.has_told_all(0).await;
    for phone in &phones {
        assert_eq!((fleet.codes_left(0, phone).await, fleet.upstream.codes(phone)), (0, 5));
    }
    servers.clear();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_server_of_a_cluster_is_emptied_it_is_told_all_that_is_known() {
    let (servers, url) = cluster().await;
    let fleet = Fleet::of(1, &url, &format!("{PATIENT}{CLUSTER}")).await;
    let phones: Vec<String> = (0..12).map(|nth| format!("+1555010{nth:04}")).collect();
    for phone in &phones {
        fleet.send_ok(0, phone).await;
    }
    for server in &servers {
        assert_eq!(server.ask(&["FLUSHALL"]), "+OK");
        for phone in &phones {
            let key = Key::Phone(phone.parse().unwrap());
            let counted = async { while fleet.gateways[0].gateway().look(key).await.standings[0].used != 1 {} };
            tokio::time::timeout(PATIENCE, counted).await.expect("nobody notices");
        }
    }
    assert_eq!(fleet.codes_left(0, &phones[0]).await, 4);
}

/// A server, its replica, and a sentinel who watches them.
async fn sentinel() -> (Server, Server, Server) {
    let first = Server::start(&[]);
    let second = Server::start(&["--replicaof", "127.0.0.1", &first.port.to_string()]);
    let is_linked = async {
        while !first.ask(&["INFO", "replication"]).contains("state=online") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, is_linked).await.expect("the replica does not follow");
    let port = first.port;
    let sentinel = Server::sentinel(&format!(
        "bind 127.0.0.1\nsentinel monitor codes 127.0.0.1 {port} 1\nsentinel down-after-milliseconds codes 300\n\
         sentinel failover-timeout codes 2000\n"
    ));
    let knows = async {
        while !sentinel.ask(&["SENTINEL", "REPLICAS", "codes"]).starts_with("*1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, knows).await.expect("the sentinel does not find the replica");
    (first, second, sentinel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_loses_no_code_that_a_gateway_knows_of() {
    let (mut first, second, sentinel) = sentinel().await;
    let ledger = format!("{HASTY}topology = \"sentinel\"\nmaster = \"codes\"\n");
    let fleet = Fleet::of(2, &sentinel.url(), &ledger).await;
    assert_eq!(fleet.metric(0, "ledger_up").await, 1);
    for nth in [0, 1, 0] {
        fleet.send_ok(nth, PHONE).await;
    }
    first.kill();
    // In the middle of it: each goes on with what it has seen.
    assert_eq!(fleet.codes_left(0, PHONE).await, 2);
    fleet.send_ok(1, OTHER).await;
    for nth in 0..2 {
        fleet.is_up(nth, true).await;
        fleet.has_told_all(nth).await;
    }
    assert!(second.ask(&["INFO", "replication"]).contains("role:master"), "the other one has taken over");
    assert_eq!((fleet.codes_left(1, PHONE).await, fleet.codes_left(0, OTHER).await), (0, 4));
    assert_eq!(fleet.upstream.codes(PHONE), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_told_a_login_of_their_own_where_they_want_one() {
    let (_first, _second, sentinel) = sentinel().await;
    let user = ["ACL", "SETUSER", "gate", "on", ">p:w/2", "+@all"];
    assert_eq!(sentinel.ask(&user), "+OK");
    // As `requirepass` does.
    assert_eq!(sentinel.ask(&["ACL", "SETUSER", "default", "resetpass", ">p:w/1"]), "+OK");
    let ledger = format!("{PATIENT}topology = \"sentinel\"\nmaster = \"codes\"\n");
    let logins = ["sentinel_password = \"p:w/1\"\n", "sentinel_user = \"gate\"\nsentinel_password = \"p:w/2\"\n"];
    let configs = logins.map(|login| config(&sentinel.url(), &format!("{ledger}{login}"), ""));
    let fleet = Fleet::with(&configs).await;
    fleet.send_ok(0, PHONE).await;
    assert_eq!((fleet.metric(0, "ledger_up").await, fleet.metric(1, "ledger_up").await), (1, 1));
    assert_eq!(fleet.codes_left(1, PHONE).await, 4);
    let stranger =
        Fleet::of(1, &sentinel.url(), &format!("{HASTY}topology = \"sentinel\"\nmaster = \"codes\"\n")).await;
    assert_eq!(stranger.metric(0, "ledger_up").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_to_whom_the_authorities_vouch_for_and_to_nobody_else() {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let signed = rcgen::generate_simple_self_signed(names).unwrap();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("redis-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let (cert, key, port) = (cert.to_str().unwrap(), key.to_str().unwrap(), free_port());
    let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", cert, "--tls-key-file", key].map(str::to_owned);
    let more = ["--tls-ca-cert-file", cert, "--tls-auth-clients", "no"].map(str::to_owned);
    let arguments: Vec<&str> = tls.iter().chain(&more).map(String::as_str).collect();
    let _redis = Server::start(&arguments);
    let url = format!("rediss://127.0.0.1:{port}");
    let fleet = Fleet::of(2, &url, &format!("{PATIENT}ca_file = {cert:?}\n")).await;
    fleet.send_ok(0, PHONE).await;
    assert_eq!(fleet.metric(0, "ledger_up").await, 1);
    assert_eq!(fleet.codes_left(1, PHONE).await, 4);
    // The system's authorities do not know it.
    let stranger = Fleet::of(1, &url, HASTY).await;
    assert_eq!(stranger.metric(0, "ledger_up").await, 0);
    assert_eq!(stranger.codes_left(0, PHONE).await, 5, "it counts by itself");
    std::fs::remove_dir_all(folder).unwrap();
}
