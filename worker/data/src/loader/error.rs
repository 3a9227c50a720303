//! Why the loader can't start or go on.

use std::sync::Arc;

use cappa_shared::manifest::UncountedCaptions;

use crate::bad::BadSample;
use crate::shards::FetchError;
use crate::text::BucketsError;

/// Why there is no (further) batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DataError {
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
    /// Every caption is wanted as a sample, and a manifest does not count them.
    #[error("the data manifest {url} does not fit `choose: all`")]
    Captions {
        /// Where the manifest lies.
        url: String,
        /// Why it does not.
        #[source]
        source: UncountedCaptions,
    },
    /// A sample's class is not among those of the job.
    #[error("sample {}: {}; list it, or leave such samples out of data.train", .0.key.as_deref().unwrap_or("?"), .0.message)]
    UnknownClass(BadSample),
    /// The order was made from other manifests.
    #[error(
        "the sample order, of {order} samples, is not that of the manifests, of {manifests}; make the order from these manifests"
    )]
    OtherManifests {
        /// Samples of the order.
        order: u64,
        /// Samples of the manifests.
        manifests: u64,
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
