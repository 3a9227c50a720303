//! What a running cluster tells an OpenTelemetry collector.

use std::time::{Duration, Instant};

use anyhow::Result;
use cappa_tests::collector::Collector;
use cappa_tests::jobs::JobSpec;
use cappa_tests::{Cluster, Corpus, Options};

/// One of every thing that is traced: a job's admission, its group and its checkpoints.
const EXPECTED: [(&str, &str); 6] = [
    ("cappa-coordinator", "admit"),
    ("cappa-coordinator", "storage_work"),
    ("cappa-worker", "group"),
    ("cappa-worker", "form"),
    ("cappa-worker", "agree_on_state"),
    ("cappa-worker", "write_checkpoint"),
];

#[tokio::test(flavor = "multi_thread")]
async fn traces_of_a_job_reach_the_collector_from_every_process() -> Result<()> {
    let corpus = Corpus::new(200)?;
    let collector = Collector::start().await?;
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = Cluster::start(Options { workers: 1, env, ..Options::default() })?;
    let job = cluster.submit(&JobSpec { steps: 10, checkpoint_every: 5, ..JobSpec::default() }, &corpus).await?;
    cluster.finish(&job).await?;
    let missing = || {
        let came = collector.spans();
        EXPECTED.iter().filter(|(service, name)| !came.contains(&((*service).into(), (*name).into()))).count()
    };
    let finished = Instant::now();
    while missing() > 0 && finished.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(missing(), 0, "{:?}", collector.spans());
    Ok(())
}
