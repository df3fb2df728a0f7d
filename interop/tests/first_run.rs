//! What somebody new types first.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidings_interop::{Stream, process, request, tidings};

const PATIENCE: Duration = Duration::from_secs(30);

/// `tidings agent --dev`, as the README says, but on a free port.
struct Dev {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Dev {
    fn start() -> Result<Self> {
        let mut child = Command::new(tidings()?)
            .args(["agent", "--dev", "--http", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The text after `start` up to the next white space, in the first line that has it.
    fn printed(&self, start: &str) -> Result<String> {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .with_context(|| format!("it printed no {start:?}"))?;
            if let Some((_, rest)) = line.split_once(start) {
                return Ok(rest
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned());
            }
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn agent_dev_prints_where_it_serves_and_cleans_up() -> Result<()> {
    let mut dev = Dev::start()?;
    let address: SocketAddr = dev
        .printed("http://")?
        .trim_end_matches(['/', ','])
        .parse()?;
    let event =
        br#"{"Events":[{"Topic":"Hello","Type":"Said","Key":"world","Payload":{"Text":"hello"}}]}"#;
    let json_type = [("Content-Type", "application/json")];
    let index = request(address, "POST", "/v1/events", &json_type, event)?.json()?["Index"].clone();
    let frame = Stream::open(address, "/v1/event/stream?topic=Hello", &[])?.next_frame()?;
    assert_eq!(frame["Index"], index);
    assert_eq!(frame["Events"][0]["Payload"]["Text"], "hello");

    let status: Value = request(address, "GET", "/v1/status", &[], b"")?.json()?;
    ensure!(status.is_object(), "{status}");

    let pid = i32::try_from(dev.child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("not a process id")?;
    let data_dir = open_data_dir(dev.child.id())?;
    ensure!(data_dir.is_dir(), "{} is not there", data_dir.display());
    kill_process(pid, Signal::INT)?;
    let status = process::wait(&mut dev.child)?;
    ensure!(
        status.success(),
        "after an interrupt it ended with {status}"
    );
    ensure!(!data_dir.exists(), "{} was left behind", data_dir.display());
    Ok(())
}

/// The data directory of a running agent: where its lock file is.
fn open_data_dir(pid: u32) -> Result<PathBuf> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        if target.file_name().is_some_and(|name| name == "lock") {
            return target
                .parent()
                .map(PathBuf::from)
                .context("a lock file lies somewhere");
        }
    }
    anyhow::bail!("the agent holds no lock file")
}
