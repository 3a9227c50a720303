//! Samples for evaluation: by number, in the manifest's order, with their facts.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cappa_shared::ids::Rank;
use cappa_shared::order::SampleRef;
use serde_json::Value;

use crate::bad::BadSample;
use crate::image::Preparation;
use crate::loader::{DataError, bad_image};
use crate::sample::{CaptionSource, RawSample};
use crate::shards::{Lease, PoolConfig, Shard, ShardPool};

/// Random access to the samples of a corpus; fastest in order.
pub struct Records {
    pool: ShardPool,
    /// The first sample of every shard, and at the end their number.
    starts: Vec<u64>,
    preparation: Preparation,
    /// The shard that was read last, and the one after it, which is fetched ahead.
    leases: Mutex<Vec<Arc<Lease>>>,
}

/// A sample as an evaluation sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number in the corpus.
    pub number: u64,
    /// Its key in the shard.
    pub key: String,
    /// Pixels, `[H, W, 3]`: decoded in full and resized as the authors do, without random changes.
    pub image: Vec<u8>,
    /// Its captions; none where it has no usable one.
    pub captions: Vec<String>,
    /// Its `.json`, if it has one.
    pub facts: Option<Value>,
}

impl Records {
    /// Opens a corpus; images are given as squares of `image_size`.
    ///
    /// # Errors
    /// When the cache or its threads can't be made.
    pub fn open(config: PoolConfig, image_size: usize) -> Result<Self, DataError> {
        let mut starts = vec![0];
        for samples in config.sources.sample_counts().into_iter().flatten() {
            starts.push(starts[starts.len() - 1] + u64::from(samples));
        }
        let pool = ShardPool::start(config).map_err(|error| DataError::Shard(Arc::new(error)))?;
        Ok(Self { pool, starts, preparation: Preparation::exact(image_size), leases: Mutex::default() })
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample `number`, which must be below [`Records::len`].
    ///
    /// # Errors
    /// [`DataError`] when its shard can't be had; the inner error when the sample itself is bad.
    pub fn get(&self, number: u64) -> Result<Result<Record, BadSample>, DataError> {
        let sample = self.find(number);
        let shard = self.lease(sample.shard).wait().map_err(DataError::Shard)?;
        Ok(self.read(number, sample, &shard))
    }

    /// Likewise; nothing when its shard is not at hand within so long.
    ///
    /// # Errors
    /// As [`Records::get`].
    pub fn get_within(&self, number: u64, limit: Duration) -> Result<Option<Result<Record, BadSample>>, DataError> {
        let sample = self.find(number);
        let shard = self.lease(sample.shard).wait_within(limit).map_err(DataError::Shard)?;
        Ok(shard.map(|shard| self.read(number, sample, &shard)))
    }

    fn read(&self, number: u64, sample: SampleRef, shard: &Shard) -> Result<Record, BadSample> {
        let raw = RawSample::find(shard, sample.index)?;
        self.record(number, &raw).map_err(|bad| BadSample { key: Some(raw.key().into()), ..bad })
    }

    fn record(&self, number: u64, raw: &RawSample<'_>) -> Result<Record, BadSample> {
        let image = self.preparation.prepare(&raw.image()?, None).map_err(bad_image)?;
        Ok(Record {
            number,
            key: raw.key().to_owned(),
            image: image.pixels,
            captions: raw.captions(&CaptionSource::Auto).unwrap_or_default(),
            facts: raw.json()?,
        })
    }

    fn find(&self, number: u64) -> SampleRef {
        assert!(number < self.len(), "sample {number} is outside a corpus of {}", self.len());
        let shard = self.starts.partition_point(|&start| start <= number) - 1;
        let place = |value: u64| u32::try_from(value).expect("shards and their samples are counted in 32 bits");
        SampleRef { shard: place(shard as u64), index: place(number - self.starts[shard]) }
    }

    fn lease(&self, shard: u32) -> Arc<Lease> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.first().is_none_or(|lease| lease.shard() != shard) {
            let next = (shard as usize + 2 < self.starts.len()).then_some(shard + 1);
            // The new leases are taken before the old ones are let go: the next shard has become this one.
            *leases = [shard].into_iter().chain(next).map(|shard| self.pool.lease(shard)).collect();
        }
        Arc::clone(&leases[0])
    }
}

/// The numbers of the first `limit` samples that a rank evaluates: contiguous and as even as they can be.
pub fn records_of_rank(rank: Rank, world_size: u32, limit: u64) -> Range<u64> {
    assert!(rank.0 < world_size, "{rank} is outside a world of {world_size}");
    let (rank, ranks) = (u64::from(rank.0), u64::from(world_size));
    let (each, longer) = (limit / ranks, limit % ranks);
    let first = rank * each + rank.min(longer);
    first..first + each + u64::from(rank < longer)
}
