//! A YAML or JSON text as a tree that remembers where everything stood. (JSON is a subset of YAML 1.2.)
//!
//! The part of YAML that is read is the part that JSON can say: anchors, aliases, tags and several documents in one text
//! are refused, so that a small text can't grow into a large tree.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::error::{Mistake, Position, SpecError};
use super::scalar;

/// Bytes of a document, at most.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// Mappings and lists within each other, at most.
pub(super) const MAX_DEPTH: usize = 32;
/// Keys of one mapping, at most.
const MAX_KEYS: usize = 256;

/// A value and where it stood.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Nothing for a value that an override brought in.
    pub(super) at: Option<Position>,
    pub(super) value: Value,
}

/// What JSON can say.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Option<Position>,
    pub(super) value: Node,
}

/// `path` extended by a key.
pub(super) fn child(path: &str, key: &str) -> String {
    let shown: String = key.chars().take(80).flat_map(char::escape_debug).collect();
    if path.is_empty() { shown } else { format!("{path}.{shown}") }
}

/// `path` extended by a place in a list.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Reads a job spec's text. Repeated keys are collected in `errors`, and their first value stays.
///
/// # Errors
/// The first place where the text can't be read further.
pub(super) fn read(text: &str, errors: &mut Vec<SpecError>) -> Result<Node, SpecError> {
    let root = read_any(text, errors)?;
    if matches!(root.value, Value::Map(_)) {
        return Ok(root);
    }
    Err(SpecError {
        path: String::new(),
        position: root.at,
        code: Mistake::WrongType,
        message: "a job spec is a mapping of keys to values; start with `apiVersion: cappa.dev/v1`".into(),
    })
}

/// As [`read`], of a text that is any value.
pub(super) fn read_any(text: &str, errors: &mut Vec<SpecError>) -> Result<Node, SpecError> {
    if text.len() > MAX_BYTES {
        let message = format!("is {} bytes long; at most {MAX_BYTES} are read", text.len());
        return Err(SpecError { path: String::new(), position: None, code: Mistake::TooLarge, message });
    }
    let mut builder = Builder { errors, open: Vec::new(), root: None, documents: 0 };
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let (event, span) =
            event.map_err(|error| builder.refuse(*error.marker(), Mistake::Syntax, error.info().to_owned()))?;
        builder.take(event, span.start)?;
    }
    let start = Some(Position { line: 1, column: 1 });
    Ok(builder.root.unwrap_or(Node { at: start, value: Value::Null }))
}

/// A mapping or list whose end has not come yet.
enum Open {
    List { at: Position, items: Vec<Node> },
    Map { at: Position, entries: Vec<Entry>, key: Option<(String, Position)> },
}

struct Builder<'e> {
    errors: &'e mut Vec<SpecError>,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, mark: Marker) -> Result<(), SpecError> {
        let at = position(mark);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "a second document begins here; submit one job at a time".into();
                    return Err(self.refuse(mark, Mistake::Syntax, message));
                }
                Ok(())
            }
            Event::Alias(_) => {
                Err(self.refuse(mark, Mistake::Syntax, "aliases (`*name`) are not read; write the value".into()))
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.plain(anchor, tag.is_some(), mark)?;
                self.scalar(&text, style, mark)
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain(anchor, tag.is_some(), mark)?;
                self.begin(Open::List { at, items: Vec::new() }, mark)
            }
            Event::MappingStart(anchor, tag) => {
                self.plain(anchor, tag.is_some(), mark)?;
                self.begin(Open::Map { at, entries: Vec::new(), key: None }, mark)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { at, items }) => self.put(Node { at: Some(at), value: Value::List(items) }, mark),
                Some(Open::Map { at, entries, .. }) => {
                    self.put(Node { at: Some(at), value: Value::Map(entries) }, mark)
                }
                None => Ok(()),
            },
        }
    }

    /// Refuses what plain JSON doesn't have.
    fn plain(&self, anchor: usize, tagged: bool, mark: Marker) -> Result<(), SpecError> {
        match (anchor, tagged) {
            (0, false) => Ok(()),
            (0, true) => Err(self.refuse(mark, Mistake::Syntax, "tags (`!name`) are not read; take it out".into())),
            _ => Err(self.refuse(mark, Mistake::Syntax, "anchors (`&name`) are not read; take it out".into())),
        }
    }

    fn begin(&mut self, open: Open, mark: Marker) -> Result<(), SpecError> {
        if self.open.len() == MAX_DEPTH {
            let message = format!("is nested more than {MAX_DEPTH} deep");
            return Err(self.refuse(mark, Mistake::TooLarge, message));
        }
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err(self.refuse(mark, Mistake::Syntax, "a key must be text".into()));
        }
        self.open.push(open);
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, mark: Marker) -> Result<(), SpecError> {
        let at = position(mark);
        if let Some(Open::Map { key: key @ None, .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        let value = if style == ScalarStyle::Plain { scalar::resolve(text) } else { Value::Text(text.to_owned()) };
        self.put(Node { at: Some(at), value }, mark)
    }

    /// Puts a finished value where it belongs.
    fn put(&mut self, node: Node, mark: Marker) -> Result<(), SpecError> {
        let repeated = match self.open.last_mut() {
            None => {
                self.root = Some(node);
                None
            }
            Some(Open::List { items, .. }) => {
                items.push(node);
                None
            }
            Some(Open::Map { entries, .. }) if entries.len() == MAX_KEYS => {
                let message = format!("has more than {MAX_KEYS} keys");
                return Err(self.refuse(mark, Mistake::TooLarge, message));
            }
            Some(Open::Map { entries, key, .. }) => key.take().and_then(|(key, at)| {
                if entries.iter().any(|entry| entry.key == key) {
                    return Some((key, at));
                }
                entries.push(Entry { key, at: Some(at), value: node });
                None
            }),
        };
        if let Some((key, at)) = repeated {
            let (path, message) = (child(&self.path(), &key), "is given twice; keep one".into());
            self.errors.push(SpecError { path, position: Some(at), code: Mistake::DuplicateKey, message });
        }
        Ok(())
    }

    /// The path of the value that comes next.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match open {
            Open::List { items, .. } => item(&path, items.len()),
            Open::Map { key: Some((key, _)), .. } => child(&path, key),
            Open::Map { key: None, .. } => path,
        })
    }

    fn refuse(&self, mark: Marker, code: Mistake, message: String) -> SpecError {
        SpecError { path: self.path(), position: Some(position(mark)), code, message }
    }
}

fn position(mark: Marker) -> Position {
    Position { line: mark.line(), column: mark.col() + 1 }
}
