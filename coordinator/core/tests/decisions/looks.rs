//! What a look at the state looks at, and what is told again.

use cappa_core::{Change, Command, Generation, Holding, JobId, Link, Step, Work};

use crate::bench::{Bench, TIMINGS, name};

const JOBS: u64 = 20;
const MEMBERS: u64 = 5;

fn id(job: u64) -> String {
    format!("job-{job:02}")
}

/// The job's workers.
fn members(job: u64) -> Vec<u64> {
    (1..=MEMBERS).map(|member| job * MEMBERS + member).collect()
}

/// All workers but the first of each job.
fn survivors() -> Vec<u64> {
    (0..JOBS).flat_map(|job| members(job).split_off(1)).collect()
}

/// Jobs that run, all in groups that this process saw form.
fn running() -> Bench {
    let mut bench = Bench::new();
    bench.wait(0.1, &[]);
    for job in 0..JOBS {
        members(job).into_iter().for_each(|worker| bench.connect(worker, None));
        bench.submit(&id(job), 0, 5, 5);
        bench.enter(&id(job), &members(job));
    }
    bench
}

/// The groups that a look looks at.
fn looked_at(bench: &Bench) -> usize {
    bench.core.outstanding_in_groups(bench.now, None).count()
}

/// All that is outstanding is put on its streams.
fn tell_all(bench: &mut Bench) -> usize {
    let orders: Vec<Work> = bench.core.outstanding(bench.now).collect();
    let count = orders.len();
    orders.into_iter().for_each(|order| bench.perform(Command::Told(order)).unwrap());
    count
}

fn orders(bench: &Bench, is_wanted: impl Fn(&Work) -> bool) -> usize {
    bench.core.outstanding(bench.now).filter(|work| is_wanted(work)).count()
}

#[test]
fn a_coordinator_that_comes_to_no_end_has_not_stood_still_and_waits_for_nobody_to_come_back() {
    let mut bench = running();
    for job in 0..JOBS {
        let worker = members(job)[0];
        bench.core.perform(bench.now, &Command::Disconnected { worker: name(worker), link: Link(worker) }).unwrap();
    }
    for losses in 1..=10 {
        bench.now = bench.now + TIMINGS.detection / 12;
        let (records, is_all) = bench.core.review_up_to(bench.now, 1);
        bench.log.extend(records);
        let broken = bench.log.iter().filter(|record| matches!(record.change, Change::GroupBroken { .. })).count();
        assert_eq!((broken, is_all), (losses, false), "each look finds one");
    }
}

#[test]
fn groups_that_wait_for_their_members_are_looked_at_when_one_answers_or_their_time_is_up() {
    let mut bench = running();
    bench.wait(0.1, &survivors());
    assert_eq!(looked_at(&bench), 0, "all step");
    for job in 0..JOBS {
        let worker = members(job)[0];
        bench.perform(Command::Disconnected { worker: name(worker), link: Link(worker) }).unwrap();
    }
    assert_eq!(looked_at(&bench), 20);
    assert_eq!(tell_all(&mut bench), 80, "every survivor is to leave");
    bench.wait(0.1, &survivors());
    assert_eq!((looked_at(&bench), tell_all(&mut bench)), (0, 0), "all have heard it, and have yet to answer");

    bench.leave(2, "job-00", 1);
    assert_eq!(looked_at(&bench), 1);
    bench.wait(0.1, &survivors());
    assert_eq!(looked_at(&bench), 0, "three others have yet to answer");
    (3..=5).for_each(|worker| bench.leave(worker, "job-00", 1));
    assert_eq!((bench.job("job-00").generation, bench.world_size("job-00")), (Generation(2), 4));
    assert_eq!(tell_all(&mut bench), 4);
    bench.wait(0.1, &survivors());
    assert_eq!((looked_at(&bench), tell_all(&mut bench)), (0, 0), "all have heard that it forms anew");
    bench.enter("job-00", &[2, 3, 4, 5]);

    bench.wait(5.5, &survivors());
    assert!(bench.is_active("job-00") && !bench.is_active("job-01"), "who does not answer is not waited for for ever");
}

#[test]
fn an_order_is_told_once_on_a_stream_and_again_on_the_next() {
    let mut bench = Bench::new();
    bench.wait(0.1, &[]);
    (1..=2).for_each(|worker| bench.connect(worker, None));
    bench.submit("demo", 0, 2, 2);
    let forms = |bench: &Bench| orders(bench, |work| matches!(work, Work::Form { .. }));
    assert_eq!((forms(&bench), tell_all(&mut bench), forms(&bench)), (2, 2, 0));
    bench.connect(2, None);
    assert_eq!((forms(&bench), tell_all(&mut bench)), (1, 1));

    bench.enter("demo", &[1, 2]);
    bench.perform(Command::Pause { job: JobId::from("demo"), reason: "test".to_owned() }).unwrap();
    let stops = |bench: &Bench| orders(bench, |work| matches!(work, Work::Stop { .. }));
    assert_eq!((stops(&bench), tell_all(&mut bench), stops(&bench)), (2, 2, 0));
    let held = |step| {
        let (job, generation) = (JobId::from("demo"), Generation(1));
        Some(Holding { job, generation, step: Step(step), has_state: true, stepping: true })
    };
    bench.connect(2, held(1));
    assert_eq!((stops(&bench), tell_all(&mut bench)), (1, 1));

    bench.perform(Command::Disconnected { worker: name(1), link: Link(1) }).unwrap();
    let aborts = |bench: &Bench| orders(bench, |work| matches!(work, Work::Abort { .. }));
    assert_eq!((aborts(&bench), tell_all(&mut bench), aborts(&bench)), (1, 1, 0));
    bench.connect(2, held(2));
    assert_eq!(aborts(&bench), 1);
}

#[test]
fn as_many_spares_are_kept_for_a_group_as_it_has_lost_while_it_waits_for_the_others() {
    let mut bench = running();
    (901..=903).for_each(|spare| bench.connect(spare, None));
    let heard: Vec<u64> = (1..=JOBS * MEMBERS).chain(901..=903).collect();
    let kept = |bench: &Bench| bench.core.plan(bench.now).repairs.get(&JobId::from("job-00")).copied();
    for (lost, worker) in [(1, 1), (2, 2)] {
        bench.perform(Command::Disconnected { worker: name(worker), link: Link(worker) }).unwrap();
        assert_eq!(kept(&bench), Some(lost));
        tell_all(&mut bench);
        bench.wait(0.1, &heard.iter().copied().filter(|heard| *heard > worker).collect::<Vec<_>>());
        assert_eq!((looked_at(&bench), kept(&bench)), (0, Some(lost)), "the others have yet to answer");
    }
}
