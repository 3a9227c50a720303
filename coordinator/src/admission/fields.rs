//! Whether an evaluation set has the fields that its task reads: seen in the first samples, before any training.

use std::collections::BTreeSet;

use cappa_shared::manifest::{DataManifest, Format};
use cappa_shared::storage::{self, AllowList, Location};
use serde_json::Value;

/// So much of the first shard is looked at.
const HEAD: u64 = 4 << 20;

/// Bytes of a tar's header, and what its entries are rounded up to.
const BLOCK: usize = 512;

/// What is missing, a message for each group of fields of which no sample has one. Nothing is said of what can't be looked at: shards
/// that are no plain tar files, or have no `.json` in their beginning, which the workers will read in full.
pub(super) async fn missing(url: &str, wanted: &[Vec<String>], allowed: &AllowList) -> Vec<String> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let Some((shard, facts)) = first_facts(url, allowed).await else { return Vec::new() };
    if facts.is_empty() {
        return Vec::new();
    }
    let has =
        |path: &str| facts.iter().any(|facts| facts.pointer(&pointer(path)).is_some_and(|value| !value.is_null()));
    let absent = wanted.iter().filter(|group| !group.iter().any(|path| has(path)));
    let keys: BTreeSet<&str> =
        facts.iter().filter_map(Value::as_object).flat_map(|map| map.keys()).map(String::as_str).collect();
    let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
    let message = |group: &Vec<String>| {
        let names = group.join("` or `");
        format!("none of the first {} samples of shard {shard} has the field `{names}`; they have: {keys}", facts.len())
    };
    absent.map(message).collect()
}

/// `negatives.attribute` as a JSON pointer.
fn pointer(path: &str) -> String {
    path.split('.').map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect()
}

/// The name of the first shard, and the `.json` of the samples in its beginning.
async fn first_facts(url: &str, allowed: &AllowList) -> Option<(String, Vec<Value>)> {
    let manifest_at: Location = storage::open(url).ok()?;
    let manifest = DataManifest::from_json(&manifest_at.get("").await.ok()?).ok()?;
    let shard = manifest.shards().iter().find(|shard| shard.samples > 0)?;
    if shard.format != Format::Tar {
        return None;
    }
    let location = manifest_at.sibling(&shard.path).ok()?;
    allowed.check(location.url()).ok()?;
    let head = location.get_range("", 0..shard.bytes.min(HEAD)).await.ok()?;
    Some((shard.path.clone(), documents(&head)))
}

/// The `.json` entries of the beginning of a tar, as far as they are whole.
fn documents(tar: &[u8]) -> Vec<Value> {
    let (mut found, mut rest) = (Vec::new(), tar);
    while let Some((header, behind)) = rest.split_at_checked(BLOCK) {
        let name = text(&header[..100]);
        let Ok(size) = usize::from_str_radix(text(&header[124..136]).trim(), 8) else { break };
        let Some(content) = behind.get(..size) else { break };
        if name.ends_with(".json") {
            found.extend(serde_json::from_slice(content));
        }
        let Some(next) = behind.get(size.next_multiple_of(BLOCK)..) else { break };
        rest = next;
    }
    found
}

/// A field of a header: it ends at the first NUL.
fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a shard of two samples and its manifest, whose URL is given.
    fn set(folder: &std::path::Path) -> String {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in [
            ("0.jpg", "a picture"),
            ("0.json", r#"{"class": null, "negatives": {"swap": "x"}}"#),
            ("1.jpg", "another"),
            ("1.json", r#"{"answers": ["yes"]}"#),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        std::fs::write(folder.join("a.tar"), &tar).unwrap();
        let shard = cappa_shared::manifest::Shard::tar("a.tar", tar.len() as u64, "0".repeat(64), 2);
        let manifest = DataManifest::new(vec![shard]).unwrap();
        let at = folder.join("set.json");
        std::fs::write(&at, manifest.to_json()).unwrap();
        format!("file://{}", at.display())
    }

    #[tokio::test]
    async fn a_field_that_no_sample_has_is_named_with_those_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let (url, allowed) = (set(folder.path()), AllowList::everything());
        let wanted = |groups: &[&[&str]]| -> Vec<Vec<String>> {
            groups.iter().map(|group| group.iter().map(|path| (*path).to_owned()).collect()).collect()
        };
        let present = wanted(&[&["negatives.swap"], &["answer", "answers"]]);
        assert_eq!(missing(&url, &present, &allowed).await, Vec::<String>::new());
        let found = missing(&url, &wanted(&[&["class"], &["negatives.swap"], &["x", "y"]]), &allowed).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("`class`") && found[0].contains("answers, class, negatives"), "{found:?}");
        assert!(found[1].contains("`x` or `y`"), "{found:?}");
        assert_eq!(documents(b"not a tar"), Vec::<Value>::new());
    }
}
