//! `tidings state`: entries of the state.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tidings_client::{Client, Entry, ListRequest, PutOptions};
use tidings_event::Index;

use crate::failure::FAILED;
use crate::output::{self, Format, Look};
use crate::publish::read_payload;
use crate::table::table;
use crate::visible::visible;

/// Columns of a payload in a table that is not on a terminal.
const GIST_COLUMNS: usize = 120;

/// What to do with entries.
#[derive(Debug, Subcommand)]
pub enum StateVerb {
    /// Put an entry, and tell of it as an event
    #[command(
        after_help = "Example:\n  tidings state put Config limits '{\"max\":7}'\n  tidings state put Config limits @limits.json --cas 41\n  tidings state put Lock leader '{\"node\":\"n1\"}' --cas 0"
    )]
    Put(PutArgs),
    /// Show an entry
    #[command(
        after_help = "Example:\n  tidings state get Config limits\n  tidings state get Config limits --output json | jq .Payload"
    )]
    Get(GetArgs),
    /// List the entries of a topic
    #[command(
        after_help = "Example:\n  tidings state list Config\n  tidings state list Config --prefix web/ --output json"
    )]
    List(ListArgs),
    /// Delete an entry, and tell of it as an event
    #[command(after_help = "Example:\n  tidings state delete Config limits")]
    Delete(DeleteArgs),
}

/// Which entry.
#[derive(Args, Debug)]
pub struct Name {
    /// Topic of the entry
    pub topic: String,
    /// Key of the entry
    pub key: String,
}

#[derive(Args, Debug)]
pub struct PutArgs {
    #[command(flatten)]
    pub name: Name,
    /// A JSON object, @FILE that holds one, or - for standard input
    #[arg(value_name = "JSON|@FILE|-")]
    pub payload: String,
    #[command(flatten)]
    pub change: Change,
}

/// How a change is made.
#[derive(Args, Debug)]
pub struct Change {
    /// Only when the entry's ModifyIndex is this; 0: only when there is no such entry
    #[arg(long, value_name = "INDEX")]
    pub cas: Option<u64>,
    /// Type of the event that tells of the change [default: EntryPut or EntryDeleted]
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct GetArgs {
    #[command(flatten)]
    pub name: Name,
    /// Text for eyes, or the entry as it is
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// Topic of the entries
    pub topic: String,
    /// Only keys that begin with this
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Only entries that fulfil this expression (CEL)
    #[arg(long, value_name = "CEL")]
    pub filter: Option<String>,
    /// Entries that are asked for at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub per_page: Option<u32>,
    /// A table, or the entries as they are, one a line
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub name: Name,
    #[command(flatten)]
    pub change: Change,
}

impl Change {
    fn options(&self) -> PutOptions {
        PutOptions {
            namespace: None,
            compare_and_set: self.cas.map(Index),
            event_type: self.event_type.clone(),
        }
    }

    fn print(&self, what: &str, index: Index) -> anyhow::Result<()> {
        let text = match self.output {
            Format::Text => format!("{what} at index {index}\n"),
            Format::Json => format!("{{\"Index\":{index}}}\n"),
        };
        output::print(&text).context("cannot print the answer")
    }
}

pub async fn run(verb: StateVerb, client: Client) -> anyhow::Result<ExitCode> {
    match verb {
        StateVerb::Put(PutArgs {
            name,
            payload,
            change,
        }) => {
            let payload = read_payload(&payload)?;
            let index = client
                .state_put(&name.topic, &name.key, &payload, &change.options())
                .await
                .with_context(|| format!("cannot put {} {}", name.topic, name.key))?;
            change.print("put", index)?;
        }
        StateVerb::Get(GetArgs { name, output }) => {
            let entry = client
                .state_get(&name.topic, &name.key, None)
                .await
                .with_context(|| format!("cannot get {} {}", name.topic, name.key))?;
            let Some(entry) = entry else {
                return Ok(absent(&name));
            };
            let text = match output {
                Format::Text => entry_text(&entry),
                Format::Json => json_line(&entry)?,
            };
            output::print(&text).context("cannot print the entry")?;
        }
        StateVerb::List(args) => list(args, &client).await?,
        StateVerb::Delete(DeleteArgs { name, change }) => {
            let deleted = client
                .state_delete(&name.topic, &name.key, &change.options())
                .await
                .with_context(|| format!("cannot delete {} {}", name.topic, name.key))?;
            match deleted {
                Some(index) => change.print("deleted", index)?,
                None => return Ok(absent(&name)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn absent(name: &Name) -> ExitCode {
    eprintln!(
        "error: there is no entry {} {} in this namespace",
        visible(&name.topic),
        visible(&name.key)
    );
    ExitCode::from(FAILED)
}

async fn list(args: ListArgs, client: &Client) -> anyhow::Result<()> {
    let mut pages = client.state_list(
        &args.topic,
        ListRequest {
            namespace: None,
            prefix: args.prefix,
            filter: args.filter,
            per_page: args.per_page,
        },
    );
    let look = Look::of_stdout();
    let mut rows = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.with_context(|| format!("cannot list {}", args.topic))?;
        match args.output {
            // A table has to see all rows to know its widths.
            Format::Text => rows.extend(page.entries.iter().map(row)),
            Format::Json => {
                let mut text = String::new();
                for entry in &page.entries {
                    text.push_str(&json_line(entry)?);
                }
                output::print(&text).context("cannot print the entries")?;
            }
        }
    }
    if args.output == Format::Text {
        output::print(&list_text(&rows, look)).context("cannot print the entries")?;
    }
    Ok(())
}

fn row(entry: &Entry) -> Vec<String> {
    let payload = visible(entry.payload.get());
    vec![
        visible(&entry.key).into_owned(),
        visible(&entry.namespace).into_owned(),
        entry.modify_index.to_string(),
        entry
            .time
            .to_string()
            .get(..19)
            .unwrap_or_default()
            .to_owned()
            + "Z",
        console::truncate_str(&payload, GIST_COLUMNS, "…").into_owned(),
    ]
}

fn list_text(rows: &[Vec<String>], look: Look) -> String {
    let text = table(&["KEY", "NAMESPACE", "INDEX", "TIME", "PAYLOAD"], rows);
    let Some(width) = look.width else {
        return text;
    };
    let cut = text
        .lines()
        .map(|line| console::truncate_str(line, width, "…") + "\n");
    cut.collect()
}

fn json_line(entry: &Entry) -> anyhow::Result<String> {
    let mut line = serde_json::to_string(entry).context("cannot encode the entry")?;
    line.push('\n');
    Ok(line)
}

fn entry_text(entry: &Entry) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("topic", visible(&entry.topic)),
        ("namespace", visible(&entry.namespace)),
        ("key", visible(&entry.key)),
        ("created", entry.create_index.to_string().into()),
        ("modified", entry.modify_index.to_string().into()),
        ("time", entry.time.to_string().into()),
    ] {
        let _ = writeln!(text, "{name:<9}  {value}");
    }
    // Laid out for eyes; numbers may come out in another spelling, which --output json keeps.
    let value = serde_json::from_str::<serde_json::Value>(entry.payload.get());
    let pretty = value.and_then(|value| serde_json::to_string_pretty(&value));
    let payload = pretty.unwrap_or_else(|_| entry.payload.get().to_owned());
    for line in payload.lines() {
        text.push_str(&visible(line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        serde_json::from_str(
            r#"{"Topic":"Config","Namespace":"default","Key":"li\u001bmits","CreateIndex":3,"ModifyIndex":9,"Time":"2026-11-22T07:45:47.123456Z","Payload":{"max":7}}"#,
        )
        .unwrap()
    }

    #[test]
    fn an_entry_for_eyes() {
        assert_eq!(
            entry_text(&entry()),
            "topic      Config\nnamespace  default\nkey        li\\u{1b}mits\ncreated    3\nmodified   9\ntime       2026-11-22T07:45:47.123456Z\n{\n  \"max\": 7\n}\n"
        );
    }

    #[test]
    fn a_list_for_eyes() {
        let rows = [row(&entry())];
        assert_eq!(
            list_text(&rows, Look::PLAIN),
            "KEY           NAMESPACE  INDEX  TIME                  PAYLOAD\nli\\u{1b}mits  default    9      2026-11-22T07:45:47Z  {\"max\":7}\n"
        );
        let narrow = Look {
            colors: false,
            width: Some(20),
        };
        assert_eq!(
            list_text(&rows, narrow).lines().last().unwrap(),
            "li\\u{1b}mits  defau…"
        );
    }
}
