//! One agent process.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Response, Stream, request};

/// How long an agent may take to come up or go down.
const LIFECYCLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at something that has no event to wait for.
const POLL: Duration = Duration::from_millis(5);

/// How to start an agent.
#[derive(Default)]
pub struct AgentOptions {
    /// TOML for its configuration file.
    pub config: String,
    /// The data directory; a fresh temporary one when absent.
    pub data_dir: Option<PathBuf>,
    /// The token its clients must bear.
    pub token: Option<String>,
}

/// A running agent and its data directory; both end with this value.
pub struct Agent {
    child: Child,
    address: SocketAddr,
    data_dir: PathBuf,
    token: Option<String>,
    folder: TempDir,
}

/// The `tidings` binary under test.
///
/// # Errors
/// When `TIDINGS_BIN` names none and none was built beside this test program.
pub fn tidings() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIDINGS_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "TIDINGS_BIN names {}, which is not there",
            path.display()
        );
        return Ok(path);
    }
    // target/debug/deps/this-test → target/debug/tidings
    let test = std::env::current_exe().context("cannot find this test program")?;
    let path = test
        .ancestors()
        .nth(2)
        .map(|folder| folder.join("tidings"))
        .context("this test program lies in no target directory")?;
    ensure!(
        path.is_file(),
        "no agent at {}: run `cargo xtask interop`, or `cargo build -p tidings` first",
        path.display()
    );
    Ok(path)
}

impl Agent {
    /// Start with default settings.
    pub fn start() -> Result<Self> {
        Self::start_with(AgentOptions::default())
    }

    /// Start and wait until it answers.
    ///
    /// # Errors
    /// When the agent ends or does not answer in time; the error has the end of its log.
    pub fn start_with(options: AgentOptions) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary directory")?;
        let data_dir = options
            .data_dir
            .unwrap_or_else(|| folder.path().join("data"));
        let config = folder.path().join("config");
        std::fs::create_dir(&config)?;
        std::fs::write(config.join("test.toml"), options.config)?;
        if let Some(token) = &options.token {
            let file = folder.path().join("token");
            std::fs::write(&file, token)?;
            // The agent warns of a secret that others can read, and beyond loopback refuses it.
            std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            let text = format!("[http]\ntoken_file = {file:?}\n");
            std::fs::write(config.join("token.toml"), text)?;
        }
        let child = spawn(folder.path(), &data_dir)?;
        let mut agent = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir,
            token: options.token,
            folder,
        };
        agent.await_ready()?;
        Ok(agent)
    }

    /// Where it serves HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed since its (last) start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// One request, with the token when there is one.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let mut all = headers.to_vec();
        if let Some(token) = &self.token {
            all.push(("X-Nomad-Token", token));
        }
        request(self.address, method, target, &all, body)
    }

    /// `GET` and the body as JSON; any status but 200 is an error.
    pub fn get_json(&self, target: &str) -> Result<Value> {
        self.request("GET", target, &[], b"")?.json()
    }

    /// Open a stream, with the token when there is one.
    pub fn stream(&self, target: &str) -> Result<Stream> {
        let token = self.token.as_deref().map(|token| ("X-Nomad-Token", token));
        Stream::open(self.address, target, token.as_slice())
    }

    /// Publish one transaction given as the text of `{"Events":[…]}`; its index.
    pub fn publish_text(&self, transaction: &str) -> Result<u64> {
        let headers = [("Content-Type", "application/json")];
        let answer = self
            .request("POST", "/v1/events", &headers, transaction.as_bytes())?
            .json()?;
        answer["Index"]
            .as_u64()
            .with_context(|| format!("no index in {answer}"))
    }

    /// Publish one transaction of these events; its index.
    pub fn publish(&self, events: &[Value]) -> Result<u64> {
        self.publish_text(&serde_json::json!({ "Events": events }).to_string())
    }

    /// `SIGKILL`, and wait for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the agent")?;
        self.child.wait().context("cannot wait for the agent")?;
        Ok(())
    }

    /// `SIGTERM`.
    pub fn signal_stop(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .context("not a process id")?;
        kill_process(pid, signal).context("cannot signal the agent")
    }

    /// Writes its configuration file anew, and asks it to read all of them.
    pub fn reload(&self, config: &str) -> Result<()> {
        std::fs::write(self.folder.path().join("config/test.toml"), config)?;
        self.signal(Signal::HUP)
    }

    /// Writes another token into its token file; a reload takes it.
    pub fn write_token(&self, token: &str) -> Result<()> {
        std::fs::write(self.folder.path().join("token"), token).context("cannot write the token")
    }

    /// Wait until its log has this many lines with `text`.
    pub fn await_log(&self, text: &str, lines: usize) -> Result<()> {
        let deadline = Instant::now() + LIFECYCLE_TIMEOUT;
        while self
            .log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
            < lines
        {
            ensure!(
                Instant::now() < deadline,
                "its log has not {lines} lines with {text:?}\n{}",
                self.log_tail()
            );
            sleep(POLL);
        }
        Ok(())
    }

    /// Wait for its end.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + LIFECYCLE_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent did not end within {LIFECYCLE_TIMEOUT:?}\n{}",
                    self.log_tail()
                );
            }
            sleep(POLL);
        }
    }

    /// `SIGTERM` and a clean end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal_stop()?;
        let status = self.await_end()?;
        ensure!(
            status.success(),
            "the agent ended with {status}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// Start again on the same data after [`Agent::kill`] or [`Agent::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(self.folder.path(), &self.data_dir)?;
        self.await_ready()
    }

    /// Start again where that is expected to fail; what the agent said.
    pub fn restart_refused(&mut self) -> Result<String> {
        self.child = spawn(self.folder.path(), &self.data_dir)?;
        let status = self.await_end()?;
        ensure!(
            !status.success(),
            "the agent started and ended cleanly\n{}",
            self.log_tail()
        );
        Ok(self.log())
    }

    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIFECYCLE_TIMEOUT;
        let listening = self.data_dir.join("listening.json");
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the agent ended with {status} while it was starting\n{}",
                    self.log_tail()
                );
            }
            // The file may be one that a killed agent left: the process id tells.
            if let Ok(text) = std::fs::read(&listening)
                && let Ok(said) = serde_json::from_slice::<Value>(&text)
                && said["pid"].as_u64() == Some(u64::from(self.pid()))
                && let Some(address) = said["http"].as_str()
            {
                self.address = address
                    .parse()
                    .with_context(|| format!("bad address in {said}"))?;
                if request(self.address, "GET", "/v1/health/ready", &[], b"")
                    .is_ok_and(|r| r.status == 200)
                {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent was not ready within {LIFECYCLE_TIMEOUT:?}\n{}",
                    self.log_tail()
                );
            }
            sleep(POLL);
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and an agent that has ended is no failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of the agent's log ---\n{}", self.log_tail());
        }
    }
}

fn spawn(folder: &Path, data_dir: &Path) -> Result<Child> {
    let log = File::create(folder.join("log"))?;
    Command::new(tidings()?)
        .args(["agent", "--http", "127.0.0.1:0", "--config"])
        .arg(folder.join("config"))
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the agent")
}
