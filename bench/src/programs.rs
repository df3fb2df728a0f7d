//! Finds the servers' programs, and gets the missing ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::peers::Peer;

/// Debian's own is too old for `sync_interval: always`, so it is built.
const NATS_MODULE: &str = "github.com/nats-io/nats-server/v2";
const NATS_VERSION: &str = "v2.15.2";
/// The first release that can flush before it acknowledges is 2.10.
const NATS_MINOR_MIN: u32 = 10;
/// Getting one program may take so long.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const INSTALL_POLL: Duration = Duration::from_millis(100);

/// Where each program is, and which version.
pub struct Programs {
    paths: BTreeMap<&'static str, PathBuf>,
    versions: BTreeMap<&'static str, String>,
}

/// What decides where programs are looked for.
pub struct Search<'a> {
    /// Programs that were built here before, and will be.
    pub tools: &'a Path,
    /// The agent's program.
    pub tidings: &'a Path,
    /// Whether missing ones may be fetched.
    pub install: bool,
}

impl Programs {
    /// Finds what these peers need.
    ///
    /// # Errors
    ///
    /// A program is missing and cannot be had; the message says what to do.
    pub fn find(peers: &[Peer], search: &Search<'_>) -> Result<Self> {
        let mut found = Self {
            paths: BTreeMap::new(),
            versions: BTreeMap::new(),
        };
        for peer in peers {
            let name = peer.program();
            if found.paths.contains_key(name) {
                continue;
            }
            let path = match name {
                "tidings" => tidings(search)?,
                "nats-server" => nats_server(search)?,
                "redis-server" => from_debian("redis-server", "redis-server", search)?,
                "etcd" => from_debian("etcd", "etcd-server", search)?,
                _ => std::env::current_exe()?,
            };
            if let Some(version) = version(&path) {
                found.versions.insert(name, version);
            }
            found.paths.insert(name, path);
        }
        Ok(found)
    }

    /// The program of this peer.
    pub fn path(&self, peer: Peer) -> &Path {
        &self.paths[peer.program()]
    }

    /// What each says of its version.
    pub fn versions(&self) -> &BTreeMap<&'static str, String> {
        &self.versions
    }
}

fn version(path: &Path) -> Option<String> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.trim().to_owned())
}

fn tidings(search: &Search<'_>) -> Result<PathBuf> {
    if search.tidings.is_file() {
        return Ok(search.tidings.to_owned());
    }
    bail!(
        "{} is missing: build it with `cargo build --release -p tidings`, or name it with --tidings",
        search.tidings.display()
    )
}

fn nats_server(search: &Search<'_>) -> Result<PathBuf> {
    let built = search.tools.join("nats-server");
    let candidates = [Some(built.clone()), in_path("nats-server")];
    for path in candidates.into_iter().flatten() {
        if version(&path).is_some_and(|text| nats_is_new_enough(&text)) {
            return Ok(path);
        }
    }
    refuse_unless_allowed("nats-server 2.10 or newer", search)?;
    if in_path("go").is_none() {
        bail!(
            "nats-server 2.10 or newer is missing and has to be built with Go, which is missing too: \
             install Go, put a nats-server into PATH, or leave it out with --peers"
        );
    }
    eprintln!(
        "building nats-server {NATS_VERSION} into {}",
        search.tools.display()
    );
    std::fs::create_dir_all(search.tools)?;
    run(Command::new("go")
        .arg("install")
        .arg(format!("{NATS_MODULE}@{NATS_VERSION}"))
        .env("GOBIN", search.tools))
    .context("build nats-server with `go install` (or leave it out with --peers)")?;
    Ok(built)
}

fn nats_is_new_enough(version: &str) -> bool {
    // "nats-server: v2.10.27"
    let Some((_, numbers)) = version.rsplit_once('v') else {
        return false;
    };
    let mut numbers = numbers
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(2), Some(minor)) => minor >= NATS_MINOR_MIN,
        (Some(major), _) => major > 2,
        _ => false,
    }
}

fn from_debian(program: &str, package: &str, search: &Search<'_>) -> Result<PathBuf> {
    if let Some(path) = in_path(program) {
        return Ok(path);
    }
    refuse_unless_allowed(program, search)?;
    if in_path("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        bail!(
            "{program} is missing: install it (Debian: `apt-get install {package}`), \
             or leave it out with --peers"
        );
    }
    eprintln!("installing {package} with apt-get");
    run(Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive"))
    .with_context(|| {
        format!("install {package} with apt-get (`apt-get update` may help; or leave it out with --peers)")
    })?;
    in_path(program)
        .with_context(|| format!("{package} was installed, but {program} is not in PATH"))
}

fn refuse_unless_allowed(program: &str, search: &Search<'_>) -> Result<()> {
    if search.install {
        return Ok(());
    }
    bail!("{program} is missing, and --no-install forbids to get it: leave it out with --peers")
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Runs to the end, at most [`INSTALL_LIMIT`]; its output goes to stderr.
fn run(command: &mut Command) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .spawn()?;
    let from = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("it ended with {status}");
        }
        if from.elapsed() > INSTALL_LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("it took longer than {} s", INSTALL_LIMIT.as_secs());
        }
        std::thread::sleep(INSTALL_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_told_from_new_ones() {
        assert!(nats_is_new_enough("nats-server: v2.10.27"));
        assert!(nats_is_new_enough("nats-server: v3.0.0"));
        assert!(!nats_is_new_enough("nats-server: v2.9.10"));
        assert!(!nats_is_new_enough("nats-server"));
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let search = Search {
            tools: folder.path(),
            tidings: &folder.path().join("tidings"),
            install: false,
        };
        let error = Programs::find(&[Peer::Tidings], &search).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("cargo build --release -p tidings")
        );
    }
}
