//! One agent process, alone or as one of a cluster.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Response, Stream, request};
use crate::network::Namespace;

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
    /// What it is told on its command line beside its addresses and its folders.
    pub arguments: Vec<String>,
    /// Whether it listens for other servers.
    pub has_peers: bool,
    /// The host it runs on with its address there; this one on loopback when absent.
    pub host: Option<(Arc<Namespace>, String)>,
}

/// A running agent and its data directory; both end with this value.
pub struct Agent {
    child: Child,
    address: SocketAddr,
    peer: Option<SocketAddr>,
    data_dir: PathBuf,
    token: Option<String>,
    arguments: Vec<String>,
    has_peers: bool,
    host: Option<(Arc<Namespace>, String)>,
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
        let mut agent = Self::launch(options)?;
        agent.await_ready()?;
        Ok(agent)
    }

    /// Start and wait until it listens; it may have to find others before it is ready.
    ///
    /// # Errors
    /// When the agent ends or does not listen in time; the error has the end of its log.
    pub fn launch(options: AgentOptions) -> Result<Self> {
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
        let start = Start {
            folder: folder.path(),
            data_dir: &data_dir,
            arguments: &options.arguments,
            has_peers: options.has_peers,
            host: options.host.as_ref(),
        };
        let mut agent = Self {
            child: start.spawn(None, None)?,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            peer: None,
            data_dir,
            token: options.token,
            arguments: options.arguments,
            has_peers: options.has_peers,
            host: options.host,
            folder,
        };
        agent.await_listening()?;
        Ok(agent)
    }

    /// Where it serves HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for other servers, if it does.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.peer
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

    /// `SIGSTOP`: it stays where it is, and its connections stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// `SIGCONT`.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
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
        self.respawn(None)?;
        self.await_listening()?;
        self.await_ready()
    }

    /// Start again as [`Agent::restart`] does, at the addresses that it had: others know them. It may
    /// have to find them before it is ready.
    pub fn restart_in_place(&mut self) -> Result<()> {
        self.respawn(Some(self.address))?;
        self.await_listening()
    }

    fn respawn(&mut self, address: Option<SocketAddr>) -> Result<()> {
        let start = Start {
            folder: self.folder.path(),
            data_dir: &self.data_dir,
            arguments: &self.arguments,
            has_peers: self.has_peers,
            host: self.host.as_ref(),
        };
        self.child = start.spawn(address, self.peer.filter(|_| address.is_some()))?;
        Ok(())
    }

    /// Start again where that is expected to fail; what the agent said.
    pub fn restart_refused(&mut self) -> Result<String> {
        self.respawn(None)?;
        let status = self.await_end()?;
        ensure!(
            !status.success(),
            "the agent started and ended cleanly\n{}",
            self.log_tail()
        );
        Ok(self.log())
    }

    fn await_listening(&mut self) -> Result<()> {
        let listening = self.data_dir.join("listening.json");
        self.await_start("listening", |agent| {
            // The file may be one that a killed agent left: the process id tells.
            let Some(said) = std::fs::read(&listening)
                .ok()
                .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
                .filter(|said| said["pid"].as_u64() == Some(u64::from(agent.pid())))
            else {
                return Ok(false);
            };
            let address = |name: &str| {
                let address = said[name].as_str().map(str::parse).transpose();
                address.with_context(|| format!("bad address in {said}"))
            };
            agent.address = address("http")?.with_context(|| format!("no address in {said}"))?;
            agent.peer = address("peer")?;
            Ok(true)
        })
    }

    /// Wait until it can take and serve events.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; the error has the end of its log.
    pub fn await_ready(&mut self) -> Result<()> {
        self.await_start("ready", |agent| {
            let answer = request(agent.address, "GET", "/v1/health/ready", &[], b"");
            Ok(answer.is_ok_and(|answer| answer.status == 200))
        })
    }

    fn await_start(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + LIFECYCLE_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the agent ended with {status} while it was starting\n{}",
                    self.log_tail()
                );
            }
            if is_so(self)? {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent was not {what} within {LIFECYCLE_TIMEOUT:?}\n{}",
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

/// What a process is started with.
struct Start<'a> {
    folder: &'a Path,
    data_dir: &'a Path,
    arguments: &'a [String],
    has_peers: bool,
    host: Option<&'a (Arc<Namespace>, String)>,
}

impl Start<'_> {
    /// Starts it, at the addresses that it had or at free ones.
    fn spawn(&self, http: Option<SocketAddr>, peer: Option<SocketAddr>) -> Result<Child> {
        let free = format!("{}:0", self.host.map_or("127.0.0.1", |(_, ip)| ip));
        let text = |address: Option<SocketAddr>| {
            address.map_or_else(|| free.clone(), |address| address.to_string())
        };
        let log = File::create(self.folder.join("log"))?;
        let mut command = Command::new(tidings()?);
        command
            .args(["agent", "--http", &text(http), "--config"])
            .arg(self.folder.join("config"))
            .arg("--data-dir")
            .arg(self.data_dir)
            .args(self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if self.has_peers {
            command.args(["--peer", &text(peer)]);
        }
        let spawned = match self.host {
            Some((namespace, _)) => namespace.within(|| command.spawn())?,
            None => command.spawn(),
        };
        spawned.context("cannot start the agent")
    }
}
