//! Is a conditional create on this store worth anything?

use super::{Location, StorageError};

/// Creates a key twice and refuses a store that lets the second overwrite the first: several S3 servers ignore
/// `If-None-Match` without a word, and two coordinators could then both believe that they committed.
///
/// Leaves nothing behind. Stores that only read (a web server) fail with the kind of the refused write.
///
/// # Errors
/// [`StorageError::NotAtomic`], or why the probe could not be made.
pub async fn probe_atomic_create(location: &Location) -> Result<(), StorageError> {
    let name = format!(".probe-{}", uuid::Uuid::new_v4().simple());
    location.put_if_absent(&name, "first").await?;
    let second = location.put_if_absent(&name, "second").await;
    let content = location.get(&name).await;
    location.delete(&name).await?;
    match second {
        Err(StorageError::AlreadyExists { .. }) if content? == "first" => Ok(()),
        Err(StorageError::AlreadyExists { .. }) | Ok(()) => {
            Err(StorageError::NotAtomic { url: location.url().to_owned() })
        }
        Err(error) => Err(error),
    }
}
