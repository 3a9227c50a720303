//! The program by itself: help, usage, and what it says without a coordinator.

use crate::support::cappactl;

#[test]
fn help_names_every_command_and_exit_code() {
    insta::assert_snapshot!(cappactl(&["--help"]).stdout);
}

#[test]
fn help_of_submit_and_of_the_local_cluster() {
    insta::assert_snapshot!("help_submit", cappactl(&["submit", "--help"]).stdout);
    insta::assert_snapshot!("help_local_demo", cappactl(&["local", "demo", "--help"]).stdout);
}

#[test]
fn without_a_coordinator_the_error_says_what_to_do() {
    // Nothing listens on the discard port.
    let ended = cappactl(&["--coordinator", "http://127.0.0.1:9", "list"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), ""));
    insta::assert_snapshot!(ended.stderr);
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for arguments in [
        vec!["describe"],
        vec!["nonsense"],
        vec!["wait", "job", "--for=forever"],
        vec!["--coordinator", "http://no address", "list"],
        vec!["data", "synth", "--out", "corpus", "--image-size", "1"],
    ] {
        let ended = cappactl(&arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    }
}

#[test]
fn all_mistakes_of_a_spec_are_shown_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.yaml");
    std::fs::write(&path, "apiVersion: cappa.dev/v1\nname: demo\nobjectiv: cap\nbatch_size: many\nduration: {}\n")
        .unwrap();
    let path = path.to_str().unwrap();
    let ended = cappactl(&["submit", "-f", path]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    insta::assert_snapshot!(ended.stderr.replace(path, "job.yaml"));
}

#[test]
fn a_corpus_becomes_a_manifest_and_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (corpus, manifest, tokenizer) = (path("corpus"), path("corpus/train.json"), path("tokenizer.json"));
    let run = |arguments: &[&str]| {
        let ended = cappactl(&[arguments, &["-o", "json"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str::<serde_json::Value>(&ended.stdout).unwrap()
    };
    let written =
        run(&["data", "synth", "--out", &corpus, "--samples", "60", "--heldout", "20", "--samples-per-shard", "40"]);
    assert_eq!((&written["samples"], &written["shards"]), (&80.into(), &3.into()));
    let indexed = run(&["data", "index", &format!("{corpus}/train-*.tar"), "--out", &manifest]);
    assert_eq!((&indexed["samples"], &indexed["shards"]), (&60.into(), &2.into()));
    let trained = run(&["tokenizer", "train", &manifest, "--vocabulary", "64", "--out", &tokenizer]);
    assert_eq!(trained["captions"], 60);
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(tokenizer).unwrap()).unwrap();
    assert_eq!(document["model"]["vocab"]["<pad>"], 0);
}

#[test]
fn explain_knows_every_code_it_lists() {
    let listed = cappactl(&["explain"]).stdout;
    assert!(listed.lines().count() > 10);
    for code in listed.lines() {
        assert_eq!(cappactl(&["explain", code]).code, Some(0), "{code}");
    }
    assert_eq!(cappactl(&["explain", "NONSENSE"]).code, Some(102));
}

#[test]
fn stopping_where_nothing_runs_is_no_error() {
    assert_eq!(cappactl(&["local", "down"]).code, Some(0));
    assert_eq!(cappactl(&["local", "status"]).code, Some(102));
}

#[test]
fn a_cluster_whose_programs_are_missing_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cluster");
    let empty = dir.path().join("bin");
    std::fs::create_dir(&empty).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cappactl"));
    command.args(["local", "up", "--dir", folder.to_str().unwrap()]).env("CAPPA_BIN_DIR", &empty);
    let ended = crate::support::Ended::from(command.output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("`cappa-coordinator` is not in"), "{}", ended.stderr);
    assert!(!folder.join("state.json").exists());
}
