//! The foreign programs: the official Go client and PyPI's python-nomad.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Agent;

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
        let program = named_by("TIDINGS_GO_CLIENT")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("NOMAD_ADDR", agent.url())
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
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child })
    }

    /// Wait until it prints a line that is `line` on its standard error.
    pub fn await_complaint(&mut self, line: &str) -> Result<()> {
        let errors = self
            .child
            .stderr
            .as_mut()
            .context("standard error is piped")?;
        let mut reader = BufReader::with_capacity(1, errors);
        let mut said = String::new();
        while reader.read_line(&mut said)? > 0 {
            if said.trim_end() == line {
                return Ok(());
            }
            said.clear();
        }
        anyhow::bail!("it ended without saying {line:?}")
    }

    /// Wait for its end.
    pub fn finish(mut self) -> Result<Outcome> {
        // Both programs say little on standard error: the pipe holds it while we read the other.
        let mut output = String::new();
        self.child
            .stdout
            .take()
            .context("standard output is piped")?
            .read_to_string(&mut output)?;
        let mut complaint = String::new();
        self.child
            .stderr
            .take()
            .context("standard error is piped")?
            .read_to_string(&mut complaint)?;
        let status = self.child.wait()?;
        let lines = output.lines().map(str::to_owned).collect();
        Ok(Outcome {
            succeeded: status.success(),
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
