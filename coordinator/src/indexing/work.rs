//! One index: of every source its manifest, and of all of them what the job has to know.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cappa_core::{Command, IndexedSource, Job, JobId, Step};
use cappa_data::ManifestFileError;
use cappa_data::index::{self, IndexError, IndexOptions, IndexProgress, Journal};
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::data_digest;
use cappa_shared::manifest::DataManifest;
use cappa_shared::spec::{CaptionChoice, JobSpec, Source};
use cappa_shared::storage::{self, Location, StorageError};
use thiserror::Error;
use tokio::sync::oneshot;

use super::Indexing;

/// A store that does not answer is waited for so long, as workers do.
const PATIENCE: Duration = Duration::from_secs(600);

/// Problems with shards that the job's history tells.
const TOLD: usize = 5;

/// The index of one job's data, with all it needs.
#[derive(Debug)]
pub(crate) struct IndexWork {
    job: JobId,
    folder: String,
    spec: Result<JobSpec, String>,
    indexing: Indexing,
}

/// An index that came to something.
pub(crate) struct Indexed {
    /// What to tell the loop.
    pub(crate) command: Command,
    /// What is of no use once the loop has logged that.
    journals: Vec<Journal>,
}

impl Indexed {
    /// Removes the journals. Blocks.
    pub(crate) fn clear_away(self) {
        for error in self.journals.into_iter().filter_map(|journal| journal.remove().err()) {
            tracing::warn!(error = with_causes(&error), "the journal of an index can't be removed");
        }
    }
}

/// Why there is no index.
#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    File(#[from] ManifestFileError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the index has no thread of its own")]
    Thread(#[source] io::Error),
    #[error("{path} has {samples} samples for {lanes} lanes; add data or lower data.lanes")]
    TooFewSamples { path: String, samples: u64, lanes: u32 },
    #[error("the job's spec can't be read: {0}")]
    Spec(String),
    #[error("the index ended without a word")]
    Silent,
}

impl IndexWork {
    /// The index of a job's data.
    pub(crate) fn of(indexing: &Indexing, job: &Job) -> Self {
        let spec = serde_json::from_str(&job.submission.spec_json).map_err(|error| error.to_string());
        Self { job: job.id.clone(), folder: job.submission.folder.clone(), spec, indexing: indexing.clone() }
    }

    /// Makes the index, going on where an earlier one stopped; nothing when it is to be tried again. It ends when the future is
    /// dropped.
    pub(crate) async fn perform(self) -> Option<Indexed> {
        let Self { job, indexing, .. } = &self;
        let (job, indexing) = (job.clone(), indexing.clone());
        // Never closed.
        let _turn = indexing.turns.clone().acquire_owned().await.ok()?;
        let error = match self.on_a_thread().await {
            Ok(indexed) => {
                indexing.forget(&job);
                return Some(indexed);
            }
            Err(error) => error,
        };
        let message = with_causes(&error);
        tracing::warn!(%job, error = message, "the index failed");
        if error.is_transient() && indexing.troubled(&job, message.clone()) < PATIENCE {
            return None;
        }
        indexing.forget(&job);
        let command = Command::IndexFailed { job, code: error.class().to_owned(), message };
        Some(Indexed { command, journals: Vec::new() })
    }

    /// Shards are read and searched on plain threads. A process that ends does not wait for them: what they have found is in the
    /// journal.
    async fn on_a_thread(self) -> Result<Indexed, Failed> {
        let (reply, answer) = oneshot::channel();
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let is_stopped = Arc::clone(&stop.0);
        let index = move || {
            // Whoever asked may have gone away.
            let _ = reply.send(self.make(&is_stopped));
        };
        std::thread::Builder::new().name("index".to_owned()).spawn(index).map_err(Failed::Thread)?;
        answer.await.unwrap_or(Err(Failed::Silent))
    }

    fn make(&self, stop: &AtomicBool) -> Result<Indexed, Failed> {
        let spec = self.spec.as_ref().map_err(|error| Failed::Spec(error.clone()))?;
        let folder = storage::create(&self.folder)?.join("data")?;
        let (mut manifests, mut sources, mut journals) = (Vec::new(), Vec::new(), Vec::new());
        let (mut digests, mut samples) = (Vec::new(), 0);
        let mut before = IndexProgress { shards: 0, of: 0, bytes: 0, samples: 0 };
        for (place, source) in spec.data.train.iter().enumerate() {
            let manifest = if source.is_manifest() {
                manifests.push(source.source.clone());
                cappa_data::read_manifest(&storage::open(&source.source)?)?
            } else {
                let one = self.source(spec, place, source, &folder, stop, &mut before)?;
                manifests.push(one.told.manifest.clone());
                sources.push(one.told);
                journals.push(one.journal);
                one.manifest
            };
            let of_source = manifest.total_samples();
            if of_source < u64::from(spec.data.lanes) {
                let path =
                    spec.data.train.only().map_or_else(|| format!("data.train[{place}]"), |_| "data.train".into());
                return Err(Failed::TooFewSamples { path, samples: of_source, lanes: spec.data.lanes });
            }
            samples += of_source;
            digests.push(manifest.digest().to_owned());
        }
        let spec = JobSpec { data: spec.data.indexed(manifests), ..spec.clone() };
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        let indexed = cappa_core::Indexed {
            spec_json: spec.to_json(),
            spec_digest: spec.digest(),
            data_digest: data_digest(&digests),
            total_steps: Step(spec.total_steps(samples)),
            sources,
        };
        Ok(Indexed { command: Command::Indexed { job: self.job.clone(), indexed }, journals })
    }

    /// Indexes one source and writes its manifest, which is named by its content: another coordinator that indexes the same job,
    /// and finds other shards, takes nothing away from what this one has told.
    fn source(
        &self,
        spec: &JobSpec,
        place: usize,
        source: &Source,
        folder: &Location,
        stop: &AtomicBool,
        before: &mut IndexProgress,
    ) -> Result<OneSource, Failed> {
        for at in index::places(&source.source).map_err(IndexError::from)? {
            self.indexing.allowed.check(&at)?;
        }
        let options = IndexOptions {
            filter: spec.data.filter.clone(),
            captions: spec.data.captions.source.clone(),
            every_caption: spec.data.captions.choose == CaptionChoice::All,
            ..IndexOptions::default()
        };
        let begun = *before;
        let progress = |now: IndexProgress| {
            let IndexProgress { shards, of, bytes, samples } = now;
            *before = IndexProgress {
                shards: begun.shards + shards,
                of: begun.of + of,
                bytes: begun.bytes + bytes,
                samples: begun.samples + samples,
            };
            self.indexing.advanced(&self.job, *before);
        };
        let draft = folder.join(&format!("train-{place}.manifest.json"))?;
        let patterns = [source.source.clone()];
        let (report, journal) = index::scan(&patterns, &draft, &options, stop, progress)?;
        let digest = report.manifest.digest().to_owned();
        let name = format!("train-{place}-{}.manifest.json", &digest[..16]);
        let location = folder.join(&name)?;
        cappa_data::create_manifest(&location, &report.manifest)?;
        let problems: Vec<String> = report.problems().map(ToString::to_string).collect();
        problems.iter().for_each(|problem| tracing::warn!(job = %self.job, problem, "a shard has problems"));
        let told = IndexedSource {
            source: source.source.clone(),
            manifest: location.url().to_owned(),
            digest,
            shards: report.manifest.shards().len() as u64,
            samples: report.manifest.total_samples(),
            problems: few(problems),
        };
        Ok(OneSource { manifest: report.manifest, told, journal })
    }
}

/// A source that was indexed.
struct OneSource {
    manifest: DataManifest,
    told: IndexedSource,
    journal: Journal,
}

fn few(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(TOLD);
    problems.truncate(TOLD);
    if more > 0 {
        problems.push(format!("{more} more shards have problems; the coordinator's log names them"));
    }
    problems
}

impl Failed {
    fn storage(&self) -> Option<&StorageError> {
        match self {
            Self::Storage(error)
            | Self::Index(
                IndexError::Storage(error) | IndexError::File(ManifestFileError::Storage { source: error, .. }),
            )
            | Self::File(ManifestFileError::Storage { source: error, .. }) => Some(error),
            _ => None,
        }
    }

    /// Whether trying again later may help without anybody doing anything.
    fn is_transient(&self) -> bool {
        match self {
            Self::Index(IndexError::Changing { .. } | IndexError::Stopped) => true,
            error => error.storage().is_some_and(StorageError::is_transient),
        }
    }

    /// The class of the failure, as workers report theirs.
    fn class(&self) -> &'static str {
        if let Some(error) = self.storage() {
            return match error {
                StorageError::NotFound { .. } => "data",
                StorageError::BadUrl { .. } | StorageError::NotAllowed { .. } => "spec",
                error if error.is_transient() => "storage",
                error => error.code().as_str(),
            };
        }
        match self {
            Self::TooFewSamples { .. }
            | Self::Spec(_)
            | Self::Index(IndexError::Pattern(_) | IndexError::Filter(_) | IndexError::NoShards(_)) => "spec",
            Self::Index(IndexError::Disk { source, .. }) if !is_of_the_shard(source) => "storage",
            Self::Thread(_) | Self::Silent | Self::Storage(_) => "storage",
            Self::Index(_) | Self::File(_) => "data",
        }
    }
}

/// Whether a failed read says something about the shard, and not about this machine.
fn is_of_the_shard(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::InvalidData)
}

/// Nobody waits for the index any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_charged_to_the_spec_the_data_or_the_machinery() {
        use cappa_core::FailureClass::{Data, Infrastructure, User};
        let disk = |kind: ErrorKind| IndexError::Disk { location: "/x.tar".into(), source: kind.into() }.into();
        let away = StorageError::unreachable("s3://b/x", "connection refused".into());
        for (failed, class) in [
            (Failed::from(IndexError::NoShards("/x-*.tar".into())), User),
            (Failed::from(StorageError::NotAllowed { url: "s3://b/x".into() }), User),
            (disk(ErrorKind::PermissionDenied), Data),
            (disk(ErrorKind::StorageFull), Infrastructure),
            (Failed::from(away), Infrastructure),
        ] {
            assert_eq!(cappa_core::FailureClass::of(failed.class()), class, "{failed}: {}", failed.class());
        }
    }
}
