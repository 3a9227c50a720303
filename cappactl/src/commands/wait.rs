//! `cappactl wait`.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum as _};

use super::connect;
use crate::cli::Global;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::output;
use crate::units;
use crate::views::{Job, State};
use crate::watch::{Update, Watcher};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The job's id.
    job: String,
    /// What to wait for: step:N, state:S, or the job's end, whose exit code it then is.
    #[arg(long = "for", value_name = "WHAT")]
    condition: Option<Condition>,
    /// Give up after so long: 90, 90s, 15m, 2h.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    timeout: Option<Duration>,
}

/// When the wait is over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Condition {
    Step(u64),
    State(State),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || format!("`{text}` is not step:N or state:S");
        match text.split_once(':').ok_or_else(known)? {
            ("step", number) => number.parse().map(Self::Step).map_err(|_| format!("`{number}` is not a step")),
            ("state", name) => State::from_str(name, true).map(Self::State).map_err(|_| {
                let states: Vec<_> = State::value_variants().iter().map(|state| state.name()).collect();
                format!("`{name}` is not a state; use one of {}", states[..states.len() - 1].join(", "))
            }),
            _ => Err(known()),
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("`{unit}` is not a unit of time; use s, m or h")),
    };
    let seconds: f64 = number.parse().map_err(|_| format!("`{text}` is not a time; use e.g. 90s, 15m or 2h"))?;
    Duration::try_from_secs_f64(seconds * factor).map_err(|error| error.to_string())
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let client = connect(global)?;
    let limit = arguments.timeout.unwrap_or(Duration::MAX);
    let (exit, job) = tokio::select! {
        met = wait(&client, &arguments.job, arguments.condition) => met?,
        () = tokio::time::sleep(limit) => {
            let message = format!("job {} is not there after {}", arguments.job, units::duration(limit));
            let remedy = "the job goes on; wait again with a longer --timeout";
            return Err(Failure::new(Exit::TimedOut, message).remedy(remedy).into());
        }
        () = interrupted() => {
            eprintln!("interrupted: job {} goes on", arguments.job);
            return Ok(Exit::Interrupted);
        }
    };
    output::print(global.output, &job)?;
    Ok(exit)
}

async fn wait(client: &Client, id: &str, condition: Option<Condition>) -> Result<(Exit, Job), Failure> {
    let job = Job::from(client.job(id).await?);
    if let Some(exit) = decide(&job, condition) {
        return Ok((exit, job));
    }
    let mut watcher = Watcher::new(client.clone(), id);
    while let Some(update) = watcher.next().await? {
        match update {
            Update::Job(job) => {
                if let Some(exit) = decide(&job, condition) {
                    return Ok((exit, *job));
                }
            }
            Update::Away => eprintln!("{} does not answer; trying again", client.address),
            Update::Event(_) => {}
        }
    }
    let job = Job::from(client.job(id).await?);
    Ok((decide(&job, condition).unwrap_or(Exit::NotFinished), job))
}

/// How the wait ends with the job like this; none while it goes on.
fn decide(job: &Job, condition: Option<Condition>) -> Option<Exit> {
    let met = match condition {
        None => return job.state.end(),
        Some(Condition::Step(step)) => job.step >= step,
        Some(Condition::State(state)) => job.state == state,
    };
    if met {
        return Some(Exit::Ok);
    }
    // It will never be met any more: the job's own end says why, if that was not success.
    job.state.end().map(|exit| if exit == Exit::Ok { Exit::NotFinished } else { exit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: cappa_proto::JobState, step: u64) -> Job {
        cappa_proto::Job { state: state.into(), step, ..Default::default() }.into()
    }

    #[test]
    fn a_wait_ends_when_its_condition_is_met_or_cannot_be_any_more() {
        use cappa_proto::JobState::{Failed, Running, Succeeded};
        let step = Some(Condition::Step(10));
        assert_eq!(decide(&job(Running, 9), step), None);
        assert_eq!(decide(&job(Running, 10), step), Some(Exit::Ok));
        assert_eq!(decide(&job(Failed, 9), step), Some(Exit::JobFailed));
        assert_eq!(decide(&job(Succeeded, 9), step), Some(Exit::NotFinished));
        assert_eq!(decide(&job(Failed, 9), Some(Condition::State(State::Failed))), Some(Exit::Ok));
        assert_eq!(decide(&job(Succeeded, 9), None), Some(Exit::Ok));
        assert_eq!(decide(&job(Running, 9), None), None);
    }

    #[test]
    fn conditions_and_times_are_read_or_refused_with_what_would_do() {
        assert_eq!("step:500".parse(), Ok(Condition::Step(500)));
        assert_eq!("state:Running".parse(), Ok(Condition::State(State::Running)));
        assert!("state:done".parse::<Condition>().unwrap_err().contains("succeeded"));
        assert_eq!(parse_time("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_time("3 days").is_err());
    }
}
