//! Does a document have the shape that the raw spec's JSON Schema describes? The same schema that editors are given, so
//! the two can't differ. What fits is handed on; what doesn't is reported and left out, so that the rest can be judged too.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value as Json};

use super::document::{Entry, Node, Value, child, item};
use super::error::{Mistake, SpecError};
use super::suggest::did_you_mean;

/// A document as far as it has the right shape.
pub(super) struct Shaped {
    /// The parts that fit.
    pub(super) json: Json,
    /// Paths of the parts that are left out although something is written there, or should be.
    pub(super) unreadable: BTreeSet<String>,
}

/// Checks a document against a schema, collecting every mistake.
pub(super) fn check(document: &Node, schema: &Json, errors: &mut Vec<SpecError>) -> Shaped {
    let mut walk = Walk { schema, errors, unreadable: BTreeSet::new() };
    let json = walk.value(document, schema, "").unwrap_or_else(|| Json::Object(Map::new()));
    Shaped { json, unreadable: walk.unreadable }
}

struct Walk<'a> {
    schema: &'a Json,
    errors: &'a mut Vec<SpecError>,
    unreadable: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    /// The value as JSON if one of the schema's alternatives takes it.
    fn value(&mut self, node: &Node, schema: &'a Json, path: &str) -> Option<Json> {
        let mut alternatives = Vec::new();
        self.flatten(schema, &mut alternatives);
        let of_type = |wanted: &str| alternatives.iter().copied().find(|leaf| has_type(leaf, wanted));
        match &node.value {
            Value::Map(entries) if of_type("object").is_some() => self.map(node, entries, of_type("object")?, path),
            Value::List(items) if of_type("array").is_some() => self.list(node, items, of_type("array")?, path),
            Value::Text(text) if of_type("string").is_some() => self.text(node, text, &alternatives, path),
            Value::Bool(value) if of_type("boolean").is_some() => Some(Json::Bool(*value)),
            Value::Integer(number) if of_type("integer").is_some() => {
                self.integer(node, *number, of_type("integer")?, path)
            }
            Value::Float(number) if of_type("integer").is_some() && whole(*number).is_some() => {
                self.integer(node, whole(*number)?, of_type("integer")?, path)
            }
            Value::Integer(number) if of_type("number").is_some() => self.number(node, *number as f64, path),
            Value::Float(number) if of_type("number").is_some() => self.number(node, *number, path),
            found => {
                let quoted =
                    of_type("string").is_some() && !matches!(found, Value::Map(_) | Value::List(_) | Value::Null);
                let hint = if quoted { "; put it in quotes if it is meant as text" } else { "" };
                let message = format!("expected {}, found {}{hint}", expected(&alternatives), describe(found));
                self.refuse(node, path, Mistake::WrongType, message)
            }
        }
    }

    fn map(&mut self, node: &Node, entries: &[Entry], schema: &'a Json, path: &str) -> Option<Json> {
        let known = schema.get("properties").and_then(Json::as_object)?;
        let mut json = Map::new();
        for entry in entries {
            let at = child(path, &entry.key);
            let Some(schema) = known.get(&entry.key) else {
                let hint = did_you_mean(&entry.key, known.keys().map(String::as_str));
                let error = SpecError {
                    path: at,
                    position: entry.at,
                    code: Mistake::UnknownKey,
                    message: format!("unknown key{hint}"),
                };
                self.errors.push(error);
                continue;
            };
            // A key without a value means its default.
            if !matches!(entry.value.value, Value::Null)
                && let Some(value) = self.value(&entry.value, schema, &at)
            {
                json.insert(entry.key.clone(), value);
            }
        }
        for key in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            let at = child(path, key);
            if !json.contains_key(key) && !self.unreadable.contains(&at) {
                self.refuse(node, &at, Mistake::Missing, "is required".into());
            }
        }
        Some(Json::Object(json))
    }

    fn list(&mut self, list: &Node, items: &[Node], schema: &'a Json, path: &str) -> Option<Json> {
        let bound = |key: &str| Some(usize::try_from(schema.get(key)?.as_u64()?).expect("a schema's lists are short"));
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems").unwrap_or(usize::MAX));
        if !(least..=most).contains(&items.len()) {
            let message = format!("{} values, where {least} are expected", items.len());
            return self.refuse(list, path, Mistake::WrongType, message);
        }
        let schema = schema.get("items")?;
        let mut values = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            values.push(self.value(node, schema, &item(path, index)));
        }
        // Places in the list must stay what they are, so one unreadable item makes the list unreadable.
        let whole: Option<Vec<Json>> = values.into_iter().collect();
        if whole.is_none() {
            self.unreadable.insert(path.to_owned());
        }
        whole.map(Json::Array)
    }

    fn text(&mut self, node: &Node, text: &str, alternatives: &[&'a Json], path: &str) -> Option<Json> {
        let strings = || alternatives.iter().filter(|leaf| has_type(leaf, "string"));
        let words: Vec<&str> = strings().flat_map(|leaf| words(leaf)).collect();
        let free = strings().any(|leaf| words_of(leaf).is_none());
        if free || words.contains(&text) {
            return Some(Json::String(text.to_owned()));
        }
        let hint = did_you_mean(text, words.iter().copied());
        let shown: String = text.chars().take(80).collect();
        let message = format!("`{shown}` is not one of {}{hint}", list_of(&words));
        self.refuse(node, path, Mistake::UnknownValue, message)
    }

    fn integer(&mut self, node: &Node, number: i128, schema: &Json, path: &str) -> Option<Json> {
        let (low, high) = bounds(schema);
        if number < low || number > high {
            let message = format!("{number} is outside {low} to {high}");
            return self.refuse(node, path, Mistake::OutOfRange, message);
        }
        Number::from_i128(number).map(Json::Number)
    }

    fn number(&mut self, node: &Node, number: f64, path: &str) -> Option<Json> {
        match Number::from_f64(number) {
            Some(number) => Some(Json::Number(number)),
            None => self.refuse(node, path, Mistake::OutOfRange, format!("{number} is not a finite number")),
        }
    }

    fn refuse(&mut self, node: &Node, path: &str, code: Mistake, message: String) -> Option<Json> {
        self.unreadable.insert(path.to_owned());
        self.errors.push(SpecError { path: path.to_owned(), position: node.at, code, message });
        None
    }

    /// All alternatives of a schema, without references.
    fn flatten(&self, schema: &'a Json, into: &mut Vec<&'a Json>) {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let target = reference.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer));
            if let Some(target) = target {
                self.flatten(target, into);
            }
            return;
        }
        let nested = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array());
        match nested {
            Some(alternatives) => alternatives.iter().for_each(|alternative| self.flatten(alternative, into)),
            None => into.push(schema),
        }
    }
}

fn has_type(schema: &Json, wanted: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(name)) => name == wanted,
        Some(Json::Array(names)) => names.iter().any(|name| name == wanted),
        _ => false,
    }
}

/// The words that a schema of a closed set allows.
fn words_of(schema: &Json) -> Option<Vec<&str>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(Json::String(word)), _) => Some(vec![word]),
        (_, Some(Json::Array(words))) => Some(words.iter().filter_map(Json::as_str).collect()),
        _ => None,
    }
}

fn words(schema: &Json) -> Vec<&str> {
    words_of(schema).unwrap_or_default()
}

fn bounds(schema: &Json) -> (i128, i128) {
    match schema.get("format").and_then(Json::as_str) {
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint64") => (0, u64::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}

/// The whole number that a float is, where floats are exact.
fn whole(number: f64) -> Option<i128> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i128)
}

fn expected(alternatives: &[&Json]) -> String {
    let mut kinds = Vec::new();
    for leaf in alternatives {
        let kind = match () {
            () if words_of(leaf).is_some() => "a word",
            () if has_type(leaf, "string") => "text",
            () if has_type(leaf, "integer") => "a whole number",
            () if has_type(leaf, "number") => "a number",
            () if has_type(leaf, "boolean") => "true or false",
            () if has_type(leaf, "array") => "a list",
            () if has_type(leaf, "object") => "a mapping",
            () => continue,
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(" or ")
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => format!("{value}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Text(text) => format!("the text `{}`", text.chars().take(40).collect::<String>()),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a mapping".into(),
    }
}

fn list_of(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
