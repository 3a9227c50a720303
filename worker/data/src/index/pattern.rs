//! Patterns of shard names: `{000000..000003}` and `{train,extra}` are spelled out, `*` and `?` match within a part of
//! a path, and `**` stands for any number of parts.

use std::collections::BTreeSet;

/// Bound on what braces may spell out, against a slip of the keyboard.
const MAX_NAMES: usize = 1_000_000;

/// Why a pattern can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A brace is not closed, or holds neither a range nor a list.
    #[error("{0:?} has a brace that is neither {{first..last}} nor {{one,two}}")]
    Brace(String),
    /// The braces stand for too many names.
    #[error("{0:?} stands for more than {MAX_NAMES} names; use `*` instead")]
    TooMany(String),
    /// Web servers don't tell what they have.
    #[error("{0:?} cannot be listed over HTTP; spell the shards out, like train-{{000..127}}.tar")]
    NoListing(String),
}

/// Where a pattern looks: the files that it spells out, and the folders that are searched for what its wildcards match.
///
/// # Errors
/// When the pattern is malformed.
pub fn places(pattern: &str) -> Result<BTreeSet<String>, PatternError> {
    let names = expand(pattern)?;
    let place = |name: &String| if has_wildcard(name) { split(name).0.to_owned() } else { name.clone() };
    Ok(names.iter().map(place).collect())
}

/// Spells out the braces of a pattern, in order.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, PatternError> {
    let Some(open) = pattern.find('{') else { return Ok(vec![pattern.to_owned()]) };
    let brace = || PatternError::Brace(pattern.to_owned());
    let close = open + pattern[open..].find('}').ok_or_else(brace)?;
    let (before, inside, after) = (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
    let choices = match inside.split_once("..") {
        Some((first, last)) => range(first, last).ok_or_else(brace)?,
        None if inside.contains(',') => inside.split(',').map(str::to_owned).collect(),
        None => return Err(brace()),
    };
    let rests = expand(after)?;
    if choices.len().saturating_mul(rests.len()) > MAX_NAMES {
        return Err(PatternError::TooMany(pattern.to_owned()));
    }
    Ok(choices.iter().flat_map(|choice| rests.iter().map(move |rest| format!("{before}{choice}{rest}"))).collect())
}

/// The numbers from `first` to `last`, as wide as `first` is written.
fn range(first: &str, last: &str) -> Option<Vec<String>> {
    let width = first.len();
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let bounded = first <= last && last - first < MAX_NAMES;
    bounded.then(|| (first..=last).map(|number| format!("{number:0width$}")).collect())
}

/// Whether a name has wildcards.
pub(super) fn has_wildcard(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// The folder up to which a pattern has no wildcards, and the rest of it.
pub(super) fn split(pattern: &str) -> (&str, &str) {
    let first = pattern.find(['*', '?']).unwrap_or(pattern.len());
    match pattern[..first].rfind('/') {
        // The root keeps its slash.
        Some(0) => ("/", &pattern[1..]),
        Some(slash) => (&pattern[..slash], &pattern[slash + 1..]),
        None => ("", pattern),
    }
}

/// Whether a path matches a pattern part by part; the part `**` stands for any number of parts, even none.
pub(super) fn matches_path(pattern: &str, path: &str) -> bool {
    let patterns: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let parts: Vec<&str> = path.split('/').collect();
    // Whether the pattern up to here matches the first n parts, for every n.
    let mut reached = vec![false; parts.len() + 1];
    reached[0] = true;
    for pattern in patterns {
        let before = std::mem::replace(&mut reached, vec![false; parts.len() + 1]);
        for count in 0..=parts.len() {
            reached[count] = if pattern == "**" {
                before[count] || count > 0 && reached[count - 1]
            } else {
                count > 0 && before[count - 1] && matches(pattern, parts[count - 1])
            };
        }
    }
    reached[parts.len()]
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to take up again when a character does not fit: behind the last `*`, one character further.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    (p, n) = (after_star, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_spelled_out_in_order() {
        let spelled = |pattern: &str| expand(pattern).unwrap();
        assert_eq!(spelled("a.tar"), ["a.tar"]);
        assert_eq!(spelled("t-{008..011}.tar"), ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]);
        assert_eq!(spelled("{a,b}/{0..1}"), ["a/0", "a/1", "b/0", "b/1"]);
    }

    #[test]
    fn a_pattern_looks_in_its_files_and_in_the_folders_of_its_wildcards() {
        let of = |pattern: &str| places(pattern).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(of("s3://{a,b}/x/t-*.tar"), ["s3://a/x", "s3://b/x"]);
        assert_eq!(of("/data/t-{0..1}.tar"), ["/data/t-0.tar", "/data/t-1.tar"]);
        assert!(places("{a").is_err());
    }

    #[test]
    fn a_brace_that_means_nothing_is_refused() {
        for pattern in ["{1..", "{}", "{a}", "{2..1}", "{a..b}"] {
            assert!(matches!(expand(pattern), Err(PatternError::Brace(_))), "{pattern}");
        }
        assert!(matches!(expand("{0..999999}{0..9}"), Err(PatternError::TooMany(_))));
    }

    #[test]
    fn wildcards_match_in_any_part_of_a_path() {
        assert_eq!(split("s3://bucket/a/*/t-?.tar"), ("s3://bucket/a", "*/t-?.tar"));
        assert_eq!(split("/*.tar"), ("/", "*.tar"));
        for (pattern, path, expected) in [
            ("*/t-?.tar", "a/t-1.tar", true),
            ("*/t-?.tar", "t-1.tar", false),
            ("*/t-?.tar", "a/b/t-1.tar", false),
            ("**/*.tar", "t.tar", true),
            ("**/*.tar", "a/b/c/t.tar", true),
            ("a/**/b/*.tar", "a/b/t.tar", true),
            ("a/**/b/*.tar", "a/c/t.tar", false),
            ("a/**", "a/b/t.tar", true),
        ] {
            assert_eq!(matches_path(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn wildcards_match_within_a_name() {
        assert!(matches("*.tar", "train-0.tar"));
        assert!(matches("train-??.tar", "train-01.tar"));
        assert!(matches("*a*b*", "xaxxbx"));
        assert!(!matches("*.tar", "train.tar.gz"));
        assert!(!matches("train-?.tar", "train-01.tar"));
        assert!(!matches("a", "") && matches("*", ""));
    }
}
