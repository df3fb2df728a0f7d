//! `tidings config check`: what an agent would run with, or what is wrong.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use tidings_agent::configured_token;

use crate::agent::AgentArgs;

/// Check the configuration and print what an agent would run with. Takes the flags of the agent.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigCheckArgs {
    /// The flags that the agent would be started with.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Prints the effective configuration as TOML, with where each value came from. A token is checked
/// and not shown.
///
/// # Errors
///
/// When the configuration is wrong.
pub fn run(args: ConfigCheckArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.agent.layers().load()?;
    let mut warnings = loaded.warnings.clone();
    let token = configured_token(&loaded.config.http);
    if let Some(file) = token.context("cannot use the token of http.token_file")? {
        warnings.extend(file.warning);
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    std::io::stdout()
        .lock()
        .write_all(loaded.explain().as_bytes())
        .context("cannot print the configuration")?;
    Ok(ExitCode::SUCCESS)
}
