//! Namespaces, quotas and priority classes: one file of the operator's, checked as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cappa_core::{Policy, Quota};
use cappa_shared::ids::Namespace;
use cappa_shared::spec::Priority;
use cappa_shared::timing::Span;
use serde::Deserialize;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPolicy {
    namespaces: BTreeMap<String, RawQuota>,
    default_namespace: RawQuota,
    priority_classes: BTreeMap<String, i32>,
    reshape_every: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawQuota {
    weight: Option<u32>,
    max_workers: Option<u32>,
    max_running: Option<u32>,
    max_queued: Option<u32>,
}

/// What everybody may use, and what priorities are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterPolicy {
    /// The core's share.
    pub core: Policy,
    /// Priority classes by name.
    pub classes: BTreeMap<String, i32>,
}

/// The least time between two changes of a group's size: forming takes about a second.
const LEAST_RESHAPE: Duration = Duration::from_secs(1);

impl ClusterPolicy {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every mistake, each with its place and what to do.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![format!("{} can't be read: {error}", path.display())])?;
        Self::parse(&text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every mistake, each with its place and what to do.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let raw: RawPolicy = serde_yaml_ng::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut mistakes = Vec::new();
        let mut namespaces = BTreeMap::new();
        for (name, raw) in raw.namespaces {
            if name.parse::<Namespace>().is_err() {
                mistakes.push(format!("namespaces: `{name}` is not a namespace; use a DNS label"));
            }
            let quota = quota(&format!("namespaces.{name}"), &raw, &mut mistakes);
            namespaces.insert(name, quota);
        }
        for name in raw.priority_classes.keys() {
            // Class names follow the rules of namespaces.
            if name.parse::<Namespace>().is_err() {
                mistakes.push(format!("priority_classes: `{name}` is not a name; use a DNS label"));
            }
        }
        let default = quota("default_namespace", &raw.default_namespace, &mut mistakes);
        let reshape_every = match raw.reshape_every.as_deref().map(str::parse::<Span>) {
            None => Policy::default().reshape_every,
            Some(Ok(Span(every))) if every >= LEAST_RESHAPE => every,
            Some(Ok(Span(every))) => {
                mistakes.push(format!("reshape_every: {} is below 1s, the least", Span(every)));
                every
            }
            Some(Err(error)) => {
                mistakes.push(format!("reshape_every: {error}"));
                LEAST_RESHAPE
            }
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self { core: Policy { namespaces, default, reshape_every }, classes: raw.priority_classes })
    }

    /// The number of a priority.
    ///
    /// # Errors
    /// What is wrong with a class that is not configured.
    pub fn number(classes: &BTreeMap<String, i32>, priority: &Priority) -> Result<i32, String> {
        match priority {
            Priority::Number(number) => Ok(*number),
            Priority::Class(class) => classes.get(class).copied().ok_or_else(|| {
                let known: Vec<String> = classes.iter().map(|(name, number)| format!("{name} ({number})")).collect();
                match known.is_empty() {
                    true => format!("`{class}` is not a priority class; the coordinator has none, use a number"),
                    false => format!("`{class}` is not a priority class; use one of {} or a number", known.join(", ")),
                }
            }),
        }
    }
}

fn quota(path: &str, raw: &RawQuota, mistakes: &mut Vec<String>) -> Quota {
    let RawQuota { weight, max_workers, max_running, max_queued } = *raw;
    if weight == Some(0) {
        mistakes.push(format!(
            "{path}.weight: 0 is below 1, the least; to keep a namespace from running set max_running: 0"
        ));
    }
    Quota { weight: weight.unwrap_or(1), max_workers, max_running, max_queued }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_quotas_weights_and_classes() {
        let text = "namespaces:\n  vision: {weight: 3, max_workers: 8}\ndefault_namespace: {max_queued: 2}\n\
                    priority_classes: {low: -10, high: 10}\nreshape_every: 5s\n";
        let policy = ClusterPolicy::parse(text).unwrap();
        assert_eq!(policy.core.quota("vision").max_workers, Some(8));
        assert_eq!(policy.core.quota("other"), Quota { max_queued: Some(2), ..Quota::default() });
        let high = Priority::Class("high".into());
        assert_eq!(ClusterPolicy::number(&policy.classes, &high), Ok(10));
        assert_eq!(ClusterPolicy::parse(""), Ok(ClusterPolicy::default()));
    }

    #[test]
    fn all_mistakes_of_a_policy_are_told_at_once() {
        let text = "namespaces: {Vision!: {weight: 0}}\npriority_classes: {a b: 1}\nreshape_every: 1ms\n";
        let mistakes = ClusterPolicy::parse(text).unwrap_err();
        let places: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
        assert_eq!(places, ["namespaces", "namespaces.Vision!.weight", "priority_classes", "reshape_every"]);
        assert!(ClusterPolicy::parse("quotas: {}").unwrap_err()[0].contains("quotas"));
    }
}
