//! The coordinator: a driver around the pure core, its event log, a reconciler, gRPC and HTTP.
//!
//! The walk of a request: a service turns the message into a command, the [driver](self) has the
//! core decide it, appends what follows to the log, answers, and the reconciler does in the world
//! what the state then calls for.

mod accounting;
mod admission;
mod checkpoints;
mod clock;
mod config;
mod curves;
#[cfg(test)]
mod documented;
mod driver;
mod facts;
mod history;
mod http;
mod indexing;
mod leadership;
mod life;
mod log;
mod logs;
mod maintenance;
mod metrics;
mod policy;
mod server;
mod services;
mod sessions;

pub use config::{Args, Config, ConfigErrors, Task, TimeOuts};
pub use log::{BackupError, LogError};
pub use maintenance::{MaintenanceError, maintain};
pub use policy::ClusterPolicy;
pub use server::{Coordinator, ServerError};
