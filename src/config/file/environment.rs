//! The environment variables that are ours. Each key has one, and so has each key's file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::mistake::{Mistake, Place, Problem};

/// How the names of our variables start.
const PREFIX: &str = "SENDLY_GATEWAY_";

/// How the name of a variable ends that names a file to read the value from.
const FROM_FILE: &str = "_FILE";

/// More than any value is long. What is longer is not the file that was meant.
const MAX_FILE: u64 = 64 * 1024;

/// What a path has to lead to.
pub(super) const READABLE_FILE: &str = "a file that can be read";

/// Our variables that nobody has asked for yet.
#[derive(Debug)]
pub(super) struct Environment(BTreeMap<String, String>);

/// A value that the environment gives.
#[derive(Debug)]
pub(super) struct Variable {
    /// The variable's name.
    pub(super) name: String,
    /// The key's value.
    pub(super) value: String,
    /// Whether it was read from a file. Such a value is not shown: it is in a file because it is not for showing.
    pub(super) from_file: bool,
}

impl Environment {
    pub(super) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect())
    }

    /// The variable of the key that stands at this path.
    pub(super) fn name(path: &str) -> String {
        format!("{PREFIX}{}", path.to_ascii_uppercase().replace(['.', '-'], "_"))
    }

    /// The file that holds the value of a variable of this name, if it is not given itself.
    pub(super) fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.0.get(&format!("{name}{FROM_FILE}")).map(PathBuf::from)
    }

    /// Takes out the value that the environment has for a key, either in its variable or in the file that a second one names.
    pub(super) fn take(&mut self, key: &str, name: String) -> Result<Option<Variable>, Mistake> {
        let by_file = format!("{name}{FROM_FILE}");
        let wrong = |name, problem| Mistake { place: Place::Variable(name), key: key.to_owned(), problem };
        match (self.0.remove(&name), self.0.remove(&by_file)) {
            (None, None) => Ok(None),
            (Some(value), None) => Ok(Some(Variable { name, value, from_file: false })),
            (None, Some(path)) => match read_value(Path::new(&path)) {
                Ok(value) => Ok(Some(Variable { name: by_file, value, from_file: true })),
                Err(error) => {
                    // The path is not repeated: it may be a secret, put into the wrong variable.
                    let (expected, found) = (READABLE_FILE.to_owned(), error.to_string());
                    Err(wrong(by_file, Problem::Value { expected, found }))
                }
            },
            (Some(_), Some(_)) => {
                let expected = format!("one of {name} and {by_file}");
                Err(wrong(name, Problem::Value { expected, found: "both".to_owned() }))
            }
        }
    }

    /// What nobody has asked for: mistakes. `meant` knows a name that is close to the one that was written.
    pub(super) fn unknown(self, meant: impl Fn(&str) -> Option<String>) -> impl Iterator<Item = Mistake> {
        self.0.into_iter().filter(|(name, value)| !is_service(name, value)).map(move |(name, _)| Mistake {
            problem: Problem::Unknown { meant: meant(&name) },
            place: Place::Variable(name.escape_debug().to_string()),
            key: String::new(),
        })
    }
}

/// The value that a file holds: its text, without the line break at its end.
pub(super) fn read_value(path: &Path) -> io::Result<String> {
    let mut value = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut value)?;
    if value.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("more than {MAX_FILE} bytes")));
    }
    let trimmed = value.strip_suffix('\n').map_or(value.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(trimmed.to_owned())
}

/// Whether Kubernetes put it there: it tells every pod about each service of its namespace, in variables that are named after
/// the service, and what would a service before this gateway be called if not `sendly-gateway`?
fn is_service(name: &str, value: &str) -> bool {
    const PROTOCOLS: [(&str, &str); 3] = [("_TCP", "tcp://"), ("_UDP", "udp://"), ("_SCTP", "sctp://")];
    let (port, service) = (name.contains("_PORT"), name.contains("_SERVICE_PORT") || name.ends_with("_SERVICE_HOST"));
    service || port && PROTOCOLS.iter().any(|(protocol, scheme)| name.contains(protocol) || value.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_says_about_services_is_not_ours() {
        for (name, value) in [
            ("SENDLY_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("SENDLY_GATEWAY_SERVICE_PORT", "8080"),
            ("SENDLY_GATEWAY_SERVICE_PORT_HTTP", "8080"),
            ("SENDLY_GATEWAY_PORT", "tcp://10.0.0.1:8080"),
            ("SENDLY_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("SENDLY_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("SENDLY_GATEWAY_ADMIN_PORT_9090_TCP_PROTO", "tcp"),
            ("SENDLY_GATEWAY_ADMIN_SERVICE_HOST", "10.0.0.1"),
        ] {
            assert!(is_service(name, value), "{name}={value}");
        }
        for (name, value) in [("SENDLY_GATEWAY_PORT", "8080"), ("SENDLY_GATEWAY_LISTEN", "10.0.0.1:8080")] {
            assert!(!is_service(name, value), "{name}={value}");
        }
    }
}
