//! What is done with an event log besides serving from it.

use cappa_shared::storage::{self, StorageError};
use thiserror::Error;

use crate::config::Task;
use crate::log::{self, BackupError, Restored};

/// Why a task could not be done.
#[derive(Debug, Error)]
pub enum MaintenanceError {
    /// The store can't be used.
    #[error("the store can't be used")]
    Store(#[source] StorageError),
    /// The backup can't be made or restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// Does a task with the log of a store, and says what was done.
///
/// # Errors
/// Every [`MaintenanceError`].
pub async fn maintain(store: &str, task: &Task) -> Result<String, MaintenanceError> {
    match task {
        Task::Backup { to } => {
            let store = storage::open(store).map_err(MaintenanceError::Store)?;
            let keys = log::back_up(&store, to).await?;
            Ok(format!("wrote the event log of {store}, {keys} keys, to {}", to.display()))
        }
        Task::Restore { from } => {
            let store = storage::create(store).map_err(MaintenanceError::Store)?;
            let Restored { keys, checkpoints } = log::restore(&store, from).await?;
            let since = match checkpoints {
                0 => String::new(),
                1 => "; 1 checkpoint was committed since, which its job goes on from".to_owned(),
                more => format!("; {more} checkpoints were committed since, which their jobs go on from"),
            };
            Ok(format!("restored the event log of {}, {keys} keys, into {store}{since}", from.display()))
        }
    }
}
