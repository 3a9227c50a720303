//! What docs/OPERATING.md and docs/SCHEDULING.md say is what the code does.

use std::collections::BTreeSet;
use std::time::Duration;

use cappa_shared::spec::{JobSpec, SpecBase};
use cappa_shared::timing::{DEFAULT_DETECTION, FIRST_PAUSE, LONGEST_PAUSE, Span, Timings};
use clap::{Args as _, Command};

use crate::config::TimeOuts;
use crate::policy::ClusterPolicy;
use crate::server::core_timings;

const OPERATING: &str = include_str!("../../docs/OPERATING.md");
const SCHEDULING: &str = include_str!("../../docs/SCHEDULING.md");

/// What stands between two texts; without the second, to the end.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("`{from}` is not there"));
    rest.split_once(to).map_or(rest, |(found, _)| found)
}

fn section<'a>(page: &'a str, title: &str) -> &'a str {
    between(page, &format!("\n## {title}\n"), "\n## ")
}

/// The cells of the table whose first header is `first`: its header, then its rows.
fn table<'a>(section: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let lines = section.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    let rows = lines.take_while(|line| line.starts_with('|')).filter(|line| !line.starts_with("|--"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What is in backticks, or in other quotes.
fn quoted(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.split(quote).skip(1).step_by(2)
}

/// The words in the first column of a table, which may have several a row.
fn words(section: &str, first: &str) -> BTreeSet<String> {
    let rows = table(section, first);
    rows.iter().skip(1).flat_map(|row| quoted(row[0], '`')).map(str::to_owned).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Words in quotes that a comma follows: what a match or the first of a pair comes to.
fn literals(source: &str) -> BTreeSet<String> {
    let parts: Vec<&str> = source.split('"').collect();
    let strings = (1..parts.len().saturating_sub(1)).step_by(2);
    let named = strings.filter(|at| is_word(parts[*at]) && parts[at + 1].starts_with(','));
    named.map(|at| parts[at].to_owned()).collect()
}

#[test]
fn time_outs_follow_from_detection_as_the_page_says() {
    let rows = table(section(OPERATING, "Time-outs"), "time-out");
    for (column, seconds) in [(2, 1), (3, DEFAULT_DETECTION.as_secs()), (4, 30)] {
        assert!(rows[0][column].starts_with(&format!("at {seconds}s")), "{rows:?}");
        let timings = Timings::derive(Duration::from_secs(seconds)).unwrap();
        let core = core_timings(&timings);
        let found = [
            ("detection", core.detection),
            ("heartbeat", timings.heartbeat),
            ("grace", core.grace),
            ("forming", core.forming),
            ("operation", timings.operation),
            ("rpc", timings.rpc),
            ("lease", timings.lease),
            ("settle", core.settle),
            ("sweep", core.sweep),
        ];
        let told: Vec<_> = rows[1..].iter().map(|row| (row[0], row[column].to_owned())).collect();
        assert_eq!(told, found.map(|(name, time)| (name, Span(time).to_string())), "at {seconds}s");
    }
    let told: BTreeSet<_> = rows[1..].iter().flat_map(|row| quoted(row[1], '`')).map(str::to_owned).collect();
    let known = TimeOuts::augment_args(Command::new("cappa-coordinator"));
    let flags = known.get_arguments().filter_map(|argument| argument.get_long());
    assert_eq!(told, flags.map(|flag| format!("--{flag}")).collect::<BTreeSet<_>>());
}

#[test]
fn workers_pause_as_the_page_says_before_they_try_again() {
    let rows = table(section(OPERATING, "Time-outs"), "time");
    let told = |name| rows.iter().find(|row| row[0] == name).map(|row| row[2].to_owned());
    assert_eq!(told("first pause"), Some(Span(FIRST_PAUSE).to_string()));
    assert_eq!(told("longest pause"), Some(Span(LONGEST_PAUSE).to_string()));
}

/// The keys that may stand where `document` has a wrong one.
fn keys(document: &str) -> Vec<String> {
    let mistakes = ClusterPolicy::parse(document).unwrap_err();
    let known = between(&mistakes[0], "expected", " at ");
    quoted(known, '`').map(str::to_owned).collect()
}

#[test]
fn the_pages_policy_is_one_and_has_every_key() {
    let section = section(SCHEDULING, "The policy file");
    let example = between(section, "```yaml\n", "```");
    let policy = ClusterPolicy::parse(example).unwrap();
    assert_eq!(policy.core.quota("vision").max_workers, Some(64));
    let wrong = ["wrong: 1", "default_namespace: {wrong: 1}", "flapping: {wrong: 1}", "stragglers: {wrong: 1}"];
    for known in wrong.map(keys) {
        assert!(known.len() > 1, "{known:?}");
        for key in known {
            assert!(example.contains(&format!("{key}:")), "{key} is not in the example");
            assert!(section.contains(&format!("`{key}")), "{key} is not explained");
        }
    }
}

#[test]
fn the_pages_job_is_one_and_has_every_key_that_the_page_explains() {
    let section = section(SCHEDULING, "In a job's spec");
    let example = between(section, "```yaml\n", "```");
    let spec = JobSpec::parse(example, &SpecBase::none()).unwrap();
    let policy = ClusterPolicy::parse(between(SCHEDULING, "```yaml\n", "```")).unwrap();
    assert_eq!(ClusterPolicy::number(&policy.classes, &spec.priority), Ok(100), "its class is one of the policy's");
    assert!(policy.core.namespaces.contains_key(spec.namespace.as_ref().unwrap().as_str()));
    for key in words(section, "key") {
        assert!(example.lines().any(|line| line.starts_with(&format!("{key}:"))), "{key} is not in the example");
    }
}

#[test]
fn the_page_has_every_reason_to_wait() {
    let known = literals(between(include_str!("services/queue.rs"), "fn word(", "\n}"));
    assert_eq!(words(section(SCHEDULING, "Why a job waits"), "word"), known);
}

#[test]
fn the_page_has_every_event() {
    let known = literals(between(include_str!("history.rs"), "fn describe(", "fn list("));
    assert_eq!(words(section(OPERATING, "Events"), "word"), known);
}

#[test]
fn the_page_has_every_metric_and_no_other() {
    let sources = [
        include_str!("metrics/names.rs"),
        include_str!("../../worker/src/metrics.rs"),
        include_str!("../../worker/src/metrics/data.rs"),
    ];
    let strings = sources.iter().flat_map(|source| quoted(between(source, "//!", "#[cfg(test)]"), '"'));
    let known: BTreeSet<&str> = strings.filter(|text| text.starts_with("cappa_") && is_word(text)).collect();
    let page = OPERATING.split(|c: char| !c.is_ascii_lowercase() && c != '_').filter(|word| word.starts_with("cappa_"));
    let told: BTreeSet<&str> = page.map(|name| name.trim_end_matches("_total").trim_end_matches("_bucket")).collect();
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(told, known);
}
