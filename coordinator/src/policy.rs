//! Namespaces, quotas and priority classes: one file of the operator's, checked as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cappa_core::{Flapping, Pace, Policy, Quota, Stragglers};
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
    flapping: RawFlapping,
    stragglers: RawStragglers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStragglers {
    slow: Option<f64>,
    replace: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFlapping {
    losses: Option<u32>,
    within: Option<String>,
    cool_down: Option<String>,
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
        let flapping = flapping(&raw.flapping, &mut mistakes);
        let stragglers = stragglers(&raw.stragglers, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            core: Policy { namespaces, default, reshape_every, flapping, stragglers },
            classes: raw.priority_classes,
        })
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

fn flapping(raw: &RawFlapping, mistakes: &mut Vec<String>) -> Flapping {
    let usual = Flapping::default();
    let mut span = |key: &str, text: &Option<String>, usual| match text.as_deref().map(str::parse::<Span>) {
        None => usual,
        Some(Ok(Span(span))) => span,
        Some(Err(error)) => {
            mistakes.push(format!("flapping.{key}: {error}"));
            usual
        }
    };
    let rules = Flapping {
        losses: raw.losses.unwrap_or(usual.losses),
        within: span("within", &raw.within, usual.within),
        cool_down: span("cool_down", &raw.cool_down, usual.cool_down),
    };
    if rules.losses == 0 {
        mistakes.push("flapping.losses: 0 is below 1, the least".to_owned());
    }
    if rules.within > Flapping::REMEMBERED {
        let (within, most) = (Span(rules.within), Span(Flapping::REMEMBERED));
        mistakes.push(format!("flapping.within: {within} is above {most}, for which losses are remembered"));
    }
    rules
}

fn stragglers(raw: &RawStragglers, mistakes: &mut Vec<String>) -> Stragglers {
    let usual = Stragglers { replace: raw.replace, ..Stragglers::default() };
    match raw.slow {
        None => usual,
        Some(times) if times > 1.0 && times <= 1000.0 => Stragglers { slow: Pace((times * 1000.0) as u32), ..usual },
        Some(times) => {
            mistakes.push(format!(
                "stragglers.slow: {times} is not above 1 and up to 1000; 1.5 is half as long again as the mean"
            ));
            usual
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
                    priority_classes: {low: -10, high: 10}\nreshape_every: 5s\n\
                    flapping: {losses: 3, cool_down: 1h}\nstragglers: {slow: 2, replace: true}\n";
        let policy = ClusterPolicy::parse(text).unwrap();
        assert_eq!(policy.core.quota("vision").max_workers, Some(8));
        assert_eq!(policy.core.quota("other"), Quota { max_queued: Some(2), ..Quota::default() });
        let flapping = Flapping { losses: 3, cool_down: Duration::from_secs(3600), ..Flapping::default() };
        assert_eq!(policy.core.flapping, flapping);
        assert_eq!(policy.core.stragglers, Stragglers { slow: Pace(2000), replace: true });
        let high = Priority::Class("high".into());
        assert_eq!(ClusterPolicy::number(&policy.classes, &high), Ok(10));
        assert_eq!(ClusterPolicy::parse(""), Ok(ClusterPolicy::default()));
    }

    #[test]
    fn all_mistakes_of_a_policy_are_told_at_once() {
        let text = "namespaces: {Vision!: {weight: 0}}\npriority_classes: {a b: 1}\nreshape_every: 1ms\n\
                    flapping: {losses: 0, within: 48h}\nstragglers: {slow: 1}\n";
        let mistakes = ClusterPolicy::parse(text).unwrap_err();
        let places: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
        let all = ["namespaces", "namespaces.Vision!.weight", "priority_classes", "reshape_every", "flapping.losses"];
        assert_eq!(places[..5], all);
        assert_eq!(places[5..], ["flapping.within", "stragglers.slow"]);
        assert!(ClusterPolicy::parse("quotas: {}").unwrap_err()[0].contains("quotas"));
    }
}
