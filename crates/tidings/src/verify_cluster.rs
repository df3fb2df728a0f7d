//! `tidings verify --cluster`: whether all servers hold one history.
//!
//! ```text
//!  all servers ── digests of steps ──▶ alike? ──▶ go on where the shortest answer ends
//!                                        │ no
//!                                        └─ that step again in smaller ones … down to one frame
//! ```
//!
//! A server that finds a damaged line while it reads for us names it, and stops: what it has said must
//! be enough, and the others are compared further without it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidings_client::{Client, ClientConfig, ClientError, DigestRequest, Digests};
use tidings_event::Index;

use crate::failure::FAILED;
use crate::output::{self, Format, grouped};
use crate::table::table;
use crate::verify::VerifyArgs;
use crate::visible::visible;

/// Frames of one digest when lines are read: a step is read in a moment, whatever the lines are.
const STEP_OF_LINES: u64 = 1024;
/// Steps into which frames are cut otherwise: as many digests as one answer has.
const STEPS: u64 = 256;
/// How often a server is asked again that says that too much happens at once.
const ASKED_MAX: u32 = 30;
/// How long it is left alone before that.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often is begun anew because retention was quicker.
const BEGUN_MAX: u32 = 8;

/// A server that is compared.
struct Compared {
    name: String,
    http: String,
    client: Client,
    timeline: Option<String>,
    oldest: Index,
    newest: Index,
}

/// A server that could not be asked.
struct Silent {
    name: String,
    reason: String,
}

/// The first frame that is not the same everywhere: what each server has in its place.
struct Difference {
    index: Index,
    found: Vec<Found>,
}

struct Found {
    /// Of a line that is what was written.
    digest: Option<String>,
    damage: Option<String>,
}

/// Frames that are compared.
#[derive(Clone, Copy)]
struct Range {
    from: u64,
    /// Inclusive.
    to: u64,
    reads_lines: bool,
}

/// The first step in which servers differ.
struct Step {
    from: u64,
    /// What each server says of it.
    digests: Vec<String>,
    /// Its first damaged frame, of each server.
    damaged: Vec<Option<(u64, String)>>,
}

pub async fn run(args: VerifyArgs, client: Client) -> anyhow::Result<ExitCode> {
    let (servers, silent) = gather(&client).await?;
    let reads_lines = !args.quick;
    let timelines_differ = servers
        .windows(2)
        .any(|pair| pair[0].timeline != pair[1].timeline);
    let mut range = (Index::ZERO, Index::ZERO);
    let mut difference = None;
    if servers.len() > 1 && !timelines_differ {
        (range, difference) = compare(&servers, reads_lines).await?;
    }
    let is_one = difference.is_none() && !timelines_differ && silent.is_empty();
    let report = Report {
        servers: &servers,
        silent: &silent,
        timelines_differ,
        range,
        difference: difference.as_ref(),
    };
    let text = match args.output {
        Format::Text => report.text(),
        Format::Json => report.json(),
    };
    output::print(&text).context("cannot print the report")?;
    Ok(match is_one {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

/// All servers, as one of them tells of them, and those that do not answer.
async fn gather(client: &Client) -> anyhow::Result<(Vec<Compared>, Vec<Silent>)> {
    let known = client.servers().await.context("cannot list the servers")?;
    let mut servers = Vec::new();
    let mut silent = Vec::new();
    let asked = known.servers.into_iter().map(|server| async move {
        let name = server.name;
        let answer = ask_one(client, &name, &server.http).await;
        answer.map_err(|error| Silent {
            reason: format!("{error:#}"),
            name,
        })
    });
    for answer in join_all(asked).await {
        match answer {
            Ok(server) => servers.push(server),
            Err(one) => silent.push(one),
        }
    }
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((servers, silent))
}

async fn ask_one(asked: &Client, name: &str, http: &str) -> anyhow::Result<Compared> {
    anyhow::ensure!(
        !http.is_empty(),
        "it does not say where clients reach it; set http.advertise there"
    );
    let config = ClientConfig {
        addresses: vec![ClientConfig::parse_address(http)?],
        learn_servers_every: None,
        ..asked.config().clone()
    };
    let client = Client::new(config)?;
    let status = client.status().await?;
    let number = |pointer: &str| {
        let number = status.get(pointer).and_then(serde_json::Value::as_u64);
        number.with_context(|| format!("its status has no {pointer}"))
    };
    let timeline = status.get("/Timeline/Id").and_then(|id| id.as_str());
    Ok(Compared {
        name: name.to_owned(),
        http: http.to_owned(),
        timeline: timeline.map(str::to_owned),
        oldest: Index(number("/Timeline/Oldest")?),
        newest: Index(number("/Timeline/Newest")?),
        client,
    })
}

/// Compares what all have; gives that range, and the first frame in it that differs.
async fn compare(
    servers: &[Compared],
    reads_lines: bool,
) -> anyhow::Result<((Index, Index), Option<Difference>)> {
    let newest = servers.iter().map(|server| server.newest).min();
    let to = newest.unwrap_or(Index::ZERO);
    let oldest = servers.iter().map(|server| server.oldest).max();
    let mut from = oldest.unwrap_or(Index::ZERO);
    let bar = progress(from, to);
    let mut begun = 0;
    loop {
        let range = Range {
            from: from.get(),
            to: to.get(),
            reads_lines,
        };
        match first_difference(servers, range, &bar).await {
            Ok(difference) => {
                bar.finish_and_clear();
                return Ok(((from, to), difference));
            }
            // retention has taken the oldest frames meanwhile
            Err(error) if is_gone(&error) && begun < BEGUN_MAX => {
                begun += 1;
                for server in servers {
                    let status = server.client.status().await?;
                    let oldest = status.get("/Timeline/Oldest").and_then(|o| o.as_u64());
                    from = from.max(Index(oldest.unwrap_or(0)));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<ClientError>(),
            Some(ClientError::Refused { code, .. }) if code == "index_gone"
        )
    })
}

fn progress(from: Index, to: Index) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} frames");
    let frames = (to.get() + 1).saturating_sub(from.get());
    ProgressBar::new(frames).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The first frame that is not the same on all of these servers.
async fn first_difference(
    servers: &[Compared],
    range: Range,
    bar: &ProgressBar,
) -> anyhow::Result<Option<Difference>> {
    let everybody: Vec<&Compared> = servers.iter().collect();
    let Some(step) = narrow(&everybody, range, bar).await? else {
        return Ok(None);
    };
    let damaged_at = step.damaged.iter().flatten().map(|(index, _)| *index).min();
    let Some(index) = damaged_at else {
        return Ok(Some(Difference {
            index: Index(step.from),
            found: step
                .digests
                .into_iter()
                .map(|digest| Found {
                    digest: Some(digest),
                    damage: None,
                })
                .collect(),
        }));
    };
    // Those whose lines are whole there may differ before it, and tell what the line should be.
    let is_whole: Vec<bool> = step.damaged.iter().map(Option::is_none).collect();
    let whole: Vec<&Compared> = everybody
        .iter()
        .zip(&is_whole)
        .filter_map(|(server, whole)| whole.then_some(*server))
        .collect();
    let up_to_it = Range {
        from: step.from,
        to: index,
        ..range
    };
    let (index, digests) = match narrow(&whole, up_to_it, bar).await? {
        Some(earlier) => (earlier.from, earlier.digests),
        None => {
            let one = DigestRequest {
                from: Index(index),
                to: Index(index),
                step: 1,
                reads_lines: range.reads_lines,
            };
            let answers = ask_all(&whole, one).await?;
            let digests = answers.into_iter().flat_map(|answer| answer.digests);
            (index, digests.collect())
        }
    };
    let mut digests = digests.into_iter();
    let found = step.damaged.into_iter().map(|damaged| match damaged {
        Some((at, message)) => Found {
            digest: None,
            damage: (at == index).then_some(message),
        },
        None => Found {
            digest: digests.next(),
            damage: None,
        },
    });
    Ok(Some(Difference {
        index: Index(index),
        found: found.collect(),
    }))
}

/// Compares step by step, then the first one that differs in smaller ones; down to one frame, or to
/// one in which a server has named what is damaged.
async fn narrow(
    servers: &[&Compared],
    range: Range,
    bar: &ProgressBar,
) -> anyhow::Result<Option<Step>> {
    let (begin, mut next, mut last) = (range.from, range.from, range.to);
    let mut step = match range.reads_lines {
        true => STEP_OF_LINES,
        false => (last + 1).saturating_sub(next).div_ceil(STEPS).max(1),
    };
    while next <= last {
        let request = DigestRequest {
            from: Index(next),
            to: Index(last),
            step,
            reads_lines: range.reads_lines,
        };
        let answers = ask_all(servers, request).await?;
        let steps = answers.iter().map(|answer| answer.digests.len()).min();
        let steps = steps.unwrap_or(0);
        anyhow::ensure!(steps > 0, "frame {next} is gone from a server meanwhile");
        let differs = |at: &usize| {
            let digests = answers.iter().map(|answer| &answer.digests[*at]);
            !all_alike(digests)
        };
        let Some(at) = (0..steps).find(differs) else {
            next = next.saturating_add(step.saturating_mul(steps as u64));
            bar.set_position(next - begin);
            continue;
        };
        next += step * at as u64;
        last = last.min(next + step - 1);
        let damaged = answers.iter().map(|answer| {
            let mut damaged = answer.damaged.iter();
            let within = damaged.find(|frame| (next..=last).contains(&frame.index.get()));
            within.map(|frame| (frame.index.get(), frame.message.clone()))
        });
        let damaged: Vec<_> = damaged.collect();
        if step == 1 || damaged.iter().any(Option::is_some) {
            return Ok(Some(Step {
                from: next,
                digests: answers
                    .iter()
                    .map(|answer| answer.digests[at].clone())
                    .collect(),
                damaged,
            }));
        }
        step = step.div_ceil(STEPS);
    }
    Ok(None)
}

fn all_alike<'a>(mut digests: impl Iterator<Item = &'a String>) -> bool {
    let first = digests.next();
    digests.all(|digest| Some(digest) == first)
}

async fn ask_all(servers: &[&Compared], request: DigestRequest) -> anyhow::Result<Vec<Digests>> {
    let asked = servers.iter().map(|server| async move {
        let answer = ask_patiently(&server.client, request).await;
        answer.with_context(|| format!("cannot compare {} at {}", server.name, server.http))
    });
    join_all(asked).await.into_iter().collect()
}

async fn ask_patiently(client: &Client, request: DigestRequest) -> Result<Digests, ClientError> {
    let mut asked = 1;
    loop {
        match client.history_digests(request).await {
            Err(ClientError::Refused { code, .. }) if code == "overloaded" && asked < ASKED_MAX => {
                asked += 1;
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            answer => return answer,
        }
    }
}

/// What was found.
struct Report<'a> {
    servers: &'a [Compared],
    silent: &'a [Silent],
    timelines_differ: bool,
    range: (Index, Index),
    difference: Option<&'a Difference>,
}

impl Report<'_> {
    fn text(&self) -> String {
        let mut text = String::new();
        let rows: Vec<Vec<String>> = self
            .servers
            .iter()
            .map(|server| {
                vec![
                    visible(&server.name).into_owned(),
                    visible(&server.http).into_owned(),
                    grouped(server.oldest.get()),
                    grouped(server.newest.get()),
                    visible(server.timeline.as_deref().unwrap_or("-")).into_owned(),
                ]
            })
            .collect();
        text.push_str(&table(
            &["SERVER", "HTTP", "OLDEST", "NEWEST", "TIMELINE"],
            &rows,
        ));
        for silent in self.silent {
            let (name, reason) = (visible(&silent.name), visible(&silent.reason));
            let _ = writeln!(text, "{name} was not compared: {reason}");
        }
        let (from, to) = self.range;
        match self.difference {
            Some(difference) => self.push_difference(difference, &mut text),
            None if self.timelines_differ => text.push_str(
                "these servers do not hold the same timeline: look at what each was told to join\n",
            ),
            None if self.servers.len() < 2 => {
                text.push_str("one server alone: there is nothing to compare\n");
            }
            None => {
                let _ = writeln!(
                    text,
                    "ok: {} servers have the same frames {} to {}",
                    self.servers.len(),
                    grouped(from.get()),
                    grouped(to.get())
                );
            }
        }
        text
    }

    fn push_difference(&self, difference: &Difference, text: &mut String) {
        let index = difference.index;
        let _ = writeln!(text, "frame {index} is the first that differs:");
        let rows: Vec<Vec<String>> = self
            .servers
            .iter()
            .zip(&difference.found)
            .map(|(server, found)| {
                let damage = found.damage.as_deref().unwrap_or("");
                vec![
                    format!("  {}", visible(&server.name)),
                    visible(found.digest.as_deref().unwrap_or("-")).into_owned(),
                    visible(damage).into_owned(),
                ]
            })
            .collect();
        text.push_str(&table(&["  SERVER", "SHA-256", ""], &rows));
        if difference.found.iter().any(|found| found.damage.is_some()) {
            text.push_str(
                "hint: a server whose files are damaged stops; `tidings rebuild` lets it get everything from the others\n",
            );
        }
    }

    fn json(&self) -> String {
        let (from, to) = self.range;
        let servers: Vec<_> = self
            .servers
            .iter()
            .enumerate()
            .map(|(at, server)| {
                let found = self.difference.map(|difference| &difference.found[at]);
                json!({
                    "Name": server.name,
                    "Http": server.http,
                    "Timeline": server.timeline,
                    "Oldest": server.oldest.get(),
                    "Newest": server.newest.get(),
                    "Digest": found.and_then(|found| found.digest.as_ref()),
                    "Damage": found.and_then(|found| found.damage.as_ref()),
                })
            })
            .collect();
        let silent: Vec<_> = self
            .silent
            .iter()
            .map(|silent| json!({ "Name": silent.name, "Reason": silent.reason }))
            .collect();
        let first = self.difference.map(|difference| difference.index.get());
        let is_one = first.is_none() && !self.timelines_differ && silent.is_empty();
        let report = json!({
            "Same": is_one,
            "From": from.get(),
            "To": to.get(),
            "FirstDifference": first,
            "Servers": servers,
            "NotCompared": silent,
        });
        format!("{report}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(name: &str) -> Compared {
        Compared {
            name: name.to_owned(),
            http: format!("{name}:7480"),
            client: Client::new(ClientConfig::default()).unwrap(),
            timeline: Some("T".to_owned()),
            oldest: Index(1),
            newest: Index(2000),
        }
    }

    #[test]
    fn a_report_names_what_differs_and_who_was_not_asked() {
        let servers = [compared("s1"), compared("s2")];
        let difference = Difference {
            index: Index(1500),
            found: vec![
                Found {
                    digest: Some("ab".to_owned()),
                    damage: None,
                },
                Found {
                    digest: None,
                    damage: Some("1.ndjson is damaged at byte 7".to_owned()),
                },
            ],
        };
        let silent = [Silent {
            name: "s3".to_owned(),
            reason: "it is away".to_owned(),
        }];
        let mut report = Report {
            servers: &servers,
            silent: &silent,
            timelines_differ: false,
            range: (Index(1), Index(2000)),
            difference: Some(&difference),
        };
        let text = report.text();
        for line in [
            "SERVER  HTTP     OLDEST  NEWEST  TIMELINE",
            "s2      s2:7480  1       2,000   T",
            "s3 was not compared: it is away",
            "frame 1500 is the first that differs:",
            "  s1      ab",
            "  s2      -        1.ndjson is damaged at byte 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(report.json().contains("\"FirstDifference\":1500"));
        report.difference = None;
        assert!(
            report
                .text()
                .ends_with("ok: 2 servers have the same frames 1 to 2,000\n")
        );
        assert!(report.json().contains("\"Same\":false"), "s3 was not asked");
        report.timelines_differ = true;
        assert!(report.text().contains("do not hold the same timeline"));
    }
}
