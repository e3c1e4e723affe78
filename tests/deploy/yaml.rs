//! YAML, read and validated by `documents.py`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn python(arguments: &[&str], input: &str) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = "run tests/deploy/install (scripts/test does)";
    assert!(root.join(".cache/deploy-python/installed").exists(), "{help}");
    let mut child = Command::new(root.join(".cache/deploy-python/bin/python"))
        .arg(root.join("tests/deploy/documents.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{help}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The documents of a file of the repository.
#[track_caller]
pub(crate) fn documents(file: &str) -> Vec<Value> {
    let Output { status, stdout, stderr } = python(&["json", file], "");
    assert!(status.success(), "{file}: {}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

/// The one document of a file of the repository.
#[track_caller]
pub(crate) fn document(file: &str) -> Value {
    let mut documents = documents(file);
    assert_eq!(documents.len(), 1, "{file}");
    documents.remove(0)
}

/// What is wrong with some documents by this schema (`kubernetes`, `compose`); nothing, if they are valid.
pub(crate) fn mistakes(schema: &str, text: &str) -> Option<String> {
    let output = python(&[schema], text);
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_key_that_stands_twice_is_a_mistake() {
    assert!(mistakes("compose", "services: {}\nservices: {}\n").unwrap().contains("twice: services"));
}
