//! From the wire to the core.

use cappa_core::{
    Failure, Generation, Holding, Incarnation, JobId, Outcome, Pace, Part, Quarantined, Rank, RankParts, Report, Step,
};
use cappa_proto as proto;
use cappa_proto::worker_message::Message as FromWorker;

/// The first message of a stream.
pub fn greeting(hello: proto::Hello) -> Report {
    Report::Hello {
        incarnation: Incarnation::from(hello.incarnation),
        host: hello.host,
        store_address: hello.store_address,
        holding: hello.holding.map(|holding| Holding {
            job: JobId::from(holding.job_id),
            generation: Generation(holding.generation),
            step: Step(holding.step),
            // One that is still restoring says step 0; then there is nothing that initialising would not give.
            has_state: !holding.stepping || holding.step > 0,
            stepping: holding.stepping,
        }),
    }
}

/// Any other message; nothing where it is not for the core.
pub fn report_of(message: FromWorker) -> Option<Report> {
    Some(match message {
        FromWorker::Heartbeat(proto::Heartbeat { job_id, generation, step, pace, waiting: _ }) => {
            let is_idle = job_id.is_empty();
            let at = (!is_idle).then_some((JobId::from(job_id), Generation(generation), Step(step)));
            Report::Heartbeat { at, pace: (pace > 0).then_some(Pace(pace)) }
        }
        FromWorker::Entered(entered) => Report::Entered {
            job: JobId::from(entered.job_id),
            generation: Generation(entered.generation),
            step: Step(entered.step),
        },
        FromWorker::Left(left) => Report::Left {
            job: JobId::from(left.job_id),
            generation: Generation(left.generation),
            step: Step(left.step),
            has_state: left.has_state,
            failure: left.failure.map(|failure| Failure {
                code: failure.code,
                message: failure.message,
                permanent: failure.permanent,
            }),
        },
        FromWorker::PartsWritten(written) => parts_written(written),
        FromWorker::CheckpointFailed(failed) => Report::CheckpointFailed {
            job: JobId::from(failed.job_id),
            generation: Generation(failed.generation),
            step: Step(failed.step),
            rank: Rank(failed.rank),
            error: failed.error,
        },
        FromWorker::UpdateRefused(refused) => Report::UpdateRefused {
            job: JobId::from(refused.job_id),
            generation: Generation(refused.generation),
            step: Step(refused.step),
            reason: refused.reason,
            rewound_to: refused.rewound_to.map(Step),
        },
        FromWorker::EvaluationStarted(started) => {
            Report::EvaluationStarted { job: JobId::from(started.job_id), generation: Generation(started.generation) }
        }
        FromWorker::Completed(completed) => completed_report(completed)?,
        FromWorker::Goodbye(goodbye) => Report::Goodbye { reason: goodbye.reason },
        FromWorker::Progress(progress) => {
            // A new stream tells the points of former groups again: they say nothing of the one that the worker is in.
            let last = progress.points.last()?;
            let at = (JobId::from(progress.job_id), Generation(last.generation), Step(last.step));
            Report::Heartbeat { at: Some(at), pace: None }
        }
        FromWorker::Hello(_) | FromWorker::Logs(_) => return None,
    })
}

fn completed_report(completed: proto::Completed) -> Option<Report> {
    let outcome = match completed.outcome() {
        proto::Outcome::Finished => Outcome::Finished,
        proto::Outcome::Stopped => Outcome::Stopped,
        proto::Outcome::Unspecified => return None,
    };
    Some(Report::Completed {
        job: JobId::from(completed.job_id),
        generation: Generation(completed.generation),
        step: Step(completed.step),
        outcome,
        summary: (!completed.summary_json.is_empty()).then_some(completed.summary_json),
    })
}

fn parts_written(written: proto::PartsWritten) -> Report {
    let part = |part: proto::Part| Part { name: part.name, bytes: part.bytes, sha256: part.sha256 };
    let sample = |sample: proto::Quarantined| Quarantined {
        shard: sample.shard,
        index: sample.index,
        key: sample.key,
        reason: sample.reason,
    };
    Report::PartsWritten {
        job: JobId::from(written.job_id),
        generation: Generation(written.generation),
        step: Step(written.step),
        rank: Rank(written.rank),
        world_size: written.world_size,
        parts: RankParts {
            parts: written.parts.into_iter().map(part).collect(),
            quarantined: written.quarantined.into_iter().map(sample).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_are_told_again_are_of_the_group_that_made_them() {
        let point = proto::StepMetrics { step: 15, generation: 2, ..Default::default() };
        let points = vec![point];
        let told = proto::Progress { job_id: "demo-1".into(), generation: 3, points, ..Default::default() };
        let at = Some((JobId::from("demo-1"), Generation(2), Step(15)));
        assert_eq!(report_of(FromWorker::Progress(told)), Some(Report::Heartbeat { at, pace: None }));
    }
}
