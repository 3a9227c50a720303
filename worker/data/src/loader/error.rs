//! Why the loader can't start or go on.

use std::sync::Arc;

use cappa_shared::order::OrderError;

use crate::shards::FetchError;
use crate::text::BucketsError;

/// Why there is no (further) batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DataError {
    /// The steps can't be laid out.
    #[error("the sample order does not fit the job")]
    Order(#[from] OrderError),
    /// A setting is out of its range.
    #[error("{setting} is {value}, but must be {must}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        must: &'static str,
    },
    /// The lengths of texts.
    #[error("the text lengths can't be used")]
    TextLengths(#[from] BucketsError),
    /// The order was made from another manifest.
    #[error("the sample order has {order} samples and the manifest {manifest}; make the order from this manifest")]
    OtherManifest {
        /// Samples of the order.
        order: u64,
        /// Samples of the manifest.
        manifest: u64,
    },
    /// A shard can't be had.
    #[error("the data cannot be read")]
    Shard(#[source] Arc<FetchError>),
    /// A thread of the loader can't be started.
    #[error("a thread of the loader could not be started; raise the limit on processes")]
    Thread(#[source] Arc<std::io::Error>),
    /// A thread of the loader ended before its time.
    #[error("a thread of the loader panicked; its message is on the standard error")]
    Panicked,
    /// Every step up to the last was given.
    #[error("all steps of the loader were taken")]
    Finished,
}
