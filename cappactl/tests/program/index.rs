//! `cappactl data index`, killed and run again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::cappactl;

pub(crate) fn index(corpus: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cappactl"));
    let shards = corpus.join("train-*.tar");
    command.args(["data", "index", shards.to_str().unwrap(), "-o", "json", "--parallel", "2"]).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Shards of four samples each; `samples` is their number, and other options of `data synth` behind it.
pub(crate) fn corpus(dir: &Path, samples: &str) -> std::path::PathBuf {
    let corpus = dir.join("corpus");
    let out = corpus.to_str().unwrap();
    let mut arguments = vec!["data", "synth", "--out", out, "--heldout", "0", "--samples-per-shard", "4", "--samples"];
    arguments.extend(samples.split(' '));
    let ended = cappactl(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    corpus
}

#[test]
fn an_index_that_is_killed_leaves_nothing_corrupt_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "1200");
    let manifest = corpus.join("train.manifest.json");
    let expected = index(&corpus, &[]).output().unwrap();
    assert!(expected.status.success());
    let whole = fs::read(&manifest).unwrap();
    let mut seed = std::process::id();
    let mut resumed = 0;
    for round in 0..12 {
        fs::remove_file(&manifest).unwrap();
        // Killed at ever other moments, until it ends by itself; then the manifest is whole.
        for _ in 0..50 {
            let mut running = index(&corpus, &[]).spawn().unwrap();
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(Duration::from_millis(u64::from(seed >> 16) % 60 + round));
            let _ = running.kill();
            running.wait().unwrap();
            resumed += usize::from(corpus.join("train.manifest.json.journal").exists());
            if manifest.exists() {
                break;
            }
        }
        let ended = index(&corpus, &[]).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(fs::read(&manifest).unwrap(), whole);
        let leftovers: Vec<_> = fs::read_dir(&corpus)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".journal"))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
    eprintln!("{resumed} runs left a journal");
}

#[test]
fn an_update_says_how_much_it_did_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "40");
    let read = |more: &[&str]| {
        let ended = index(&corpus, more).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&ended.stdout).unwrap()
    };
    assert_eq!(read(&[])["unchanged"], 0);
    assert_eq!(read(&["--update"])["unchanged"], 10);
}

#[test]
fn a_filter_is_checked_applied_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "40");
    for wrong in [["--max-aspect", "0.5"], ["--score", "similarity"], ["--captions", "png"]] {
        let ended = index(&corpus, &wrong).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{wrong:?}");
    }
    let ended = index(&corpus, &["--min-side", "1", "--max-caption", "30"]).output().unwrap();
    let written: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let kept = written["samples"].as_u64().unwrap();
    assert!(kept > 0 && kept < 40, "{written}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(corpus.join("train.manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["filter"]["bounds"]["max_caption"], 30);
}

#[test]
fn a_verification_names_what_is_bad_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "8");
    assert!(index(&corpus, &[]).output().unwrap().status.success());
    let manifest = corpus.join("train.manifest.json");
    let verify = || cappactl(&["data", "verify", manifest.to_str().unwrap(), "-o", "json"]);
    assert_eq!(verify().code, Some(0));
    let shard = corpus.join("train-000001.tar");
    let mut content = fs::read(&shard).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&shard, content).unwrap();
    let ended = verify();
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(ended.code, Some(1));
    assert_eq!((found["samples"].as_u64(), found["bad"].as_array().unwrap().len()), (Some(8), 1));
    assert_eq!(found["bad"][0]["shard"], "train-000001.tar");
    assert!(found["bad"][0]["message"].as_str().unwrap().contains("index it again"), "{found}");
}
