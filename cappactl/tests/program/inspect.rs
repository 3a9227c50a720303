//! `cappactl data inspect`.

use std::fs;

use crate::index::{corpus, index};
use crate::support::cappactl;

#[test]
fn a_corpus_is_shown_with_counts_sizes_fields_and_first_samples() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "20");
    assert!(index(&corpus, &["--min-caption", "1"]).output().unwrap().status.success());
    let manifest = corpus.join("train.manifest.json");
    let ended = cappactl(&["data", "inspect", manifest.to_str().unwrap(), "--shards", "2", "--samples", "2"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let folder = format!("file://{}", corpus.canonicalize().unwrap().display());
    insta::assert_snapshot!(ended.stdout.replace(&folder, "file:///corpus"));

    let tar = corpus.join("train-00000{0,1}.tar");
    let ended = cappactl(&["data", "inspect", tar.to_str().unwrap(), "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((found["shards"].as_u64(), found["read_samples"].as_u64()), (Some(2), Some(8)), "{found}");
    assert!(found["samples"].is_null(), "nobody counted them");
    assert_eq!(found["images"]["width"]["p50"], found["first"][0]["size"][0]);
}

#[test]
fn a_contact_sheet_holds_a_picture_of_every_sample() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path(), "8");
    let write = |name: &str| {
        let (tars, sheet) = (corpus.join("*.tar"), dir.path().join(name));
        let arguments = ["data", "inspect", tars.to_str().unwrap(), "--contact-sheet", sheet.to_str().unwrap()];
        (cappactl(&arguments).code, fs::read(sheet).unwrap_or_default())
    };
    let (code, page) = write("sheet.html");
    let page = String::from_utf8(page).unwrap();
    assert_eq!((code, page.matches("src=\"data:image/jpeg;base64,").count()), (Some(0), 8));
    assert!(!page.contains("http"), "it needs nothing from elsewhere");
    let (code, picture) = write("sheet.png");
    assert_eq!((code, &picture[..8]), (Some(0), &b"\x89PNG\r\n\x1a\n"[..]));
    let side = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    assert_eq!((side(16), side(20)), (8 * 200 + 8, 200 + 8), "eight pictures in a row");
    assert_eq!(write("sheet.gif").0, Some(2));
}

#[test]
fn what_is_bad_is_said_and_captions_stay_text() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("loose");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.jpg"), "no picture").unwrap();
    fs::write(folder.join("a.txt"), "<b>one</b>\x1b[31m & two").unwrap();
    fs::write(folder.join("b.txt"), "nothing to see").unwrap();
    let sheet = dir.path().join("sheet.html");
    let arguments = ["data", "inspect", folder.to_str().unwrap(), "--contact-sheet", sheet.to_str().unwrap()];
    let ended = cappactl(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("1 sample without a picture"), "{}", ended.stdout);
    assert!(ended.stdout.contains("1 sample with a picture whose size cannot be read"), "{}", ended.stdout);
    assert!(!ended.stdout.contains('\x1b'), "a caption must not steer the terminal");
    let page = fs::read_to_string(sheet).unwrap();
    assert!(page.contains("&lt;b&gt;one&lt;/b&gt;") && page.contains("&amp; two") && !page.contains("<b>"), "{page}");
}
