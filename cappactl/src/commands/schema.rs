//! `cappactl schema`.

use cappa_shared::spec::JobSpec;

use crate::exit::Exit;
use crate::output;

pub(crate) fn run() -> anyhow::Result<Exit> {
    output::line(&serde_json::to_string_pretty(JobSpec::json_schema())?)?;
    Ok(Exit::Ok)
}
