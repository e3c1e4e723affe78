//! Reads keys one after another, and collects what is wrong with them.
//!
//! Asking for a key is what makes it known: there is no second list of keys that could differ from the first. A mistake never
//! stops the reading, because an operator wants to see all of them; whoever asked goes on with the key's default.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::environment::Environment;
use super::mistake::{Mistake, Mistakes, Place, Problem};

/// What is known about a configuration while it is read.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) environment: Environment,
    pub(super) mistakes: Vec<Mistake>,
    /// What is allowed and is likely not meant.
    pub(super) warnings: Vec<Mistake>,
    /// Keys that stand in the file and that nobody asked for.
    pub(super) unknown: Vec<(String, Place)>,
    /// What was asked for, by its path; sections too.
    pub(super) asked: BTreeMap<String, AskedKey>,
    /// The names of limits and throttles.
    pub(super) names: BTreeSet<String>,
    /// The files that hold a value, or are one.
    pub(super) files: BTreeSet<PathBuf>,
}

/// A key that was asked for.
#[derive(Debug, Default)]
pub(super) struct AskedKey {
    /// The environment variable that overrides it, if one can.
    pub(super) variable: Option<String>,
    /// What it holds.
    pub(super) answer: KeyAnswer,
}

/// What a key holds.
#[derive(Debug, Default)]
pub(super) enum KeyAnswer {
    /// Nothing: its default applies.
    #[default]
    Absent,
    /// Something that it does not take.
    Mistaken,
    /// Something that it takes: where that stands, and how a mistake shows it.
    Sound(Place, String),
}

impl Reader {
    pub(super) fn new(environment: Environment) -> Self {
        Self {
            environment,
            mistakes: Vec::new(),
            warnings: Vec::new(),
            unknown: Vec::new(),
            asked: BTreeMap::new(),
            names: BTreeSet::new(),
            files: BTreeSet::new(),
        }
    }

    /// All mistakes, those of the syntax among them.
    ///
    /// Where the syntax is broken, a key may seem to be absent or out of place that is neither. So nothing is said then about
    /// what is missing or unknown, nor about the rest of a broken line.
    pub(super) fn finish(mut self, syntax: Vec<Mistake>) -> Option<Mistakes> {
        let broken = !syntax.is_empty();
        self.mistakes.retain(|mistake| {
            let missing = matches!(mistake.problem, Problem::Missing { .. });
            !(broken && missing || syntax.iter().any(|error| error.place.shares_line(&mistake.place)))
        });
        self.mistakes.extend(syntax);
        if !broken {
            let paths = self.asked.keys().map(String::as_str);
            self.mistakes.extend(self.unknown.into_iter().map(|(key, place)| {
                let meant = similar_path(&key, paths.clone()).map(str::to_owned);
                Mistake { place, key, problem: Problem::Unknown { meant } }
            }));
            let variables = self.asked.values().filter_map(|asked| asked.variable.as_deref());
            let meant = |name: &str| similar_name(name, variables.clone()).map(str::to_owned);
            self.mistakes.extend(self.environment.unknown(meant));
        }
        Mistakes::of(self.mistakes)
    }
}

/// The known path that an unknown one may stand for: misspelt, or right but in the wrong section.
fn similar_path<'k>(unknown: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
    let key = unknown.rsplit('.').next();
    let mut elsewhere = known.clone().filter(|path| path.rsplit('.').next() == key);
    similar_name(unknown, known).or_else(|| match (elsewhere.next(), elsewhere.next()) {
        (Some(path), None) => Some(path),
        _ => None,
    })
}

/// The known name with the smallest edit distance to an unknown one, if that is at most two, and a third of its length.
fn similar_name<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let most = (unknown.chars().count() / 3).min(2);
    let (distance, name) = known.map(|name| (strsim::levenshtein(unknown, name), name)).min()?;
    (distance <= most).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::similar_path;

    #[test]
    fn a_key_is_found_misspelt_or_in_the_wrong_section() {
        let known = ["drain_timeout", "upstream.url", "upstream.connect_timeout", "upstream.listen", "admin.listen"];
        let path = |unknown| similar_path(unknown, known.into_iter());
        assert_eq!(path("upstream.conect_timeout"), Some("upstream.connect_timeout"));
        assert_eq!(path("admin.drain_timeout"), Some("drain_timeout"));
        assert_eq!(path("listen"), None, "two sections have it");
        assert_eq!(path("colour"), None);
    }
}
