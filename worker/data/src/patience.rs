//! Waiting for a store that does not answer, where something of it is read whole.

use std::error::Error;
use std::time::{Duration, Instant};

use cappa_shared::causes::with_causes;

use crate::shards::Backoff;
use crate::stats::PipelineStats;

/// How long a store may not answer, and who is told meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Patience<'a> {
    /// From the first failure on.
    pub limit: Duration,
    /// Says what is waited for.
    pub stats: &'a PipelineStats,
}

/// The last failure of a read, after which it was not tried again.
#[derive(Debug)]
pub struct GaveUp<E> {
    /// How long it was tried.
    pub waited: Duration,
    /// What it was.
    pub error: E,
}

impl Patience<'_> {
    /// Reads what is at `url`; tries again, in growing pauses, as long as trying again may help and patience lasts.
    ///
    /// # Errors
    /// The last failure.
    pub async fn read<T, E, R>(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> R,
        is_transient: impl Fn(&E) -> bool,
    ) -> Result<T, GaveUp<E>>
    where
        E: Error + 'static,
        R: Future<Output = Result<T, E>>,
    {
        let begun = Instant::now();
        let (mut backoff, mut waiting) = (Backoff::default(), None);
        loop {
            let error = match attempt().await {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            let waited = begun.elapsed();
            if !is_transient(&error) || waited >= self.limit {
                return Err(GaveUp { waited, error });
            }
            waiting.get_or_insert_with(|| self.stats.wait_for(url.to_owned()));
            let (waiting_s, error) = (waited.as_secs(), with_causes(&error));
            tracing::warn!(url, waiting_s, error, "the store does not answer; waiting and trying again");
            tokio::time::sleep(backoff.next().min(self.limit - waited)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use cappa_shared::storage::StorageError;

    use super::*;

    const URL: &str = "s3://b/x";

    fn away() -> StorageError {
        StorageError::unreachable(URL, "refused".into())
    }

    #[tokio::test]
    async fn what_a_store_does_not_deliver_is_named_and_waited_for() {
        let stats = PipelineStats::default();
        let (patience, tries) = (Patience { limit: Duration::from_secs(60), stats: &stats }, Cell::new(0));
        let attempt = || async {
            tries.set(tries.get() + 1);
            assert_eq!(stats.waiting().map(|(url, _)| url), (tries.get() > 1).then(|| URL.to_owned()));
            if tries.get() < 4 { Err(away()) } else { Ok(7) }
        };
        assert_eq!(patience.read(URL, attempt, StorageError::is_transient).await.unwrap(), 7);
        assert_eq!((tries.get(), stats.waiting()), (4, None));
    }

    #[tokio::test]
    async fn no_more_is_tried_when_patience_ends_or_trying_again_is_of_no_use() {
        let stats = PipelineStats::default();
        let patience = Patience { limit: Duration::from_millis(200), stats: &stats };
        let ended = patience.read(URL, || async { Err::<(), _>(away()) }, StorageError::is_transient).await;
        assert!(ended.unwrap_err().waited >= patience.limit);
        let tries = Cell::new(0);
        let bad_url = || async {
            tries.set(tries.get() + 1);
            Err::<(), _>(StorageError::BadUrl { url: URL.into(), reason: "test".into() })
        };
        assert!(patience.read(URL, bad_url, StorageError::is_transient).await.is_err());
        assert_eq!(tries.get(), 1);
    }
}
