//! The commands, one module each.

pub(crate) mod audit;
pub(crate) mod change;
pub(crate) mod checkpoints;
pub(crate) mod completion;
pub(crate) mod data;
pub(crate) mod describe;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod import;
mod inspect;
pub(crate) mod list;
pub(crate) mod local;
pub(crate) mod logs;
pub(crate) mod priority;
pub(crate) mod queue;
pub(crate) mod replay;
pub(crate) mod report;
mod rerun;
pub(crate) mod schema;
pub(crate) mod submit;
pub(crate) mod tokenizer;
pub(crate) mod trained;
pub(crate) mod validate;
pub(crate) mod wait;
pub(crate) mod workers;

use anyhow::Context as _;

use crate::address::Address;
use crate::cli::{Cli, Command, Global};
use crate::client::Client;
use crate::exit::{Exit, Failure};

/// Runs one command to its end.
pub(crate) fn run(cli: Cli) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let exit = runtime.block_on(dispatch(cli));
    // A thread may still wait for standard input; the program's end does not.
    runtime.shutdown_background();
    exit
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let global = &cli.global;
    match cli.command {
        Command::Submit(arguments) => Box::pin(submit::run(global, &arguments)).await,
        Command::Validate(arguments) => validate::run(global, &arguments),
        Command::Schema => schema::run(),
        Command::List(arguments) => list::run(global, &arguments).await,
        Command::Describe(arguments) => describe::run(global, &arguments).await,
        Command::Logs(arguments) => logs::run(global, &arguments).await,
        Command::Events(arguments) => events::run(global, &arguments).await,
        Command::Wait(arguments) => wait::run(global, &arguments).await,
        Command::Cancel(arguments) => change::run(global, &arguments, change::Change::Cancel).await,
        Command::Pause(arguments) => change::run(global, &arguments, change::Change::Pause).await,
        Command::Resume(arguments) => change::run(global, &arguments, change::Change::Resume).await,
        Command::Requeue(arguments) => change::run(global, &arguments, change::Change::Requeue).await,
        Command::Queue(arguments) => queue::run(global, &arguments).await,
        Command::Priority(arguments) => priority::run(global, &arguments).await,
        Command::Checkpoints(command) => checkpoints::run(global, &command).await,
        Command::Audit(arguments) => audit::run(global, &arguments).await,
        Command::Replay(arguments) => Box::pin(replay::run(global, &arguments)).await,
        Command::Workers(command) => workers::run(global, &command).await,
        Command::Report(arguments) => report::run(global, &arguments).await,
        Command::Data(command) => data::run(global, command).await,
        Command::Tokenizer(command) => tokenizer::run(global, command).await,
        Command::Caption(arguments) => Box::pin(trained::caption(global, &arguments)).await,
        Command::Export(arguments) => Box::pin(trained::export(global, &arguments)).await,
        Command::Import(arguments) => import::run(global, &arguments),
        Command::Embed(arguments) => Box::pin(trained::embed(global, &arguments)).await,
        Command::Local(command) => Box::pin(local::run(global, &command)).await,
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Completion(arguments) => completion::run(&arguments),
    }
}

/// The coordinator that the global options name.
fn connect(global: &Global) -> Result<Client, Failure> {
    Client::new(Address::find(global.coordinator.as_deref(), &crate::local::usual_dir()))
}
