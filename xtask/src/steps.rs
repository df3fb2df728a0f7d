//! Runs the steps of a recipe: each streams its output, a failing one does not
//! stop those after it, and the summary at the end says how each went.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The steps done so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
    /// How long one command may take; `None` for as long as it likes.
    limit: Option<Duration>,
}

struct Step {
    name: String,
    elapsed: Duration,
    end: End,
}

enum End {
    Passed(Tally),
    Failed(Tally, String),
    /// Could not be done here, and does not count: the sentence says how to get it.
    NotRun(String),
}

/// What the test runners of one step counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Steps {
    /// Steps of which each command is ended, and fails, after `limit`: what hangs is named.
    pub fn bounded(limit: Duration) -> Self {
        Self {
            done: Vec::new(),
            limit: Some(limit),
        }
    }

    /// Run one command to its end; `true` when it succeeded.
    pub fn run(&mut self, name: &str, command: &mut Command) -> bool {
        self.stream(name, command, |_| Ok(()))
    }

    /// Run one command of tests to its end: to have run none is a failure.
    pub fn test(&mut self, name: &str, command: &mut Command) -> bool {
        self.stream(name, command, |tally| {
            if tally.passed == 0 {
                bail!("it ran no test");
            }
            Ok(())
        })
    }

    fn stream(
        &mut self,
        name: &str,
        command: &mut Command,
        enough: fn(&Tally) -> Result<()>,
    ) -> bool {
        announce(name, &shown(command));
        let started = Instant::now();
        let mut tally = Tally::default();
        let end = match stream(command, self.limit, &mut tally).and_then(|()| enough(&tally)) {
            Ok(()) => End::Passed(tally),
            Err(error) => End::Failed(tally, format!("{error:#}")),
        };
        self.close(name, started, end)
    }

    /// Run a step that is a function; what it made when it succeeded.
    pub fn attempt<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        announce(name, "");
        let started = Instant::now();
        let (made, end) = match step() {
            Ok(made) => (Some(made), End::Passed(Tally::default())),
            Err(error) => (None, End::Failed(Tally::default(), format!("{error:#}"))),
        };
        self.close(name, started, end);
        made
    }

    /// Note a step that fails because one that it stands on has failed.
    pub fn fail(&mut self, name: &str, why: &str) {
        let end = End::Failed(Tally::default(), why.to_owned());
        self.close(name, Instant::now(), end);
    }

    /// Note a step that this machine cannot do and that nothing depends on.
    pub fn not_run(&mut self, name: &str, why: &str) {
        self.close(name, Instant::now(), End::NotRun(why.to_owned()));
    }

    /// Print the summary; the exit code is a failure when a step was.
    ///
    /// The last line is `N passed, N failed`: the tests that the runners counted,
    /// and each step without tests as one.
    pub fn finish(self) -> ExitCode {
        println!("\nsummary");
        let mut sum = Tally::default();
        for step in &self.done {
            println!("{}", step.row());
            let counted = step.counted();
            sum.passed += counted.passed;
            sum.failed += counted.failed;
        }
        println!("\n{} passed, {} failed", sum.passed, sum.failed);
        if sum.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn close(&mut self, name: &str, started: Instant, end: End) -> bool {
        if let End::Failed(_, why) = &end {
            println!("==> {name} FAILED: {why}");
        }
        let passed = matches!(end, End::Passed(_));
        self.done.push(Step {
            name: name.to_owned(),
            elapsed: started.elapsed(),
            end,
        });
        passed
    }
}

// === impl Step ===

impl Step {
    fn row(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let (word, tally, note) = match &self.end {
            End::Passed(tally) => ("ok", *tally, ""),
            End::Failed(tally, why) => ("FAILED", *tally, why.as_str()),
            End::NotRun(why) => ("not run", Tally::default(), why.as_str()),
        };
        let mut row = format!("  {word:<8}{seconds:>7.1} s  {}", self.name);
        if tally != Tally::default() {
            row += &format!(": {} passed, {} failed", tally.passed, tally.failed);
        }
        if tally.ignored > 0 {
            row += &format!(", {} ignored", tally.ignored);
        }
        if !note.is_empty() {
            row += &format!(": {note}");
        }
        row
    }

    fn counted(&self) -> Tally {
        match &self.end {
            End::Passed(tally) => Tally {
                passed: tally.passed.max(1),
                ..*tally
            },
            End::Failed(tally, _) => Tally {
                failed: tally.failed.max(1),
                ..*tally
            },
            End::NotRun(_) => Tally::default(),
        }
    }
}

fn announce(name: &str, command: &str) {
    println!(
        "\n==> {name}{}{command}",
        if command.is_empty() { "" } else { ": " }
    );
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Run the command, copy its output to ours as it comes, count test results in it.
fn stream(command: &mut Command, limit: Option<Duration>, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    let output = child.stdout.take().context("the output is piped")?;
    let watch = limit.map(|limit| (limit, Watch::start(child.id(), limit)));
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    let mut ours = std::io::stdout().lock();
    loop {
        line.clear();
        if lines
            .read_until(b'\n', &mut line)
            .context("cannot read its output")?
            == 0
        {
            break;
        }
        ours.write_all(&line)
            .and_then(|()| ours.flush())
            .context("cannot write output")?;
        tally.add(&String::from_utf8_lossy(&line));
    }
    let status = child.wait().context("cannot wait for it")?;
    if let Some((limit, watch)) = watch
        && watch.stop()
    {
        bail!("it was still running after {limit:?} and was ended");
    }
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// Ends a command, and all that it started, when it takes too long.
struct Watch {
    over: mpsc::Sender<()>,
    thread: JoinHandle<bool>,
}

// === impl Watch ===

impl Watch {
    fn start(process: u32, limit: Duration) -> Self {
        let (over, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let is_late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_late {
                end_tree(process);
            }
            is_late
        });
        Self { over, thread }
    }

    /// Whether it had to end the command.
    fn stop(self) -> bool {
        drop(self.over);
        self.thread.join().unwrap_or(false)
    }
}

/// Kill a process and its descendants, those that hold our pipe among them.
///
/// A process group of their own would be simpler, and would keep Ctrl-C from them.
fn end_tree(root: u32) {
    let parents = parents();
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(&parent) = tree.get(at) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|p| p.0));
        at += 1;
    }
    let tree = tree.iter().map(u32::to_string);
    // One that ended meanwhile is what we want.
    let _ = Command::new("kill").arg("-KILL").args(tree).status();
}

/// Every process with its parent, as `/proc` tells.
fn parents() -> Vec<(u32, u32)> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| {
            let process = folder.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(folder.path().join("stat")).ok()?;
            // `pid (name) state parent …`: a name may hold anything, parentheses too.
            let behind = stat.rsplit_once(')')?.1;
            let parent = behind.split_whitespace().nth(1)?.parse().ok()?;
            Some((process, parent))
        })
        .collect()
}

// === impl Tally ===

impl Tally {
    /// Add the numbers of a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            if let (Some(number), Some(what)) = (words.next(), words.next())
                && let Ok(number) = number.parse::<u64>()
            {
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_adds_up_the_results_of_several_test_programs() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests\n",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s\n",
        ] {
            tally.add(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 5,
                failed: 4,
                ignored: 1
            }
        );
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_what_it_started() {
        let mut steps = Steps::bounded(Duration::from_millis(200));
        let mut hangs = Command::new("sh");
        hangs.args(["-c", "sleep 600 & sleep 600"]);
        let started = Instant::now();
        assert!(!steps.run("hangs", &mut hangs));
        assert!(started.elapsed() < Duration::from_secs(60));
        assert!(steps.done[0].row().contains("still running after 200ms"));
    }

    #[test]
    fn a_step_without_tests_counts_as_one() {
        let mut steps = Steps::default();
        assert!(steps.attempt("works", || Ok(7)) == Some(7));
        assert!(
            steps
                .attempt("breaks", || -> Result<()> { bail!("no") })
                .is_none()
        );
        let counted: Vec<_> = steps.done.iter().map(Step::counted).collect();
        assert_eq!(
            counted[0],
            Tally {
                passed: 1,
                failed: 0,
                ignored: 0
            }
        );
        assert_eq!(
            counted[1],
            Tally {
                passed: 0,
                failed: 1,
                ignored: 0
            }
        );
    }
}
