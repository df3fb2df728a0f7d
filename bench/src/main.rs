//! `tidings-bench` (`cargo xtask bench`): tidings side by side with NATS
//! JetStream, Redis Streams and etcd, and with what the machine allows.
//!
//! ```text
//! arguments ─► run ─► for every round, workload and system:
//!                       process   starts the servers, ends them for certain
//!                       workloads decide what is sent and when it is over
//!                       peers     speak each system's protocol, without I/O
//!                       event_loop moves the bytes: one thread, one epoll
//!              └────► results ─► targets, report
//! ```

mod arguments;
mod broadcaster;
mod deployment;
mod event_loop;
mod machine;
mod payload;
mod peers;
mod process;
mod programs;
mod protocol;
mod report;
mod results;
mod run;
mod targets;
mod workloads;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::arguments::{Arguments, Options, Role};
use crate::broadcaster::Cut;
use crate::deployment::Deployment;

fn main() -> ExitCode {
    match begin() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidings-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == process::SUPERVISED) {
        return become_server(&words[2..]);
    }
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Bare {
            mode,
            line_bytes,
            address_file,
        }) => {
            let cut = if mode == peers::MODE_CURSOR {
                Cut::Batch
            } else {
                Cut::Line
            };
            broadcaster::run(cut, *line_bytes, address_file)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Role::Cluster {
            options,
            frames,
            servers,
        }) => {
            let servers = usize::try_from(*servers)?;
            compare(options, Deployment::Cluster { servers }, *frames)
        }
        None => compare(&arguments.options, Deployment::Single, None),
    }
}

fn compare(options: &Options, deployment: Deployment, frames: Option<u64>) -> Result<ExitCode> {
    let results = run::run(options, deployment, frames)?;
    let report = report::render(&results, options.output)?;
    writeln!(std::io::stdout(), "{}", report.trim_end())?;
    Ok(if results.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `supervised <parent's pid> <program> <its arguments>`; not for people, and
/// so not among the arguments that clap describes.
fn become_server(words: &[OsString]) -> Result<ExitCode> {
    let [parent, program, arguments @ ..] = words else {
        bail!("{} needs a parent and a program", process::SUPERVISED);
    };
    let parent = parent
        .to_str()
        .and_then(|parent| parent.parse().ok())
        .context("the parent is a number")?;
    process::supervised(parent, Path::new(program), arguments)?;
    Ok(ExitCode::SUCCESS)
}
