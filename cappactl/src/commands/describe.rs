//! `cappactl describe`.

use clap::Args;

use super::connect;
use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::units;
use crate::views::{Index, Job};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The job's id.
    job: String,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let job = Job::from(connect(global)?.job(&arguments.job).await?);
    output::print(global.output, &job)?;
    Ok(Exit::Ok)
}

impl Present for Job {
    fn table(&self) -> String {
        let mut lines = facts(self);
        if !self.time.is_empty() {
            lines.push(("Time".into(), String::new()));
            let buckets = self.time.iter().filter(|bucket| bucket.seconds > 0.0);
            lines.extend(buckets.map(|bucket| (format!("  {}", bucket.bucket), units::seconds(bucket.seconds))));
        }
        let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 3;
        let lines = lines.into_iter().map(|(label, value)| format!("{label:width$}{value}").trim_end().to_owned());
        let spec = serde_yaml_ng::to_string(&self.spec).unwrap_or_default();
        let spec = spec.lines().map(|line| format!("  {line}"));
        lines.chain(["Spec".to_owned()]).chain(spec).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

/// A rank that takes so much longer than the mean is named.
const SLOW: f64 = 1.2;

/// The rank that the others wait for, if there is one.
fn slowest(job: &Job) -> Option<String> {
    let paces = job.paces.iter().enumerate().filter_map(|(rank, pace)| Some((rank, (*pace)?)));
    let (rank, pace) = paces.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, pace)| *pace >= SLOW)?;
    let worker = job.members.get(rank)?;
    Some(format!("rank {rank} ({worker}), {pace:.1} times as long as the mean"))
}

/// What a job is, in the order in which people ask.
pub(crate) fn facts(job: &Job) -> Vec<(String, String)> {
    let moment = |moment: Option<jiff::Timestamp>| moment.map(|moment| format!("{moment:.0}"));
    let latest = job.latest.as_ref();
    let rows = [
        ("Job", Some(job.id.clone())),
        ("Namespace", Some(job.namespace.clone())),
        ("State", Some(job.state.name().to_owned())),
        ("Priority", Some(job.priority.to_string()).filter(|_| job.priority != 0)),
        ("Message", Some(job.message.clone()).filter(|message| !message.is_empty())),
        ("Error", job.error_code.clone()),
        ("Indexed", job.index.map(indexed)),
        ("Steps", Some(format!("{} of {}", units::grouped(job.step), units::grouped(job.total_steps)))),
        ("Loss", latest.map(|point| format!("{:.4}", point.loss))),
        ("Learning rate", latest.map(|point| format!("{:.3e}", point.learning_rate))),
        ("Workers", Some(job.members.join(", ")).filter(|members| !members.is_empty())),
        ("Slowest", slowest(job)),
        ("Generation", Some(job.generation.to_string())),
        ("Recoveries", Some(job.recoveries.to_string())),
        ("Bad samples", Some(units::grouped(job.quarantined))),
        ("Checkpoint", job.last_checkpoint_step.map(|step| format!("step {}", units::grouped(step)))),
        ("Submitted", moment(job.submitted)),
        ("Started", moment(job.started)),
        ("Ended", moment(job.ended)),
        ("Folder", Some(job.folder.clone()).filter(|folder| !folder.is_empty())),
    ];
    rows.into_iter().filter_map(|(label, value)| Some((label.to_owned(), value?))).collect()
}

fn indexed(index: Index) -> String {
    let [shards, of, samples] = [index.shards, index.of_shards, index.samples].map(units::grouped);
    format!("{shards} of {of} shards, {samples} samples, {}", units::bytes(index.bytes))
}
