//! `tidings man`: the manual pages.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use crate::cli::Cli;
use crate::output;

/// Print the manual page, or write all of them.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write a page for each verb into this directory, which is made when it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let command = Cli::command();
    match &args.out {
        Some(directory) => {
            let failed = || format!("cannot write the manual pages to {}", directory.display());
            std::fs::create_dir_all(directory).with_context(failed)?;
            clap_mangen::generate_to(command, directory).with_context(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .context("cannot make the manual page")?;
            output::print(&String::from_utf8_lossy(&page))
                .context("cannot print the manual page")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
