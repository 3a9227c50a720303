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
        Ok((tensors(&folder, &manifest).await?, manifest))
    }
}

/// The weights (`params/…`) that a manifest commits, averaged where it has averages, given by the URL of the manifest.
pub(crate) async fn read_weights(manifest: &str) -> Result<Vec<(String, Tensor)>, CheckpointError> {
    let at = storage::open(manifest)?;
    let name = at.prefix.filename().unwrap_or_default().to_owned();
    let committed = CheckpointManifest::from_json(&at.parent().get(&name).await?)?;
    // <job>/checkpoints/<step>/MANIFEST.json: parts are named from the job's folder.
    let folder = at.parent().parent().parent();
    Ok(averaged(tensors(&folder, &committed).await?))
}

async fn tensors(folder: &Location, manifest: &CheckpointManifest) -> Result<Vec<(String, Tensor)>, CheckpointError> {
    let parts = futures::stream::iter(&manifest.contents().parts)
        .map(|part| async move { parts::deserialise(&read_part(folder, manifest, part).await?) });
    let lists: Vec<_> = parts.buffer_unordered(CONCURRENT).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}
