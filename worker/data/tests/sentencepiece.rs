//! SentencePiece models against SentencePiece itself, over texts that are hard to normalise.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::Path;
use std::process::Command;

use cappa_data::text::{Tokenizer, TokenizerError};
use serde::Deserialize;

/// What SentencePiece says of a model.
#[derive(Deserialize)]
struct Expected {
    eos: i64,
    pad: i64,
    bos: i64,
    vocabulary: usize,
    texts: Vec<String>,
    ids: Vec<Vec<i64>>,
    decoded: Vec<String>,
}

impl Expected {
    /// The id that ours is in the file, where padding and end may have other places.
    fn ours(&self, id: i64) -> i64 {
        let exchange = |id: i64, a: i64, b: i64| {
            if id == a {
                b
            } else if id == b {
                a
            } else {
                id
            }
        };
        let pad = exchange(if self.pad < 0 { self.bos } else { self.pad }, self.eos, 1);
        exchange(exchange(id, self.eos, 1), pad, 0)
    }
}

fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("python3")
        .arg(root.join("tests/sentencepiece.py"))
        .arg(folder.path())
        // Not found as the module of its own name.
        .env("PYTHONSAFEPATH", "1")
        .env("PYTHONPATH", root.join("../../.venv/site"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(done.status.success(), "run `make python` first: {}", String::from_utf8_lossy(&done.stderr));
    folder
}

#[test]
fn ids_and_texts_are_sentencepieces_own() {
    let folder = models();
    let (mut failures, mut compared) = (Vec::new(), 0);
    for model in std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if model.extension().is_none_or(|extension| extension != "model") {
            continue;
        }
        let name = model.file_stem().unwrap().to_str().unwrap().to_owned();
        let tokenizer = Tokenizer::from_file(&model).unwrap();
        let expected: Expected = serde_json::from_slice(&std::fs::read(model.with_extension("json")).unwrap()).unwrap();
        assert_eq!(tokenizer.vocabulary(), expected.vocabulary);
        assert!(matches!(tokenizer.check_vocabulary(expected.vocabulary - 1), Err(TokenizerError::Vocabulary { .. })));
        for ((text, ids), decoded) in expected.texts.iter().zip(&expected.ids).zip(&expected.decoded) {
            compared += 1;
            let mut right: Vec<i64> = ids.iter().map(|&id| expected.ours(id)).collect();
            right.push(1);
            let ours = tokenizer.encode(text, right.len()).unwrap();
            if ours != right || tokenizer.encode(text, right.len() + 1).unwrap().last() != Some(&0) {
                failures.push(format!("{name} {text:?}\n  {ours:?}\n  {right:?}"));
            } else if tokenizer.decode(&ours).unwrap() != *decoded {
                failures.push(format!("{name} {text:?}: {:?}, not {decoded:?}", tokenizer.decode(&ours).unwrap()));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {compared}:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 1500, "only {compared} texts");
}

#[test]
fn a_damaged_model_is_refused_or_read_but_never_panics() {
    let folder = models();
    let file = std::fs::read(folder.path().join("unigram-paper.model")).unwrap();
    for at in (0..file.len()).step_by(37) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x55;
        for content in [&damaged[..], &file[..at]] {
            if let Ok(tokenizer) = Tokenizer::from_bytes(content) {
                let _ = tokenizer.encode("a small ☃ star", 16);
            }
        }
    }
}
