//! The foreign programs: the official Go client and PyPI's python-nomad.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Agent;
use crate::process::{self, Lines};

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status was 0.
    pub succeeded: bool,
    /// Lines of its standard output.
    pub lines: Vec<String>,
    /// Its standard error.
    pub complaint: String,
}

/// A started program.
pub struct Running {
    child: Child,
    output: Lines,
    complaints: Lines,
    /// Lines of its standard output that were waited for.
    printed: Vec<String>,
}

/// `interop/go-nomad-client`: github.com/hashicorp/nomad/api.
pub struct GoClient;

/// `interop/python-nomad/follow.py`: PyPI's python-nomad.
pub struct PythonClient;

impl GoClient {
    /// Start it against an agent; flags and mode as in its own help text.
    ///
    /// # Errors
    /// When `TIDINGS_GO_CLIENT` does not name the built program.
    pub fn start<S: AsRef<OsStr>>(
        agent: &Agent,
        environment: &[(&str, &str)],
        arguments: &[S],
    ) -> Result<Running> {
        Self::start_at(&agent.url(), environment, arguments)
    }

    /// Start it against whoever listens at this URL.
    ///
    /// # Errors
    /// As [`GoClient::start`].
    pub fn start_at<S: AsRef<OsStr>>(
        url: &str,
        environment: &[(&str, &str)],
        arguments: &[S],
    ) -> Result<Running> {
        let program = named_by("TIDINGS_GO_CLIENT")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("NOMAD_ADDR", url)
            .envs(environment.iter().copied());
        Running::start(&mut command)
    }
}

impl PythonClient {
    /// Start it against an agent; arguments as in its own help text.
    ///
    /// # Errors
    /// When `TIDINGS_PYTHON` does not name a Python that has python-nomad.
    pub fn start<S: AsRef<OsStr>>(agent: &Agent, arguments: &[S]) -> Result<Running> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python-nomad/follow.py");
        let mut command = Command::new(named_by("TIDINGS_PYTHON")?);
        command
            .arg(script)
            .arg("--address")
            .arg(agent.url())
            .args(arguments);
        Running::start(&mut command)
    }
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        // Settings of whoever runs the tests must not reach the clients' own look-up.
        for name in ["NOMAD_TOKEN", "NOMAD_NAMESPACE", "NOMAD_REGION"] {
            if !command.get_envs().any(|(set, _)| set == name) {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        let output = child.stdout.take().context("standard output is piped")?;
        let errors = child.stderr.take().context("standard error is piped")?;
        Ok(Self {
            child,
            output: Lines::of(output),
            complaints: Lines::of(errors),
            printed: Vec::new(),
        })
    }

    /// A line of its standard output, if one comes within `limit`; an error when it has ended.
    pub fn printed_within(&mut self, limit: Duration) -> Result<Option<String>> {
        self.output.next_line_within(limit)
    }

    /// Start any program.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn of(command: &mut Command) -> Result<Self> {
        Self::start(command)
    }

    /// Wait until it prints a line on its standard output.
    pub fn await_printed(&mut self) -> Result<()> {
        let line = self.output.next_line()?;
        self.printed
            .push(line.context("it ended without printing anything more")?);
        Ok(())
    }

    /// Wait until it prints a line that is `line` on its standard error.
    pub fn await_complaint(&mut self, line: &str) -> Result<()> {
        while let Some(said) = self.complaints.next_line()? {
            if said.trim_end() == line {
                return Ok(());
            }
        }
        anyhow::bail!("it ended without saying {line:?}")
    }

    /// Wait for its end.
    pub fn finish(mut self) -> Result<Outcome> {
        let mut lines = std::mem::take(&mut self.printed);
        lines.extend(self.output.rest()?);
        let complaint = self.complaints.rest()?.join("\n");
        Ok(Outcome {
            succeeded: process::wait(&mut self.child)?.success(),
            lines,
            complaint,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and a program that has ended is no failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// The lines of a program that has to have succeeded.
    pub fn success(self) -> Result<Vec<String>> {
        ensure!(
            self.succeeded,
            "the program failed: {}{}",
            self.lines.join("\n"),
            self.complaint
        );
        Ok(self.lines)
    }
}

fn named_by(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable)
        .map(PathBuf::from)
        .with_context(|| format!("{variable} is not set: run these tests with `cargo xtask interop`, which installs what they need"))?;
    ensure!(
        path.is_file(),
        "{variable} names {}, which is not there",
        path.display()
    );
    Ok(path)
}
