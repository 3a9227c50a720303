//! What of a sample a network learns to predict: a caption, or a class.

use std::collections::HashMap;
use std::sync::Arc;

use cappa_shared::spec::{Classes, Label};
use serde_json::Value;

use crate::bad::{BadReason, BadSample};

/// What of a sample is predicted.
#[derive(Debug, Clone)]
pub enum Target {
    /// One of its captions.
    Caption {
        /// Dotted path in its `.json` of a text that comes before the caption and is seen, but not predicted. Samples without it
        /// have none.
        prefix: Option<String>,
    },
    /// Its class.
    Class(Arc<Labels>),
}

impl Default for Target {
    fn default() -> Self {
        Self::Caption { prefix: None }
    }
}

/// The classes of a job, by what samples call them.
#[derive(Debug)]
pub struct Labels {
    field: String,
    known: Known,
}

#[derive(Debug)]
enum Known {
    Count(u32),
    Names(HashMap<String, u32>),
}

impl Labels {
    /// The classes that a spec lists.
    #[must_use]
    pub fn new(label: &Label) -> Self {
        let known = match &label.classes {
            Classes::Count(count) => Known::Count(*count),
            Classes::Names(names) => Known::Names(names.iter().cloned().zip(0..).collect()),
        };
        Self { field: label.field.clone(), known }
    }

    /// What a sample's `.json` calls its class, if it says one: a text or a number.
    #[must_use]
    pub fn name_of(&self, facts: Option<&Value>) -> Option<String> {
        match lookup(facts?, &self.field)? {
            Value::String(name) => Some(name.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The number of a class, from zero.
    ///
    /// # Errors
    /// The job has no such class.
    pub fn class(&self, name: &str) -> Result<u32, BadSample> {
        let (class, known) = match &self.known {
            Known::Count(count) => {
                (name.parse().ok().filter(|class| class < count), format!("has the numbers from 0 to {}", count - 1))
            }
            Known::Names(names) => (names.get(name).copied(), format!("lists {} others", names.len())),
        };
        let message = || format!("the class `{name}` is not one of data.label.classes, which {known}");
        class.ok_or_else(|| BadSample::new(BadReason::ClassUnknown, message()))
    }

    /// A sample without a class.
    pub(crate) fn missing(&self) -> BadSample {
        BadSample::new(BadReason::ClassMissing, format!("no class in the field {:?} of the .json", self.field))
    }
}

/// The value at a dotted path of a document.
#[must_use]
pub fn lookup<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(document, |at, key| at.get(key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_class_is_a_name_of_the_list_or_a_number_below_the_count() {
        let facts = json!({"class": "ring", "cls": {"id": 7}, "text": "9", "none": null});
        let of = |field: &str, classes| {
            let labels = Labels::new(&Label { field: field.into(), classes });
            labels.name_of(Some(&facts)).map(|name| labels.class(&name).map_err(|bad| bad.to_string()))
        };
        let names = |names: &[&str]| Classes::Names(names.iter().map(|&name| name.into()).collect());
        assert_eq!(of("class", names(&["star", "ring"])), Some(Ok(1)));
        assert_eq!(of("cls.id", Classes::Count(8)), Some(Ok(7)));
        assert_eq!(of("text", Classes::Count(10)), Some(Ok(9)));
        for absent in ["none", "cls", "cls.name", "class.x"] {
            assert_eq!(of(absent, Classes::Count(2)), None, "{absent}");
        }
        let said = "class_unknown: the class `7` is not one of data.label.classes, which has the numbers from 0 to 6";
        assert_eq!(of("cls.id", Classes::Count(7)), Some(Err(said.into())));
        assert!(of("class", names(&["star"])).unwrap().is_err());
    }
}
