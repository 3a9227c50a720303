//! The program as people and scripts see it: what it prints, and how it exits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod audit;
mod cli;
mod cluster;
mod index;
mod inspect;
mod quick;
mod replay;
mod service;
mod support;
