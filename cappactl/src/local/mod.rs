//! A whole cluster on this machine: one coordinator and some workers as real processes, described
//! by a state file, so that another command finds and stops exactly them.

mod cluster;
mod demo;
mod process;
mod state;

use std::path::PathBuf;

pub(crate) use cluster::{Settings, binary, start, stop};
pub(crate) use demo::{Demo, demo};
pub(crate) use state::State;

/// Names the folder of the cluster that is meant where nothing else is said.
pub(crate) const DIR_VARIABLE: &str = "CAPPA_LOCAL_DIR";
/// The folder of a cluster that nobody gave a name.
pub(crate) const DEFAULT_DIR: &str = ".cappa";

/// Where the cluster is that commands without an address talk to.
pub(crate) fn usual_dir() -> PathBuf {
    std::env::var_os(DIR_VARIABLE).map_or_else(|| DEFAULT_DIR.into(), PathBuf::from)
}
