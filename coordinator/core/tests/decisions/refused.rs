//! Updates that were not made, and those with which a network went back.

use cappa_core::{Change, Command, Generation, JobId, Report, Rewind, Step, log_violations};

use crate::bench::Bench;

fn job() -> JobId {
    JobId::from("demo")
}

/// A job with two workers.
fn running() -> Bench {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    bench.enter("demo", &[1, 2]);
    bench
}

fn refused(generation: u64, step: u64, rewound_to: Option<u64>) -> Report {
    Report::UpdateRefused {
        job: job(),
        generation: Generation(generation),
        step: Step(step),
        reason: "its loss is NaN".to_owned(),
        rewound_to: rewound_to.map(Step),
    }
}

/// What the log says of them: steps, those of rewinds with what they went back to.
fn logged(bench: &Bench) -> Vec<(u64, Option<u64>)> {
    let told = bench.log.iter().filter_map(|record| match &record.change {
        Change::UpdateSkipped { step, .. } => Some((step.0, None)),
        Change::Rewound { step, to, .. } => Some((step.0, Some(to.0))),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_update_that_was_not_made_is_logged_once_whoever_tells_it_and_however_often() {
    let mut bench = running();
    bench.say(1, refused(1, 7, None));
    bench.say(1, refused(1, 9, Some(5)));
    bench.say(2, refused(1, 7, None));
    bench.say(2, refused(1, 9, Some(5)));
    bench.say(1, refused(4, 12, None));
    assert_eq!(logged(&bench), [(7, None), (9, Some(5))], "there is no generation 4");
    let rewind = Rewind { step: Step(9), to: Step(5), generation: Generation(1) };
    assert_eq!(bench.job("demo").rewinds, [rewind]);
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn many_skipped_updates_do_not_fill_the_log_and_hide_no_rewind() {
    let mut bench = running();
    (1..=2_000).for_each(|step| bench.say(1, refused(1, step, None)));
    assert_eq!(logged(&bench).len(), 500);
    bench.say(1, refused(1, 2_001, Some(2_000)));
    assert_eq!(logged(&bench).last(), Some(&(2_001, Some(2_000))));
}

#[test]
fn a_job_that_goes_back_beyond_a_rewind_has_not_rewound() {
    let mut bench = running();
    bench.checkpoint("demo", 10);
    bench.say(1, refused(1, 12, Some(10)));
    bench.checkpoint("demo", 12);
    bench.say(1, refused(1, 15, Some(12)));
    let reason = "diverged".to_owned();
    bench.perform(Command::RollBack { job: job(), step: Step(12), reason }).unwrap();
    let steps: Vec<_> = bench.job("demo").rewinds.iter().map(|rewind| rewind.step.0).collect();
    assert_eq!(steps, [12]);
    bench.say(1, refused(1, 17, Some(12)));
    assert_eq!(logged(&bench).len(), 2, "what the old group still tells means nothing");
}
