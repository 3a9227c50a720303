//! What people's calls take meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use cappa_proto as wire;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use wire::jobs_client::JobsClient;

/// From call to call.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls of the small kinds between those that list all workers.
const BETWEEN_LISTS: usize = 250;

/// One answered call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) begun: Instant,
    pub(crate) seconds: f64,
    /// How much later than it wanted the client came to make it: what its own wait for a processor adds to a call, once when
    /// it begins and once when it ends.
    pub(crate) late: f64,
}

/// The calls so far.
pub(crate) type Calls = Arc<Mutex<Vec<Call>>>;

/// Calls in turns, one at a time, from a thread and connection of its own, until it is told to stop.
pub(crate) fn start(
    address: &str,
    jobs: &[String],
    stop: CancellationToken,
) -> (Calls, std::thread::JoinHandle<Result<()>>) {
    let calls = Calls::default();
    let (noted, address, jobs) = (Arc::clone(&calls), address.to_owned(), jobs.to_vec());
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(call_in_turns(&address, &jobs, &noted, &stop))
    });
    (calls, thread)
}

async fn call_in_turns(address: &str, jobs: &[String], calls: &Calls, stop: &CancellationToken) -> Result<()> {
    let mut client = JobsClient::connect(address.to_owned()).await?.max_decoding_message_size(64 << 20);
    let (mut turn, mut late) = (0, 0.0);
    while !stop.is_cancelled() {
        let job_id = jobs[turn % jobs.len()].clone();
        let begun = Instant::now();
        let method = match turn % BETWEEN_LISTS {
            0 => client.list_workers(wire::ListWorkersRequest {}).await.map(|_| "ListWorkers")?,
            n if n % 10 == 1 => {
                let request = wire::ListRequest { page_size: 20, ..Default::default() };
                client.list(request).await.map(|_| "List")?
            }
            n if n % 10 == 2 => client.queue(wire::QueueRequest::default()).await.map(|_| "Queue")?,
            n if n % 10 == 3 => client.checkpoints(wire::GetRequest { job_id }).await.map(|_| "Checkpoints")?,
            _ => client.get(wire::GetRequest { job_id }).await.map(|_| "Get")?,
        };
        calls.lock().push(Call { method, begun, seconds: begun.elapsed().as_secs_f64(), late });
        turn += 1;
        let due = tokio::time::Instant::now() + PAUSE;
        tokio::time::sleep_until(due).await;
        late = due.elapsed().as_secs_f64();
    }
    Ok(())
}
