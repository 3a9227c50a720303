use super::*;
use crate::checkpoint::{Contents, OrderRecord, Part, Previous, SourceRecord};
use crate::ids::Generation;

/// Two shards of 50 samples in 4 lanes, 8 at a time: an epoch has 13 steps.
fn record(sources: u32) -> OrderRecord {
    OrderRecord {
        sources: (0..sources).map(|n| SourceRecord { manifest: format!("s3://b/{n}.json"), turns: 2 - n }).collect(),
        seed: 3,
        lanes: 4,
        shuffle_window: 2,
        batch_size: 8,
        every_caption: false,
    }
}

fn contents(step: u64, previous: Option<&CheckpointManifest>, groups: &[(u64, u32, u64, u64)]) -> Contents {
    let group = |&(generation, world_size, first, end): &(u64, u32, u64, u64)| GroupSteps {
        generation: Generation(generation),
        world_size,
        first: Step(first),
        end: Step(end),
    };
    let (generation, world_size) = groups.last().map_or((1, 1), |group| (group.0, group.1));
    let quarantined = Quarantined { shard: "a.tar".into(), index: step, key: "k".into(), reason: "damaged".into() };
    Contents {
        job: "demo-k7f3q".parse().unwrap(),
        step: Step(step),
        generation: Generation(generation),
        world_size,
        spec_digest: "0".repeat(64),
        data_digest: "1".repeat(64),
        parts: vec![Part { name: "part.safetensors".into(), bytes: 1, sha256: "2".repeat(64) }],
        quarantined: vec![quarantined],
        created: jiff::Timestamp::UNIX_EPOCH,
        account: Some(Account {
            order: record(1),
            previous: previous.map(|manifest| Previous {
                step: manifest.contents().step,
                generation: manifest.contents().generation,
                sha256: Some(manifest.digest().to_owned()),
            }),
            groups: groups.iter().map(group).collect(),
            rewinds: Vec::new(),
        }),
    }
}

fn manifest(contents: Contents) -> CheckpointManifest {
    CheckpointManifest::new(contents).unwrap()
}

/// Three checkpoints: two workers, one of which is lost at step 15; a third comes at step 32.
fn run() -> Vec<CheckpointManifest> {
    let first = manifest(contents(10, None, &[(1, 2, 0, 10)]));
    let second = manifest(contents(20, Some(&first), &[(1, 2, 10, 15), (2, 1, 15, 20)]));
    let third = manifest(contents(40, Some(&second), &[(2, 1, 20, 32), (3, 3, 32, 40)]));
    vec![first, second, third]
}

fn audit_of(manifests: &[CheckpointManifest]) -> Audit {
    let mut findings = Vec::new();
    let chain = chain(manifests, &mut findings);
    audit(&chain, &record(1).order(vec![vec![50, 50]]).unwrap(), findings)
}

/// The run with one manifest's contents changed; later ones name the changed one.
fn changed(place: usize, change: impl Fn(&mut Contents)) -> Vec<CheckpointManifest> {
    let mut run = run();
    for at in place..run.len() {
        let mut contents = run[at].contents().clone();
        if at == place {
            change(&mut contents);
        } else {
            let digest = run[at - 1].digest().to_owned();
            contents.account.as_mut().unwrap().previous.as_mut().unwrap().sha256 = Some(digest);
        }
        run[at] = manifest(contents);
    }
    run
}

#[track_caller]
fn refuted(manifests: &[CheckpointManifest], finding: &str) {
    let audit = audit_of(manifests);
    assert!(audit.findings.iter().any(|found| found.contains(finding)), "{:?}", audit.findings);
}

#[test]
fn a_run_over_losses_and_joins_used_every_sample_once() {
    let audit = audit_of(&run());
    assert!(audit.is_proven(), "{:?}", audit.findings);
    assert_eq!((audit.step, audit.checkpoints.len(), audit.groups.len()), (Step(40), 3, 3));
    assert_eq!(audit.quarantined.len(), 3, "those of every manifest");
    let uses: Vec<_> = audit.epochs.iter().map(|epoch| (epoch.epoch, epoch.used, epoch.repeated)).collect();
    assert_eq!(uses, [(0, 100, 0), (1, 100, 0), (2, 100, 0), (3, 8, 0)]);
}

#[test]
fn a_mixture_uses_every_sample_once_in_the_epochs_of_its_source() {
    let contents = Contents { account: None, ..contents(300, None, &[]) };
    let groups = vec![GroupSteps { generation: Generation(1), world_size: 3, first: Step(0), end: Step(300) }];
    let account = Account { order: record(2), previous: None, groups, rewinds: Vec::new() };
    let manifest = manifest(Contents { account: Some(account), ..contents });
    let order = record(2).order(vec![vec![50, 0, 51], vec![7, 20]]).unwrap();
    let audit = audit(&[&manifest], &order, Vec::new());
    assert!(audit.is_proven(), "{:?}", audit.findings);
    let used = |source| audit.epochs.iter().filter(|epoch| epoch.source == source).map(|epoch| epoch.used).sum::<u64>();
    assert_eq!((used(0), used(1)), (1600, 800), "two of three slots");
}

#[test]
fn a_missing_or_exchanged_manifest_is_named() {
    let run = run();
    refuted(&[run[0].clone(), run[2].clone()], "the manifest of step 20 is missing");
    let other = manifest(Contents { world_size: 5, ..run[1].contents().clone() });
    refuted(&[run[0].clone(), other, run[2].clone()], "the manifest of step 20 is not the one");
    refuted(&[], "there is no committed checkpoint");
    refuted(&changed(1, |contents| contents.data_digest = "9".repeat(64)), "of another data");
    refuted(&changed(0, |contents| contents.account = None), "the manifest of step 10 keeps no account");
}

#[test]
fn a_step_that_is_missing_or_done_twice_is_named() {
    let group = |contents: &mut Contents, place: usize, change: fn(&mut GroupSteps)| {
        change(&mut contents.account.as_mut().unwrap().groups[place]);
    };
    let gap = changed(1, |contents| group(contents, 1, |steps| steps.first = Step(17)));
    refuted(&gap, "steps 15 to 17 were computed by nobody");
    let early = changed(1, |contents| group(contents, 1, |steps| steps.end = Step(19)));
    refuted(&early, "steps 19 to 20 were computed by nobody");
    let twice = changed(1, |contents| group(contents, 1, |steps| steps.first = Step(14)));
    refuted(&twice, "steps 14 to 15 were computed twice, the second time by generation 2");
    refuted(&twice, "epoch 1 of source 0 used 8 samples a second time");
    refuted(&gap, "epoch 1 of source 0 left out 16 of 100 samples");
}

#[test]
fn a_rewind_spends_its_samples_and_goes_back_to_a_checkpoint_of_the_run() {
    let rewound = |at, to| {
        changed(2, |contents| {
            let rewind = Rewind { step: Step(at), to: Step(to), generation: Generation(2) };
            contents.account.as_mut().unwrap().rewinds = vec![rewind];
        })
    };
    let audit = audit_of(&rewound(27, 20));
    assert!(audit.is_proven(), "{:?}", audit.findings);
    assert_eq!((audit.rewinds[0].step, audit.rewinds[0].to), (Step(27), Step(20)));
    assert!(audit_of(&rewound(27, 0)).is_proven(), "to the beginning");
    refuted(&rewound(27, 15), "step 27 went back to the state of step 15, of which there is no checkpoint");
    refuted(&rewound(27, 40), "of which there is no checkpoint");
    refuted(&rewound(12, 10), "a rewind at step 12, which is none of its steps");
}

#[test]
fn side_branches_do_not_matter() {
    let mut run = run();
    let branch = manifest(contents(30, Some(&run[1]), &[(2, 1, 20, 30)]));
    run.push(branch);
    assert!(audit_of(&run).is_proven());
}

/// Bounds are loose because machines are shared and tests are hardly optimised; bench/README.md has figures.
#[test]
fn a_million_samples_are_audited_in_seconds() {
    let order = OrderRecord { lanes: 64, batch_size: 1024, shuffle_window: 8, ..record(1) };
    let order = order.order(vec![vec![1000; 1000]]).unwrap();
    let manifest = manifest(contents(1000, None, &[(1, 7, 0, 1000)]));
    let begin = std::time::Instant::now();
    let audit = audit(&[&manifest], &order, Vec::new());
    assert!(audit.is_proven() && audit.epochs[0].used == 1_000_000, "{audit:?}");
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}

#[test]
#[ignore = "measures; the command is in bench/README.md"]
fn ten_million_samples_in_a_million_shards_are_audited() {
    let order = OrderRecord { lanes: 64, batch_size: 4096, shuffle_window: 16, ..record(1) };
    let order = order.order(vec![vec![10; 1_000_000]]).unwrap();
    let steps = order.steps_per_epoch().unwrap();
    let manifest = manifest(contents(steps, None, &[(1, 7, 0, steps)]));
    let begin = std::time::Instant::now();
    let audit = audit(&[&manifest], &order, Vec::new());
    println!(r#"{{"name":"audit, 10^7 samples in 10^6 shards","seconds":{:.2}}}"#, begin.elapsed().as_secs_f64());
    assert!(audit.is_proven() && audit.epochs[0].used == 10_000_000, "{audit:?}");
}
