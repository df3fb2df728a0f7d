//! `tidings`: one ordered, durable, replayable timeline of everything that happens in a cluster.
//!
//! A file for each verb. `agent` and `config check` are the server's side; all other verbs but
//! `rebuild`, `verify` of a data directory, and `snapshot inspect` talk to an agent over HTTP.

mod agent;
mod cli;
mod completions;
mod config_check;
mod connection;
mod event_text;
mod failure;
mod interrupt;
mod man;
mod output;
mod publish;
mod publish_lines;
mod rebuild;
mod server;
mod snapshot;
mod state;
mod status;
mod stream;
mod table;
mod verify;
mod verify_cluster;
mod visible;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::cli::{Cli, ConfigVerb, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let connection = cli.connection;
    match cli.verb {
        Verb::Agent(args) => {
            connection.refuse_for("agent")?;
            agent::run(args)
        }
        Verb::Config(ConfigVerb::Check(args)) => {
            connection.refuse_for("config check")?;
            config_check::run(args)
        }
        Verb::Publish(args) => block_on(publish::run(args, connection.client()?)),
        Verb::Stream(args) => block_on(stream::run(args, connection.client()?)),
        Verb::State(verb) => block_on(state::run(verb, connection.client()?)),
        Verb::Status(args) => block_on(status::run(args, connection.client()?)),
        Verb::Server(verb) => block_on(server::run(verb, connection.client()?)),
        Verb::Snapshot(verb) => block_on(snapshot::run(verb, connection)),
        Verb::Verify(args) if args.cluster => {
            block_on(verify_cluster::run(args, connection.client()?))
        }
        Verb::Verify(args) => verify::run(&args),
        Verb::Rebuild(args) => rebuild::run(&args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
    }
}

/// One thread is plenty for one request or one stream.
fn block_on(verb: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(verb);
    // What still runs in the background has nothing left to say.
    runtime.shutdown_background();
    result
}
