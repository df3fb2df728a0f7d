//! What must be so at the end: one timeline, the same on all, with everything in it once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::load::Finished;
use super::{Cluster, publishers};
use crate::agent::tidings;
use crate::http::Stream;
use crate::process;

/// The frames of one server.
pub struct Timeline {
    lines: Vec<String>,
    /// Index and key of each event.
    events: Vec<(u64, String)>,
    places: HashMap<String, Vec<u64>>,
}

impl Timeline {
    /// Reads all frames up to `last` from whoever listens there.
    ///
    /// # Errors
    /// A frame is missing, or cannot be read.
    pub fn read(address: SocketAddr, last: u64) -> Result<Self> {
        let mut stream = Stream::open(address, "/v1/event/stream?from=beginning&namespace=*", &[])?;
        let mut timeline = Self {
            lines: Vec::new(),
            events: Vec::new(),
            places: HashMap::new(),
        };
        for expected in 1..=last {
            let line = stream.next_frame_text()?;
            let frame: Value = serde_json::from_str(&line)?;
            ensure!(
                frame["Index"] == expected,
                "frame {} came from {address} where {expected} follows",
                frame["Index"]
            );
            for event in frame["Events"]
                .as_array()
                .context("a frame has no events")?
            {
                timeline.note(expected, event)?;
            }
            timeline.lines.push(line);
        }
        Ok(timeline)
    }

    fn note(&mut self, index: u64, event: &Value) -> Result<()> {
        if event["Topic"] != publishers::TOPIC {
            return Ok(());
        }
        let text = |name: &str| {
            let text = event[name].as_str().map(str::to_owned);
            text.with_context(|| format!("an event has no {name}"))
        };
        self.events.push((index, text("Key")?));
        self.places.entry(text("Id")?).or_default().push(index);
        Ok(())
    }

    /// The indexes of the frames with the event of this id.
    pub fn places(&self, id: &str) -> &[u64] {
        self.places.get(id).map_or(&[], Vec::as_slice)
    }
}

/// Checks that all servers have the same timeline, that it has every event that was taken, once and in
/// order, and that every follower got just that; then stops the cluster, and compares the files.
///
/// # Errors
/// One of that is not so.
pub fn verify(mut cluster: Cluster, finished: &Finished) -> Result<()> {
    let last = finished.last;
    let mut first: Option<Timeline> = None;
    for (number, address) in cluster.server_addresses().into_iter().enumerate() {
        cluster.await_frame(number, last)?;
        let timeline = Timeline::read(address, last)
            .with_context(|| format!("cannot read the timeline of server {number}"))?;
        let Some(first) = &first else {
            first = Some(timeline);
            continue;
        };
        let differs = first.lines.iter().zip(&timeline.lines);
        let differs = differs
            .enumerate()
            .find(|(_, (ours, theirs))| ours != theirs);
        ensure!(
            differs.is_none(),
            "server {number} has another frame than server 0: {differs:?}"
        );
    }
    let timeline = first.context("a cluster has servers")?;
    for account in &finished.accounts {
        account.check(&timeline)?;
    }
    for (name, seen) in &finished.followers {
        let differs = timeline.events.iter().zip(seen);
        let differs = differs.enumerate().find(|(_, (there, got))| there != got);
        ensure!(
            differs.is_none() && seen.len() == timeline.events.len(),
            "{name} got {} events of {}; the first difference: {differs:?}",
            seen.len(),
            timeline.events.len()
        );
    }
    cluster.stop()?;
    let folders: Vec<&Path> = cluster.servers.iter().map(|it| it.data_dir()).collect();
    same_segments(&folders)?;
    for folder in folders {
        let mut verify = Command::new(tidings()?);
        let output = process::output(verify.args(["verify", "--data-dir"]).arg(folder))?;
        ensure!(
            output.status.success(),
            "`tidings verify` finds a fault: {}",
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        );
    }
    Ok(())
}

/// Checks that sealed segments have the same names and the same bytes in all of these data
/// directories; how many there are.
///
/// # Errors
/// One differs, or there is none: then nothing would have been compared.
pub fn same_segments(data_dirs: &[&Path]) -> Result<usize> {
    let (first, others) = data_dirs.split_first().context("there are servers")?;
    let ours = sealed(first)?;
    ensure!(
        !ours.is_empty(),
        "no segment is sealed in {}: too little was published",
        first.display()
    );
    for other in others {
        let theirs = sealed(other)?;
        for (name, path) in &theirs {
            let Some(own) = ours.get(name) else { continue };
            ensure!(
                std::fs::read(path)? == std::fs::read(own)?,
                "{} and {} differ",
                path.display(),
                own.display()
            );
        }
        ensure!(
            theirs.keys().eq(ours.keys()),
            "{} has the sealed segments {:?}, {} has {:?}",
            first.display(),
            ours.keys(),
            other.display(),
            theirs.keys()
        );
    }
    Ok(ours.len())
}

/// All segments but the newest, which is still written to.
fn sealed(data_dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut segments = BTreeMap::new();
    for entry in std::fs::read_dir(data_dir.join("history"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "ndjson") {
            let name = path.file_name().context("a segment has a name")?;
            segments.insert(name.to_string_lossy().into_owned(), path.clone());
        }
    }
    segments.pop_last();
    Ok(segments)
}
