//! `tidings snapshot`: a timeline as one file; what one holds; its entries brought back, or a new
//! cluster begun with it.

mod file;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tidings_client::{Client, SaveFreshness, SaveRequest, StateRestored};
use tidings_raft::{SnapshotInfo, found_from_snapshot};

use self::file::{NewFile, Reading, progress};
use crate::connection::Connection;
use crate::failure::UsageError;
use crate::interrupt::Interrupt;
use crate::output::{self, Format, counted, grouped};
use crate::status::bytes_text;
use crate::visible::visible;

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// Save state and history of a running timeline as one file
    #[command(
        after_help = "Example:\n  tidings snapshot save tidings.snap\n  tidings snapshot save \"$(date +%F).snap\" --state-only\n\nThe file is checked while it comes, and has its name only once it is whole and on the disk."
    )]
    Save(SaveArgs),
    /// Check a file, and tell what it holds; needs no agent
    #[command(
        after_help = "Example:\n  tidings snapshot inspect tidings.snap\n  tidings snapshot inspect tidings.snap --json | jq .Newest"
    )]
    Inspect(InspectArgs),
    /// Bring the entries of the state back to what they are in a file, or begin a new cluster with it
    #[command(
        after_help = "Example:\n  tidings snapshot restore tidings.snap\n  tidings snapshot restore tidings.snap --data-dir /var/lib/tidings --node s1\n\nOn a running timeline each entry that differs becomes a change with an event and an index of its\nown, on all servers; the history stays, and an event Timeline/StateRestored tells that it is done.\n\nWith --data-dir no agent is asked: for when all servers are lost. The file fills an empty directory\nfor a cluster of one server, which others join. What came after the file was saved is gone, and the\ntimeline is another one by its id."
    )]
    Restore(RestoreArgs),
}

#[derive(Args, Debug)]
pub struct SaveArgs {
    /// Where to put it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Leave the history out: the entries alone, which is all that a restore on a running timeline needs
    #[arg(long)]
    pub state_only: bool,
    /// Save what the server has, also when it is cut off from the others
    #[arg(long, conflicts_with = "consistent")]
    pub stale: bool,
    /// Save everything that was acknowledged before, whichever server took it
    #[arg(long)]
    pub consistent: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Take the entries of another timeline
    #[arg(long, conflicts_with = "data_dir")]
    pub any_timeline: bool,
    /// Do not ask whether to change the entries
    #[arg(long, short = 'y', conflicts_with = "data_dir")]
    pub yes: bool,
    /// Begin a new cluster: an empty data directory, on which no agent works
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name of the server that begins it, as the agent will have it [default: the host's name]
    #[arg(long, value_name = "NAME", requires = "data_dir")]
    pub node: Option<String>,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

pub async fn run(verb: SnapshotVerb, connection: Connection) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::install()?;
    let work = async {
        match verb {
            SnapshotVerb::Save(args) => save(args, connection.client()?).await,
            SnapshotVerb::Inspect(args) => {
                connection.refuse_for("snapshot inspect")?;
                inspect(args).await
            }
            SnapshotVerb::Restore(args) => match args.data_dir.clone() {
                Some(data_dir) => {
                    connection.refuse_for("snapshot restore --data-dir")?;
                    found(args, &data_dir).await
                }
                None => restore(args, connection.client()?).await,
            },
        }
    };
    tokio::select! {
        done = work => done.map(|()| ExitCode::SUCCESS),
        () = interrupt.wait() => Err(anyhow::anyhow!("interrupted")),
    }
}

async fn save(args: SaveArgs, client: Client) -> anyhow::Result<()> {
    let path = &args.file;
    let named = || format!("cannot save a snapshot in {}", path.display());
    let mut file = NewFile::create(path, args.force)?;
    let request = SaveRequest {
        history: !args.state_only,
        freshness: match (args.stale, args.consistent) {
            (true, _) => SaveFreshness::Stale,
            (_, true) => SaveFreshness::Consistent,
            _ => SaveFreshness::Led,
        },
    };
    let mut pieces = client.save_snapshot(request).await.with_context(named)?;
    let bar = progress(None);
    while let Some(piece) = pieces.next().await.with_context(named)? {
        bar.inc(piece.len() as u64);
        if !file.write(&piece).await.with_context(named)? {
            break;
        }
    }
    bar.finish_and_clear();
    let info = file.complete().await.with_context(named)?;
    let text = match args.output {
        Format::Json => format!("{}\n", serde_json::to_string(&info)?),
        Format::Text => format!("saved in {}: {}\n", path.display(), gist(&info)),
    };
    output::print(&text).context("cannot print what was saved")
}

async fn inspect(args: InspectArgs) -> anyhow::Result<()> {
    let info = Reading::open(&args.file).await?.inspect().await?;
    let text = match args.output {
        Format::Text if !args.json => facts(&info),
        _ => format!("{}\n", serde_json::to_string(&info)?),
    };
    output::print(&text).context("cannot print what the file holds")
}

async fn restore(args: RestoreArgs, client: Client) -> anyhow::Result<()> {
    let path = &args.file;
    // Whole and sound, before anybody is bothered.
    let info = Reading::open(path).await?.inspect().await?;
    if !args.yes {
        let state = format!("the entries of the state at {}", client.address());
        confirm(&format!(
            "{}: {}\nbring {state} back to that?",
            path.display(),
            gist(&info)
        ))
        .await?;
    }
    let restored = client
        .restore_snapshot(args.any_timeline, || file::state_of(path.clone()))
        .await
        .with_context(|| format!("cannot restore {}", path.display()))?;
    let text = match args.output {
        Format::Json => format!("{}\n", serde_json::to_string(&restored)?),
        Format::Text => told(&restored),
    };
    output::print(&text).context("cannot print what was restored")
}

async fn found(args: RestoreArgs, data_dir: &Path) -> anyhow::Result<()> {
    let node = match args.node {
        Some(name) => name,
        None => tidings_agent::Config::default().node.name,
    };
    let reading = Reading::open(&args.file).await?;
    let info = reading
        .with(|reader| found_from_snapshot(data_dir, &node, reader))
        .await
        .with_context(|| {
            format!(
                "cannot begin a cluster with {} in {}",
                args.file.display(),
                data_dir.display()
            )
        })?;
    let text = match args.output {
        Format::Json => format!("{}\n", serde_json::to_string(&info)?),
        Format::Text => founded(&info, data_dir, &node),
    };
    output::print(&text).context("cannot print what was restored")
}

/// Asks a person. A program has to say it beforehand.
async fn confirm(question: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(UsageError::new(
            "a restore changes entries, and there is no terminal to ask at: look at the file with `tidings snapshot inspect`, then say --yes",
        )
        .into());
    }
    eprint!("{} [y/N] ", visible_lines(question));
    io::stderr().flush().context("cannot ask")?;
    // Elsewhere, for Ctrl-C to be heard meanwhile.
    let reading = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = reading.await.context("cannot read the answer")?;
    let answer = answer.context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(anyhow::anyhow!("nothing was changed")),
    }
}

fn visible_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(visible).collect();
    lines.join("\n")
}

/// When it was made, to the second.
fn made(info: &SnapshotInfo) -> String {
    let text = info.made.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// What a file holds, in a line.
fn gist(info: &SnapshotInfo) -> String {
    let history = match info.segments {
        0 => format!(
            "up to frame {}, without the history",
            grouped(info.newest.get())
        ),
        _ => format!(
            "frames {} to {}",
            grouped(info.oldest.get()),
            grouped(info.newest.get())
        ),
    };
    format!(
        "{}, {history}, made {} by {}, {}",
        counted(info.entries, "entry", "entries"),
        made(info),
        visible(&info.node),
        bytes_text(info.file_bytes)
    )
}

/// What a file holds.
fn facts(info: &SnapshotInfo) -> String {
    let frames = match info.segments {
        0 => "left out".to_owned(),
        segments => format!(
            "frames {} to {}, {}, {}",
            grouped(info.oldest.get()),
            grouped(info.newest.get()),
            counted(segments, "segment", "segments"),
            bytes_text(info.history_bytes)
        ),
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut text = String::new();
    for (name, value) in [
        ("made", format!("{} by {}", made(info), visible(&info.node))),
        ("timeline", or_dash(info.timeline.map(|id| id.to_string()))),
        ("newest frame", grouped(info.newest.get())),
        (
            "state",
            format!(
                "{}, {}",
                counted(info.entries, "entry", "entries"),
                bytes_text(info.state_bytes)
            ),
        ),
        ("history", frames),
        ("log entry", or_dash(info.entry.map(grouped))),
        ("servers", visible(&info.servers.join(", ")).into_owned()),
        ("file", format!("{}, whole", bytes_text(info.file_bytes))),
    ] {
        let _ = writeln!(text, "{name:14}{value}");
    }
    text
}

fn told(restored: &StateRestored) -> String {
    format!(
        "restored: {} written, {} removed; frame {} tells of it\n",
        counted(restored.written, "entry", "entries"),
        counted(restored.removed, "entry", "entries"),
        grouped(restored.index.get())
    )
}

fn founded(info: &SnapshotInfo, data_dir: &Path, node: &str) -> String {
    format!(
        "restored in {}: {}\nnext: start the agent on it, with --node {} and --server, and without --bootstrap-expect; then the others, with empty data directories and --join HOST:7481 of this one\n",
        data_dir.display(),
        gist(info),
        visible(node)
    )
}

#[cfg(test)]
mod tests {
    use tidings_event::{Index, Timestamp};

    use super::*;

    fn info() -> SnapshotInfo {
        SnapshotInfo {
            made: Timestamp::from_unix_micros(1_800_000_000_000_000),
            node: "s1\u{1b}[2J".to_owned(),
            timeline: None,
            entry: Some(5000),
            servers: vec!["s1".to_owned(), "s2".to_owned()],
            newest: Index(4711),
            oldest: Index(2),
            entries: 1,
            state_bytes: 2048,
            segments: 3,
            history_bytes: 1 << 20,
            file_bytes: 2 << 20,
        }
    }

    #[test]
    fn what_a_file_holds_is_told_to_eyes() {
        assert_eq!(
            facts(&info()),
            "made          2027-01-15T08:00:00Z by s1\\u{1b}[2J\n\
             timeline      -\n\
             newest frame  4,711\n\
             state         1 entry, 2.0 KiB\n\
             history       frames 2 to 4,711, 3 segments, 1.0 MiB\n\
             log entry     5,000\n\
             servers       s1, s2\n\
             file          2.0 MiB, whole\n"
        );
        let small = SnapshotInfo {
            segments: 0,
            ..info()
        };
        assert!(facts(&small).contains("history       left out"));
        let line = gist(&small);
        assert!(
            line.contains("up to frame 4,711, without the history"),
            "{line}"
        );
        let next = founded(&info(), Path::new("d"), "s1");
        assert!(next.contains("--node s1"), "{next}");
    }
}
