//! The gRPC services: thin translations between the wire and the driver.

pub(crate) mod fleet;
mod follow;
mod jobs;
pub(crate) mod list;
mod queue;
pub(crate) mod status;
pub(crate) mod views;
mod workers;

pub(crate) use jobs::JobsService;
pub(crate) use workers::WorkersService;
