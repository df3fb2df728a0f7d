//! `tidings stream`: follows the timeline.

use std::io::{self, BufWriter, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tidings_client::{Client, ClientError, FrameLine, From, StreamEvent, StreamRequest};
use tokio::time::Instant;

use crate::event_text::EventText;
use crate::failure;
use crate::interrupt::Interrupt;
use crate::output::{Format, Look};
use crate::visible::visible;

/// Bytes of lines that are gathered before they are written.
const OUTPUT_BYTES: usize = 64 * 1024;

/// How often a connection that stays away is told of.
const AWAY_NOTICE: Duration = Duration::from_secs(30);

/// Follow the timeline.
#[derive(Args, Debug)]
pub struct StreamArgs {
    /// Only this topic, or this key of it; may be given several times [default: everything]
    #[arg(long = "topic", value_name = "TOPIC[:KEY]")]
    pub topics: Vec<String>,
    /// Where to begin: beginning, now, snapshot (the state, then what changes it), backlog (the
    /// newest 100), or an index
    #[arg(long, value_name = "WHERE", default_value_t = From::Backlog)]
    pub from: From,
    /// Only events that fulfil this expression (CEL), as 'Type == "Up" && Payload.n > 1'
    #[arg(long, value_name = "CEL")]
    pub filter: Option<String>,
    /// Text for eyes, or the frames as they are, one a line
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Stop after this many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Fail when frames are no longer kept, or the timeline was reset, instead of going on
    #[arg(long)]
    pub strict: bool,
    /// How often the agent is to send heartbeats; one that is silent for two and a half of these is left
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub heartbeat: Option<u64>,
}

pub async fn run(args: StreamArgs, client: Client) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::install()?;
    let mut stream = client.stream(StreamRequest {
        topics: args.topics,
        namespace: None,
        from: args.from,
        filter: args.filter,
        timeline: None,
        strict: args.strict,
    });
    let mut lines = Lines::new(args.output);
    let mut away = Away::default();
    let mut left = args.count;
    loop {
        let event = tokio::select! {
            biased;
            () = interrupt.wait() => break,
            event = stream.next() => event,
            // Nothing more has come yet: what is gathered is shown now.
            () = std::future::ready(()), if lines.waiting => {
                lines.flush()?;
                continue;
            }
        };
        let Some(event) = event else { break };
        match event.context("cannot follow the timeline")? {
            StreamEvent::Frame(frame) => {
                lines.push(&frame)?;
                left = left.map(|left| left - 1);
                if left == Some(0) {
                    break;
                }
            }
            StreamEvent::SnapshotEnd(index) => {
                lines.flush()?;
                eprintln!("note: this was the state as of index {index}; what follows is new");
            }
            StreamEvent::SnapshotRestart => {
                lines.flush()?;
                eprintln!(
                    "note: the snapshot broke off and begins again; forget what was shown of it"
                );
            }
            StreamEvent::Gap { wanted, next } => {
                lines.flush()?;
                eprintln!(
                    "warning: frames {wanted} to {} are no longer kept; going on at {next}",
                    next.previous()
                );
            }
            StreamEvent::Reset { previous, timeline } => {
                lines.flush()?;
                eprintln!(
                    "warning: the timeline was reset: {} is gone, and the agent keeps {}; what was shown is void, and what follows is the new one from its beginning",
                    visible(&previous),
                    visible(&timeline)
                );
            }
            StreamEvent::Reconnecting { error, delay } => {
                lines.flush()?;
                away.tell(&error, delay);
            }
            StreamEvent::Connected => away.is_over(),
            // Progress, or told by a later version of the client: nothing that could be shown.
            _ => {}
        }
    }
    lines.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Standard output.
struct Lines {
    format: Format,
    text: EventText,
    out: BufWriter<io::Stdout>,
    buffer: String,
    /// Whether something is gathered and not written.
    waiting: bool,
}

impl Lines {
    fn new(format: Format) -> Self {
        Self {
            format,
            text: EventText::new(Look::of_stdout()),
            out: BufWriter::with_capacity(OUTPUT_BYTES, io::stdout()),
            buffer: String::new(),
            waiting: false,
        }
    }

    fn push(&mut self, frame: &FrameLine) -> anyhow::Result<()> {
        self.waiting = true;
        match self.format {
            Format::Json => {
                let written = self.out.write_all(frame.line());
                written.and_then(|()| self.out.write_all(b"\n"))
            }
            Format::Text => {
                let index = frame.index();
                let frame = frame
                    .decode()
                    .with_context(|| format!("cannot read frame {index}"))?;
                self.buffer.clear();
                self.text.push(&frame, &mut self.buffer);
                self.out.write_all(self.buffer.as_bytes())
            }
        }
        .context("cannot write to standard output")
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.waiting = false;
        self.out.flush().context("cannot write to standard output")
    }
}

/// Tells of a lost connection once, now and then while it stays away, and when it is back.
#[derive(Default)]
struct Away {
    told: Option<Instant>,
}

impl Away {
    fn tell(&mut self, error: &ClientError, delay: Duration) {
        if self.told.is_some_and(|told| told.elapsed() < AWAY_NOTICE) {
            return;
        }
        let because = std::error::Error::source(error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let sentence = format!("{error}{because}");
        eprintln!(
            "note: {}; trying again in {:.1} s, and on and on",
            visible(&sentence),
            delay.as_secs_f64()
        );
        if let (None, Some(hint)) = (self.told, failure::hint(error)) {
            eprintln!("hint: {hint}");
        }
        self.told = Some(Instant::now());
    }

    fn is_over(&mut self) {
        if self.told.take().is_some() {
            eprintln!("note: connected");
        }
    }
}
