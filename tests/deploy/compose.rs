//! The compose file, and what it gives to Prometheus and Grafana.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{check, ports, read, scratch, seconds, takes_to_stop};
use crate::yaml::{document, mistakes};

const FILE: &str = "deploy/compose/compose.yaml";

fn services() -> Value {
    document(FILE)["services"].clone()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap_or_else(|| panic!("{list} is no list")).iter().map(|item| item.as_str().unwrap()).collect()
}

/// The files that a service mounts: where they are here, and there.
fn mounts(service: &Value) -> Vec<(String, String)> {
    let files = strings(&service["volumes"]).into_iter().filter(|volume| volume.starts_with('.'));
    let split = files.map(|volume| match volume.split(':').collect::<Vec<_>>()[..] {
        [here, there, "ro"] => (format!("deploy/compose/{here}"), there.to_owned()),
        _ => panic!("{volume}: a file of the repository is mounted to be read"),
    });
    split.collect()
}

/// Where the file that is mounted there is here.
#[track_caller]
fn mounted(service: &Value, there: &str) -> String {
    let mounts = mounts(service);
    let found = mounts.iter().find(|(_, place)| place == there).unwrap_or_else(|| panic!("{there} is not mounted"));
    found.0.clone()
}

#[test]
fn it_is_a_valid_compose_file() {
    assert_eq!(mistakes("compose", &read(FILE)), None);
    for wrong in ["ports: {}", "read_only: [yes]", "reed_only: true"] {
        let text = format!("services: {{gateway: {{image: a, {wrong}}}}}\n");
        assert!(mistakes("compose", &text).is_some(), "{wrong}");
    }
}

#[test]
fn every_file_that_is_mounted_or_built_from_is_there() {
    let services = services();
    let mut files = 0;
    for service in services.as_object().unwrap().values().filter(|service| service.get("volumes").is_some()) {
        for (here, _) in mounts(service) {
            assert!(Path::new(&here).is_file(), "{here}");
            files += 1;
        }
    }
    assert!(files >= 5);
    let build = &services["gateway"]["build"];
    let context = Path::new("deploy/compose").join(build["context"].as_str().unwrap());
    assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file());
    assert!(context.join("Cargo.toml").is_file(), "the Dockerfile is built from the root of the repository");
}

#[test]
fn images_are_pinned_and_nothing_is_published_beyond_this_machine() {
    for (name, service) in services().as_object().unwrap() {
        let image = service["image"].as_str().unwrap();
        let ours = image == "sendly-gateway";
        assert!(ours || image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"), "{image}");
        for port in service.get("ports").map(strings).unwrap_or_default() {
            assert!(port.starts_with("127.0.0.1:") && port.split(':').count() == 3, "{name}: {port}");
        }
        assert_eq!(strings(&service["cap_drop"]), ["ALL"], "{name}");
    }
}

#[test]
fn the_gateway_is_reached_where_it_listens_and_asks_the_sandbox_where_that_listens() {
    let services = services();
    let (gateway, sandbox) = (&services["gateway"], &services["sandbox"]);
    let [clients, _] = ports(&read("deploy/docker/gateway.toml"));
    assert_eq!(strings(&gateway["ports"]), [format!("127.0.0.1:8080:{clients}")]);
    let environment: Vec<(String, String)> = gateway["environment"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(check(&read("deploy/docker/gateway.toml"), &environment), None);
    let [verb, option, listen] = strings(&sandbox["command"])[..] else { panic!("{sandbox}") };
    assert_eq!((verb, option), ("sandbox", "--listen"));
    let port = listen.strip_prefix("0.0.0.0:").unwrap();
    assert_eq!(environment, [("SENDLY_GATEWAY_UPSTREAM_URL".to_owned(), format!("http://sandbox:{port}"))]);
    assert_eq!(sandbox["healthcheck"]["disable"], true, "it has no /readyz");
    assert!(
        seconds(gateway["stop_grace_period"].as_str().unwrap()) >= takes_to_stop(&read("deploy/docker/gateway.toml"))
    );
}

#[test]
fn prometheus_scrapes_the_gateway_under_the_name_that_the_rules_look_for() {
    let services = services();
    let folder = scratch("prometheus");
    for (here, there) in mounts(&services["prometheus"]) {
        fs::copy(here, folder.join(there.strip_prefix("/etc/prometheus/").unwrap())).unwrap();
    }
    let promtool = Command::new("promtool").args(["check", "config"]).arg(folder.join("prometheus.yml")).output();
    let output = promtool.expect("promtool (scripts/setup test installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let config = document(&mounted(&services["prometheus"], "/etc/prometheus/prometheus.yml"));
    let job = &config["scrape_configs"][0];
    let [_, admin] = ports(&read("deploy/docker/gateway.toml"));
    assert_eq!(job["static_configs"][0]["targets"][0], format!("gateway:{admin}"));
    assert_eq!(job["job_name"], document("deploy/prometheus/prometheus.yml")["scrape_configs"][0]["job_name"]);
    assert!(read("deploy/prometheus/rules.yml").contains(&format!("job={}", job["job_name"])));
}

#[test]
fn grafana_finds_prometheus_and_the_dashboard() {
    let services = services();
    let grafana = &services["grafana"];
    let sources = document(&mounted(grafana, "/etc/grafana/provisioning/datasources/prometheus.yaml"));
    let source = &sources["datasources"][0];
    // Inside the network it is where its image listens, wherever it is published.
    let [published] = strings(&services["prometheus"]["ports"])[..] else { panic!("one port") };
    assert_eq!(source["url"], format!("http://prometheus:{}", published.rsplit(':').next().unwrap()));
    assert_eq!((&source["type"], &source["isDefault"]), (&"prometheus".into(), &true.into()));
    let interval = &document("deploy/compose/prometheus.yml")["global"]["scrape_interval"];
    assert_eq!(&source["jsonData"]["timeInterval"], interval);

    let providers = document(&mounted(grafana, "/etc/grafana/provisioning/dashboards/sendly-gateway.yaml"));
    let folder = providers["providers"][0]["options"]["path"].as_str().unwrap();
    let home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str().unwrap();
    assert_eq!(home, format!("{folder}/sendly-gateway.json"));
    let dashboard: Value = serde_json::from_str(&read(&mounted(grafana, home))).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    let asks = &dashboard["templating"]["list"];
    let variable = asks.as_array().unwrap().iter().find(|variable| variable["name"] == "datasource").unwrap();
    assert_eq!((&variable["type"], &variable["query"]), (&"datasource".into(), &"prometheus".into()));
}
