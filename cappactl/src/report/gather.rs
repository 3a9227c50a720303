//! Where a report's numbers come from: the coordinator knows the job and its curve, the job's folder
//! holds what the evaluations found.

use cappa_proto::CurveRequest;
use cappa_shared::evaluation::{RESULTS_VERSION, Results};
use cappa_shared::storage::{self, StorageError};
use jiff::Timestamp;

use super::{Report, VERSION};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::views::{Job, Point};

/// Asks for everything that the report of a job shows.
pub(crate) async fn gather(client: &Client, id: &str) -> anyhow::Result<Report> {
    let job = Job::from(client.job(id).await?);
    let request = CurveRequest { job_id: id.to_owned(), from_step: 0 };
    let curve = client.jobs.clone().curve(request).await.map_err(|status| client.failure(&status))?;
    let curve = curve.into_inner().points.into_iter().map(Point::from).collect();
    let results = read_results(&job.folder).await?;
    let versions = versions(client).await;
    Ok(Report { version: VERSION, generated: Timestamp::now(), versions, job, curve, results })
}

/// Reads `evaluations/<step>/results.json` of every evaluated step.
async fn read_results(folder: &str) -> anyhow::Result<Vec<Results>> {
    let folder = storage::open(folder)?;
    let mut results = Vec::new();
    for step in folder.folders("evaluations").await? {
        let path = format!("evaluations/{step}/results.json");
        let bytes = match folder.get(&path).await {
            Err(StorageError::NotFound { .. }) => continue, // The evaluation of this step has not ended.
            read => read?,
        };
        let document: Results = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(Exit::Failed, format!("{path} in the job's folder is damaged")).source(error)
        })?;
        if document.version != RESULTS_VERSION {
            let message = format!("{path} in the job's folder has version {}, not {RESULTS_VERSION}", document.version);
            return Err(Failure::new(Exit::Failed, message).remedy("use a cappactl of the workers' version").into());
        }
        results.push(document);
    }
    results.sort_by_key(|results| results.step);
    Ok(results)
}

/// What ran: this program, and the workers as they are now; the job's own have gone back to the pool.
async fn versions(client: &Client) -> Vec<(String, String)> {
    let mut versions = vec![("cappactl".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    let workers = client.jobs.clone().list_workers(cappa_proto::ListWorkersRequest {}).await;
    let workers = workers.map(|reply| reply.into_inner().workers).unwrap_or_default();
    versions.extend(workers.into_iter().map(|worker| (worker.id, format!("{} on {}", worker.version, worker.device))));
    versions
}
