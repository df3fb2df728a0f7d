//! How a failure is told: what failed, why, and what to do.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use thiserror::Error;
use tidings_client::{ClientError, DEFAULT_ADDRESS};

use crate::visible::visible;

/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of a wrong command line; clap uses the same.
const USAGE: u8 = 2;

/// Something answers, but not as an agent does.
const NO_AGENT: &str = "is it a tidings agent that listens there? --addr URL names another";

/// The command line is wrong in a way that only the verb could see.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct UsageError {
    text: String,
}

impl UsageError {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// Tells the error on standard error and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_output(error) {
        // Whoever read has enough (`| head`): no failure.
        return ExitCode::SUCCESS;
    }
    eprint!("{}", text(error));
    let is_usage = error.chain().any(|cause| cause.is::<UsageError>());
    ExitCode::from(if is_usage { USAGE } else { FAILED })
}

/// Whether the reader of our output went away.
fn is_closed_output(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The error, its causes and a hint, a line each.
fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut told = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let sentence = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if depth > 0 && told.ends_with(&sentence) {
            continue;
        }
        let label = if depth == 0 { "error: " } else { "  because: " };
        let mut lines = sentence.lines();
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(text, "{label}{}", visible(first));
        for line in lines {
            let _ = writeln!(text, "{:width$}{}", "", visible(line), width = label.len());
        }
        told = sentence;
    }
    if let Some(hint) = error.chain().find_map(hint) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// What to do about an error.
pub fn hint(cause: &(dyn Error + 'static)) -> Option<String> {
    let error = cause.downcast_ref::<ClientError>()?.last_try();
    match error {
        ClientError::Connect { address, .. } if address == DEFAULT_ADDRESS => {
            Some("is an agent running? start one: tidings agent --dev".to_owned())
        }
        ClientError::Connect { address, .. } => Some(format!(
            "is an agent running at {address}? start one: tidings agent --dev; name another: --addr URL, or TIDINGS_ADDR"
        )),
        ClientError::TimedOut { .. } | ClientError::Broken { .. } => {
            Some("does an agent listen there? its log says what became of the request".to_owned())
        }
        ClientError::Answer { .. } | ClientError::NotAFrame { .. } => Some(NO_AGENT.to_owned()),
        ClientError::Gone { .. } => Some(
            "begin at the oldest frame with --from beginning, or with the state: --from snapshot"
                .to_owned(),
        ),
        ClientError::TimelineReset { .. } => Some(
            "what was learned from the former timeline is void; begin with --from beginning, or with the state: --from snapshot"
                .to_owned(),
        ),
        ClientError::Refused { status: 401 | 403, .. } => {
            Some("set TIDINGS_TOKEN to a token that the agent knows".to_owned())
        }
        ClientError::Refused { code, .. } => match code.as_str() {
            "cas_mismatch" => Some(
                "the entry has changed: read it with `tidings state get`, then try again with its ModifyIndex as --cas"
                    .to_owned(),
            ),
            "disk_full" => Some(
                "make room on the agent's disk, or shorten its retention".to_owned(),
            ),
            "outcome_unknown" => Some(
                "it may have happened: publish it again with the same --id, or look with `tidings stream`"
                    .to_owned(),
            ),
            "spool_full" | "spool_failed" => Some(
                "nothing was taken; `tidings status` shows which servers the agent reaches and what it keeps"
                    .to_owned(),
            ),
            "servers_refused" | "change_unfinished" => Some(
                "`tidings server list` shows the servers, and who leads".to_owned(),
            ),
            "other_timeline" => Some(
                "`tidings snapshot inspect` shows which timeline a file is of; --any-timeline takes its entries"
                    .to_owned(),
            ),
            "overloaded" | "no_leader" | "no_server" | "stopping" => {
                Some("try again in a moment; `tidings status` shows how the agent is".to_owned())
            }
            "index_ahead" => Some(
                "was the agent's data thrown away? begin with --from beginning, or with the state: --from snapshot"
                    .to_owned(),
            ),
            "http_404" => Some(NO_AGENT.to_owned()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn what_failed_why_and_what_to_do() {
        let refused = ClientError::Refused {
            status: 409,
            code: "cas_mismatch".to_owned(),
            message: "it is at 5".to_owned(),
            retry_after: None,
        };
        let error = Err::<(), _>(refused)
            .context("cannot put Job/web")
            .unwrap_err();
        assert_eq!(
            text(&error),
            "error: cannot put Job/web\n  because: the agent refused it: it is at 5 (cas_mismatch, HTTP 409)\nhint: the entry has changed: read it with `tidings state get`, then try again with its ModifyIndex as --cas\n"
        );
    }

    #[test]
    fn an_agents_sentence_cannot_move_the_cursor() {
        let error = anyhow::anyhow!("bad \u{1b}[2J name\nsecond line");
        assert_eq!(
            text(&error),
            "error: bad \\u{1b}[2J name\n       second line\n"
        );
    }

    #[test]
    fn a_closed_output_is_no_failure() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = Err::<(), _>(closed).context("cannot print").unwrap_err();
        assert!(is_closed_output(&error));
    }
}
