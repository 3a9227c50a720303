//! Jobs: those that train, and many at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use cappa_proto as wire;
use cappa_shared::manifest::{DataManifest, Shard};
use tonic::transport::Channel;
use wire::jobs_client::JobsClient;

/// Clients that submit at the same time.
const CLIENTS: usize = 32;

/// What all specs name.
pub(crate) struct Data {
    folder: PathBuf,
}

impl Data {
    /// A manifest of two shards and a tokenizer, which nobody reads but admission.
    pub(crate) fn write(folder: &Path) -> Result<Self> {
        let data = folder.join("data");
        std::fs::create_dir(&data)?;
        let shards = (0..2).map(|n| {
            let path = format!("shard-{n}.tar");
            std::fs::write(data.join(&path), vec![n; 1000])?;
            Ok(Shard::tar(path, 1000, "ab".repeat(32), 1_000_000))
        });
        let manifest = DataManifest::new(shards.collect::<std::io::Result<_>>()?)?;
        std::fs::write(data.join("train.json"), manifest.to_json())?;
        let tokenizer = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1}},"added_tokens":[]}"#;
        std::fs::write(data.join("tokenizer.json"), tokenizer)?;
        Ok(Self { folder: data })
    }

    /// A job that trains for longer than anything here lasts.
    pub(crate) fn spec(&self, name: &str, workers: usize) -> String {
        let data = self.folder.display();
        let lanes = workers.next_multiple_of(64);
        format!(
            "apiVersion: cappa.dev/v1\nname: {name}\nmodel: tiny\nbatch_size: {lanes}\nworkers: {{min: {workers}, max: {workers}}}\n\
             duration: {{steps: 1000000}}\ncheckpoint: {{every: 100000, keep: 2}}\n\
             data: {{train: {data}/train.json, tokenizer: {data}/tokenizer.json, lanes: {lanes}}}\n"
        )
    }
}

/// Submits a job, and returns its id.
pub(crate) async fn submit(channel: &Channel, spec: String, namespace: &str) -> Result<String> {
    let request = wire::SubmitRequest { spec, namespace: namespace.into(), ..Default::default() };
    let answer = JobsClient::new(channel.clone()).submit(request).await?.into_inner();
    Ok(answer.job.context("a submission is answered with its job")?.id)
}

/// Submits so many jobs that never start, from several clients at once; jobs per second.
pub(crate) async fn flood(channel: &Channel, data: &Arc<Data>, count: usize) -> Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let (channel, data, next) = (channel.clone(), Arc::clone(data), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return anyhow::Ok(());
                }
                submit(&channel, data.spec(&format!("flood-{n}"), super::NEVER), "flood").await?;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}
