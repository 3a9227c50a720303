//! `cappactl explain`.

use cappa_shared::code::Code;
use clap::Args;

use crate::exit::{Exit, Failure};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An error code, e.g. WORKER_LOST.
    code: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let Some(text) = &arguments.code else {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        output::line(&codes.join("\n"))?;
        return Ok(Exit::Ok);
    };
    let code: Code = text.parse().map_err(|error| Failure::new(Exit::NotFound, format!("{error}")))?;
    output::line(&format!("{code} (exit code {})\n  {}", code.exit().number(), code.remedy()))?;
    Ok(Exit::Ok)
}
