//! Live progress of a job: its events as lines, its steps as a bar, its end as an exit code.

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::progress::Meter;
use crate::units;
use crate::views::{Event, Job, State};
use crate::watch::{Update, Watcher};

/// How much of a job is shown while it is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nothing but what needs attention.
    Quiet,
    /// Events and steps.
    Progress,
}

/// How following a job ended.
pub(crate) struct Followed {
    pub(crate) exit: Exit,
    /// The job as it was seen last.
    pub(crate) job: Job,
}

/// Follows a job until it has ended or waits for somebody to resume it, across restarts of the
/// coordinator. Interrupting it leaves the job as it is.
///
/// # Errors
/// When the coordinator refuses, or stays away.
pub(crate) async fn follow(client: &Client, id: &str, show: Show) -> Result<Followed, Failure> {
    tokio::select! {
        followed = to_the_end(client, id, show) => followed,
        () = interrupted() => {
            Ok(Followed { exit: Exit::Interrupted, job: client.job(id).await?.into() })
        }
    }
}

async fn to_the_end(client: &Client, id: &str, show: Show) -> Result<Followed, Failure> {
    let mut job = Job::from(client.job(id).await?);
    let mut watcher = Watcher::new(client.clone(), id);
    let mut live = Live::new(show, &job);
    let mut paused = false;
    while let Some(update) = watcher.next().await? {
        match update {
            Update::Event(event) => live.event(&event),
            Update::Away => live.say(&format!("{} does not answer; trying again", client.address)),
            Update::Job(now) => {
                job = *now;
                live.job(&job);
                paused = job.state == State::Paused;
            }
        }
        if paused {
            break;
        }
    }
    drop(live);
    let exit = job.state.end().unwrap_or(Exit::NotFinished);
    say_end(&job, exit);
    Ok(Followed { exit, job })
}

fn say_end(job: &Job, exit: Exit) {
    let (id, message) = (&job.id, &job.message);
    match exit {
        Exit::Ok => eprintln!("job {id} succeeded after {} steps", units::grouped(job.step)),
        Exit::NotFinished => eprintln!("job {id} is paused at step {}: `cappactl resume {id}` goes on", job.step),
        _ => eprintln!("job {id} {} at step {}: {message}", job.state.name(), job.step),
    }
    if let Some(code) = &job.error_code {
        eprintln!("`cappactl explain {code}` says more");
    }
}

/// What is on the screen.
struct Live {
    show: Show,
    meter: Option<Meter>,
    /// The meter is of the index that comes before the steps.
    is_indexing: bool,
    pace: Pace,
    state: State,
}

impl Live {
    fn new(show: Show, job: &Job) -> Self {
        let meter = (show == Show::Progress).then(|| Meter::new("step", job.total_steps));
        Self { show, meter, is_indexing: false, pace: Pace::default(), state: State::Unknown }
    }

    fn say(&self, text: &str) {
        match &self.meter {
            Some(meter) => meter.note(text),
            None => eprintln!("{text}"),
        }
    }

    fn event(&self, event: &Event) {
        if self.show == Show::Progress {
            let dim = console::style(&event.kind).dim().for_stderr();
            self.say(&format!("{dim}  {}", event.message));
        }
    }

    fn job(&mut self, job: &Job) {
        if self.show == Show::Quiet {
            return;
        }
        if job.state != self.state {
            self.state = job.state;
            let reason = if job.message.is_empty() { String::new() } else { format!(": {}", job.message) };
            self.say(&format!("{}{reason}", console::style(job.state.name()).bold().for_stderr()));
        }
        self.index(job);
        self.pace.observe(job);
        let message = self.pace.describe(job);
        if let Some(meter) = &mut self.meter
            && job.latest.is_some()
        {
            meter.set_total(job.total_steps);
            meter.set(job.step, &message);
        }
    }
}

impl Live {
    /// How far the index of the job's data is, as long as it is made.
    fn index(&mut self, job: &Job) {
        let Some(index) = job.index else {
            if std::mem::take(&mut self.is_indexing) {
                self.meter = Some(Meter::new("step", job.total_steps));
            }
            return;
        };
        if !std::mem::replace(&mut self.is_indexing, true) {
            self.meter = Some(Meter::new("indexing", index.of_shards));
        }
        if let Some(meter) = &mut self.meter {
            meter.set_total(index.of_shards);
            let read = format!("{} samples, {}", units::grouped(index.samples), units::bytes(index.bytes));
            meter.set(index.shards, &format!("shards, {read}"));
        }
    }
}

/// How fast a job goes: a running mean over its latest updates, by the workers' own clock.
#[derive(Debug, Default)]
struct Pace {
    /// Step and clock of the last observation, in milliseconds.
    last: Option<(u64, i64)>,
    seconds_per_step: Option<f64>,
}

/// The share of a new observation in the running mean, for one that spans a second.
const NEWS: f64 = 0.3;

impl Pace {
    fn observe(&mut self, job: &Job) {
        let Some(point) = &job.latest else { return };
        let Some((step, clock)) = self.last.replace((point.step, point.unix_ms)) else {
            self.seconds_per_step = Some(point.seconds).filter(|seconds| *seconds > 0.0);
            return;
        };
        let elapsed = (point.unix_ms - clock) as f64 / 1e3;
        if point.step <= step || elapsed <= 0.0 {
            return; // The same point again, or a run that went back to its checkpoint.
        }
        let observed = elapsed / (point.step - step) as f64;
        let weight = 1.0 - (1.0 - NEWS).powf(elapsed);
        let mean = self.seconds_per_step.unwrap_or(observed);
        self.seconds_per_step = Some(mean + weight * (observed - mean));
    }

    fn describe(&self, job: &Job) -> String {
        let Some(point) = &job.latest else { return String::new() };
        let loss = format!("loss {:.4}", point.loss);
        let Some(pace) = self.seconds_per_step else { return loss };
        let images = point.examples as f64 / pace;
        let left = job.total_steps.saturating_sub(job.step);
        let eta = if left == 0 { String::new() } else { format!("  ETA {}", units::seconds(left as f64 * pace)) };
        format!("{loss}  {images:.0} images/s{eta}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Point;

    fn at(step: u64, unix_ms: i64) -> Job {
        let mut job = Job::from(cappa_proto::Job { step, total_steps: 100, ..Default::default() });
        let metrics =
            cappa_proto::StepMetrics { step, unix_ms, loss: 2.5, examples: 64, seconds: 0.5, ..Default::default() };
        job.latest = Some(Point::from(metrics));
        job
    }

    #[test]
    fn pace_and_estimate_follow_the_workers_clock() {
        let mut pace = Pace::default();
        pace.observe(&at(10, 10_000));
        assert_eq!(pace.describe(&at(10, 10_000)), "loss 2.5000  128 images/s  ETA 45.0 s");
        for second in 1..60 {
            pace.observe(&at(10 + second, 10_000 + 1_000 * second as i64));
        }
        assert_eq!(pace.describe(&at(69, 69_000)), "loss 2.5000  64 images/s  ETA 31.0 s");
    }

    #[test]
    fn repeated_points_do_not_disturb_the_pace() {
        let mut pace = Pace::default();
        for job in [at(10, 10_000), at(10, 10_000), at(9, 9_000)] {
            pace.observe(&job);
        }
        assert_eq!(pace.seconds_per_step, Some(0.5));
    }
}
