//! Object stores for tests. Not part of any program.
//!
//! [`S3Server`] is a real S3 over loopback: requests are signed (SigV4), answers are XML, and what fails, fails on the wire,
//! so that a test sees what a worker would see: error statuses, bodies that trickle, end early or are reset, and a
//! bucket that vanishes and returns. Objects are kept in memory; conditional writes are atomic, also under races.
//!
//! A test in the same process takes [`S3Server::store`]; a child process gets [`S3Server::environment`].

mod buckets;
mod connection;
mod faults;
mod s3;
mod server;
mod uploads;

pub use faults::{Fault, Faults, Rule, Seen};
pub use server::S3Server;
