//! What a submitted spec must stand up to before it is queued: its own consistency, and that all it
//! names can be read. Every mistake is reported at once, each with its path in the spec.

mod fields;
mod references;

use std::collections::BTreeMap;

use cappa_core::{Condition, Dependency, JobId, OnPreemption, OnUnmet, Retry, Scheduling, Step, Submission};
use cappa_shared::checkpoint::data_digest;
use cappa_shared::spec::{self, JobSpec, Priority, SpecBase, SpecErrors};
use cappa_shared::storage::AllowList;
use uuid::Uuid;

use crate::driver::job_folder;
use crate::policy::ClusterPolicy;
use references::{ManifestFacts, References};

/// Letters of the suffix of a job id: lower-case base32.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Letters that a job id adds to the spec's name.
const SUFFIX: usize = 5;

/// Checks specs.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    store: String,
    allowed: AllowList,
    classes: BTreeMap<String, i32>,
}

/// One mistake of a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where in the document.
    pub(crate) path: String,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

/// A submitted document, read once.
#[derive(Debug)]
pub(crate) struct Document {
    text: String,
    parsed: Result<JobSpec, SpecErrors>,
}

impl Document {
    /// Reads it; its mistakes are told together with those of what it names.
    pub(crate) fn read(text: String) -> Self {
        Self { parsed: JobSpec::parse(&text, &SpecBase::none()), text }
    }

    /// The digest of its spec, if it is one.
    pub(crate) fn digest(&self) -> Option<String> {
        self.parsed.as_ref().ok().map(JobSpec::digest)
    }
}

/// Why a spec is not queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The request around it makes no sense.
    Usage(String),
    /// All of its mistakes.
    Spec(Vec<Mistake>),
}

impl Admission {
    /// Jobs' folders are made below `store`; specs may name what `allowed` permits, and priorities by these classes.
    pub(crate) fn new(store: String, allowed: AllowList, classes: BTreeMap<String, i32>) -> Self {
        Self { store, allowed, classes }
    }

    /// The number of a priority, or what is wrong with its class.
    pub(crate) fn priority(&self, priority: &Priority) -> Result<i32, String> {
        ClusterPolicy::number(&self.classes, priority)
    }

    /// The namespace of a submission: what the request says, else the spec, else `default`.
    pub(crate) fn namespace(&self, request: &str, document: &Document) -> Result<String, Rejected> {
        let spec = document.parsed.as_ref().ok().and_then(|spec| spec.namespace.clone());
        match (request, spec) {
            ("", spec) => Ok(spec.map_or_else(|| "default".to_owned(), |namespace| namespace.to_string())),
            (request, Some(spec)) if spec.as_str() != request => Err(Rejected::Usage(format!(
                "the request is for namespace `{request}`, the spec for `{spec}`; name one"
            ))),
            (request, _) => Ok(request.to_owned()),
        }
    }

    /// Checks everything about a spec; its folder is still to be set.
    #[tracing::instrument(name = "admit", skip_all, fields(namespace))]
    pub(crate) async fn admit(&self, document: &Document, namespace: &str, key: &str) -> Result<Submission, Rejected> {
        if namespace.parse::<cappa_shared::ids::Namespace>().is_err() {
            return Err(Rejected::Usage(format!("`{namespace}` is not a namespace: use a DNS label")));
        }
        let Document { text, parsed } = document;
        let mut mistakes: Vec<Mistake> = match parsed {
            Ok(_) => Vec::new(),
            Err(errors) => errors.errors().iter().map(mistake_of).collect(),
        };
        let references = match parsed {
            Ok(spec) => References::of_spec(spec),
            Err(_) => References::of_document(text),
        };
        let found = references.check(&self.allowed).await;
        // The spec's own word on a path comes first; the store can't say more about a bad URL.
        let is_new = |mistake: &Mistake| !mistakes.iter().any(|known| known.path == mistake.path);
        let new: Vec<Mistake> = found.mistakes.into_iter().filter(is_new).collect();
        mistakes.extend(new);
        let mut priority = 0;
        if let Ok(spec) = parsed {
            match self.priority(&spec.priority) {
                Ok(number) => priority = number,
                Err(message) => mistakes.push(Mistake { path: "priority".to_owned(), message }),
            }
        }
        let (Ok(spec), true) = (parsed, mistakes.is_empty()) else {
            return Err(Rejected::Spec(mistakes));
        };
        Ok(Submission { priority, ..submission(spec, namespace, key, &found.train) })
    }

    /// A new id for a job of this name.
    pub(crate) fn new_id(&self, name: &str) -> JobId {
        let random = Uuid::new_v4();
        let letters = random.as_bytes().iter().take(SUFFIX);
        let suffix: String = letters.map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        JobId::from(format!("{name}-{suffix}"))
    }

    /// The URL of the folder of a job.
    pub(crate) fn folder_of(&self, job: &JobId) -> String {
        job_folder(&self.store, job)
    }
}

fn mistake_of(error: &cappa_shared::spec::SpecError) -> Mistake {
    let place = error.position.map(|at| format!(" (line {}, column {})", at.line, at.column));
    Mistake { path: error.path.clone(), message: format!("{}{}", error.message, place.unwrap_or_default()) }
}

fn submission(spec: &JobSpec, namespace: &str, key: &str, train: &[ManifestFacts]) -> Submission {
    // What follows from shards that are still to be indexed is told by their index.
    let needs_index = spec.data.train.need_index();
    let samples = if needs_index { 0 } else { train.iter().map(|manifest| manifest.samples).sum() };
    let digests: Vec<&str> = train.iter().map(|manifest| manifest.digest.as_str()).collect();
    Submission {
        name: spec.name.clone(),
        namespace: namespace.to_owned(),
        priority: 0,
        min_workers: spec.workers.min,
        max_workers: spec.workers.max,
        lanes: spec.data.lanes,
        keep: spec.checkpoint.keep,
        total_steps: Step(spec.total_steps(samples)),
        spec_json: spec.to_json(),
        spec_digest: spec.digest(),
        data_digest: if needs_index { String::new() } else { data_digest(&digests) },
        folder: String::new(),
        idempotency_key: (!key.is_empty()).then(|| key.to_owned()),
        scheduling: scheduling(spec),
        needs_index,
    }
}

/// The core's form of what the spec says about when the job runs.
fn scheduling(spec: &JobSpec) -> Scheduling {
    let after = spec.after.iter().map(|before| Dependency {
        job: JobId::from(before.job.as_str()),
        condition: match before.condition {
            spec::Condition::Succeeded => Condition::Succeeded,
            spec::Condition::Ended => Condition::Ended,
        },
    });
    let spec::Retry { data, user, infrastructure, backoff } = spec.retry;
    Scheduling {
        on_preemption: match spec.on_preemption {
            spec::OnPreemption::Requeue => OnPreemption::Requeue,
            spec::OnPreemption::Cancel => OnPreemption::Cancel,
        },
        retry: Retry { data, user, infrastructure, backoff: backoff.0 },
        after: after.collect(),
        on_unmet: match spec.on_failed_dependency {
            spec::OnFailedDependency::Fail => OnUnmet::Fail,
            spec::OnFailedDependency::Wait => OnUnmet::Wait,
        },
        time_limit: spec.time_limit.map(|limit| limit.0),
        queue_deadline: spec.queue_deadline.map(|deadline| deadline.0),
    }
}
