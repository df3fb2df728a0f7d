//! A disk in memory that keeps apart what was written and what would survive a power cut.
//!
//! ```text
//!  write, set_len, create, rename, unlink ──▶ current ── what everybody reads
//!                                       └───▶ pending ── in the order in which it came
//!  sync of a file ──▶ its pending changes become durable
//!  sync of a folder ──▶ the pending changes of names in it become durable
//!  power cut ──▶ of what is pending some survives: nothing, a beginning, any of it, in sectors
//! ```
//!
//! Syncing a file does not make its name durable, and syncing a folder not the files in it: the least
//! that POSIX promises. Names survive in their order or in any, bytes in sectors of 512.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::rng::Rng;
use super::world;

/// What is written at once or not at all.
const SECTOR_BYTES: usize = 512;

/// One disk of one host.
#[derive(Debug)]
pub struct Disk {
    pub(super) state: Mutex<State>,
    cut: Notify,
}

/// How a disk fails, beside losing its power.
#[derive(Debug, Clone)]
pub struct Faults {
    /// How long a flush takes.
    pub flush_micros: Range<u64>,
    /// Whether the next flush of a file fails; what it was to bring to the disk is there or not.
    pub fail_next_sync: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            flush_micros: 20..400,
            fail_next_sync: false,
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(u64),
}

/// A change of names.
#[derive(Debug, Clone)]
enum NameChange {
    Put(PathBuf, Node),
    Gone(PathBuf),
    Moved(PathBuf, PathBuf, Node),
    FolderMoved(PathBuf, PathBuf),
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    pub modified: Duration,
    pub locked: bool,
}

#[derive(Debug)]
pub(super) struct State {
    rng: Rng,
    pub faults: Faults,
    capacity: u64,
    used: u64,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<NameChange>,
    contents: BTreeMap<u64, Content>,
    next_inode: u64,
    /// Changes and flushes so far.
    operations: u64,
    /// The operation at which the power goes.
    cut_at: Option<u64>,
    dead: bool,
}

impl Disk {
    /// An empty disk of so many bytes.
    #[must_use]
    pub fn new(name: &str, capacity: u64) -> Arc<Self> {
        let root = BTreeMap::from([(PathBuf::new(), Node::Folder)]);
        Arc::new(Self {
            state: Mutex::new(State {
                rng: world::fork(name),
                faults: Faults::default(),
                capacity,
                used: 0,
                names: root.clone(),
                durable_names: root,
                pending_names: Vec::new(),
                contents: BTreeMap::new(),
                next_inode: 1,
                operations: 0,
                cut_at: None,
                dead: false,
            }),
            cut: Notify::new(),
        })
    }

    /// Changes how the disk fails.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    /// Changes how many bytes fit.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// How many bytes fit.
    pub fn capacity(&self) -> u64 {
        self.state.lock().capacity
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn free(&self) -> u64 {
        let state = self.state.lock();
        state.capacity.saturating_sub(state.used)
    }

    /// Has the power go in the middle of the disk's `after`-th operation from now.
    pub fn cut_after(&self, after: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.operations + after);
    }

    /// Has the power go now: nothing more is read or written by whoever has files open.
    pub fn cut(&self) {
        self.state.lock().dead = true;
        self.cut.notify_waiters();
    }

    /// Takes [`Disk::cut_after`] back.
    pub fn cut_never(&self) {
        self.state.lock().cut_at = None;
    }

    /// Whether the power has gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Waits until the power has gone.
    pub async fn is_cut(&self) {
        loop {
            let cut = self.cut.notified();
            if self.state.lock().dead {
                return;
            }
            cut.await;
        }
    }

    /// The disk as somebody finds it who switches the power on again; the old one is dead.
    #[must_use]
    pub fn after_power_cut(&self) -> Arc<Self> {
        let mut state = self.state.lock();
        state.dead = true;
        let mut rng = state.rng.clone();
        let mut names = state.durable_names.clone();
        let pending = std::mem::take(&mut state.pending_names);
        // What became of a folder that was moved depends on the moves before: no file system loses
        // one of them and keeps the next.
        let ordered = pending
            .iter()
            .any(|change| matches!(change, NameChange::FolderMoved(..)));
        let pending = match ordered {
            true => {
                let kept = rng.place(pending.len() + 1);
                pending.into_iter().take(kept).collect()
            }
            false => surviving(&mut rng, pending),
        };
        for change in pending {
            change.apply(&mut names);
        }
        let names = reachable(names);
        let kept: BTreeSet<u64> = names.values().filter_map(|node| node.inode()).collect();
        let mut contents = BTreeMap::new();
        for (inode, content) in &mut state.contents {
            if kept.contains(inode) {
                contents.insert(*inode, content.after_power_cut(&mut rng));
            }
        }
        state.successor(rng, names, contents)
    }

    /// The disk as the next process finds it after this one was killed: nothing is lost, all that was
    /// pending still is, and nobody holds a lock.
    #[must_use]
    pub fn after_kill(&self) -> Arc<Self> {
        let mut state = self.state.lock();
        state.dead = true;
        let rng = state.rng.clone();
        let names = state.names.clone();
        let mut contents = std::mem::take(&mut state.contents);
        contents
            .values_mut()
            .for_each(|content| content.locked = false);
        let durable_names = state.durable_names.clone();
        let pending_names = std::mem::take(&mut state.pending_names);
        let next = state.successor(rng, names, contents);
        {
            let mut next = next.state.lock();
            next.durable_names = durable_names;
            next.pending_names = pending_names;
        }
        next
    }

    /// The bytes of a file, whatever state the disk is in; for looking at it from outside.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.names.get(&relative(path))?.inode()?;
        Some(state.contents.get(&inode)?.current.clone())
    }

    /// The files below a folder, in order; for looking at it from outside.
    #[must_use]
    pub fn files_below(&self, folder: &Path) -> Vec<PathBuf> {
        let folder = relative(folder);
        let state = self.state.lock();
        let files = state.names.iter().filter(|(path, node)| {
            node.inode().is_some() && path.starts_with(&folder) && **path != folder
        });
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Changes one bit of a file, on the medium: where the number says. `false` when there is none.
    pub fn flip(&self, path: &Path, place: u64) -> bool {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(&relative(path)).and_then(|n| n.inode()) else {
            return false;
        };
        let Some(content) = state.contents.get_mut(&inode) else {
            return false;
        };
        let bits = content.current.len() as u64 * 8;
        if bits == 0 {
            return false;
        }
        let at = place % bits;
        let (byte, mask) = ((at / 8) as usize, 1 << (at % 8));
        content.current[byte] ^= mask;
        if let Some(byte) = content.durable.get_mut(byte) {
            *byte ^= mask;
        }
        true
    }

    pub(super) fn flush_pause(&self) -> Duration {
        let mut state = self.state.lock();
        let range = state.faults.flush_micros.clone();
        Duration::from_micros(state.rng.within(range))
    }

    /// Counts an operation. `Ok(true)`: it is the last one before the power goes.
    pub(super) fn operate(&self, state: &mut State) -> io::Result<bool> {
        state.alive()?;
        state.operations += 1;
        let last = state.cut_at == Some(state.operations);
        if last {
            state.dead = true;
            state.cut_at = None;
            self.cut.notify_waiters();
        }
        Ok(last)
    }
}

/// The path on its disk: without the part that names the disk.
pub(super) fn relative(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)))
        .skip(1)
        .collect()
}

pub(super) fn gone() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

/// The names that can be reached: what is in a folder went with it.
fn reachable(names: BTreeMap<PathBuf, Node>) -> BTreeMap<PathBuf, Node> {
    let mut reached = BTreeMap::new();
    // A folder comes before what is in it.
    for (path, node) in names {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        if above.is_none_or(|above| reached.get(above) == Some(&Node::Folder)) {
            reached.insert(path, node);
        }
    }
    reached
}

/// What survives of changes whose order a disk may keep or not.
fn surviving<T>(rng: &mut Rng, mut changes: Vec<T>) -> Vec<T> {
    match rng.within(0..4) {
        0 => Vec::new(),
        1 => {
            let kept = rng.place(changes.len() + 1);
            changes.truncate(kept);
            changes
        }
        2 => changes.into_iter().filter(|_| rng.percent(50)).collect(),
        _ => changes,
    }
}

// === impl Node ===

impl Node {
    pub(super) fn inode(self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(inode),
            Self::Folder => None,
        }
    }
}

// === impl NameChange ===

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Put(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Gone(path) => {
                names.remove(path);
            }
            Self::Moved(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            Self::FolderMoved(from, to) => {
                let below: Vec<PathBuf> = names
                    .keys()
                    .filter(|path| path.starts_with(from))
                    .cloned()
                    .collect();
                for path in below {
                    if let (Some(node), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
                        let is_itself = rest.as_os_str().is_empty();
                        names.insert(if is_itself { to.clone() } else { to.join(rest) }, node);
                    }
                }
            }
        }
    }

    fn concerns(&self, folder: &Path) -> bool {
        let within = |path: &Path| path.parent() == Some(folder);
        match self {
            Self::Put(path, _) | Self::Gone(path) => within(path),
            Self::Moved(from, to, _) | Self::FolderMoved(from, to) => within(from) || within(to),
        }
    }
}

// === impl Content ===

impl Content {
    fn after_power_cut(&self, rng: &mut Rng) -> Self {
        let mut durable = self.durable.clone();
        for change in surviving(rng, self.pending.clone()) {
            change.apply_torn(&mut durable, rng);
        }
        Self {
            current: durable.clone(),
            durable,
            modified: self.modified,
            ..Self::default()
        }
    }
}

// === impl Change ===

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, new) => {
                if bytes.len() < at + new.len() {
                    bytes.resize(at + new.len(), 0);
                }
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
            Self::Length(len) => bytes.resize(*len, 0),
        }
    }

    /// Applies a write as a disk may have that lost its power: some sectors of it.
    fn apply_torn(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        let Self::Bytes(at, new) = self else {
            self.apply(bytes);
            return;
        };
        let kept = match rng.within(0..3) {
            0 => {
                self.apply(bytes);
                return;
            }
            // A beginning.
            1 => Some(rng.place(new.len() / SECTOR_BYTES + 1)),
            // Any of them.
            _ => None,
        };
        let mut start = *at;
        let end = at + new.len();
        let mut sector = 0;
        while start < end {
            let stop = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let stop = stop.min(end);
            let written = match kept {
                Some(kept) => sector < kept,
                None => rng.percent(50),
            };
            if written {
                let piece = new[start - at..stop - at].to_vec();
                Self::Bytes(start, piece).apply(bytes);
            }
            sector += 1;
            start = stop;
        }
    }
}

// === impl State ===

impl State {
    pub(super) fn alive(&self) -> io::Result<()> {
        if self.dead { Err(gone()) } else { Ok(()) }
    }

    fn successor(
        &self,
        mut rng: Rng,
        names: BTreeMap<PathBuf, Node>,
        contents: BTreeMap<u64, Content>,
    ) -> Arc<Disk> {
        let used = contents.values().map(|c| c.current.len() as u64).sum();
        // Not the numbers that decided what survived.
        rng.number();
        Arc::new(Disk {
            state: Mutex::new(Self {
                rng,
                faults: Faults::default(),
                capacity: self.capacity,
                used,
                durable_names: names.clone(),
                names,
                pending_names: Vec::new(),
                contents,
                next_inode: self.next_inode,
                operations: 0,
                cut_at: None,
                dead: false,
            }),
            cut: Notify::new(),
        })
    }

    pub(super) fn node(&self, path: &Path) -> io::Result<Node> {
        let node = self.names.get(path).copied();
        node.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    pub(super) fn content(&mut self, inode: u64) -> io::Result<&mut Content> {
        self.contents.get_mut(&inode).ok_or_else(gone)
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    pub(super) fn create(&mut self, path: PathBuf) -> io::Result<u64> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.node(parent)? != Node::Folder {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.contents.insert(inode, Content::default());
        self.change(NameChange::Put(path, Node::File(inode)));
        Ok(inode)
    }

    pub(super) fn create_folder(&mut self, path: PathBuf) {
        self.change(NameChange::Put(path, Node::Folder));
    }

    pub(super) fn rename(&mut self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        let node = self.node(&from)?;
        let replaced = self.names.get(&to).and_then(|node| node.inode());
        if let (Some(replaced), true) = (replaced, from != to) {
            self.let_go(replaced);
        }
        self.change(match node {
            Node::Folder => NameChange::FolderMoved(from, to),
            Node::File(_) => NameChange::Moved(from, to, node),
        });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: PathBuf) -> io::Result<()> {
        if let Some(inode) = self.node(&path)?.inode() {
            self.let_go(inode);
        }
        self.change(NameChange::Gone(path));
        Ok(())
    }

    pub(super) fn link(&mut self, path: PathBuf, node: Node) {
        self.change(NameChange::Put(path, node));
    }

    /// How many names there are for it.
    pub(super) fn links(&self, node: Node) -> u64 {
        self.names.values().filter(|&&other| other == node).count() as u64
    }

    /// A name of a file goes; with the last one its bytes no longer count.
    fn let_go(&mut self, inode: u64) {
        if self.links(Node::File(inode)) > 1 {
            return;
        }
        let bytes = self
            .contents
            .get(&inode)
            .map_or(0, |content| content.current.len() as u64);
        self.used = self.used.saturating_sub(bytes);
    }

    /// How many bytes of a write fit, which must be some.
    fn room(&self, inode: u64, at: usize, len: usize) -> io::Result<usize> {
        let size = self
            .contents
            .get(&inode)
            .map_or(0, |content| content.current.len());
        let grows = (at + len).saturating_sub(size) as u64;
        let free = self.capacity.saturating_sub(self.used);
        if grows <= free {
            return Ok(len);
        }
        match len - (grows - free).min(len as u64) as usize {
            0 => Err(full()),
            fits => Ok(fits),
        }
    }

    pub(super) fn write(&mut self, inode: u64, at: usize, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let fits = self.room(inode, at, bytes.len())?;
        let content = self.content(inode)?;
        let before = content.current.len();
        let change = Change::Bytes(at, bytes[..fits].to_vec());
        change.apply(&mut content.current);
        content.pending.push(change);
        content.modified = world::since_epoch();
        let grown = (content.current.len() - before) as u64;
        self.used += grown;
        Ok(fits)
    }

    pub(super) fn set_len(&mut self, inode: u64, len: usize) -> io::Result<()> {
        let content = self.content(inode)?;
        let before = content.current.len() as u64;
        let change = Change::Length(len);
        change.apply(&mut content.current);
        content.pending.push(change);
        content.modified = world::since_epoch();
        self.used = (self.used + len as u64).saturating_sub(before);
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        let fails = std::mem::take(&mut self.faults.fail_next_sync);
        let mut rng = self.rng.clone();
        let content = self.content(inode)?;
        let pending = std::mem::take(&mut content.pending);
        if fails {
            // Like Linux: what was dirty counts as clean from now on, wherever it is.
            for change in surviving(&mut rng, pending) {
                change.apply_torn(&mut content.durable, &mut rng);
            }
            self.rng = rng;
            return Err(gone());
        }
        for change in pending {
            change.apply(&mut content.durable);
        }
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, folder: &Path) {
        let pending = std::mem::take(&mut self.pending_names);
        // A folder takes along what was changed in it before it was moved.
        let is_move = |change: &NameChange| {
            matches!(change, NameChange::FolderMoved(..)) && change.concerns(folder)
        };
        let moved = pending.iter().rposition(is_move);
        for (at, change) in pending.into_iter().enumerate() {
            if moved.is_some_and(|moved| at <= moved) || change.concerns(folder) {
                change.apply(&mut self.durable_names);
            } else {
                self.pending_names.push(change);
            }
        }
    }

    pub(super) fn names_in(&self, folder: &Path) -> Vec<PathBuf> {
        let names = self.names.keys();
        names
            .filter(|path| path.parent() == Some(folder))
            .cloned()
            .collect()
    }
}
