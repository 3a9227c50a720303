//! Notices that the process is to end soon: a signal, a file that appears, or an answer of a metadata service.
//!
//! Clouds announce that they take a machine away some seconds ahead. Google Compute Engine answers `TRUE` instead of `FALSE`
//! under `instance/preempted`; Amazon EC2 answers 200 instead of 404 under `spot/instance-action`; elsewhere an agent on the host can
//! make a file appear.

mod metadata;

use std::path::PathBuf;
use std::time::Duration;

use metadata::Service;
use reqwest::Url;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often a file is looked for and a service asked.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// Where notices come from.
pub(crate) struct Notices {
    terminate: Signal,
    interrupt: Signal,
    file: Option<PathBuf>,
    service: Option<Service>,
}

impl Notices {
    /// Signals, and where they are given a file and the URL of a service.
    pub(crate) fn new(file: Option<PathBuf>, url: Option<Url>) -> anyhow::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let service = url.map(Service::new).transpose()?;
        Ok(Self { terminate, interrupt, file, service })
    }

    /// Resolves with the reason when the process is to end.
    pub(crate) async fn next(&mut self) -> String {
        let Self { terminate, interrupt, file, service } = self;
        tokio::select! {
            _ = terminate.recv() => "SIGTERM".to_owned(),
            _ = interrupt.recv() => "SIGINT".to_owned(),
            path = appears(file.clone()) => format!("pre-emption notice: {} appeared", path.display()),
            url = announced(service.as_mut()) => format!("pre-emption notice of {url}"),
        }
    }
}

async fn appears(file: Option<PathBuf>) -> PathBuf {
    let Some(file) = file else { return std::future::pending().await };
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        // A folder that can't be read announces nothing.
        if tokio::fs::try_exists(&file).await.unwrap_or(false) {
            return file;
        }
    }
}

async fn announced(service: Option<&mut Service>) -> Url {
    let Some(service) = service else { return std::future::pending().await };
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        if service.announces().await {
            return service.url.clone();
        }
    }
}
