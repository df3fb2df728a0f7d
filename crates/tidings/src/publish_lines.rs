//! `tidings publish --ndjson`: a line a transaction, many in flight.
//!
//! ```text
//!   file ──(thread)──▶ lines ──(feeder)──▶ publisher ──▶ acknowledgements ──▶ report
//!                                 └── line numbers, in the same order ─────────▲
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tidings_client::{
    Acknowledgement, Client, ClientError, LINE_BYTES_MAX, PublishStreamConfig, Transaction,
    TransactionSender,
};
use tidings_event::Index;
use tokio::sync::mpsc;

use crate::failure::FAILED;
use crate::interrupt::Interrupt;
use crate::output::{self, Format, counted, grouped};
use crate::visible::visible;

/// Lines that are read ahead of the publisher.
const LINES_READ_AHEAD: usize = 256;
/// Line numbers on their way to the report.
const NUMBERS_WAITING: usize = 1024;
/// How long answers to what is in flight are waited for after Ctrl-C.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(5);
/// Refused lines that are told one by one; the rest is counted.
const REFUSALS_TOLD_MAX: u64 = 100;

/// One line of the file.
struct Line {
    number: u64,
    /// With its line end.
    bytes: u64,
    text: Result<String, String>,
}

/// A line that was handed to the publisher, or was not worth it.
struct Given {
    number: u64,
    bytes: u64,
    refused: Option<String>,
}

pub async fn run(
    source: &str,
    retry_time: Duration,
    format: Format,
    client: &Client,
) -> anyhow::Result<ExitCode> {
    let (input, size) = open(source)?;
    let mut interrupt = Interrupt::install()?;
    let (lines, line_queue) = mpsc::channel(LINES_READ_AHEAD);
    // A thread of its own, not the runtime's: reading a terminal cannot be broken off.
    std::thread::Builder::new()
        .name("lines".to_owned())
        .spawn(move || read_lines(input, &lines))
        .context("cannot start a thread to read with")?;
    let (sender, mut acknowledgements) = client.publish_stream(PublishStreamConfig {
        retry_time,
        ..PublishStreamConfig::default()
    });
    let (numbers, mut given) = mpsc::channel(NUMBERS_WAITING);
    let namespace = client.config().namespace.clone();
    let feeder = tokio::spawn(feed(line_queue, sender, numbers, namespace));

    let mut report = Report::new(size);
    let mut failure = None;
    let mut interrupted: Option<tokio::time::Instant> = None;
    let mut all_given = false;
    loop {
        let patience = interrupted.map(|at| at + INTERRUPTED_WAIT);
        tokio::select! {
            biased;
            () = interrupt.wait(), if interrupted.is_none() => {
                interrupted = Some(tokio::time::Instant::now());
                // Drops the sender: the publisher finishes what it has.
                feeder.abort();
            }
            line = given.recv(), if !all_given => match line {
                Some(line) => report.given(line),
                None => all_given = true,
            },
            answer = acknowledgements.next() => match answer {
                Some(Ok(answer)) => {
                    // The line was announced before it was sent.
                    while report.in_flight.is_empty() {
                        match given.recv().await {
                            Some(line) => report.given(line),
                            None => break,
                        }
                    }
                    report.answered(&answer);
                }
                Some(Err(error)) => {
                    failure = Some(error);
                    feeder.abort();
                    break;
                }
                None => break,
            },
            () = sleep_until(patience), if patience.is_some() => break,
        }
    }
    while !all_given {
        match given.recv().await {
            Some(line) => report.given(line),
            None => all_given = true,
        }
    }
    report.finish(format, interrupted.is_some(), failure)
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The input, and its size when it has one.
fn open(source: &str) -> anyhow::Result<(Box<dyn BufRead + Send>, Option<u64>)> {
    if source == "-" {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let failed = || format!("cannot read {source}");
    let file = File::open(source).with_context(failed)?;
    let metadata = file.metadata().with_context(failed)?;
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(128 * 1024, file)), size))
}

/// Cuts the input into lines until its end, or until nobody takes them any more.
fn read_lines(mut input: Box<dyn BufRead + Send>, lines: &mpsc::Sender<io::Result<Line>>) {
    for number in 1.. {
        let line = match read_line(input.as_mut(), number, LINE_BYTES_MAX) {
            Ok(Some(line)) => Ok(line),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

fn read_line(input: &mut dyn BufRead, number: u64, bytes_max: usize) -> io::Result<Option<Line>> {
    let mut text = Vec::new();
    let limit = bytes_max as u64 + 1;
    let mut bytes = input.take(limit).read_until(b'\n', &mut text)? as u64;
    if bytes == 0 {
        return Ok(None);
    }
    if bytes == limit && text.last() != Some(&b'\n') {
        // The rest of it is passed over in pieces.
        while bytes > 0 && text.last() != Some(&b'\n') {
            text.clear();
            if input.take(limit).read_until(b'\n', &mut text)? == 0 {
                break;
            }
        }
        bytes = limit;
        let text = Err(format!("it has more than {bytes_max} bytes"));
        return Ok(Some(Line {
            number,
            bytes,
            text,
        }));
    }
    let text = String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned());
    Ok(Some(Line {
        number,
        bytes,
        text,
    }))
}

/// Hands lines to the publisher and tells their numbers, in the same order.
async fn feed(
    mut lines: mpsc::Receiver<io::Result<Line>>,
    sender: TransactionSender,
    numbers: mpsc::Sender<Given>,
    namespace: Option<String>,
) {
    while let Some(line) = lines.recv().await {
        let Line {
            number,
            bytes,
            text,
        } = match line {
            Ok(line) => line,
            Err(error) => {
                let refused = Some(format!("cannot read further: {error}"));
                let given = Given {
                    number: 0,
                    bytes: 0,
                    refused,
                };
                let _ = numbers.send(given).await;
                return;
            }
        };
        if text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
            continue;
        }
        let transaction = text.and_then(|text| {
            Transaction::from_json(&text, namespace.as_deref()).map_err(|error| {
                match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                }
            })
        });
        let (transaction, refused) = match transaction {
            Ok(transaction) => (Some(transaction), None),
            Err(why) => (None, Some(why)),
        };
        if numbers
            .send(Given {
                number,
                bytes,
                refused,
            })
            .await
            .is_err()
        {
            return;
        }
        if let Some(transaction) = transaction
            && sender.send(transaction).await.is_err()
        {
            return;
        }
    }
}

/// What became of the lines.
struct Report {
    bar: ProgressBar,
    started: Instant,
    /// Numbers and sizes of lines without an answer, oldest first.
    in_flight: VecDeque<(u64, u64)>,
    /// Number of the last line that was taken from the input.
    last_given: u64,
    published: u64,
    duplicates: u64,
    spooled: u64,
    refused: u64,
    first: Option<Index>,
    last: Option<Index>,
}

impl Report {
    fn new(size: Option<u64>) -> Self {
        let bar = match size {
            _ if !io::stderr().is_terminal() => ProgressBar::hidden(),
            Some(size) => ProgressBar::new(size).with_style(style(
                "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left {msg}",
            )),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {msg}")),
        };
        Self {
            bar,
            started: Instant::now(),
            in_flight: VecDeque::new(),
            last_given: 0,
            published: 0,
            duplicates: 0,
            spooled: 0,
            refused: 0,
            first: None,
            last: None,
        }
    }

    fn given(&mut self, line: Given) {
        self.last_given = self.last_given.max(line.number);
        match line.refused {
            None => self.in_flight.push_back((line.number, line.bytes)),
            Some(why) => {
                self.bar.inc(line.bytes);
                self.refuse(line.number, &why);
            }
        }
    }

    fn answered(&mut self, answer: &Acknowledgement) {
        let Some((number, bytes)) = self.in_flight.pop_front() else {
            return;
        };
        self.bar.inc(bytes);
        match &answer.outcome {
            Ok(published) if published.spooled => self.spooled += 1,
            Ok(published) => {
                if published.duplicate {
                    self.duplicates += 1;
                } else {
                    self.published += 1;
                }
                self.first = Some(
                    self.first
                        .map_or(published.index, |first| first.min(published.index)),
                );
                self.last = self.last.max(Some(published.index));
            }
            Err(refused) => self.refuse(number, &refused.to_string()),
        }
    }

    fn refuse(&mut self, number: u64, why: &str) {
        self.refused += 1;
        if self.refused <= REFUSALS_TOLD_MAX {
            let why = visible(why);
            self.bar.suspend(|| match number {
                0 => eprintln!("{why}"),
                number => eprintln!("line {number}: {why}"),
            });
        } else if self.refused == REFUSALS_TOLD_MAX + 1 {
            self.bar
                .suspend(|| eprintln!("further refused lines are only counted"));
        }
    }

    fn finish(
        self,
        format: Format,
        interrupted: bool,
        failure: Option<ClientError>,
    ) -> anyhow::Result<ExitCode> {
        self.bar.finish_and_clear();
        let text = match format {
            Format::Text => self.text(),
            Format::Json => self.json(),
        };
        output::print(&text).context("cannot print the summary")?;
        if interrupted || failure.is_some() {
            let label = if interrupted {
                "interrupted"
            } else {
                "stopped"
            };
            eprintln!(
                "{label}: what stands behind line {} was not sent",
                self.last_given
            );
        }
        if let Some(line) = self.unacknowledged() {
            eprintln!("{line}");
        }
        if let Some(error) = failure {
            return Err(error).context("cannot publish all lines");
        }
        let complete = self.refused == 0 && self.in_flight.is_empty() && !interrupted;
        Ok(if complete {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        })
    }

    fn text(&self) -> String {
        let spent = self.started.elapsed().as_secs_f64();
        let mut text = format!(
            "{} published",
            counted(self.published, "transaction", "transactions")
        );
        if self.duplicates > 0 {
            text += &format!(", {} there already", grouped(self.duplicates));
        }
        if self.spooled > 0 {
            text += &format!(
                ", {} kept by the agent until a server is reached",
                grouped(self.spooled)
            );
        }
        if self.refused > 0 {
            text += &format!(", {} refused", grouped(self.refused));
        }
        match (self.first, self.last) {
            (Some(first), Some(last)) if first == last => text += &format!(", at index {first}"),
            (Some(first), Some(last)) => text += &format!(", at indexes {first} to {last}"),
            _ => {}
        }
        let answered = self.published + self.duplicates + self.spooled + self.refused;
        let rate = answered as f64 / spent.max(1e-3);
        text + &format!(", in {spent:.1} s ({}/s)\n", grouped(rate as u64))
    }

    fn json(&self) -> String {
        let summary = serde_json::json!({
            "Published": self.published,
            "Duplicates": self.duplicates,
            "Spooled": self.spooled,
            "Refused": self.refused,
            "Unacknowledged": self.in_flight.len(),
            "FirstIndex": self.first.map(Index::get),
            "LastIndex": self.last.map(Index::get),
        });
        format!("{summary}\n")
    }

    /// What may or may not have happened.
    fn unacknowledged(&self) -> Option<String> {
        let (first, _) = self.in_flight.front()?;
        let (last, _) = self.in_flight.back()?;
        let count = counted(self.in_flight.len() as u64, "line was", "lines were");
        Some(format!(
            "{count} not acknowledged ({first} to {last}): they may or may not be on the timeline; lines that name their own Id can be published again safely"
        ))
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST_BYTES_MAX: usize = 1000;

    fn lines(text: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let mut input = text;
        let mut lines = Vec::new();
        while let Some(line) =
            read_line(&mut input, lines.len() as u64 + 1, TEST_BYTES_MAX).unwrap()
        {
            lines.push((line.number, line.text));
        }
        lines
    }

    #[test]
    fn lines_have_numbers_and_the_last_needs_no_end() {
        let lines = lines(b"{}\n\n\xff\nlast");
        assert_eq!(lines[0], (1, Ok("{}\n".to_owned())));
        assert_eq!(lines[1], (2, Ok("\n".to_owned())));
        assert_eq!(lines[2], (3, Err("it is not UTF-8".to_owned())));
        assert_eq!(lines[3], (4, Ok("last".to_owned())));
    }

    #[test]
    fn a_line_past_the_limit_is_passed_over() {
        let mut text = vec![b'x'; 2 * TEST_BYTES_MAX + 10];
        text.extend_from_slice(b"\nnext\n");
        let lines = lines(&text);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].1.is_err());
        assert_eq!(lines[1].1.as_deref(), Ok("next\n"));
    }

    #[test]
    fn the_report_tells_what_is_open() {
        let mut report = Report::new(None);
        for number in 3..=5 {
            report.given(Given {
                number,
                bytes: 10,
                refused: None,
            });
        }
        report.answered(&Acknowledgement {
            sequence: 0,
            outcome: Ok(tidings_client::Published {
                index: Index(9),
                duplicate: false,
                spooled: false,
            }),
        });
        assert!(
            report
                .unacknowledged()
                .unwrap()
                .starts_with("2 lines were not acknowledged (4 to 5)")
        );
        assert!(
            report
                .text()
                .starts_with("1 transaction published, at index 9, in ")
        );
        assert_eq!(
            report.json(),
            "{\"Duplicates\":0,\"FirstIndex\":9,\"LastIndex\":9,\"Published\":1,\"Refused\":0,\"Spooled\":0,\"Unacknowledged\":2}\n"
        );
    }
}
