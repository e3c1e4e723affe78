//! What is wrong with a configuration: where, which key, and what would be right.

use std::fmt;

/// Everything that is wrong with a configuration, in the order of its places. Printed, it is one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
    /// The key that it is about, as a dotted path (`limits[2].window`); empty where it is about none.
    pub key: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// Where a mistake stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file, but at no one place of it.
    File(String),
    /// At a place in a text.
    Text {
        /// The file that the text came from.
        origin: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// In an environment variable.
    Variable(String),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The text is not TOML.
    Syntax(String),
    /// No such key, or no such variable.
    Unknown {
        /// One that does exist, and may have been meant.
        meant: Option<String>,
    },
    /// The key has to be there.
    Missing {
        /// What it takes.
        expected: String,
    },
    /// The key does not take this value.
    Value {
        /// What it takes.
        expected: String,
        /// What stands there. A secret is not repeated.
        found: String,
    },
}

impl Mistakes {
    /// These mistakes in the order of their places; `None` if there is none.
    pub(super) fn of(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort_by(|one, other| one.place.cmp(&other.place));
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    /// Each of them; at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl IntoIterator for Mistakes {
    type Item = Mistake;
    type IntoIter = std::vec::IntoIter<Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'m> IntoIterator for &'m Mistakes {
    type Item = &'m Mistake;
    type IntoIter = std::slice::Iter<'m, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, mistake) in self.iter().enumerate() {
            let separator = if place == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        match &self.problem {
            Problem::Syntax(what) => write!(f, "not TOML: {what}"),
            Problem::Unknown { meant: None } => f.write_str("unknown"),
            Problem::Unknown { meant: Some(meant) } => write!(f, "unknown; did you mean {meant}?"),
            Problem::Missing { expected } => write!(f, "expected {expected}, found nothing"),
            Problem::Value { expected, found } => write!(f, "expected {expected}, found {found}"),
        }
    }
}

impl Place {
    /// Whether both stand on one line of one text.
    pub(super) fn shares_line(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Text { origin, line, .. }, Place::Text { origin: other, line: its, .. }) => {
                (origin, line) == (other, its)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Text { origin, line, column } => write!(f, "{origin}:{line}:{column}"),
            Place::File(name) | Place::Variable(name) => f.write_str(name),
        }
    }
}
