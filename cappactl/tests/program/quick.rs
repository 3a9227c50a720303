//! `cappactl data index --quick` of a bucket.

use std::fs;
use std::path::Path;
use std::process::Command;

use cappa_test_stores::{Fault, Rule, S3Server};
use serde_json::Value;

use crate::index::{corpus, index};

const BUCKET: &str = "data";

/// Runs the program with the credentials of a server; gives its exit code and what it printed.
fn cappactl(server: &S3Server, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cappactl"));
    let ended = command.args(arguments).args(["-o", "json"]).envs(server.environment()).output().unwrap();
    (ended.status.code(), serde_json::from_slice(&ended.stdout).unwrap_or_default())
}

fn upload(server: &S3Server, corpus: &Path) -> u64 {
    let mut bytes = 0;
    for number in 0..3 {
        let name = format!("train-{number:06}.tar");
        let content = fs::read(corpus.join(&name)).unwrap();
        bytes += content.len() as u64;
        server.put(BUCKET, &name, content);
    }
    bytes
}

/// Bytes of shards that were asked for.
fn asked(server: &S3Server) -> u64 {
    let length = |range: &str| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    };
    let seen = server.faults().seen();
    seen.iter().filter(|seen| seen.target.contains(".tar")).filter_map(|seen| length(seen.range.as_deref()?)).sum()
}

#[test]
fn a_quick_index_reads_headers_only_and_a_replaced_shard_is_told_by_its_etag() {
    let dir = tempfile::tempdir().unwrap();
    // Pictures that are large beside the headers.
    let corpus = corpus(dir.path(), "12 --image-size 1024");
    let server = S3Server::start(&[BUCKET]);
    let bytes = upload(&server, &corpus);
    assert!(index(&corpus, &[]).output().unwrap().status.success());
    let local: Value = serde_json::from_slice(&fs::read(corpus.join("train.manifest.json")).unwrap()).unwrap();

    let shards = format!("s3://{BUCKET}/train-*.tar");
    let manifest = dir.path().join("quick.json");
    let manifest = manifest.to_str().unwrap();
    let quick = ["data", "index", &shards, "--out", manifest, "--quick"];
    let (code, written) = cappactl(&server, &quick);
    assert_eq!((code, &written["samples"], &written["bytes"]), (Some(0), &Value::from(12), &Value::from(bytes)));
    assert!(asked(&server) < bytes / 2, "{} of {bytes} bytes were read", asked(&server));
    let recorded: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    for (quick, whole) in recorded["shards"].as_array().unwrap().iter().zip(local["shards"].as_array().unwrap()) {
        assert_eq!((&quick["samples"], &quick["bytes"]), (&whole["samples"], &whole["bytes"]));
        assert!(quick["etag"].is_string() && quick["sha256"].is_null(), "{quick}");
    }
    assert_eq!(cappactl(&server, &["data", "verify", manifest]).0, Some(0));

    // The same bytes once more are another version; nothing but the tag tells, and the tag is what is known.
    let replaced = fs::read(corpus.join("train-000001.tar")).unwrap();
    server.put(BUCKET, "train-000001.tar", replaced);
    let (code, verified) = cappactl(&server, &["data", "verify", manifest]);
    assert_eq!((code, verified["bad"].as_array().unwrap().len()), (Some(1), 1), "{verified}");
    assert!(verified["bad"][0]["message"].as_str().unwrap().contains("ETag"), "{verified}");
    let (_, updated) = cappactl(&server, &[&quick[..], &["--update"]].concat());
    assert_eq!(updated["unchanged"], 2);
    assert_eq!(cappactl(&server, &["data", "verify", manifest]).0, Some(0));
    let (_, whole) = cappactl(&server, &["data", "index", &shards, "--out", manifest, "--update"]);
    assert_eq!(whole["unchanged"], 0, "a digest was asked for, and none was known");
}

#[test]
fn a_quick_index_survives_a_store_that_fails_now_and_then() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "12");
    let server = S3Server::start(&[BUCKET]);
    upload(&server, &corpus);
    server.faults().add(Rule::new(Fault::SLOW_DOWN).gets().every(4));
    let manifest = dir.path().join("quick.json");
    let shards = format!("s3://{BUCKET}/train-*.tar");
    let (code, written) =
        cappactl(&server, &["data", "index", &shards, "--out", manifest.to_str().unwrap(), "--quick"]);
    assert_eq!((code, &written["samples"]), (Some(0), &Value::from(12)));
    assert!(server.faults().injected() > 0);
}
