//! What the workers' wire messages mean to the coordinator's core, and the core's work as messages to workers.
//!
//! Pure values both ways: the server and the simulator speak through the same code.

mod report;
mod tell;

pub use report::{greeting, report_of};
pub use tell::{Limits, form, message, rank};
