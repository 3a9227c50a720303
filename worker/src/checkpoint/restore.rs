//! Reading a committed checkpoint: the manifest, then every part, each verified by size and digest.

use cappa_model::average::averaged;
use cappa_shared::checkpoint::{CheckpointManifest, read_part};
use cappa_shared::storage::{self, Location};
use futures::{StreamExt as _, TryStreamExt as _};
use tch::Tensor;

use super::{CheckpointError, parts};
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
    pub(crate) async fn read(&self, state: &mut TrainState) -> Result<(), CheckpointError> {
        let (tensors, manifest) = self.tensors().await?;
        state.load(&tensors, manifest.contents().step)?;
        Ok(())
    }

    /// The checkpoint's tensors, by name.
    pub(crate) async fn tensors(&self) -> Result<(Vec<(String, Tensor)>, CheckpointManifest), CheckpointError> {
        let folder = storage::open(self.folder)?;
        let manifest = CheckpointManifest::from_json(&folder.get(self.manifest).await?)?;
        let (tensors, _) = tensors(&folder, &manifest).await?;
        Ok((tensors, manifest))
    }
}

/// A network to start from.
pub(crate) struct Weights {
    /// Its parameters (`params/…`), averaged where the checkpoint has averages.
    pub tensors: Vec<(String, Tensor)>,
    /// The digest of its vocabulary, where it is known.
    pub vocabulary: Option<String>,
}

/// The weights that a manifest commits, given by the URL of the manifest.
pub(crate) async fn read_weights(manifest: &str) -> Result<Weights, CheckpointError> {
    let at = storage::open(manifest)?;
    let name = at.prefix.filename().unwrap_or_default().to_owned();
    let committed = CheckpointManifest::from_json(&at.parent().get(&name).await?)?;
    // <job>/checkpoints/<step>/MANIFEST.json: parts are named from the job's folder.
    let folder = at.parent().parent().parent();
    let (tensors, vocabulary) = tensors(&folder, &committed).await?;
    Ok(Weights { tensors: averaged(tensors), vocabulary })
}

/// All tensors, and the digest of the vocabulary.
async fn tensors(
    folder: &Location,
    manifest: &CheckpointManifest,
) -> Result<(Vec<(String, Tensor)>, Option<String>), CheckpointError> {
    let parts = futures::stream::iter(&manifest.contents().parts).map(|part| async move {
        let file = read_part(folder, manifest, part).await?;
        Ok::<_, CheckpointError>((parts::deserialise(&file)?, parts::vocabulary(&file)?))
    });
    let read: Vec<_> = parts.buffer_unordered(CONCURRENT).try_collect().await?;
    let (lists, digests): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok((lists.into_iter().flatten().collect(), digests.into_iter().flatten().next()))
}
