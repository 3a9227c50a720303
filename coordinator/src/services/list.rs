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

/// Jobs that are looked at for one page at most: where few of very many are wanted a page may have fewer jobs than asked for,
/// or none, and say all the same how it goes on.
const LOOKED_AT: usize = 2_000;

/// The jobs after the one that a page ended with. None when there is no such job, so that the token was never given.
pub(crate) fn page(view: &View, curves: &Curves, request: &proto::ListRequest) -> Option<proto::ListResponse> {
    let state = view.core.state();
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(state.job(&JobId::from(token))?),
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
    let (found, ended_at) = if wants_ended {
        some_of(state.jobs_by_age(after.map(|job| &job.id)), is_wanted, size)
    } else {
        // Of very many jobs few are not over.
        let age = |job: &Job| (Reverse(job.submitted_at), job.id.clone());
        let is_later = |job: &&Job| after.is_none_or(|after| age(job) > age(after));
        let mut live: Vec<&Job> = state.live_jobs().filter(is_wanted).filter(is_later).collect();
        live.sort_by_cached_key(|job| age(job));
        let ended_at = live.get(size).and(live.get(size - 1)).copied();
        live.truncate(size);
        (live, ended_at)
    };
    Some(proto::ListResponse {
        jobs: found.into_iter().map(|job| views::job(view, curves, job)).collect(),
        next_page_token: ended_at.map(|job| job.id.to_string()).unwrap_or_default(),
    })
}

/// The first wanted ones, up to `size`, and with which one the page ended if more may follow.
fn some_of<T: Copy>(all: impl Iterator<Item = T>, is_wanted: impl Fn(&T) -> bool, size: usize) -> (Vec<T>, Option<T>) {
    let mut all = all.peekable();
    let (mut found, mut last) = (Vec::new(), None);
    for one in all.by_ref().take(LOOKED_AT) {
        last = Some(one);
        found.extend(last.filter(&is_wanted));
        if found.len() == size {
            break;
        }
    }
    let may_have_more = all.peek().is_some();
    (found, last.filter(|_| may_have_more))
}

fn is_ended(state: i32) -> bool {
    let ended = [JobState::Succeeded, JobState::Failed, JobState::Cancelled, JobState::Preempted];
    ended.iter().any(|ended| i32::from(*ended) == state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_few_among_very_many_are_short_and_have_each_once() {
        let all = || 0..LOOKED_AT * 3;
        let is_wanted = |n: &usize| n.is_multiple_of(LOOKED_AT - 1) || (50..60).contains(n);
        let (mut listed, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let (found, ended_at) = some_of(all().filter(|n| after.is_none_or(|after| *n > after)), is_wanted, 4);
            assert!(found.len() <= 4);
            listed.extend(found);
            pages += 1;
            after = ended_at;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, all().filter(is_wanted).collect::<Vec<_>>());
        assert!(pages <= 7, "{pages}");
        assert_eq!(some_of(0..4, |_| true, 4), (vec![0, 1, 2, 3], None), "nothing follows");
    }
}
