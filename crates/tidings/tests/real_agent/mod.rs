//! The built binary as an agent, and as a client of it.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod cluster;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything; only a broken build comes near.
const PATIENCE: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_tidings");

/// Waits until the condition gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for the end of a process. One that goes on for too long is killed, and the test fails.
pub fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("waited too long for a command to end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// As [`wait`], with what it said on the pipes that it has.
pub fn finish(mut child: Child) -> Output {
    fn gather(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut said = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut said).unwrap();
            }
            said
        })
    }
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    Output {
        status: wait(&mut child),
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

/// Runs a command to its end, but not for ever.
pub fn output(command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(piped.spawn().unwrap())
}

/// A command that takes nothing from the environment of the test.
pub fn tidings() -> Command {
    let mut command = Command::new(BINARY);
    for name in [
        "TIDINGS_ADDR",
        "TIDINGS_TOKEN",
        "TIDINGS_NAMESPACE",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command
}

/// An agent on a data directory. Killed when dropped, not stopped.
pub struct Agent {
    child: Child,
    data_dir: PathBuf,
    pub address: String,
    /// Where other servers connect to, of one that holds its timeline with others.
    pub peer: Option<String>,
}

impl Agent {
    pub fn start(data_dir: &Path) -> Self {
        Self::start_at(data_dir, "127.0.0.1:0")
    }

    /// On this address. Another process may have taken the port of an agent that was killed: it is
    /// tried until that one lets go of it.
    pub fn start_at(data_dir: &Path, http: &str) -> Self {
        let started = Instant::now();
        loop {
            match Self::try_start_at(data_dir, http) {
                Ok(agent) => return agent,
                Err(said) if said.contains("cannot listen on") && started.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(100));
                }
                Err(said) => panic!("the agent ended: {said}"),
            }
        }
    }

    /// The error is what the agent said before it ended.
    fn try_start_at(data_dir: &Path, http: &str) -> Result<Self, String> {
        let agent = Self::spawn(data_dir, &["--dev", "--http", http])?;
        agent.wait_until_ready();
        Ok(agent)
    }

    /// With these flags; returns when it listens, ready or not. What it prints is in `agent.out` of
    /// the directory, and its log in `agent.log`. The error is what it said before it ended.
    pub fn spawn(data_dir: &Path, flags: &[&str]) -> Result<Self, String> {
        std::fs::create_dir_all(data_dir).unwrap();
        let log = data_dir.join("agent.log");
        let mut child = tidings()
            .arg("agent")
            .args(flags)
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(File::create(data_dir.join("agent.out")).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let file = data_dir.join("listening.json");
        let pid = child.id();
        let (address, peer) = eventually("the agent to listen", || {
            if let Some(status) = child.try_wait().unwrap() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Some(Err(format!("{status}: {said}")));
            }
            let text = std::fs::read(&file).ok()?;
            let value: Value = serde_json::from_slice(&text).ok()?;
            // A killed agent leaves its file behind.
            (value["pid"] == pid).then(|| {
                let text = |name: &str| value[name].as_str().map(str::to_owned);
                Ok((text("http").unwrap(), text("peer")))
            })
        })?;
        Ok(Self {
            child,
            data_dir: data_dir.to_owned(),
            address,
            peer,
        })
    }

    pub fn wait_until_ready(&self) {
        eventually("the agent to be ready", || {
            self.run(&["status"])
                .stdout
                .starts_with(self.ready().as_bytes())
                .then_some(())
        });
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("agent.out")).unwrap()
    }

    /// SIGTERM, and waits for the end, which must be a clean one.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = wait(&mut self.child);
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Waits for it to end by itself, which must be a failure; gives what it said.
    pub fn wait_for_failure(mut self) -> String {
        let status = wait(&mut self.child);
        assert!(!status.success(), "{status}");
        self.log()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("agent.log")).unwrap_or_default()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What `/v1/status` says.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--output", "json"])).unwrap()
    }

    fn ready(&self) -> String {
        format!("http://{} is ready", self.address)
    }

    /// kill -9, then the same again on the same directory and port.
    pub fn crash_and_restart(mut self) -> Self {
        self.kill();
        let (data_dir, address) = (self.data_dir.clone(), self.address.clone());
        Self::start_at(&data_dir, &address)
    }

    /// kill -9, then another data directory on the same port.
    pub fn crash_and_restart_on(mut self, data_dir: &Path) -> Self {
        self.kill();
        Self::start_at(data_dir, &self.address.clone())
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A command that talks to this agent.
    pub fn client(&self, args: &[&str]) -> Command {
        let mut command = tidings();
        command
            .env("TIDINGS_ADDR", format!("http://{}", self.address))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        output(&mut self.client(args))
    }

    /// Runs a command that has to succeed; gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command with this on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.client(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = finish(child);
        writer.join().unwrap().unwrap();
        output
    }

    pub fn follow(&self, args: &[&str]) -> Follower {
        let mut child = self.client(args).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Reading a pipe cannot be given up, waiting for a channel can.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Follower { child, lines }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a command said, for a failed assertion.
pub fn told(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A running `tidings stream`. Killed when dropped.
pub struct Follower {
    pub child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    /// The next lines; waits for them.
    pub fn take(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::with_capacity(count);
        while lines.len() < count {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line.trim_end().to_owned()),
                Err(error) => panic!("{error}: {} of {count} lines came", lines.len()),
            }
        }
        lines
    }

    /// What it said on standard error, once it has ended.
    pub fn said(&mut self) -> String {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Index, and key of the first event, of frames as lines.
pub fn indexes_and_keys(lines: &[String]) -> Vec<(u64, String)> {
    lines
        .iter()
        .map(|line| {
            let frame: Value = serde_json::from_str(line).unwrap();
            let key = frame["Events"][0]["Key"].as_str().unwrap().to_owned();
            (frame["Index"].as_u64().unwrap(), key)
        })
        .collect()
}

/// Lines of events with these keys, without ids.
pub fn event_lines(keys: impl Iterator<Item = u64>) -> String {
    keys.map(|key| {
        format!("{{\"Topic\":\"Count\",\"Type\":\"Counted\",\"Key\":\"{key}\",\"Payload\":{{\"n\":{key}}}}}\n")
    })
    .collect()
}
