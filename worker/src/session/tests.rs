use std::sync::Arc;
use std::time::Duration;

use cappa_session::Identity;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Session;

/// What never takes so long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

fn session() -> Session {
    let identity = Identity {
        worker: "worker-a".parse().unwrap(),
        incarnation: "a".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        host: "here".into(),
        store_address: "here:1".into(),
        metrics_address: "here:2".into(),
        device: "cpu".into(),
    };
    let (orders, _) = crossbeam_channel::unbounded();
    Session { identity, ledger: Arc::default(), interrupt: Arc::default(), orders, stats: Arc::default() }
}

async fn accept(host: &TcpListener) -> TcpStream {
    tokio::time::timeout(PATIENCE, host.accept()).await.expect("the worker connects").unwrap().0
}

/// As after a loss of power: what has accepted the connection says nothing any more, and never closes it.
#[tokio::test]
async fn a_worker_leaves_a_coordinator_that_says_nothing_for_the_successor_of_its_name() {
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let coordinator = format!("http://{}", host.local_addr().unwrap());
    let talking = tokio::spawn(async move { session().run(&coordinator, &CancellationToken::new()).await });
    let _silent = accept(&host).await;
    let _successor = accept(&host).await;
    talking.abort();
}
