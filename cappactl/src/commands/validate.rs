//! `cappactl validate`, and how a spec is shown.

use cappa_shared::spec::JobSpec;
use clap::Args;
use serde::Serialize;

use crate::cli::Global;
use crate::exit::Exit;
use crate::output::{self, Present};
use crate::spec::Source;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<Exit> {
    let spec = arguments.source.load()?;
    eprintln!("the spec is valid; whether its data exists is checked at submit");
    output::print(global.output, &SpecView::of(&spec))?;
    Ok(Exit::Ok)
}

/// A spec as it runs: YAML is its table.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct SpecView(serde_json::Value);

impl SpecView {
    pub(super) fn of(spec: &JobSpec) -> Self {
        Self(spec.to_value())
    }

    /// What the coordinator would run.
    pub(super) fn of_json(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json).map(Self)
    }
}

impl Present for SpecView {
    fn table(&self) -> String {
        serde_yaml_ng::to_string(&self.0).unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        self.0.get("name").and_then(serde_json::Value::as_str).map(str::to_owned).into_iter().collect()
    }
}
