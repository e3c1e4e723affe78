//! The manifests.

use std::fs;

use serde_json::Value;

use crate::docker;
use crate::notify::Gateway;
use crate::program::{check, ports, read, seconds, takes_to_stop, value};
use crate::yaml::{document, documents, mistakes};

const FOLDER: &str = "deploy/kubernetes";

/// The manifests of a folder, by their paths.
fn manifests(folder: &str) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<String> =
        files.filter(|path| path.is_file()).map(|path| path.to_str().unwrap().to_owned()).collect();
    files.sort_unstable();
    files
}

/// All objects that `kubectl apply -f` makes.
fn objects() -> Vec<Value> {
    manifests(FOLDER).iter().flat_map(|file| documents(file)).collect()
}

#[track_caller]
fn object(kind: &str, name: &str) -> Value {
    let found = objects().into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn pod() -> Value {
    object("Deployment", "sendly-gateway")["spec"]["template"].clone()
}

fn container() -> Value {
    let containers = &pod()["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1);
    containers[0].clone()
}

fn config() -> String {
    object("ConfigMap", "sendly-gateway")["data"]["gateway.toml"].as_str().unwrap().to_owned()
}

/// Whether all of `labels` are among these.
fn are_in(labels: &Value, all: &Value) -> bool {
    let labels = labels.as_object().unwrap();
    !labels.is_empty() && labels.iter().all(|(name, value)| all[name] == *value)
}

#[test]
fn each_is_valid_by_the_schemas_of_the_api_itself() {
    let optional = format!("{FOLDER}/optional/horizontalpodautoscaler.yaml");
    for file in manifests(FOLDER).iter().chain([&optional]) {
        assert_eq!(mistakes("kubernetes", &read(file)), None, "{file}");
    }
    let deployment = read("deploy/kubernetes/deployment.yaml");
    for (right, wrong) in [
        ("replicas: 1", "replicas: one"),
        ("enableServiceLinks:", "enableServiceLink:"),
        ("path: /livez", "paht: /livez"),
        ("apiVersion: apps/v1", "apiVersion: apps/v9"),
        ("kind: Deployment", "kind: Deploiment"),
    ] {
        assert!(deployment.contains(right));
        assert!(mistakes("kubernetes", &deployment.replace(right, wrong)).is_some(), "{wrong}");
    }
}

#[test]
fn the_configuration_is_valid_and_the_container_has_the_ports_that_it_listens_on() {
    assert_eq!(check(&config(), &[]), None);
    let [clients, operators] = ports(&config());
    let expected = serde_json::json!([
        { "name": "http", "containerPort": clients },
        { "name": "admin", "containerPort": operators },
    ]);
    assert_eq!(container()["ports"], expected);
    let mounts = container()["volumeMounts"].clone();
    let place = mounts[0]["mountPath"].as_str().unwrap();
    assert_eq!(container()["args"], serde_json::json!(["run", "--config", format!("{place}/gateway.toml")]));
}

#[test]
fn a_service_of_the_same_name_does_not_configure_it() {
    // What the kubelet puts into the environment for a Service, unless it is told not to.
    let variable = ("SENDLY_GATEWAY_PORT".to_owned(), "tcp://10.0.0.1:80".to_owned());
    assert_eq!(check(&config(), &[variable]), None);
    assert_eq!(pod()["spec"]["enableServiceLinks"], false);
}

#[test]
fn the_kubelet_asks_what_the_gateway_answers() {
    let gateway = Gateway::start(&[]);
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let ask = &container()[probe]["httpGet"];
        assert_eq!((&ask["path"], &ask["port"]), (&path.into(), &"admin".into()));
        assert!(gateway.admin(path).starts_with("HTTP/1.1 200 "), "{path}");
    }
}

#[test]
fn it_has_time_to_drain_and_needs_no_hook_for_it() {
    assert!(pod()["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap() >= takes_to_stop(&config()));
    assert_eq!(container().get("lifecycle"), None);
    // The endpoint is withdrawn at TERM whatever /readyz says; a client that looks at /readyz itself asks a few times meanwhile.
    let delay = seconds(&value(&config(), "", "drain_delay").unwrap());
    let probe = &container()["readinessProbe"];
    let notices = probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
    assert!(delay >= 2 * notices, "{delay} s");
}

#[test]
fn it_may_do_nothing_but_serve() {
    let pod = &pod()["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let context = &pod["securityContext"];
    assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&true.into(), &docker::user().into()));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let context = &container()["securityContext"];
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
    for needed in ["requests", "limits"] {
        assert!(container()["resources"][needed]["memory"].is_string());
    }
}

#[test]
fn secrets_are_only_referred_to() {
    assert!(objects().iter().all(|object| object["kind"] != "Secret"));
    let volumes = pod()["spec"]["volumes"].clone();
    let secret = volumes.as_array().unwrap().iter().find(|volume| volume.get("secret").is_some()).unwrap();
    let mounts = container()["volumeMounts"].clone();
    let mount = mounts.as_array().unwrap().iter().find(|mount| mount["name"] == secret["name"]).unwrap();
    let variables = container()["env"].clone();
    for variable in variables.as_array().unwrap() {
        let (name, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
        assert!(name.ends_with("_FILE") && value.starts_with(mount["mountPath"].as_str().unwrap()), "{variable}");
        let file = crate::program::scratch("secret").join("hash_key");
        fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(check(&config(), &[(name.to_owned(), file.to_str().unwrap().to_owned())]), None);
    }
}

#[test]
fn whatever_selects_pods_selects_these_and_names_ports_that_they_have() {
    let labels = &pod()["metadata"]["labels"];
    let ports = container()["ports"].clone();
    let names: Vec<&str> = ports.as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
    let deployment = object("Deployment", "sendly-gateway");
    assert!(are_in(&deployment["spec"]["selector"]["matchLabels"], labels));
    for name in ["sendly-gateway", "sendly-gateway-admin"] {
        let service = object("Service", name);
        assert!(are_in(&service["spec"]["selector"], labels), "{name}");
        assert!(names.contains(&service["spec"]["ports"][0]["targetPort"].as_str().unwrap()), "{name}");
    }
    assert!(are_in(&object("PodDisruptionBudget", "sendly-gateway")["spec"]["selector"]["matchLabels"], labels));
    let policy = object("NetworkPolicy", "sendly-gateway");
    assert!(are_in(&policy["spec"]["podSelector"]["matchLabels"], labels));
    for rule in policy["spec"]["ingress"].as_array().unwrap() {
        assert!(names.contains(&rule["ports"][0]["port"].as_str().unwrap()), "{rule}");
        assert!(!rule["from"].as_array().unwrap().is_empty(), "not from everywhere");
    }
}

#[test]
fn the_monitor_finds_the_admin_service_and_calls_the_job_what_the_rules_call_it() {
    let monitor = document("deploy/kubernetes/optional/servicemonitor.yaml");
    assert_eq!(
        (&monitor["apiVersion"], &monitor["kind"]),
        (&"monitoring.coreos.com/v1".into(), &"ServiceMonitor".into())
    );
    let fields: Vec<&String> = monitor["spec"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["endpoints", "jobLabel", "selector"]);
    let (admin, clients) = (object("Service", "sendly-gateway-admin"), object("Service", "sendly-gateway"));
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    assert!(are_in(selector, &admin["metadata"]["labels"]) && !are_in(selector, &clients["metadata"]["labels"]));
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["path"]), (&admin["spec"]["ports"][0]["name"], &"/metrics".into()));
    let job = &admin["metadata"]["labels"][monitor["spec"]["jobLabel"].as_str().unwrap()];
    assert!(read("deploy/prometheus/rules.yml").contains(&format!("job={job}")));
}

#[test]
fn there_is_one_unless_somebody_decides_otherwise() {
    assert_eq!(object("Deployment", "sendly-gateway")["spec"]["replicas"], 1);
    assert!(objects().iter().all(|object| object["kind"] != "HorizontalPodAutoscaler"), "it counts in its own memory");
    let scaler = document("deploy/kubernetes/optional/horizontalpodautoscaler.yaml");
    let scaled = &scaler["spec"]["scaleTargetRef"];
    assert_eq!(object(scaled["kind"].as_str().unwrap(), scaled["name"].as_str().unwrap())["kind"], "Deployment");
}
