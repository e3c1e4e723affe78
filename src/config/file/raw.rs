//! A value as it was given, by the file or by the environment, and what it can be read as.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Mistakes, Place, Problem};

/// More of a wrong value is not repeated.
const MAX_SHOWN: usize = 60;

/// A text in TOML, and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    /// The name of the file.
    pub(crate) origin: &'t str,
    /// What it says.
    pub(crate) text: &'t str,
}

/// A text in TOML, parsed as far as it can be.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    pub(crate) source: Source<'t>,
    pub(crate) table: Spanned<DeTable<'t>>,
}

/// A key's value, or that it has none.
#[derive(Debug)]
pub(crate) struct Given<'v> {
    /// The key's path.
    pub(crate) key: String,
    /// Where the value stands.
    pub(crate) place: Place,
    pub(crate) value: Value<'v>,
    /// Whether it may be repeated in a mistake.
    pub(crate) secret: bool,
}

/// The value itself.
#[derive(Clone, Debug)]
pub(crate) enum Value<'v> {
    /// There is none.
    Nothing,
    /// The environment's, where everything is text.
    Text(Cow<'v, str>),
    /// The file's.
    Toml(&'v DeValue<'v>, Source<'v>),
}

impl<'t> Source<'t> {
    /// The place at which this stretch of the text starts.
    pub(crate) fn place(self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        Place::Text {
            origin: self.origin.to_owned(),
            line: 1 + before.matches('\n').count(),
            column: 1 + line.chars().count(),
        }
    }
}

impl<'t> Document<'t> {
    /// Parses a text, and tells what in it is not TOML.
    pub(crate) fn parse(origin: &'t str, text: &'t str) -> (Self, Vec<Mistake>) {
        let source = Source { origin, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        let mistakes = errors.into_iter().map(|error| Mistake {
            place: source.place(error.span().unwrap_or_default()),
            key: String::new(),
            problem: Problem::Syntax(error.message().trim_end_matches(", expected nothing").to_owned()),
        });
        (Self { source, table }, mistakes.collect())
    }
}

impl<'v> Given<'v> {
    /// Whether there is no value.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self.value, Value::Nothing)
    }

    /// It, as a table.
    pub(crate) fn table(&self) -> Option<&'v DeTable<'v>> {
        match self.value {
            Value::Toml(value, _) => value.as_table(),
            Value::Text(_) | Value::Nothing => None,
        }
    }

    /// It, as text.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Toml(value, _) => value.as_str(),
            Value::Nothing => None,
        }
    }

    /// It, as a whole number that is not negative.
    pub(crate) fn number(&self) -> Option<u64> {
        match &self.value {
            Value::Text(text) => text.replace('_', "").parse().ok(),
            Value::Toml(DeValue::Integer(number), _) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            Value::Toml(..) | Value::Nothing => None,
        }
    }

    /// It, as a number that may have decimals.
    pub(crate) fn decimal(&self) -> Option<f64> {
        let number = match &self.value {
            Value::Text(text) => text.parse().ok(),
            Value::Toml(DeValue::Float(number), _) => number.as_str().parse().ok(),
            Value::Toml(DeValue::Integer(_), _) => self.number().map(|number| number as f64),
            Value::Toml(..) | Value::Nothing => None,
        };
        number.filter(|number: &f64| number.is_finite())
    }

    /// It, as yes or no.
    pub(crate) fn flag(&self) -> Option<bool> {
        match &self.value {
            Value::Text(text) => text.parse().ok(),
            Value::Toml(value, _) => value.as_bool(),
            Value::Nothing => None,
        }
    }

    /// Its items. The environment separates them by commas.
    pub(crate) fn items(&self) -> Option<Vec<Given<'v>>> {
        let item = |index: usize, place, value| {
            let key = format!("{}[{index}]", self.key);
            Given { key, place, value, secret: self.secret }
        };
        match &self.value {
            Value::Text(text) if text.is_empty() => Some(Vec::new()),
            Value::Text(text) => {
                let items = text.split(',').map(|text| Value::Text(Cow::Owned(text.trim().to_owned())));
                Some(items.enumerate().map(|(index, text)| item(index, self.place.clone(), text)).collect())
            }
            Value::Toml(DeValue::Array(items), source) => {
                let items = items.iter().enumerate();
                let given = |(index, value): (usize, &'v Spanned<DeValue<'v>>)| {
                    item(index, source.place(value.span()), Value::Toml(value.get_ref(), *source))
                };
                Some(items.map(given).collect())
            }
            Value::Toml(..) | Value::Nothing => None,
        }
    }

    /// The mistake that this is not what was expected.
    pub(crate) fn expected(&self, expected: impl Into<String>) -> Mistakes {
        match self.value {
            Value::Nothing => self.mistake(Problem::Missing { expected: expected.into() }),
            Value::Text(_) | Value::Toml(..) => self.expected_but_found(expected, self.shown()),
        }
    }

    /// The same, where what was found is not just the value.
    pub(crate) fn expected_but_found(&self, expected: impl Into<String>, found: impl Into<String>) -> Mistakes {
        self.mistake(Problem::Value { expected: expected.into(), found: found.into() })
    }

    fn mistake(&self, problem: Problem) -> Mistakes {
        Mistakes::from(Mistake { place: self.place.clone(), key: self.key.clone(), problem })
    }

    /// What a mistake says that it is.
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Value::Nothing => "nothing".to_owned(),
            _ if self.secret => "a value that is not shown".to_owned(),
            Value::Text(text) => quoted(text),
            Value::Toml(DeValue::String(text), _) => quoted(text),
            Value::Toml(DeValue::Integer(number), _) => number.to_string(),
            Value::Toml(DeValue::Float(number), _) => number.to_string(),
            Value::Toml(DeValue::Boolean(flag), _) => flag.to_string(),
            Value::Toml(DeValue::Datetime(_), _) => "a date or time".to_owned(),
            Value::Toml(DeValue::Array(_), _) => "an array".to_owned(),
            Value::Toml(DeValue::Table(_), _) => "a table".to_owned(),
        }
    }
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
