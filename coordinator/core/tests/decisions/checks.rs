//! Debug builds hold every event against the invariants.

use cappa_core::{Change, Command, Event, JobId, Record};

use crate::bench::Bench;

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "EndedStaysEnded")]
fn an_event_that_breaks_what_shows_only_over_the_log_ends_a_debug_build_at_once() {
    let mut bench = Bench::new();
    bench.submit("demo", 0, 1, 1);
    let (job, reason) = (JobId::from("demo"), "enough".to_owned());
    bench.perform(Command::Cancel { job: job.clone(), reason: reason.clone() }).unwrap();
    let change = Change::PauseRequested { reason };
    bench.core.apply(&Event::Record(Record { at: bench.now, job: Some(job), change }));
}
