//! Reading a committed checkpoint: the manifest, then every part, each verified by size and digest. A store that does not answer is
//! waited for, and is no sign of damage.

use std::time::Duration;

use cappa_data::patience::{GaveUp, Patience};
use cappa_model::average::averaged;
use cappa_shared::checkpoint::{CheckpointManifest, read_part};
use cappa_shared::storage::{self, Location, StorageError};
use futures::{StreamExt as _, TryStreamExt as _};
use tch::Tensor;

use super::{CheckpointError, Unread, parts};
use crate::train::state::TrainState;

/// Parts that are fetched at once.
const CONCURRENT: usize = 8;

/// A committed manifest of a job.
pub(crate) struct Restore<'a> {
    /// URL of the job's folder.
    pub folder: &'a str,
    /// The manifest's path under it.
    pub manifest: &'a str,
}

impl Restore<'_> {
    /// Overwrites the state with the checkpoint's; on an error the state is as it was.
    pub(crate) async fn read(&self, state: &mut TrainState, patience: Patience<'_>) -> Result<(), CheckpointError> {
        let (tensors, manifest) = self.tensors(patience).await?;
        state.load(&tensors, manifest.contents().step)?;
        Ok(())
    }

    /// The checkpoint's tensors, by name.
    pub(crate) async fn tensors(
        &self,
        patience: Patience<'_>,
    ) -> Result<(Vec<(String, Tensor)>, CheckpointManifest), CheckpointError> {
        let folder = open(self.folder)?;
        let manifest = manifest(&folder, self.manifest, patience).await?;
        let (tensors, _) = tensors(&folder, &manifest, patience).await?;
        Ok((tensors, manifest))
    }
}

/// The place of a checkpoint. That there is no way to it says nothing about the checkpoint.
fn open(url: &str) -> Result<Location, Unread> {
    storage::open(url).map_err(|source| Unread { url: url.to_owned(), waited: Duration::ZERO, source })
}

/// Reads something of checkpoints: waits for a store that does not answer, and takes neither that nor a refusal for damage.
pub(crate) async fn from_store<T, R>(
    url: &str,
    patience: Patience<'_>,
    attempt: impl FnMut() -> R,
) -> Result<T, CheckpointError>
where
    R: Future<Output = Result<T, CheckpointError>>,
{
    let is_transient =
        |error: &CheckpointError| matches!(error, CheckpointError::Storage(error) if error.is_transient());
    let read = patience.read(url, attempt, is_transient).await;
    read.map_err(|GaveUp { waited, error }| match error {
        CheckpointError::Storage(source) if source.is_transient() || matches!(source, StorageError::Denied { .. }) => {
            Unread { url: url.to_owned(), waited, source }.into()
        }
        error => error,
    })
}

async fn manifest(
    folder: &Location,
    path: &str,
    patience: Patience<'_>,
) -> Result<CheckpointManifest, CheckpointError> {
    let read = || async { Ok(folder.get(path).await?) };
    let document = from_store(&format!("{folder}/{path}"), patience, read).await?;
    Ok(CheckpointManifest::from_json(&document)?)
}

/// A network to start from.
pub(crate) struct Weights {
    /// Its parameters (`params/…`), averaged where the checkpoint has averages.
    pub tensors: Vec<(String, Tensor)>,
    /// The digest of its vocabulary, where it is known.
    pub vocabulary: Option<String>,
}

/// The weights that a manifest commits, given by the URL of the manifest.
pub(crate) async fn read_weights(url: &str, patience: Patience<'_>) -> Result<Weights, CheckpointError> {
    let at = open(url)?;
    let name = at.prefix.filename().unwrap_or_default().to_owned();
    let committed = manifest(&at.parent(), &name, patience).await?;
    // <job>/checkpoints/<step>/MANIFEST.json: parts are named from the job's folder.
    let folder = at.parent().parent().parent();
    let (tensors, vocabulary) = tensors(&folder, &committed, patience).await?;
    Ok(Weights { tensors: averaged(tensors), vocabulary })
}

/// All tensors, and the digest of the vocabulary.
async fn tensors(
    folder: &Location,
    manifest: &CheckpointManifest,
    patience: Patience<'_>,
) -> Result<(Vec<(String, Tensor)>, Option<String>), CheckpointError> {
    let parts = futures::stream::iter(&manifest.contents().parts).map(|part| async move {
        let url = format!("{folder}/{}", manifest.part_path(part));
        let read = || async { Ok(read_part(folder, manifest, part).await?) };
        let file = from_store(&url, patience, read).await?;
        Ok::<_, CheckpointError>((parts::deserialise(&file)?, parts::vocabulary(&file)?))
    });
    let read: Vec<_> = parts.buffer_unordered(CONCURRENT).try_collect().await?;
    let (lists, digests): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok((lists.into_iter().flatten().collect(), digests.into_iter().flatten().next()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cappa_data::stats::PipelineStats;
    use cappa_shared::checkpoint::{Contents, Part, commit, manifest_path, part_name};
    use cappa_shared::ids::{Generation, Rank, Step};
    use cappa_shared::storage::create;
    use cappa_shared::storage::faults::{Failing, Faulty, Operation};
    use sha2::{Digest as _, Sha256};

    use super::*;

    const STEP: Step = Step(300);

    /// A folder with a committed checkpoint of one part.
    async fn committed() -> (tempfile::TempDir, Location, String) {
        let temp = tempfile::tempdir().unwrap();
        let folder = create(temp.path().to_str().unwrap()).unwrap();
        let file = parts::serialise(&[("params/a".into(), Tensor::from_slice(&[1f32, 2.0]))], None).unwrap();
        let sha256 = hex::encode(Sha256::digest(&file));
        let part = Part { name: part_name(Rank(0), 1), bytes: file.len() as u64, sha256 };
        let manifest = CheckpointManifest::new(Contents {
            job: "demo-1".parse().unwrap(),
            step: STEP,
            generation: Generation(1),
            world_size: 1,
            spec_digest: "0".repeat(64),
            data_digest: "1".repeat(64),
            parts: vec![part],
            quarantined: Vec::new(),
            created: jiff::Timestamp::UNIX_EPOCH,
            account: None,
        })
        .unwrap();
        let path = manifest.part_path(&manifest.contents().parts[0]);
        folder.put(&path, file).await.unwrap();
        commit(&folder, &manifest).await.unwrap();
        (temp, folder, path)
    }

    /// Reads the checkpoint from a store with this fault.
    async fn read_with(folder: &Location, fault: Failing, limit: Duration) -> Result<usize, CheckpointError> {
        let folder = folder.with_store(Faulty::new(folder.store.clone(), Arc::new(fault)));
        let stats = PipelineStats::default();
        let patience = Patience { limit, stats: &stats };
        let manifest = manifest(&folder, &manifest_path(STEP), patience).await?;
        Ok(tensors(&folder, &manifest, patience).await?.0.len())
    }

    #[tokio::test]
    async fn a_store_that_fails_for_a_while_is_waited_for_and_nothing_is_taken_for_damaged() {
        let (_temp, folder, _) = committed().await;
        for what in ["MANIFEST.json", "part-"] {
            let fails = Failing::next(Operation::Get, what, 3);
            assert_eq!(read_with(&folder, fails, Duration::from_secs(60)).await.unwrap(), 1, "{what}");
        }
        let error = read_with(&folder, Failing::always(), Duration::from_millis(150)).await.unwrap_err();
        let CheckpointError::Unread(Unread { url, source, .. }) = &error else { panic!("{error:?}") };
        assert!(url.ends_with(&manifest_path(STEP)) && source.is_transient(), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_absent_or_other_than_the_manifest_says_is_damaged_at_once() {
        let (_temp, folder, part) = committed().await;
        let sound = || Failing::next(Operation::Get, "", 0);
        let limit = Duration::from_secs(3600);
        folder.put(&part, "stale").await.unwrap();
        let error = read_with(&folder, sound(), limit).await.unwrap_err();
        assert!(matches!(error, CheckpointError::Part(_)), "{error:?}");
        folder.delete(&part).await.unwrap();
        let error = read_with(&folder, sound(), limit).await.unwrap_err();
        assert!(matches!(error, CheckpointError::Part(_)), "{error:?}");
        folder.delete(&manifest_path(STEP)).await.unwrap();
        let error = read_with(&folder, sound(), limit).await.unwrap_err();
        assert!(matches!(error, CheckpointError::Storage(StorageError::NotFound { .. })), "{error:?}");
    }
}
