//! Runs one schedule again and tells it step by step: `cargo run -p cappa-sim --bin replay -- SEED`.

use std::io::Write as _;
use std::process::ExitCode;

use cappa_sim::{Tamper, run};

fn main() -> ExitCode {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok());
    let Some(seed) = seed else {
        eprintln!("name the schedule: cargo run -p cappa-sim --bin replay -- SEED");
        return ExitCode::from(2);
    };
    let mut out = std::io::stdout().lock();
    let mut tell = |line: String| {
        // Whoever reads may have seen enough.
        let _ = writeln!(out, "{line}");
    };
    match run(seed, Tamper::Nothing, Some(&mut tell)) {
        Ok(summary) => {
            println!("every promise was kept: {summary:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}
