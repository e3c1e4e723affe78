//! A gateway with its sandbox, and a little of everything that can happen to it.

use std::path::Path;

use crate::client::Answer;
use crate::process::{Process, Serving, config_file};

/// The limits of the defaults, one on trial, and a throttle.
const CONFIG: &str = r#"
memory.sweep_every = "100ms"
[[limits]]
name = "phone-10m"
per = "phone"
max = 5
window = "10m"
[[limits]]
name = "resend-cooldown"
per = "verification"
max = 1
window = "60s"
[[limits]]
name = "account-1m"
per = "account"
max = 1000
window = "1m"
[[limits]]
name = "trial"
per = "phone"
max = 2
window = "1h"
mode = "shadow"
[[throttles]]
name = "lists"
per = "account"
rate = "1/m"
operations = ["list"]
"#;

/// A gateway with its sandbox that speaks plain HTTP.
pub(crate) async fn gateway() -> Serving {
    let file = config_file(CONFIG);
    let state = file.replace(".toml", ".state");
    Serving::of(Process::start(&["run", "--sandbox", "--config", &file], &[("STATE_DIR", &state)])).await
}

/// Another, with a certificate.
pub(crate) async fn secure_gateway() -> Serving {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, pem: String| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-watched-{name}.pem", std::process::id()));
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("cert", signed.cert.pem()), file("key", signed.signing_key.serialize_pem()));
    let config = format!("{CONFIG}[tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\n");
    Serving::of(Process::start(&["run", "--sandbox", "--config", &config_file(&config)], &[])).await
}

async fn post(gateway: &Serving, path: &str, body: &str) -> Answer {
    gateway.ask("POST", &format!("/api/v1/verify{path}"), &[], body).await
}

async fn send(gateway: &Serving, phone: &str) -> Answer {
    post(gateway, "", &format!("{{\"to\":\"{phone}\"}}")).await
}

/// Sends a code and enters it.
async fn convert(gateway: &Serving, phone: &str) {
    let sent = send(gateway, phone).await;
    assert_eq!(sent.status, 201, "{sent:?}");
    let (id, code) = (sent.json()["id"].clone(), sent.json()["sandbox_code"].clone());
    let check = format!("/{}/check", id.as_str().unwrap());
    assert_eq!(post(gateway, &check, "{\"code\":\"no\"}").await.status, 400);
    assert_eq!(post(gateway, &check, &format!("{{\"code\":{code}}}")).await.status, 200);
    // The right code again: confirmed as before, and counted once.
    assert_eq!(post(gateway, &check, &format!("{{\"code\":{code}}}")).await.status, 200);
}

/// One round of it: some eighty requests. Each round has phones of its own.
pub(crate) async fn round(gateway: &Serving, round: u32) {
    for (prefix, digits) in [("+1212555", 3), ("+44740012", 3), ("+3361234", 3), ("+4915112", 5), ("+48512345", 2)] {
        convert(gateway, &format!("{prefix}{round}{:0digits$}", 42)).await;
    }
    assert_eq!(send(gateway, &format!("+234802123{round}111")).await.status, 201, "and is not entered");

    let full = format!("+1416555{round}111");
    for nth in 1..=7 {
        assert_eq!(send(gateway, &full).await.status, if nth <= 5 { 201 } else { 429 });
    }
    let undelivered = send(gateway, &format!("+121255{round}0004")).await.json();
    let again = format!("/{}/resend", undelivered["id"].as_str().unwrap());
    assert_eq!(post(gateway, &again, "").await.status, 200);
    assert_eq!(post(gateway, &again, "").await.status, 429, "the cooldown");
    assert_eq!(post(gateway, "/ver_00000000000000000000000000000000/resend", "").await.status, 404);

    // What Sendly makes of a phone that ends so; the last one twice, since it is held from then on.
    for (ending, status) in [("0001", 400), ("0003", 500), ("0005", 500), ("0006", 502), ("0008", 429), ("0008", 429)] {
        assert_eq!(send(gateway, &format!("+121255{round}{ending}")).await.status, status, "{ending}");
    }
    let key = [("idempotency-key", format!("retry-{round}"))];
    let key = key.each_ref().map(|(name, value)| (*name, value.as_str()));
    let body = format!("{{\"to\":\"+1212555{round}222\"}}");
    for _ in 0..2 {
        assert_eq!(gateway.ask("POST", "/api/v1/verify", &key, &body).await.status, 201);
    }
    assert_eq!(send(gateway, "not a phone").await.status, 400);
    gateway.ask("GET", "/api/v1/verify", &[], "").await;
    assert_eq!(gateway.ask("GET", "/api/v1/verify", &[], "").await.status, 429, "the throttle");
    gateway.ask("GET", &format!("/api/v1/verify/{}", undelivered["id"].as_str().unwrap()), &[], "").await;
    gateway.ask("GET", "/api/v1/messages", &[], "").await;
    gateway.ask("GET", "/api/v1/verify/profiles", &[], "").await;
}
