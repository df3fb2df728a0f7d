//! `tidings verify`: checks a data directory without an agent.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tidings_store::{Fault, VerifyReport};

use crate::failure::{FAILED, UsageError};
use crate::output::{self, Format, counted};
use crate::status::bytes_text;

/// Check the files of a data directory, or compare all servers.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The data directory; no agent may be working on it
    #[arg(long, value_name = "DIR", required_unless_present = "cluster")]
    pub data_dir: Option<PathBuf>,
    /// Ask an agent for the servers, compare the histories of all of them line by line, and name the
    /// first frame that differs
    #[arg(long, conflicts_with = "data_dir")]
    pub cluster: bool,
    /// Compare the checksums that were noted when lines were written, without reading the lines
    #[arg(long, conflicts_with = "data_dir")]
    pub quick: bool,
    /// Text for eyes, or JSON
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        conflicts_with = "data_dir"
    )]
    pub output: Format,
}

pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    // the command line demands it, unless servers are compared
    let Some(data_dir) = &args.data_dir else {
        return Err(UsageError::new("give the data directory with --data-dir").into());
    };
    let bar = if io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    } else {
        ProgressBar::hidden()
    };
    let report = tidings_store::verify(data_dir, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        let file = progress.path.file_name().unwrap_or_default();
        bar.set_message(file.to_string_lossy().into_owned());
    });
    bar.finish_and_clear();
    let report = report.with_context(|| format!("cannot check {}", data_dir.display()))?;
    output::print(&render(&report)).context("cannot print the report")?;
    Ok(if report.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn render(report: &VerifyReport) -> String {
    let mut text = String::new();
    for fault in &report.repairable {
        push_fault("note", fault, &mut text);
    }
    for fault in &report.faults {
        push_fault("fault", fault, &mut text);
    }
    let verdict = match report.faults.len() as u64 {
        0 => "ok".to_owned(),
        files => format!("{} damaged", counted(files, "file is", "files are")),
    };
    let _ = writeln!(
        text,
        "{verdict}: checked {}, {}, {}, {}",
        counted(report.segments as u64, "segment", "segments"),
        counted(report.frames, "frame", "frames"),
        counted(report.raft_records, "log entry", "log entries"),
        bytes_text(report.bytes),
    );
    text
}

fn push_fault(label: &str, fault: &Fault, text: &mut String) {
    let _ = writeln!(
        text,
        "{label}: {} at byte {}: {}",
        fault.path.display(),
        fault.offset,
        fault.what
    );
    if !fault.help.is_empty() {
        let _ = writeln!(text, "hint: {}", fault.help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_with_its_place_and_what_helps() {
        let report = VerifyReport {
            faults: vec![Fault {
                path: PathBuf::from("d/history/1.ndjson"),
                offset: 120,
                what: "the checksum differs".to_owned(),
                help: "restore the file".to_owned(),
            }],
            segments: 1,
            frames: 2000,
            bytes: 2048,
            ..VerifyReport::default()
        };
        assert_eq!(
            render(&report),
            "fault: d/history/1.ndjson at byte 120: the checksum differs\nhint: restore the file\n1 file is damaged: checked 1 segment, 2,000 frames, 0 log entries, 2.0 KiB\n"
        );
        assert_eq!(
            render(&VerifyReport::default()),
            "ok: checked 0 segments, 0 frames, 0 log entries, 0 B\n"
        );
    }
}
