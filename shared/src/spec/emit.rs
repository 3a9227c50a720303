//! Writes a JSON value as YAML that [`read`](super::document::read) reads back as the same value.
//!
//! Text is quoted, as JSON quotes it, wherever an unquoted word could mean something else.

use serde_json::Value as Json;

use super::document::Value;
use super::scalar;

/// The value as block-style YAML, one line a value.
pub(super) fn yaml(value: &Json) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// The value as compact JSON.
pub(super) fn json(value: &Json) -> String {
    escaped(&value.to_string())
}

fn block(value: &Json, indent: usize, out: &mut String) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&" ".repeat(indent));
                out.push_str(&text(key));
                out.push(':');
                inner(value, indent, out);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                inner(item, indent, out);
            }
        }
        leaf => {
            out.push_str(&self::leaf(leaf));
            out.push('\n');
        }
    }
}

/// What follows a key or a dash.
fn inner(value: &Json, indent: usize, out: &mut String) {
    let is_block = match value {
        Json::Object(map) => !map.is_empty(),
        Json::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if is_block { '\n' } else { ' ' });
    block(value, indent + 2, out);
}

fn leaf(value: &Json) -> String {
    match value {
        Json::String(word) => text(word),
        other => json(other),
    }
}

/// A text, quoted unless it is a plain word.
fn text(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-' | b' ' | b'%');
    let is_plain = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !word.ends_with(' ')
        && word.bytes().all(plain)
        && matches!(scalar::resolve(word), Value::Text(_));
    // URLs read better without quotes; a colon means a mapping only before a blank or at the end.
    let is_url = word.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && rest.bytes().all(|b| plain(b) && b != b' ')
    });
    if is_plain || is_url { word.to_owned() } else { json(&Json::from(word)) }
}

/// JSON with escapes for what JSON allows in texts and YAML does not.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match u32::from(c) {
            code @ (0x7f..=0x9f | 0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff) => {
                out.push_str(&format!("\\u{code:04x}"));
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::spec::document::read_any;
    use crate::spec::overrides::to_json;

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[-a-z0-9:#&*!|>'\"%@`?{}\\[\\], \n\t~.=<_/\\\\]{0,8}",
            prop::sample::select(vec![
                "", "null", "yes", "~", "1e3", "0x1", "-", "...", "---", "a: b", "s3://b/k", "\u{85}"
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            prop::num::f64::NORMAL.prop_map(Json::from),
            any_text().prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(any_text(), inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in any_json()) {
            for text in [yaml(&value), json(&value)] {
                let mut errors = Vec::new();
                let read = read_any(&text, &mut errors).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
                prop_assert_eq!(to_json(&read.value), value.clone(), "{}", text);
            }
        }
    }

    #[test]
    fn it_reads_as_people_write_it() {
        let value = json!({"name": "demo", "data": {"train": "s3://b/m.json", "seed": 7}, "labels": ["a b", "7", "é"], "none": []});
        let expected = "\
name: demo
data:
  train: s3://b/m.json
  seed: 7
labels:
  - a b
  - \"7\"
  - \"é\"
none: []
";
        assert_eq!(yaml(&value), expected);
    }
}
