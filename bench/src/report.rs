//! The results as a document for eyes, or as JSON.

use std::fmt::Write;

use clap::ValueEnum;

use crate::deployment::Deployment;
use crate::peers::Peer;
use crate::results::{Results, median};
use crate::targets::{Target, Verdict, targets};
use crate::workloads::{Measure, Workload};

/// How the report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Text,
    /// Markdown tables.
    Markdown,
    /// Everything, each round included.
    Json,
}

/// Writes the report.
///
/// # Errors
///
/// The results cannot be written as JSON.
pub fn render(results: &Results, output: Output) -> serde_json::Result<String> {
    let targets = targets(results);
    if output == Output::Json {
        return serde_json::to_string_pretty(&serde_json::json!({
            "results": results,
            "targets": targets,
        }));
    }
    let mut page = Page {
        text: String::new(),
        markdown: output == Output::Markdown,
    };
    page.machine(results);
    for workload in Workload::ALL {
        page.workload(results, workload);
    }
    page.targets(&targets);
    page.failures(results);
    page.notes(results);
    Ok(page.text)
}

struct Page {
    text: String,
    markdown: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.line("");
        }
        if self.markdown {
            self.line(&format!("## {text}\n"));
        } else {
            self.line(text);
            self.line(&"─".repeat(text.chars().count()));
        }
    }

    fn table(&mut self, head: &[String], rows: &[Vec<String>]) {
        let width = |column: usize| {
            std::iter::once(&head[column])
                .chain(rows.iter().filter_map(|row| row.get(column)))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let mut put = |cells: &[String]| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                let before = if self.markdown { "| " } else { "" };
                let after = if self.markdown { " " } else { "  " };
                let padding = " ".repeat(width - cell.chars().count());
                write!(line, "{before}{cell}{padding}{after}").expect("a String takes all");
            }
            if self.markdown {
                line.push('|');
            }
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        };
        put(head);
        if self.markdown {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            put(&dashes);
        }
        for row in rows {
            put(row);
        }
    }

    fn machine(&mut self, results: &Results) {
        let machine = &results.machine;
        self.heading("The machine");
        self.line(&format!(
            "{} × {}, {:.1} GiB, Linux {}; {}, publishers and subscribers share it, over loopback.",
            machine.cores,
            machine.processor,
            machine.memory_gib,
            machine.kernel,
            match results.deployment {
                Deployment::Single => "server".to_owned(),
                Deployment::Cluster { servers } =>
                    format!("{servers} servers with a data directory each"),
            }
        ));
        let versions: Vec<&str> = results.versions.values().map(String::as_str).collect();
        self.line(&format!(
            "Payloads are JSON objects of {} bytes in total; medians of {} round(s){}. {}.",
            results.payload_bytes,
            results.rounds,
            if results.quick {
                ", each too short for results (--quick)"
            } else {
                ""
            },
            versions.join("; ")
        ));
        self.line("");
        if results.limits.is_empty() {
            self.line("Its limits were not measured.");
            return;
        }
        let limit = |number: fn(&crate::machine::Limits) -> f64| {
            median(results.limits.iter().map(number)).unwrap_or_default()
        };
        let rows = [
            (
                "group commit with fdatasync, 16 writers × 64 of 300 B",
                format!("{}/s", count(limit(|limits| limits.commit_16x64))),
            ),
            (
                "the same, 16 × 1",
                format!("{}/s", count(limit(|limits| limits.commit_16x1))),
            ),
            (
                "the same, 1 × 1",
                format!("{}/s", count(limit(|limits| limits.commit_1x1))),
            ),
            (
                "loopback TCP, one stream, 256 KiB writes",
                format!("{:.2} GB/s", limit(|limits| limits.loopback_bytes) / 1e9),
            ),
            (
                "loopback TCP, round trip of 300 B, p50",
                format!("{:.0} µs", limit(|limits| limits.round_trip_us)),
            ),
        ]
        .map(|(what, value)| vec![what.to_owned(), value]);
        self.table(&["limit".to_owned(), "median".to_owned()], &rows);
    }

    fn workload(&mut self, results: &Results, workload: Workload) {
        let cases = results.cases(workload);
        if cases.is_empty() {
            return;
        }
        self.heading(title(workload));
        let main = main_number(workload);
        let mut head = vec![String::new()];
        head.extend(cases.iter().map(|case| (*case).to_owned()));
        if workload == Workload::Publish {
            head.push("acknowledged is".to_owned());
        }
        // What a server and what an agent give are not compared by one column.
        let has_ratio = workload != Workload::Relay;
        let ratio_of = ratio_column(&cases);
        let main_of = |peer| results.median(workload, ratio_of, peer, main);
        let alone = results
            .cells
            .iter()
            .all(|cell| cell.workload != workload || cell.peer == Peer::Tidings);
        let ours = main_of(Peer::Tidings).filter(|_| !alone && has_ratio);
        if ours.is_some() {
            head.push(format!("tidings ÷ it, {ratio_of}"));
        }
        let mut rows = Vec::new();
        for peer in Peer::ALL {
            if cases
                .iter()
                .all(|case| results.cell(workload, case, peer).is_none())
            {
                continue;
            }
            let mut row = vec![peer.to_string()];
            row.extend(cases.iter().map(|case| {
                results
                    .cell(workload, case, peer)
                    .map_or_else(|| "–".to_owned(), |cell| cell_text(workload, cell))
            }));
            if workload == Workload::Publish {
                row.push(peer.acknowledges(results.deployment).to_owned());
            }
            if let Some(ours) = ours {
                row.push(match main_of(peer) {
                    Some(theirs) if theirs > 0.0 => format!("{:.2} ×", ours / theirs),
                    _ => "–".to_owned(),
                });
            }
            rows.push(row);
        }
        self.table(&head, &rows);
    }

    fn targets(&mut self, targets: &[Target]) {
        self.heading("Targets");
        if targets.is_empty() {
            self.line("None of the workloads that ran has one.");
            return;
        }
        let rows: Vec<Vec<String>> = targets
            .iter()
            .map(|target| {
                let found = target
                    .found
                    .map_or_else(|| "–".to_owned(), |found| format!("{found:.2}"));
                let verdict = match target.verdict {
                    Verdict::Reached => "reached",
                    Verdict::Short => "SHORT",
                    Verdict::Unmeasured => "not measured",
                };
                vec![
                    target.what.clone(),
                    target.bound.clone(),
                    found,
                    verdict.to_owned(),
                ]
            })
            .collect();
        let head = ["what", "target", "found", ""].map(str::to_owned);
        self.table(&head, &rows);
    }

    fn failures(&mut self, results: &Results) {
        if results.failures.is_empty() {
            return;
        }
        self.heading("What failed");
        for failure in &results.failures {
            self.line(&format!(
                "- {} on {}, round {}: {}",
                failure.workload.name(),
                failure.peer,
                failure.round,
                failure.reason
            ));
        }
    }

    fn notes(&mut self, results: &Results) {
        self.heading("How to read it");
        let bare = format!(
            "- bare: a hyper server that parses, filters and stores nothing; subscribers are \
             cursors into one encoded log of lines of {} bytes. bare-frame: one hyper frame an event.",
            results.line_bytes
        );
        let busiest = results
            .cells
            .iter()
            .flat_map(|cell| cell.rounds.iter().map(move |round| (cell, round)))
            .filter_map(|(cell, round)| Some((round.generator_busy?, cell)))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let cluster = [
            "- In parentheses: CPU of all servers for one event, or the latencies named.",
            "- The order of the systems changes from round to round; each starts with empty data.",
            "- Publishers connect to the leader of each system; in the last column to all servers in turn.",
            "- failover: a client sends to each server that is left every 20 ms until one acknowledges; every system has the timeouts that it comes with.",
            "- nats: JetStream on file, a stream with a replica on each server; it acknowledges before fsync, what a majority has in the page cache, and flushes every 2 minutes. nats-always flushes first.",
            "- catch-up: from the start of one more server until it has every frame, in MB (10⁶) of history.",
            "- relay: 1,000 events/s; subscribers of an agent that holds no timeline, beside those of the server that it follows.",
        ];
        let single = [
            "- In parentheses: server CPU for one event or delivery, or the latencies named.",
            "- The order of the systems changes from round to round; each starts with empty data.",
            "- Every subscriber was checked to have received every event, once, in order.",
            "- redis: no snapshots, no log rewriting. Filtered, it has a stream a key and so no order between keys.",
            "- nats: JetStream on file, push consumers without acknowledgements, with flow control.",
            "- etcd: one put an event, calls in flight at the same time are stored in any order; for the replay one key an event, stored 100 a transaction, read in ranges of 10,000.",
            &bare,
        ];
        let notes: &[&str] = match results.deployment {
            Deployment::Single => &single,
            Deployment::Cluster { .. } => &cluster,
        };
        for note in notes {
            self.line(note);
        }
        if let Some((busy, cell)) = busiest {
            self.line(&format!(
                "- The load generator is one thread; it was busiest in {} {} on {}: {:.0} % of a core.",
                cell.workload.name(),
                cell.case,
                cell.peer,
                busy * 100.0
            ));
        }
    }
}

fn title(workload: Workload) -> &'static str {
    match workload {
        Workload::Publish => {
            "Acknowledged publish, events/s (connections × in flight; server CPU µs an event)"
        }
        Workload::Fanout => {
            "Fan-out of one publisher by number of subscribers, deliveries/s (server CPU µs a delivery)"
        }
        Workload::Latency => "Latency from send to receipt, µs (p50 / p99 / p99.9)",
        Workload::Replay => "Replay to one new subscriber, events/s (server CPU µs an event)",
        Workload::Memory => "Server memory for one idle subscriber, KiB",
        Workload::Filtered => "Filtered fan-out, events/s (server CPU µs an event)",
        Workload::Failover => {
            "Death of the leader to the next acknowledged event, ms (median; shortest to longest of all)"
        }
        Workload::CatchUp => {
            "A new server catches up, MB/s (frames/s; CPU µs a frame of all servers)"
        }
        Workload::Relay => {
            "Through an agent: latency from send to receipt, µs (p50 / p99 / p99.9); deliveries/s to many (the agent's CPU µs for one), and the servers' streams"
        }
    }
}

/// The case whose ratio the table shows: the hardest that is not extreme.
fn ratio_column<'a>(cases: &[&'a str]) -> &'a str {
    for preferred in ["16 × 64", "100"] {
        if let Some(case) = cases.iter().find(|case| **case == preferred) {
            return case;
        }
    }
    cases.last().copied().unwrap_or_default()
}

fn main_number(workload: Workload) -> fn(&Measure) -> Option<f64> {
    match workload {
        Workload::Latency => |measure| measure.p50_us,
        Workload::Memory => |measure| measure.kib,
        Workload::Failover => |measure| measure.gap_ms,
        Workload::CatchUp => |measure| measure.mb_rate,
        _ => |measure| measure.rate,
    }
}

fn cell_text(workload: Workload, cell: &crate::results::Cell) -> String {
    let microseconds = |number: fn(&Measure) -> Option<f64>| {
        cell.median(number).map_or_else(|| "–".to_owned(), count)
    };
    let latencies = || {
        format!(
            "{} / {} / {}",
            microseconds(|measure| measure.p50_us),
            microseconds(|measure| measure.p99_us),
            microseconds(|measure| measure.p999_us)
        )
    };
    match workload {
        Workload::Relay => match cell.median(|measure| measure.streams) {
            Some(streams) => format!(
                "{}/s ({}); {streams:.0} stream(s)",
                cell.median(|measure| measure.rate)
                    .map_or_else(|| "–".to_owned(), count),
                cell.median(|measure| measure.cpu_us)
                    .map_or_else(|| "–".to_owned(), count),
            ),
            None => latencies(),
        },
        Workload::Failover => gap_text(cell),
        Workload::CatchUp => {
            let number = |number| cell.median(number).map_or_else(|| "–".to_owned(), count);
            format!(
                "{} ({}/s; {})",
                number(|measure| measure.mb_rate),
                number(|measure| measure.rate),
                number(|measure| measure.cpu_us)
            )
        }
        Workload::Latency => latencies(),
        Workload::Memory => cell
            .median(|measure| measure.kib)
            .map_or_else(|| "–".to_owned(), |kib| format!("{kib:.1}")),
        _ => {
            let rate = cell
                .median(|measure| measure.rate)
                .map_or_else(|| "–".to_owned(), count);
            let cpu = cell
                .median(|measure| measure.cpu_us)
                .map_or_else(String::new, |cpu| format!("{cpu:.2}"));
            if cell.median(|measure| measure.p50_us).is_some() {
                format!(
                    "{rate} ({cpu}; p50 {}, p99 {} µs)",
                    microseconds(|measure| measure.p50_us),
                    microseconds(|measure| measure.p99_us)
                )
            } else {
                format!("{rate} ({cpu})")
            }
        }
    }
}

/// The median gap, and the extremes.
fn gap_text(cell: &crate::results::Cell) -> String {
    let gaps = || cell.rounds.iter().filter_map(|round| round.gap_ms);
    let (Some(median), Some(least), Some(most)) = (
        median(gaps()),
        gaps().min_by(f64::total_cmp),
        gaps().max_by(f64::total_cmp),
    ) else {
        return "–".to_owned();
    };
    format!(
        "{median:.0} ({least:.0} to {most:.0} of {})",
        gaps().count()
    )
}

/// A number with three digits and k or M.
pub fn count(number: f64) -> String {
    let (scaled, unit) = if number >= 999_500.0 {
        (number / 1e6, " M")
    } else if number >= 9_995.0 {
        (number / 1e3, " k")
    } else {
        (number, "")
    };
    let digits = match scaled {
        scaled if unit.is_empty() && scaled >= 10.0 => 0,
        scaled if scaled < 9.995 => 2,
        scaled if scaled < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::tests::{rate, results};

    #[test]
    fn numbers_have_three_digits() {
        for (number, text) in [
            (0.1449, "0.14"),
            (12.3, "12"),
            (3_912.4, "3912"),
            (21_730.0, "21.7 k"),
            (248_400.0, "248 k"),
            (999_700.0, "1.00 M"),
            (8_890_000.0, "8.89 M"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn a_table_has_ratios_and_targets() {
        let results = results(vec![
            (Workload::Publish, "16 × 64", Peer::Tidings, rate(300_000.0)),
            (
                Workload::Publish,
                "16 × 64",
                Peer::RedisAlways,
                rate(200_000.0),
            ),
            (Workload::Publish, "16 × 64", Peer::Etcd, rate(100_000.0)),
        ]);
        let page = render(&results, Output::Markdown).unwrap();
        assert!(page.contains("| redis-always "), "{page}");
        assert!(page.contains("| 1.50 × "), "{page}");
        assert!(page.contains("| publish 16 × 64 ÷ etcd"), "{page}");
        assert!(page.contains("SHORT"), "{page}");
        assert!(page.contains("reached"), "{page}");
    }

    #[test]
    fn json_carries_every_round() {
        let mut results = results(vec![(Workload::Replay, "10", Peer::Tidings, rate(1.0))]);
        results.add(Workload::Replay, "10".into(), Peer::Tidings, rate(2.0));
        let json: serde_json::Value =
            serde_json::from_str(&render(&results, Output::Json).unwrap()).unwrap();
        assert_eq!(json["results"]["cells"][0]["rounds"][1]["rate"], 2.0);
        assert_eq!(json["targets"][0]["verdict"], "unmeasured");
    }
}
