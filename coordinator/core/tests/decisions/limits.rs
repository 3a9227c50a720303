//! A job's time limit, whatever its group does when it is reached.

use std::time::Duration;

use cappa_core::{Change, Command, Ending, Generation, Link, Phase, Scheduling, StopCause, Work, log_violations};

use crate::bench::{Bench, name};

/// Two workers, and a job for both that has them for half a minute.
fn limited() -> Bench {
    let mut bench = Bench::new();
    (1..=2).for_each(|worker| bench.connect(worker, None));
    let time_limit = Some(Duration::from_secs(30));
    bench.submit_under(Scheduling { time_limit, ..Scheduling::default() }, "demo", 0, 2, 2);
    bench
}

fn is_over(bench: &Bench) -> bool {
    matches!(&bench.job("demo").phase, Phase::Ended(Ending::Failed { code, .. }) if code == "time_limit")
}

fn lose_the_first(bench: &mut Bench) {
    bench.perform(Command::Disconnected { worker: name(1), link: Link(1) }).unwrap();
}

#[test]
fn a_group_that_still_forms_with_nothing_to_save_ends_at_the_time_limit() {
    let mut bench = limited();
    bench.wait(29.0, &[1, 2]);
    assert!(bench.is_active("demo"));
    bench.wait(1.5, &[1, 2]);
    assert!(is_over(&bench), "{:?}", bench.job("demo").phase);
    assert!(!bench.log.iter().any(|record| matches!(record.change, Change::StopRequested { .. })));
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_group_that_forms_anew_at_the_time_limit_saves_what_its_members_hold() {
    let mut bench = limited();
    bench.enter("demo", &[1, 2]);
    bench.wait(28.0, &[1, 2]);
    lose_the_first(&mut bench);
    bench.leave(2, "demo", 28);
    bench.wait(3.0, &[2]);
    assert_eq!((bench.is_active("demo"), &bench.job("demo").stopping), (true, &Some(StopCause::TimeLimit)));
    bench.enter("demo", &[2]);
    let stops = bench.core.outstanding(bench.now).filter(|work| matches!(work, Work::Stop { .. })).count();
    assert_eq!(stops, 1);
    bench.wait(61.0, &[2]);
    assert!(is_over(&bench), "nobody waits for a checkpoint for ever");
    assert_eq!(log_violations(&bench.log), []);
}

#[test]
fn a_time_limit_is_seen_while_a_group_breaks_up() {
    let mut bench = limited();
    bench.enter("demo", &[1, 2]);
    bench.wait(28.0, &[1, 2]);
    lose_the_first(&mut bench);
    bench.wait(3.0, &[2]);
    assert!(bench.job("demo").group().unwrap().is_breaking());
    assert_eq!(bench.job("demo").stopping, Some(StopCause::TimeLimit));
    bench.connect(3, None);
    bench.leave(2, "demo", 28);
    assert_eq!((bench.job("demo").generation, bench.world_size("demo")), (Generation(2), 1), "nobody joins to stop");
    assert_eq!(log_violations(&bench.log), []);
}
