//! The data pipeline's numbers. Read from its counters at every scrape; nothing is counted twice.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cappa_data::bottleneck::Bottleneck;
use cappa_data::stats::PipelineStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Names and what they mean; a counter is shown with `_total` behind its name.
const FETCHED_BYTES: (&str, &str) = ("cappa_data_fetched_bytes", "Bytes of shards received from stores");
const FETCH_SECONDS: (&str, &str) = ("cappa_data_fetch_seconds", "Time of requests for parts of shards, summed");
const REQUESTS: (&str, &str) = ("cappa_data_requests", "Requests for parts of shards");
const RETRIES: (&str, &str) = ("cappa_data_retries", "Requests to stores that were made again after a failure");
const HEDGES: (&str, &str) = ("cappa_data_hedges", "Second requests beside one that was slow");
const CACHE_HITS: (&str, &str) = ("cappa_data_cache_hits", "Shards that were in the cache");
const CACHE_MISSES: (&str, &str) = ("cappa_data_cache_misses", "Shards that had to be downloaded");
const CACHE_EVICTIONS: (&str, &str) = ("cappa_data_cache_evictions", "Shards removed from the cache for others");
const CACHE_BYTES: (&str, &str) = ("cappa_data_cache_bytes", "Bytes in the shard cache when it was last looked at");
const PART_BYTES: (&str, &str) = ("cappa_data_part_bytes", "Bytes of shards on their way from stores to the disk");
const SAMPLES: (&str, &str) = ("cappa_data_samples", "Samples made into rows of batches, good or bad");
const STAGE_SECONDS: (&str, &str) = (
    "cappa_data_stage_seconds",
    "Time of the pipeline's threads by stage; network is waiting for shards, copy runs beside training",
);
const WAIT_SECONDS: (&str, &str) = ("cappa_data_wait_seconds", "Training waited for batches");
const STORE_WAIT: (&str, &str) =
    ("cappa_data_store_wait_seconds", "How long the oldest download has waited for a store that does not deliver");
const BOTTLENECK: (&str, &str) =
    ("cappa_data_bottleneck", "1 for the stage that holds training up, over the last seconds");

/// Shows a pipeline's counters.
pub(super) struct DataCollector(pub(super) Arc<PipelineStats>);

impl fmt::Debug for DataCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataCollector")
    }
}

impl Collector for DataCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.0;
        for (name, value) in [
            (FETCHED_BYTES, &stats.fetched_bytes),
            (REQUESTS, &stats.requests),
            (RETRIES, &stats.retries),
            (HEDGES, &stats.hedges),
            (CACHE_HITS, &stats.cache_hits),
            (CACHE_MISSES, &stats.cache_misses),
            (CACHE_EVICTIONS, &stats.cache_evictions),
            (SAMPLES, &stats.samples),
        ] {
            one(&mut encoder, name, &ConstCounter::new(value.get()))?;
        }
        one(&mut encoder, FETCH_SECONDS, &ConstCounter::new(stats.fetching.get().as_secs_f64()))?;
        one(&mut encoder, WAIT_SECONDS, &ConstCounter::new(stats.waited.get().as_secs_f64()))?;
        one(&mut encoder, PART_BYTES, &ConstGauge::new(stats.parts.get()))?;
        one(&mut encoder, CACHE_BYTES, &ConstGauge::new(stats.cache_bytes()))?;
        let waiting = stats.waiting().map_or(Duration::ZERO, |(_, since)| since);
        one(&mut encoder, STORE_WAIT, &ConstGauge::new(waiting.as_secs_f64()))?;

        let stages = [
            (Bottleneck::Network, stats.network.get()),
            (Bottleneck::Decode, stats.decode()),
            (Bottleneck::Tokenize, stats.tokenize.get()),
            (Bottleneck::Copy, stats.copy.get()),
        ];
        let seconds = stages.map(|(stage, time)| (stage, ConstCounter::new(time.as_secs_f64())));
        by_stage(&mut encoder, STAGE_SECONDS, &seconds)?;
        let found = stats.bottleneck();
        let flags = Bottleneck::ALL.map(|stage| (stage, ConstGauge::new(i64::from(stage == found))));
        by_stage(&mut encoder, BOTTLENECK, &flags)
    }
}

fn one(encoder: &mut DescriptorEncoder<'_>, (name, help): (&str, &str), value: &impl EncodeMetric) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

fn by_stage<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: &[(Bottleneck, M)],
) -> fmt::Result {
    let Some((_, first)) = values.first() else { return Ok(()) };
    let mut family = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    for (stage, value) in values {
        value.encode(family.encode_family(&[("stage", stage.as_str())])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn counters_stages_and_the_bottleneck_are_shown() {
        let stats = Arc::new(PipelineStats::default());
        stats.fetched_bytes.add(7);
        stats.tokenize.add(Duration::from_millis(1500));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(DataCollector(stats)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "cappa_data_fetched_bytes_total 7",
            "cappa_data_stage_seconds_total{stage=\"tokenize\"} 1.5",
            "cappa_data_bottleneck{stage=\"none\"} 1",
            "cappa_data_bottleneck{stage=\"network\"} 0",
            "cappa_data_store_wait_seconds 0.0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
