//! What is wrong with a spec, all of it, each with its place.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// A place in a document's text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// The kinds of mistakes; their texts are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mistake {
    /// The text is no YAML or JSON document that we read.
    Syntax,
    /// Past a bound on size or depth.
    TooLarge,
    /// A key that occurs twice in a mapping.
    DuplicateKey,
    /// A key that is not known there.
    UnknownKey,
    /// A number where text is needed, and the like.
    WrongType,
    /// A word that is none of the possible ones.
    UnknownValue,
    /// A required key is absent.
    Missing,
    /// A value outside its bounds.
    OutOfRange,
    /// Sizes that don't divide each other.
    NotDivisible,
    /// Values that contradict each other.
    Inconsistent,
    /// Two things of one name.
    DuplicateName,
    /// Not usable as a name.
    BadName,
    /// Not usable as a URL or path.
    BadUrl,
    /// Meaningful, but not in this version.
    Unsupported,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
#[error("{}", self.line())]
pub struct SpecError {
    /// Where in the document, e.g. `data.text_length` or `evaluate[0].name`; empty for the document itself.
    pub path: String,
    /// Where in the text; nothing when the value came from an override.
    pub position: Option<Position>,
    /// What kind of mistake.
    pub code: Mistake,
    /// What is wrong, and what to write.
    pub message: String,
}

impl SpecError {
    fn line(&self) -> String {
        let place = match self.position {
            Some(Position { line, column }) => format!("{line}:{column}: "),
            None => String::new(),
        };
        let path = if self.path.is_empty() { "document" } else { &self.path };
        format!("{place}{path}: {}", self.message)
    }
}

/// So many mistakes are reported; a document with more is not a spec with mistakes but something else.
const REPORTED: usize = 100;

/// Every mistake of a spec, in the order of the text. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct SpecErrors(Vec<SpecError>);

impl SpecErrors {
    /// `Err` with the mistakes unless there are none.
    pub(super) fn none_of(mut errors: Vec<SpecError>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_by(|a, b| (a.position, &a.path).cmp(&(b.position, &b.path)));
        errors.dedup();
        errors.truncate(REPORTED);
        Err(Self(errors))
    }

    /// The mistakes.
    pub fn errors(&self) -> &[SpecError] {
        &self.0
    }
}

impl From<SpecError> for SpecErrors {
    fn from(error: SpecError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let more = if count == REPORTED { " or more" } else { "" };
        write!(f, "the spec has {count}{more} mistake{}", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}
