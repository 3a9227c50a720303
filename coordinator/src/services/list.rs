//! Pages of jobs, newest first.

use std::cmp::Reverse;

use cappa_core::{Job, JobId};
use cappa_proto as proto;
use cappa_proto::JobState;

use super::views;
use crate::curves::Curves;
use crate::driver::View;

/// Jobs of a page when the request does not say.
const PAGE: usize = 100;

/// Jobs of a page at most: the loop makes no other answer meanwhile.
const LARGEST_PAGE: usize = 1000;

/// The jobs after the one that a page ended with. None when there is no such job, so that the token was never given.
pub(super) fn page(view: &View, curves: &Curves, request: &proto::ListRequest) -> Option<proto::ListResponse> {
    let state = view.core.state();
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(state.job(&JobId(token.to_owned()))?),
    };
    let size = match request.page_size as usize {
        0 => PAGE,
        size => size.min(LARGEST_PAGE),
    };
    let is_wanted = |job: &&Job| {
        (request.namespace.is_empty() || job.submission.namespace == request.namespace)
            && (request.states.is_empty() || request.states.contains(&views::state(job).into()))
    };
    let wants_ended = request.states.is_empty() || request.states.iter().any(|state| is_ended(*state));
    let mut found: Vec<&Job> = if wants_ended {
        state.jobs_by_age(after.map(|job| &job.id)).filter(is_wanted).take(size + 1).collect()
    } else {
        // Of very many jobs few are not over.
        let age = |job: &Job| (Reverse(job.submitted_at), job.id.clone());
        let is_later = |job: &&Job| after.is_none_or(|after| age(job) > age(after));
        let mut live: Vec<&Job> = state.live_jobs().filter(is_wanted).filter(is_later).collect();
        live.sort_by_cached_key(|job| age(job));
        live
    };
    let has_more = found.len() > size;
    found.truncate(size);
    let next_page_token = found.last().filter(|_| has_more).map(|last| last.id.to_string()).unwrap_or_default();
    Some(proto::ListResponse {
        jobs: found.into_iter().map(|job| views::job(view, curves, job)).collect(),
        next_page_token,
    })
}

fn is_ended(state: i32) -> bool {
    let ended = [JobState::Succeeded, JobState::Failed, JobState::Cancelled, JobState::Preempted];
    ended.iter().any(|ended| i32::from(*ended) == state)
}
