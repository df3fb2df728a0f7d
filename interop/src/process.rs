//! Processes that are waited for, but not for ever.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a program may take to come up, to say something, or to end. Only a broken one comes near.
pub const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at something that has no event to wait for.
const POLL: Duration = Duration::from_millis(5);

/// Wait for the end of a process; one that goes on for too long is killed.
///
/// # Errors
/// When it had to be killed.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + PROGRAM_TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("it did not end within {PROGRAM_TIMEOUT:?}");
        }
        thread::sleep(POLL);
    }
}

/// Run a command to its end, with what it said.
///
/// # Errors
/// When it cannot be run, or had to be killed.
pub fn output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    let status = wait(&mut child).with_context(|| format!("cannot wait for {name}"))?;
    let said = |thread: thread::JoinHandle<Vec<u8>>| {
        let said = thread.join();
        said.map_err(|_| anyhow::anyhow!("a reader panicked"))
    };
    Ok(Output {
        status,
        stdout: said(stdout)?,
        stderr: said(stderr)?,
    })
}

fn gather(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before the pipe broke is as much as there is.
            let _ = pipe.read_to_end(&mut said);
        }
        said
    })
}

/// The lines of a pipe. A thread reads them: reading a pipe cannot be given up.
pub struct Lines {
    lines: mpsc::Receiver<String>,
}

impl Lines {
    /// Begin to read.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When none comes for too long.
    pub fn next_line(&self) -> Result<Option<String>> {
        match self.lines.recv_timeout(PROGRAM_TIMEOUT) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("it said nothing and did not end within {PROGRAM_TIMEOUT:?}")
            }
        }
    }

    /// The next line, if one comes within `limit`.
    ///
    /// # Errors
    /// At the end.
    pub fn next_line_within(&self, limit: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("it has ended"),
        }
    }

    /// All lines up to the end.
    ///
    /// # Errors
    /// When the end does not come.
    pub fn rest(&self) -> Result<Vec<String>> {
        let mut rest = Vec::new();
        while let Some(line) = self.next_line()? {
            rest.push(line);
        }
        Ok(rest)
    }
}
