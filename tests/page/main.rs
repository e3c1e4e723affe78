//! The status page in a browser: it shows the numbers that the gateway counted, whatever they are, and says so when it can show
//! none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]
#![allow(dead_code, reason = "the support modules serve several suites")]

mod browser;
#[path = "../support/client.rs"]
mod client;
mod fake;
#[path = "../support/process.rs"]
mod process;

use browser::Page;
use process::{Process, Serving};
use serde_json::{Value, json};

const LIMITS: &str = r#"
[[limits]]
name = "phone-10m"
per = "phone"
max = 5
window = "10m"
[[limits]]
name = "trial"
per = "phone"
max = 2
window = "1h"
mode = "shadow"
[[limits]]
name = "account-1m"
per = "account"
max = 20
window = "1m"
"#;

/// A gateway with its sandbox, and some codes behind it: a phone that asks for too many, an account that does, and Germany.
async fn loaded() -> Serving {
    let file = process::config_file(LIMITS);
    let gateway = Serving::of(Process::start(&["run", "--sandbox", "--config", &file], &[])).await;
    let send = async |phone: &str| {
        gateway.ask("POST", "/api/v1/verify", &[], &format!("{{\"to\":\"{phone}\"}}")).await;
    };
    for _ in 0..12 {
        send("+15550100123").await;
    }
    for nth in 0..20 {
        send(&format!("+49151123456{nth:02}")).await;
    }
    gateway.ask("GET", "/api/v1/messages", &[], "").await;
    gateway
}

async fn status(gateway: &Serving) -> Value {
    gateway.admin("/v1/status").await.json()
}

fn text(value: &Value) -> String {
    value.as_u64().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_the_numbers_that_the_gateway_counted_and_the_browser_complains_of_nothing() {
    let gateway = loaded().await;
    let page = Page::load(&format!("http://{}/", gateway.admin)).await;
    let status = status(&gateway).await;
    assert_eq!(page.complaints(), Vec::<String>::new());
    assert_eq!(page.text("id=\"health\""), "Healthy");

    let (requests, limits) = (&status["requests"], &status["limits"]);
    assert_eq!((&requests["total"]["allowed"], &requests["total"]["refused"]), (&20.into(), &12.into()), "{requests}");
    for outcome in ["allowed", "refused", "passed", "failed"] {
        let row = page.row(outcome);
        assert_eq!(row[2..], [text(&requests["hour"][outcome]), text(&requests["total"][outcome])], "{row:?}");
    }
    for (nth, name, denied) in [(0, "phone-10m", "deny"), (1, "trial", "shadow_deny"), (2, "account-1m", "deny")] {
        let row = page.row(name);
        assert_eq!(row[3..5], [text(&limits[nth]["hour"]["allow"]), text(&limits[nth]["hour"][denied])], "{row:?}");
    }
    assert!(page.row("trial")[0].contains("shadow"));
    assert_eq!(page.row("+1555•••0123")[1..3], ["phone-10m", "7"]);
    let credits = [&status["credits"]["sent"]["hour"], &status["credits"]["refused"]["hour"]].map(text);
    assert_eq!(page.tile("Credits saved, last hour"), credits[1]);
    assert!(page.dom.contains(&format!(">for {} credits<", credits[0])), "{}", page.dom);
    assert!(page.dom.matches("<rect").count() > 4, "there are plots");
    assert!(
        page.dom.contains("limits.phone-10m.max") && page.dom.contains("upstream.exchange_timeout"),
        "the configuration"
    );
    assert!(!page.dom.contains("5550100123"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_gateway_stops_answering_the_page_says_so() {
    let gateway = loaded().await;
    let answers = fake::Answers { page: gateway.admin("/").await, status: status(&gateway).await, times: 1 };
    let page = Page::load(&fake::serve(answers).await).await;
    let health = page.text("id=\"health\"");
    assert!(health.starts_with("No answer for "), "{health}");
    assert!(
        page.dom.contains("class=\"stale\"") && !page.row("phone-10m").is_empty(),
        "what it knew stands there, pale"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_not_ready_is_told_with_its_reason_and_nothing_becomes_markup() {
    let gateway = loaded().await;
    let mut status = status(&gateway).await;
    const EVIL: &str = "<img src=x onerror=document.title='evil'><script>document.title='evil'</script>";
    (status["ready"], status["why"]) = (json!(false), json!(format!("draining {EVIL}")));
    for place in [
        "/limits/0/name",
        "/limits/0/per",
        "/limits/0/counts/0",
        "/refused/most/0/key",
        "/refused/most/0/limit",
        "/version",
    ] {
        *status.pointer_mut(place).unwrap() = json!(EVIL);
    }
    let answers = fake::Answers { page: gateway.admin("/").await, status, times: usize::MAX };
    let page = Page::load(&fake::serve(answers).await).await;
    assert!(page.text("id=\"health\"").starts_with("Not ready: draining &lt;img"), "{}", page.text("id=\"health\""));
    assert!(page.dom.matches("&lt;img src=x").count() >= 6 && !page.dom.contains("<img"), "{}", page.dom);
    assert!(page.dom.contains("<title>sendly-gateway</title>"));
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// Makes `docs/status-page.png`. No test, and run by hand, with a gateway that has something to show:
/// `STATUS_PAGE=http://127.0.0.1:9090/ cargo test --test page picture -- --ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it writes a picture"]
async fn picture() {
    let admin = std::env::var("STATUS_PAGE").expect("the URL of an admin listener");
    Page::picture(&admin, "docs/status-page.png").await;
}
