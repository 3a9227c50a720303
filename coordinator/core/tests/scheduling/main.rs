//! Who gets which workers, and why the others wait.

#![allow(clippy::unwrap_used, reason = "code of tests")]

mod fairness;
mod indexing;
mod limits;
mod preemption;
mod queue;
mod quotas;
mod repair;
mod scale;
mod stragglers;
mod yard;
