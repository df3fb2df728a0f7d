//! The built binary as an agent, and as a client of it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
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
        std::thread::sleep(Duration::from_millis(10));
    }
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
}

impl Agent {
    pub fn start(data_dir: &Path) -> Self {
        Self::start_at(data_dir, "127.0.0.1:0")
    }

    pub fn start_at(data_dir: &Path, http: &str) -> Self {
        let mut child = tidings()
            .args(["agent", "--dev", "--http", http, "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = data_dir.join("listening.json");
        let pid = child.id();
        let address = eventually("the agent to listen", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the agent ended: {status}");
            }
            let text = std::fs::read(&file).ok()?;
            let value: Value = serde_json::from_slice(&text).ok()?;
            // A killed agent leaves its file behind.
            (value["pid"] == pid).then(|| value["http"].as_str().unwrap().to_owned())
        });
        let agent = Self {
            child,
            data_dir: data_dir.to_owned(),
            address,
        };
        eventually("the agent to be ready", || {
            agent
                .run(&["status"])
                .stdout
                .starts_with(agent.ready().as_bytes())
                .then_some(())
        });
        agent
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
        self.client(args).output().unwrap()
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
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        output
    }

    pub fn follow(&self, args: &[&str]) -> Follower {
        let mut child = self.client(args).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
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
    pub lines: BufReader<ChildStdout>,
}

impl Follower {
    /// The next lines; waits for them.
    pub fn take(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::with_capacity(count);
        while lines.len() < count {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(read > 0, "the stream ended after {} lines", lines.len());
            lines.push(line.trim_end().to_owned());
        }
        lines
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
