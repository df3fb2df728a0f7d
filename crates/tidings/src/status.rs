//! `tidings status`: how an agent is.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use tidings_client::{Client, Health, Server};

use crate::output::{self, Format, Look, Style, grouped};
use crate::visible::visible;

/// Show how the agent is.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Text for eyes, or the agent's whole answer
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

pub async fn run(args: StatusArgs, client: Client) -> anyhow::Result<ExitCode> {
    let status = client.status().await.context("cannot get the status")?;
    let text = match args.output {
        Format::Json => format!("{}\n", status.as_value()),
        Format::Text => {
            let health = client.health().await.context("cannot get the health")?;
            render(
                status.as_value(),
                &health,
                &client.address(),
                Look::of_stdout(),
            )
        }
    };
    output::print(&text).context("cannot print the status")?;
    Ok(ExitCode::SUCCESS)
}

/// Whether it is ready, then every fact that the agent tells under its own name: what a later
/// version adds is shown too.
fn render(status: &Value, health: &Health, address: &str, look: Look) -> String {
    let ready = match &health.not_ready {
        None => look.paint(Style::Green, "ready"),
        Some(why) => look.paint(Style::Red, &format!("not ready: {}", visible(why))),
    };
    let mut facts = Vec::new();
    let mut sections = Vec::new();
    let mut company = String::new();
    let members = status.as_object();
    for (name, value) in members.into_iter().flatten() {
        match value {
            // Told above, as it is at this moment.
            _ if matches!(name.as_str(), "Ready" | "NotReady") => {}
            Value::Array(_) if name == "Servers" => {
                if let Ok(servers) = serde_json::from_value::<Vec<Server>>(value.clone()) {
                    company = crate::server::render(&servers, look);
                }
            }
            Value::Object(_) => {
                let mut facts = Vec::new();
                gather("", value, &mut facts);
                sections.push((words(name), facts));
            }
            value => gather(&words(name), value, &mut facts),
        }
    }
    let every = facts
        .iter()
        .chain(sections.iter().flat_map(|(_, facts)| facts));
    let width = every.map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{} is {ready}\n", look.paint(Style::Bold, address));
    push_facts(&facts, width, look, &mut text);
    for (name, facts) in &sections {
        let _ = writeln!(text, "{}", look.paint(Style::Bold, name));
        push_facts(facts, width, look, &mut text);
    }
    if !company.is_empty() {
        let _ = writeln!(text, "{}", look.paint(Style::Bold, "servers"));
        for line in company.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn push_facts(facts: &[(String, String)], width: usize, look: Look, text: &mut String) {
    for (name, value) in facts {
        let spaces = " ".repeat(width - name.len());
        let _ = writeln!(text, "  {}{spaces}  {value}", look.paint(Style::Dim, name));
    }
}

/// Flattens objects: `{"Log":{"First":1}}` is `log first`.
fn gather(above: &str, value: &Value, facts: &mut Vec<(String, String)>) {
    let shown = match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = words(name);
                let path = if above.is_empty() {
                    name
                } else {
                    format!("{above} {name}")
                };
                gather(&path, value, facts);
            }
            return;
        }
        Value::Null => return,
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => visible(text).into_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if above.ends_with("bytes") => bytes_text(bytes),
            Some(seconds) if above.ends_with("seconds") => seconds_text(seconds),
            Some(number) => grouped(number),
            None => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<_> = items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map_or_else(|| item.to_string(), str::to_owned)
                })
                .collect();
            visible(&items.join(", ")).into_owned()
        }
    };
    let name = above.strip_suffix(" seconds").unwrap_or(above);
    facts.push((name.to_owned(), shown));
}

/// A span of time as people say it, in its two largest units.
fn seconds_text(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", grouped(days), hours % 24),
    }
}

/// `HistoryBytes` is `history bytes`.
fn words(name: &str) -> String {
    let mut text = String::new();
    let mut after_small = false;
    for character in visible(name).chars() {
        if character.is_ascii_uppercase() && after_small {
            text.push(' ');
        }
        after_small = character.is_ascii_lowercase() || character.is_ascii_digit();
        text.push(if character == '_' {
            ' '
        } else {
            character.to_ascii_lowercase()
        });
    }
    text
}

/// A number of bytes as people say it, in powers of 1024.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_shown_under_their_names() {
        let status = serde_json::json!({
            "Node": "n1\u{1b}[2J",
            "Log": {"First": 1, "Last": 12345},
            "Storage": {"HistoryBytes": 5_000_000},
            "UptimeSeconds": 3700,
            "Leader": null,
            "Ready": true,
            "Servers": [{"Id": "7", "Name": "n1", "Role": "voter", "Leader": true}],
        });
        let health = Health { not_ready: None };
        assert_eq!(
            render(&status, &health, "http://h:1", Look::PLAIN),
            "http://h:1 is ready\n  node           n1\\u{1b}[2J\n  uptime         1 h 1 min\nlog\n  first          1\n  last           12,345\nstorage\n  history bytes  4.8 MiB\nservers\n  NAME  ROLE          HTTP  PEER  HEARD OF  LOG  ID\n  n1    voter, leads  -     -     -         -    7\n"
        );
    }

    #[test]
    fn spans_as_people_say_them() {
        for (seconds, text) in [
            (0, "0 s"),
            (61, "1 min 1 s"),
            (7300, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(seconds_text(seconds), text);
        }
    }

    #[test]
    fn bytes_as_people_say_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
