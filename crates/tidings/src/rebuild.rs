//! `tidings rebuild`: sets the files of a damaged server aside, for it to get everything from the
//! others.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tidings_raft::SetAside;

use crate::output;

/// Set the files of a server aside.
#[derive(Args, Debug)]
pub struct RebuildArgs {
    /// The data directory; no agent may be working on it
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

pub fn run(args: &RebuildArgs) -> anyhow::Result<ExitCode> {
    let aside = tidings_raft::set_aside(&args.data_dir)
        .with_context(|| format!("cannot rebuild {}", args.data_dir.display()))?;
    output::print(&render(&aside)).context("cannot print what was done")?;
    Ok(ExitCode::SUCCESS)
}

fn render(aside: &SetAside) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "set aside: {} are in {}",
        aside.moved.join(", "),
        aside.folder.display()
    );
    let _ = match aside.node {
        Some(node) => writeln!(text, "the next start takes the place of server {node}"),
        None => writeln!(
            text,
            "which server it was is not known: remove it once the new one is there, with `tidings server remove NAME`"
        ),
    };
    let _ = writeln!(
        text,
        "next: start the agent as before, with --server and --join HOST:7481 of another server; when it has caught up (`tidings server list`), that folder can be removed"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_the_files_are_and_what_to_do_next() {
        let aside = SetAside {
            folder: PathBuf::from("d/damaged-7"),
            moved: vec!["history", "node"],
            node: Some(9),
        };
        let text = render(&aside);
        assert!(text.contains("history, node are in d/damaged-7"), "{text}");
        assert!(text.contains("the place of server 9"), "{text}");
        assert!(text.contains("--join HOST:7481"), "{text}");
        let text = render(&SetAside {
            node: None,
            ..aside
        });
        assert!(text.contains("tidings server remove NAME"), "{text}");
    }
}
