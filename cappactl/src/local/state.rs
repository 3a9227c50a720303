//! The state file: what runs, where, and how to reach it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Process;

/// A cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// `host:port` of the coordinator's gRPC services.
    pub(crate) grpc: String,
    /// `host:port` of its web page and `/metrics`.
    pub(crate) http: String,
    /// Folder of the bucket.
    pub(crate) store: PathBuf,
    pub(crate) coordinator: Process,
    /// Further coordinators. Any of all of them may lead.
    #[serde(default)]
    pub(crate) standbys: Vec<Standby>,
    pub(crate) workers: Vec<Worker>,
}

/// A further coordinator of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standby {
    pub(crate) id: String,
    /// `host:port` of its gRPC services.
    pub(crate) grpc: String,
    /// `host:port` of its web page and `/metrics`.
    pub(crate) http: String,
    pub(crate) process: Process,
}

/// A worker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) id: String,
    /// `host:port` of its `/metrics`; none until it told.
    pub(crate) metrics: Option<String>,
    pub(crate) process: Process,
}

impl State {
    fn path(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    /// The cluster of a folder; none if none was started there, or it was stopped.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = Self::path(dir);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }

    /// Replaces the file as a whole, so that a reader never sees half of it.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&serde_json::to_vec_pretty(self).map_err(io::Error::other)?)?;
        file.persist(Self::path(dir)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Forgets the cluster, once all its processes have ended.
    pub(crate) fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Every process with its name, workers first: the order in which they are stopped.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&str, &Process)> {
        let workers = self.workers.iter().map(|worker| (worker.id.as_str(), &worker.process));
        let standbys = self.standbys.iter().map(|standby| (standby.id.as_str(), &standby.process));
        workers.chain(standbys).chain([("coordinator", &self.coordinator)])
    }

    /// The URLs of all coordinators, as `--coordinator` takes them.
    pub(crate) fn coordinators(&self) -> String {
        let standbys = self.standbys.iter().map(|standby| &standby.grpc);
        let urls = [&self.grpc].into_iter().chain(standbys).map(|grpc| format!("http://{grpc}"));
        urls.collect::<Vec<_>>().join(",")
    }

    /// URL of a process's metrics; none before it told.
    pub(crate) fn metrics_of(&self, name: &str) -> Option<String> {
        let worker = self.workers.iter().find(|worker| worker.id == name);
        let standby = self.standbys.iter().find(|standby| standby.id == name);
        let address = match (worker, standby) {
            (Some(worker), _) => worker.metrics.as_ref()?,
            (None, Some(standby)) => &standby.http,
            (None, None) => &self.http,
        };
        Some(format!("http://{address}/metrics"))
    }

    /// Whether anything of it runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.processes().any(|(_, process)| process.is_alive())
    }
}
