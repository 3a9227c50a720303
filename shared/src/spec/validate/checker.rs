//! Reports mistakes of meaning where they stand in the text.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::ids::is_label;
use crate::spec::data::is_manifest;
use crate::spec::document::Node;
use crate::spec::error::{Mistake, SpecError};
use crate::spec::load::SpecBase;
use crate::spec::places::position_of;
use crate::storage;

/// Collects mistakes, and says nothing about values that could not even be read.
pub(super) struct Checker<'a> {
    tree: &'a Node,
    unreadable: &'a BTreeSet<String>,
    base: &'a SpecBase,
    errors: &'a mut Vec<SpecError>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        tree: &'a Node,
        unreadable: &'a BTreeSet<String>,
        base: &'a SpecBase,
        errors: &'a mut Vec<SpecError>,
    ) -> Self {
        Self { tree, unreadable, base, errors }
    }

    /// Reports a mistake at the first path; `involved` are all paths whose values took part in the judgement. Nothing is
    /// reported if one of them has a mistake of its own already.
    pub(super) fn report(&mut self, involved: &[&str], code: Mistake, message: String) {
        if involved.iter().any(|path| self.is_doubtful(path)) {
            return;
        }
        let path = involved.first().copied().unwrap_or_default();
        let position = position_of(self.tree, path);
        self.errors.push(SpecError { path: path.to_owned(), position, code, message });
    }

    /// Whether the value at `path`, or something that it is in, has a mistake.
    fn is_doubtful(&self, path: &str) -> bool {
        let contains =
            |outer: &str| path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.unreadable.iter().any(|outer| contains(outer)) || self.errors.iter().any(|error| error.path == path)
    }

    pub(super) fn within(&mut self, path: &str, value: impl Into<u64>, range: RangeInclusive<u64>) {
        let value = value.into();
        let bound = match value {
            _ if value < *range.start() => format!("is below {}, the least", range.start()),
            _ if value > *range.end() => format!("is above {}, the most", range.end()),
            _ => return,
        };
        self.report(&[path], Mistake::OutOfRange, format!("{value} {bound}"));
    }

    pub(super) fn fraction(&mut self, path: &str, value: f64) {
        self.require((0.0..=1.0).contains(&value), path, value, "is not within 0 to 1");
    }

    /// Reports `value` with the reason unless `holds`.
    pub(super) fn require(&mut self, holds: bool, path: &str, value: impl Display, reason: &str) {
        if !holds {
            self.report(&[path], Mistake::OutOfRange, format!("{value} {reason}"));
        }
    }

    /// A name of at most `longest` characters that is usable in paths and DNS.
    pub(super) fn label(&mut self, path: &str, name: &str, longest: usize) {
        if !is_label(name) || name.len() > longest {
            let shown: String = name.chars().take(80).collect();
            let message =
                format!("`{shown}` is not a name; use 1 to {longest} lower-case letters, digits and inner hyphens");
            self.report(&[path], Mistake::BadName, message);
        }
    }

    /// The URL that a URL or path means.
    pub(super) fn url(&mut self, path: &str, given: Option<String>) -> String {
        let Some(given) = given else { return String::new() };
        match self.resolve(&given) {
            Ok(url) => url,
            Err(message) => {
                self.report(&[path], Mistake::BadUrl, message);
                String::new()
            }
        }
    }

    /// The URL of the manifest that is meant, or the pattern of shards with an absolute path or a URL.
    pub(super) fn source(&mut self, path: &str, given: Option<String>) -> String {
        match given {
            Some(given) if !given.is_empty() && !is_manifest(&given) => {
                let pattern = self.pattern(given);
                pattern.unwrap_or_else(|message| {
                    self.report(&[path], Mistake::BadUrl, message);
                    String::new()
                })
            }
            given => self.url(path, given),
        }
    }

    fn pattern(&self, given: String) -> Result<String, String> {
        let pattern = match self.base.folder.as_deref() {
            Some(folder) if !given.contains("://") => {
                storage::absolute(folder, Path::new(&given)).to_string_lossy().into_owned()
            }
            _ => given,
        };
        // Braces and wildcards mean nothing to a URL: `?` would begin a query.
        storage::parse(&pattern.replace(['{', '}', '*', '?', '[', ']'], "x")).map_err(|error| error.to_string())?;
        Ok(pattern)
    }

    fn resolve(&self, given: &str) -> Result<String, String> {
        if given.is_empty() {
            return Err("is empty; give a path or a URL".into());
        }
        let folder = self.base.folder.as_deref();
        let path = Path::new(given);
        let url = match folder {
            _ if given.contains("://") => storage::parse(given),
            Some(folder) => storage::parse(&storage::absolute(folder, path).to_string_lossy()),
            None => storage::parse(given),
        };
        url.map(String::from).map_err(|error| error.to_string())
    }
}
