//! One table of the configuration, as whoever reads it sees it: ask for a key, say what it takes, get its value.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::environment::{self, Environment};
use super::mistake::{Mistake, Mistakes, Place, Problem};
use super::parsers::{self, Kind};
use super::raw::{Document, Given, Source, Value};
use super::reader::{AskedKey, KeyAnswer, Reader};

/// One table, with the environment variables that override its keys.
#[derive(Debug)]
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader,
    source: Source<'t>,
    table: Option<&'t DeTable<'t>>,
    /// Where it starts; what is missing from it is missing there.
    place: Place,
    /// Its path in the file.
    path: String,
    /// Its path as variables spell it; `None` if none can.
    variables: Option<String>,
}

impl<'r, 't> Section<'r, 't> {
    /// A document's topmost table.
    pub(super) fn root(reader: &'r mut Reader, document: &'t Document<'t>) -> Self {
        let Document { source, table } = document;
        Self {
            reader,
            source: *source,
            table: Some(table.get_ref()),
            place: Place::File(source.origin.to_owned()),
            path: String::new(),
            variables: Some(String::new()),
        }
    }

    /// Lets `read` ask for every key that there may be, and notes what else stands here.
    pub(super) fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let value = read(&mut self);
        for (key, _) in self.table.into_iter().flatten() {
            let path = join(&self.path, &bare_or_quoted(key.get_ref()));
            if !self.reader.asked.contains_key(&path) {
                self.reader.unknown.push((path, self.source.place(key.span())));
            }
        }
        value
    }

    /// A key's value, or its default.
    pub(super) fn get<T>(&mut self, key: &str, default: T, kind: impl Kind<T>) -> T {
        self.optional(key, kind).unwrap_or(default)
    }

    /// A key's value, if it has one.
    pub(super) fn optional<T>(&mut self, key: &str, kind: impl Kind<T>) -> Option<T> {
        let given = self.find(key);
        self.judge_any(key, given, kind)
    }

    /// A file that is there and can be read, if a key names one. The configuration is loaded anew when it changes.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let given = self.find(key);
        if let Ok(Some(path)) = given.as_ref().map(Given::text) {
            self.reader.files.insert(path.into());
        }
        self.judge_any(key, given, parsers::readable_file)
    }

    /// The value of a key that has to have one.
    pub(super) fn required<T>(&mut self, key: &str, kind: impl Kind<T>) -> Option<T> {
        let given = self.find(key);
        self.judge(key, given, kind)
    }

    /// The value of a key that no mistake repeats. The key `file_key` may name a file that holds it.
    pub(super) fn secret<T>(&mut self, key: &str, file_key: &str, kind: impl Kind<T>) -> Option<T> {
        let given = self.find(key).map(|given| Given { secret: true, ..given });
        // The variable of this key is the one that `find` looks at for the file of any key.
        let file = Given { secret: true, ..self.in_text(file_key) };
        self.asked(file_key).variable = self.variable(file_key);
        self.reader.files.extend(file.text().map(PathBuf::from));
        let given = match given {
            given if file.is_nothing() => given,
            Ok(Given { value: Value::Nothing, .. }) => contents(&file),
            Ok(Given { place: Place::Variable(_), .. }) | Err(_) => given,
            Ok(_) => Err(file.expected_but_found(format!("one of {key} and {file_key}"), "both")),
        };
        self.judge_any(key, given, kind)
    }

    /// The name of an entry: one that no other entry has. No variable overrides it, as variables are named after it.
    pub(super) fn unique_name(&mut self) -> Option<String> {
        let given = self.in_text("name");
        let name = self.judge("name", Ok(given), parsers::name)?;
        let fresh = self.reader.names.insert(name.clone());
        self.rule(fresh, &["name"], "a name that no other limit or throttle has");
        Some(name)
    }

    /// A table in this one.
    pub(super) fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let given = self.in_text(key);
        let table = given.table();
        if table.is_none() && !given.is_nothing() {
            self.reader.mistakes.extend(given.expected(format!("a [{key}] table")));
        }
        let variables = self.variables.as_ref().map(|path| join(path, key));
        let Given { key: path, place, .. } = given;
        Section { reader: self.reader, source: self.source, table, place, path, variables }.read(read)
    }

    /// The tables of an array in this one, at most so many. Where this one has no such array, `default` has it; its tables
    /// have no index in the file, so their paths tell their names.
    pub(super) fn entries<T>(
        &mut self,
        key: &str,
        most: usize,
        default: Option<&'t Document<'t>>,
        read: impl Fn(&mut Section<'_, 't>) -> Option<T>,
    ) -> Vec<T> {
        let own = self.in_text(key);
        let default = default.filter(|_| own.is_nothing());
        let given = default.map_or(own, |default| Section::root(self.reader, default).in_text(key));
        if given.is_nothing() {
            return Vec::new();
        }
        let Some(entries) = given.items() else {
            self.reader.mistakes.extend(given.expected(format!("[[{key}]] tables")));
            return Vec::new();
        };
        if let Some(first_extra) = entries.get(most) {
            let (expected, found) = (format!("at most {most} of them"), entries.len().to_string());
            self.reader.mistakes.extend(first_extra.expected_but_found(expected, found));
        }
        let entry = |entry: Given<'t>| {
            let Given { value: Value::Toml(DeValue::Table(table), source), .. } = entry else {
                self.reader.mistakes.extend(entry.expected(format!("a [[{key}]] table")));
                return None;
            };
            let name = table.get("name").and_then(|name| name.get_ref().as_str()).filter(|name| parsers::is_name(name));
            let variables = name.map(|name| join(key, name));
            let path = variables.clone().filter(|_| default.is_some()).unwrap_or(entry.key);
            let section =
                Section { reader: self.reader, source, table: Some(table), place: entry.place, path, variables };
            section.read(&read)
        };
        entries.into_iter().take(most).filter_map(entry).collect()
    }

    /// Notes a mistake unless something holds between keys. The first of them that was given is to blame; none is if one of
    /// them is mistaken anyway.
    pub(super) fn rule(&mut self, holds: bool, keys: &[&str], expected: impl Into<String>) {
        if !holds {
            let mistake = self.blame(keys, expected.into());
            self.reader.mistakes.extend(mistake);
        }
    }

    /// The same for what is allowed and is likely not meant.
    pub(super) fn advise(&mut self, holds: bool, keys: &[&str], expected: impl Into<String>) {
        if !holds {
            let warning = self.blame(keys, expected.into());
            self.reader.warnings.extend(warning);
        }
    }

    /// Whether a key has a value that it takes.
    pub(super) fn is_given(&mut self, key: &str) -> bool {
        matches!(self.asked(key).answer, KeyAnswer::Sound(..))
    }

    fn blame(&mut self, keys: &[&str], expected: String) -> Option<Mistake> {
        let mut blamed = None;
        for key in keys {
            match &self.asked(key).answer {
                KeyAnswer::Mistaken => return None,
                KeyAnswer::Sound(place, found) if blamed.is_none() => {
                    blamed = Some((*key, place.clone(), found.clone()))
                }
                KeyAnswer::Sound(..) | KeyAnswer::Absent => {}
            }
        }
        let default = || (keys.first().copied().unwrap_or_default(), self.place.clone(), "its default".to_owned());
        let (key, place, found) = blamed.unwrap_or_else(default);
        let problem = Problem::Value { expected, found };
        Some(Mistake { place, key: join(&self.path, key), problem })
    }

    /// What the environment has for a key, or else the file.
    fn find(&mut self, key: &str) -> Result<Given<'t>, Mistakes> {
        let given = self.in_text(key);
        let Some(variable) = self.variable(key) else { return Ok(given) };
        self.asked(key).variable = Some(variable.clone());
        self.reader.files.extend(self.reader.environment.file_of(&variable));
        let taken = self.reader.environment.take(&given.key, variable)?;
        Ok(match taken {
            Some(variable) => Given {
                key: given.key,
                place: Place::Variable(variable.name),
                value: Value::Text(variable.value.into()),
                secret: variable.from_file,
            },
            None => given,
        })
    }

    /// What the file has for a key. From now on the key is known.
    fn in_text(&mut self, key: &str) -> Given<'t> {
        self.asked(key);
        let (place, value) = match self.table.and_then(|table| table.get(key)) {
            Some(value) => (self.source.place(value.span()), Value::Toml(value.get_ref(), self.source)),
            None => (self.place.clone(), Value::Nothing),
        };
        Given { key: join(&self.path, key), place, value, secret: false }
    }

    /// The value of a key, if anything was given.
    fn judge_any<T>(&mut self, key: &str, given: Result<Given<'t>, Mistakes>, kind: impl Kind<T>) -> Option<T> {
        let absent = given.as_ref().is_ok_and(Given::is_nothing);
        if absent { None } else { self.judge(key, given, kind) }
    }

    /// The value of a key, if it takes what was given.
    fn judge<T>(&mut self, key: &str, given: Result<Given<'t>, Mistakes>, kind: impl Kind<T>) -> Option<T> {
        let judged = given.and_then(|given| Ok((kind(&given)?, KeyAnswer::Sound(given.place.clone(), given.shown()))));
        let (value, answer) = match judged {
            Ok((value, answer)) => (Some(value), answer),
            Err(mistakes) => {
                self.reader.mistakes.extend(mistakes);
                (None, KeyAnswer::Mistaken)
            }
        };
        self.asked(key).answer = answer;
        value
    }

    fn asked(&mut self, key: &str) -> &mut AskedKey {
        self.reader.asked.entry(join(&self.path, key)).or_default()
    }

    fn variable(&self, key: &str) -> Option<String> {
        self.variables.as_ref().map(|path| Environment::name(&join(path, key)))
    }
}

/// What is in the file that this names.
fn contents<'v>(file: &Given<'v>) -> Result<Given<'v>, Mistakes> {
    let path = file.text().ok_or_else(|| file.expected("the name of a file"))?;
    let value = environment::read_value(Path::new(path))
        .map_err(|error| file.expected_but_found(environment::READABLE_FILE, error.to_string()))?;
    Ok(Given {
        key: file.key.clone(),
        place: file.place.clone(),
        value: Value::Text(value.into()),
        secret: file.secret,
    })
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key as TOML spells it, so that no key looks like a path.
fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { key.to_owned() } else { format!("{key:?}") }
}
