//! Values from the command line, put over those of a document (`--set data.seed=7`).

use serde_json::{Map, Value as Json};

use super::document::{Entry, Node, Value, item, read, read_any};
use super::emit;
use super::error::{Mistake, SpecError, SpecErrors};

/// A document's text with values put over its own: pairs of a path, such as `data.seed` or `evaluate[0].limit`, and a YAML
/// value. Without pairs the text comes back as it is, else as YAML without comments.
///
/// # Errors
/// When the text is no document, or a path leads nowhere. Whether the result is a valid spec is not looked at.
pub fn apply_overrides(text: &str, overrides: &[(String, String)]) -> Result<String, SpecErrors> {
    if overrides.is_empty() {
        return Ok(text.to_owned());
    }
    let mut errors = Vec::new();
    let mut tree = read(text, &mut errors)?;
    for (path, value) in overrides {
        errors.extend(override_tree(&mut tree, path, value).err());
    }
    SpecErrors::none_of(errors)?;
    Ok(emit::yaml(&to_json(&tree.value)))
}

/// Sets the value at `path`; mappings on the way are made where there are none.
pub(super) fn override_tree(tree: &mut Node, path: &str, value: &str) -> Result<(), SpecError> {
    let refuse = |code, message: String| SpecError { path: path.to_owned(), position: None, code, message };
    let mut repeated = Vec::new();
    let read = read_any(value, &mut repeated).and_then(|node| repeated.pop().map_or(Ok(node), Err));
    let mut value = read.map_err(|error| refuse(error.code, format!("the value to set: {}", error.message)))?;
    forget_positions(&mut value);
    let steps = steps(path).ok_or_else(|| {
        refuse(Mistake::Syntax, "is no path; write keys with dots between them, as in data.seed".into())
    })?;
    let mut at = tree;
    for step in steps {
        let found = describe(at);
        at = match step {
            Step::Key(key) => key_of(at, &key),
            Step::Item(index) => match &mut at.value {
                Value::List(items) => items.get_mut(index),
                _ => None,
            },
        }
        .ok_or_else(|| refuse(Mistake::WrongType, format!("leads into {found}; set that as a whole")))?;
    }
    *at = value;
    Ok(())
}

enum Step {
    Key(String),
    Item(usize),
}

/// `evaluate[0].name` as a key, an item and a key.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (key, items) = part.split_once('[').map_or((part, None), |(key, items)| (key, Some(items)));
        if key.is_empty() {
            return None;
        }
        steps.push(Step::Key(key.to_owned()));
        if let Some(items) = items {
            for index in items.strip_suffix(']')?.split("][") {
                steps.push(Step::Item(index.parse().ok()?));
            }
        }
    }
    Some(steps)
}

/// The value of a key, made when it is absent.
fn key_of<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    if matches!(node.value, Value::Null) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return None };
    let place = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        let value = Node { at: None, value: Value::Null };
        entries.push(Entry { key: key.to_owned(), at: None, value });
        entries.len() - 1
    });
    Some(&mut entries[place].value)
}

fn describe(node: &Node) -> String {
    match &node.value {
        Value::List(items) => format!("a list whose items are {} to {}", item("", 0), item("", items.len().max(1) - 1)),
        Value::Map(_) => "a mapping".into(),
        Value::Text(text) => format!("the text `{text}`"),
        _ => "a plain value".into(),
    }
}

fn forget_positions(node: &mut Node) {
    node.at = None;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(forget_positions),
        Value::Map(entries) => {
            for entry in entries {
                entry.at = None;
                forget_positions(&mut entry.value);
            }
        }
        _ => {}
    }
}

/// The value without its places.
pub(super) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Integer(number) => {
            serde_json::Number::from_i128(*number).map_or_else(|| Json::String(number.to_string()), Json::Number)
        }
        Value::Float(number) => Json::from(*number),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => items.iter().map(|item| to_json(&item.value)).collect(),
        Value::Map(entries) => {
            let pairs = entries.iter().map(|entry| (entry.key.clone(), to_json(&entry.value.value)));
            Json::Object(pairs.collect::<Map<_, _>>())
        }
    }
}
