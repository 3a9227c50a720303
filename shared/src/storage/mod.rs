//! Object storage: one way to open a folder, bucket or web server, and the few operations that everything is built from.
//!
//! A commit anywhere in the system is a *conditional create*: [`Location::put_if_absent`] succeeds for exactly one
//! writer. [`probe_atomic_create`] refuses stores that only pretend.

mod allow;
mod error;
pub mod faults;
mod large;
mod location;
mod open;
mod probe;

pub use allow::AllowList;
pub use error::{Cause, StorageError};
pub use large::PIECE;
pub use location::{Entry, Location};
pub use open::{SCHEMES, absolute, create, open, parse};
pub use probe::probe_atomic_create;

#[cfg(test)]
mod tests;
