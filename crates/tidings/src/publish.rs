//! `tidings publish`: one event, or many from a file.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::value::RawValue;
use tidings_client::{Client, ClientConfig, Transaction};
use tidings_event::OwnedNewEvent;
use ulid::Ulid;

use crate::failure::{FAILED, UsageError};
use crate::interrupt::Interrupt;
use crate::output::{self, Format};
use crate::publish_lines;
use crate::visible::visible;

/// Largest payload that is read from a file or standard input, in bytes. The agent's own limit is
/// lower; this only keeps a wrong file from filling memory.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Publish one event, or many from a file.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// What the event is about
    #[arg(
        required_unless_present = "ndjson",
        conflicts_with = "ndjson",
        requires = "type"
    )]
    pub topic: Option<String>,
    /// What happened
    #[arg(
        id = "type",
        value_name = "TYPE",
        required_unless_present = "ndjson",
        conflicts_with = "ndjson"
    )]
    pub event_type: Option<String>,
    /// Which one it happened to
    #[arg(long, value_name = "KEY", conflicts_with = "ndjson")]
    pub key: Option<String>,
    /// A JSON object, @FILE that holds one, or - for standard input
    #[arg(
        long,
        value_name = "JSON|@FILE|-",
        conflicts_with = "ndjson",
        allow_hyphen_values = true
    )]
    pub payload: Option<String>,
    /// A further key that subscribers find the event by; may be given several times
    #[arg(long = "filter-key", value_name = "KEY", conflicts_with = "ndjson")]
    pub filter_keys: Vec<String>,
    /// Id of the event: the same again is not a second event [default: a fresh one]
    #[arg(long, value_name = "ID", conflicts_with = "ndjson")]
    pub id: Option<String>,
    /// Publish every line of this file, or of standard input (-): an event's object, or
    /// {"Events":[…]} for several under one index
    #[arg(long, value_name = "FILE|-")]
    pub ndjson: Option<String>,
    /// Seconds to go on trying while the agent is away or busy [default: 5; 60 with --ndjson]
    #[arg(long, value_name = "SECONDS")]
    pub retry: Option<u64>,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// How long one event is tried; a person waits for it.
const RETRY_ONE: Duration = Duration::from_secs(5);
/// How long a file goes on without an acknowledgement.
const RETRY_LINES: Duration = Duration::from_secs(60);

pub async fn run(args: PublishArgs, client: Client) -> anyhow::Result<ExitCode> {
    let retry = args.retry.map(Duration::from_secs);
    if let Some(source) = &args.ndjson {
        let retry = retry.unwrap_or(RETRY_LINES);
        return publish_lines::run(source, retry, args.output, &client).await;
    }
    let client = Client::new(ClientConfig {
        retry_time: retry.unwrap_or(RETRY_ONE),
        ..client.config().clone()
    })?;
    one(args, &client).await
}

async fn one(args: PublishArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let event = event(args, client.config().namespace.as_deref())?;
    let id = event.id.clone().unwrap_or_default();
    let transaction = Transaction::try_from(event).context("cannot encode the event")?;
    let mut interrupt = Interrupt::install()?;
    let published = tokio::select! {
        published = client.publish(&transaction) => published.context("cannot publish the event")?,
        () = interrupt.wait() => {
            eprintln!(
                "interrupted: the event may or may not be on the timeline; to publish it again with --id {} is safe",
                visible(&id)
            );
            return Ok(ExitCode::from(FAILED));
        }
    };
    let text = match (output, published.duplicate) {
        (Format::Text, _) if published.spooled => String::from(
            "kept by the agent, which reaches no server: it is published when one is reached\n",
        ),
        (Format::Text, false) => format!("published at index {}\n", published.index),
        (Format::Text, true) => format!("was there already, at index {}\n", published.index),
        (Format::Json, duplicate) => {
            let id = serde_json::to_string(&id)?;
            let index = published.index;
            let spooled = if published.spooled {
                ",\"Spooled\":true"
            } else {
                ""
            };
            format!("{{\"Index\":{index},\"Duplicate\":{duplicate}{spooled},\"Id\":{id}}}\n")
        }
    };
    output::print(&text).context("cannot print the answer")?;
    Ok(ExitCode::SUCCESS)
}

fn event(args: PublishArgs, namespace: Option<&str>) -> anyhow::Result<OwnedNewEvent> {
    // clap has seen to both being there.
    let mut event = OwnedNewEvent::new(
        args.topic.unwrap_or_default(),
        args.event_type.unwrap_or_default(),
    );
    event.key = args.key.unwrap_or_default();
    if let Some(namespace) = namespace {
        namespace.clone_into(&mut event.namespace);
    }
    event.filter_keys = (!args.filter_keys.is_empty()).then_some(args.filter_keys);
    event.id = Some(args.id.unwrap_or_else(|| Ulid::generate().to_string()));
    if let Some(payload) = &args.payload {
        event.payload = read_payload(payload)?;
    }
    Ok(event)
}

/// Reads a payload as the command line names it.
pub fn read_payload(argument: &str) -> anyhow::Result<Box<RawValue>> {
    let (text, origin) = match argument {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(PAYLOAD_BYTES_MAX)
                .read_to_string(&mut text)
                .context("cannot read the payload from standard input")?;
            (text, "standard input".to_owned())
        }
        file if file.starts_with('@') => {
            let path = &file[1..];
            let mut text = String::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(PAYLOAD_BYTES_MAX).read_to_string(&mut text))
                .with_context(|| format!("cannot read the payload from {path}"))?;
            (text, path.to_owned())
        }
        text => (text.to_owned(), "the command line".to_owned()),
    };
    parse_payload(&text, &origin).map_err(Into::into)
}

/// Kept as it is written; only checked to be an object or null.
fn parse_payload(text: &str, origin: &str) -> Result<Box<RawValue>, UsageError> {
    let payload: Box<RawValue> = serde_json::from_str(text).map_err(|error| {
        UsageError::new(format!("the payload from {origin} is not JSON: {error}"))
    })?;
    if payload.get().starts_with('{') || payload.get() == "null" {
        Ok(payload)
    } else {
        Err(UsageError::new(format!(
            "the payload from {origin} is not a JSON object: put the value into one, as {{\"value\":…}}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_objects_and_keep_their_spelling() {
        for text in ["{\"n\":1.00}", " {} ", "null"] {
            assert_eq!(parse_payload(text, "x").unwrap().get(), text.trim());
        }
        for text in ["", "[1]", "7", "\"text\"", "{\"a\":}", "{} {}"] {
            assert!(parse_payload(text, "x").is_err(), "{text}");
        }
    }
}
