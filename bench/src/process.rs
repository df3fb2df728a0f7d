//! Servers that this program starts: their costs, and their certain end.
//!
//! A server ends with its `Server` value (also when this program panics), on
//! a signal through [`end_on_signals`], and when this program is killed
//! outright: it is started through [`supervised`], which asks the kernel to
//! kill it together with its parent.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a server may take until it answers.
pub const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at whether a server answers.
const START_POLL: Duration = Duration::from_millis(5);
/// The last bytes of a server's log that are shown when it failed.
const LOG_TAIL_BYTES: u64 = 1_000;
/// Shells report a program ended by SIGINT so.
const INTERRUPTED_STATUS: i32 = 130;
/// The hidden subcommand that becomes the server.
pub const SUPERVISED: &str = "supervised";

/// Pids of running servers; also the lock under which they are ended, so that
/// a signal never kills a pid that was already given to somebody else.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// The folder that is removed at the end.
static DATA: Mutex<Option<PathBuf>> = Mutex::new(None);

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether anybody will look at the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Results {
    /// They are compared.
    Count,
    /// It is only seen whether everything works.
    DoNotCount,
}

/// A folder for the servers' data, removed when dropped.
pub struct DataRoot {
    path: PathBuf,
}

impl DataRoot {
    /// Makes `<parent>/<our pid>` and removes what killed runs left beside it.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or is in memory instead of on a disk, unless the `results` are of
    /// no account.
    pub fn create(parent: &Path, results: Results) -> Result<Self> {
        if let Err(error) = refuse_memory(parent) {
            match results {
                Results::Count => return Err(error),
                Results::DoNotCount => eprintln!("note: {error:#}"),
            }
        }
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let pid = entry.file_name().to_string_lossy().parse::<u32>();
            if pid.is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let path = parent.join(std::process::id().to_string());
        fs::create_dir_all(&path)?;
        *DATA.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataRoot {
    fn drop(&mut self) {
        // A leftover folder is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A file system in memory would make every flush free.
fn refuse_memory(folder: &Path) -> Result<()> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    // The folder itself may not be there yet.
    let Some(existing) = folder.ancestors().find(|folder| folder.exists()) else {
        return Ok(());
    };
    #[allow(clippy::unnecessary_cast)] // f_type has other types elsewhere.
    let kind = rustix::fs::statfs(existing)
        .with_context(|| format!("find the file system of {}", existing.display()))?
        .f_type as i64;
    if kind == TMPFS_MAGIC || kind == RAMFS_MAGIC {
        bail!(
            "{} is in memory, where a flush costs nothing: give a folder on a disk with --data-dir",
            folder.display()
        );
    }
    Ok(())
}

/// On SIGINT, SIGTERM and SIGHUP: ends all servers, removes their data, exits.
pub fn end_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_none() {
                return;
            }
            let pids = running();
            for pid in pids.iter() {
                kill(*pid);
            }
            for pid in pids.iter() {
                await_end(*pid);
            }
            if let Some(path) = &*DATA.lock().unwrap_or_else(PoisonError::into_inner) {
                let _ = fs::remove_dir_all(path);
            }
            eprintln!("interrupted: all servers were ended, their data removed");
            std::process::exit(INTERRUPTED_STATUS);
        })?;
    Ok(())
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Waits until a killed child has let go of its files (it is then a zombie).
fn await_end(pid: u32) {
    const END_LIMIT: Duration = Duration::from_secs(5);
    let from = Instant::now();
    while from.elapsed() < END_LIMIT {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if stat_fields(&stat).is_none_or(|fields| fields[0] != "Z") => {
                std::thread::sleep(START_POLL);
            }
            _ => return,
        }
    }
}

/// The hidden subcommand: dies with its parent, then becomes the server.
///
/// # Errors
///
/// The program cannot be run. On success this does not return.
pub fn supervised(parent: u32, program: &Path, arguments: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
    if now != parent {
        bail!("the process that asked for this server has ended");
    }
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("run {}", program.display()))
}

/// One running server with its folder.
pub struct Server {
    child: Child,
    name: String,
    folder: PathBuf,
}

impl Server {
    /// Starts `program` in `folder`, which is made, with its output in a file.
    ///
    /// # Errors
    ///
    /// The folder or the process cannot be made.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let log = File::create(folder.join("output.log"))?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command
            .arg(SUPERVISED)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut pids = running();
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        pids.insert(child.id());
        Ok(Self {
            child,
            name: name.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    ///
    /// The server ended, or [`START_LIMIT`] passed; with the end of its log.
    pub fn await_ready<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let from = Instant::now();
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended ({status}) instead of starting{}",
                    self.name,
                    self.log()
                );
            }
            if from.elapsed() > START_LIMIT {
                bail!(
                    "{} did not answer within {} s{}",
                    self.name,
                    START_LIMIT.as_secs(),
                    self.log()
                );
            }
            std::thread::sleep(START_POLL);
        }
    }

    /// Waits until it accepts connections at `address`.
    pub fn await_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.await_ready(|| TcpStream::connect(address).ok().map(drop))
    }

    /// Kills it, and waits for its end; its data stays as long as the value.
    ///
    /// # Errors
    ///
    /// It had ended already.
    pub fn kill(&mut self) -> Result<()> {
        let mut pids = running();
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had ended ({status}){}", self.name, self.log());
        }
        self.child.kill()?;
        self.child.wait()?;
        pids.remove(&self.child.id());
        Ok(())
    }

    /// CPU time used so far by all of its threads.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Its resident memory, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .with_context(|| format!("read the memory of {}", self.name))?;
        resident_of(&status).context("find VmRSS")
    }

    /// How it ended and what it last said, for a message; empty while it runs.
    pub fn obituary(&mut self) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => format!("; {} had ended ({status}){}", self.name, self.log()),
            _ => String::new(),
        }
    }

    /// The last lines it wrote, for a message.
    fn log(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.folder.join("output.log"))?;
            let bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).trim().to_owned())
        };
        match tail() {
            Ok(text) if !text.is_empty() => format!("; it last said:\n{text}"),
            _ => String::new(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut pids = running();
            // Killed: the data is thrown away, a clean end would only take time.
            let _ = self.child.kill();
            let _ = self.child.wait();
            pids.remove(&self.child.id());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// CPU time of this process so far.
pub fn own_cpu() -> Result<Duration> {
    cpu_of(std::process::id())
}

fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("read the CPU time of process {pid}"))?;
    let ticks = ticks_of(&stat).context("find utime and stime")?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// The fields after the command's name, which may itself hold spaces.
fn stat_fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
}

/// utime + stime of a `/proc/<pid>/stat`.
fn ticks_of(stat: &str) -> Option<u64> {
    // proc(5): utime is field 14, stime field 15; ours begin with field 3.
    let fields = stat_fields(stat)?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some(user + system)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// A port that nobody listens on now.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?)
}

/// So many ports that nobody listens on now, all different.
pub fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").context("find a free port");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_>>()?;
    let addresses = listeners.iter().map(|listener| Ok(listener.local_addr()?));
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14";
        assert_eq!(ticks_of(stat), Some(200));
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t  12 kB\n"), Some(12_288));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }

    #[test]
    fn the_data_folder_goes_with_its_owner() {
        let parent = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let left = parent.path().join("4294967295");
        fs::create_dir(&left).unwrap();
        let root = DataRoot::create(parent.path(), Results::Count).unwrap();
        let path = root.path().to_owned();
        assert!(path.exists());
        assert!(!left.exists(), "what a killed run left is removed");
        drop(root);
        assert!(!path.exists());
    }
}
