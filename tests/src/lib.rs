//! A cluster of real processes on loopback, for end-to-end tests: real gRPC, real libtorch, real
//! storage. Every process is this harness's own child and ends with it.

pub mod chaos;
pub mod cluster;
pub mod collector;
pub mod corpus;
pub mod jobs;
pub mod load;
mod process;

pub use cluster::{Cluster, Options};
pub use corpus::Corpus;
pub use process::binary;
