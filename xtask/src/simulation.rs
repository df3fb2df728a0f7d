//! `sim/`: a workspace of its own, so a cargo of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::steps::Steps;
use crate::workspace::Workspace;

/// Seeds within which a planted bug must be found.
const BUG_SEEDS: u32 = 400;
/// What is copied to plant bugs in.
const COPIED: [&str; 4] = ["crates", "sim", "clippy.toml", "Cargo.toml"];

/// A cargo command in the workspace of the simulation.
pub fn cargo(workspace: &Workspace, command: &str) -> Command {
    cargo_in(workspace, &workspace.path("sim"), command)
}

fn cargo_in(workspace: &Workspace, folder: &Path, command: &str) -> Command {
    let mut cargo = workspace.cargo([command]);
    // Where cargo looks for its configuration, which makes chance that of the seed.
    cargo.current_dir(folder);
    cargo.arg("--target-dir").arg(workspace.target("sim"));
    // What the cargo that runs this program says of it makes build scripts run again, and all that
    // stands on them.
    for (name, _) in std::env::vars_os() {
        let says = name.to_string_lossy();
        if says.starts_with("CARGO_PKG_") || says.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Runs seeds.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    let mut command = cargo(workspace, "run");
    command.args(["--quiet", "--"]).args(arguments);
    let status = command.status().context("cannot run cargo")?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Plants each bug of `sim/bugs` in a copy, and runs seeds there until it is found.
pub fn bugs(workspace: &Workspace, only: Option<&str>) -> Result<ExitCode> {
    let mut patches = patches(&workspace.path("sim/bugs"))?;
    if let Some(only) = only {
        patches.retain(|patch| patch.file_stem().is_some_and(|name| name == only));
        ensure!(!patches.is_empty(), "there is no sim/bugs/{only}.patch");
    }
    let copy = workspace.target("sim-bugs");
    let mut steps = Steps::default();
    for patch in patches {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy();
        steps.attempt(&name.clone(), || find(workspace, &copy, &patch));
    }
    Ok(steps.finish())
}

fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut patches = Vec::new();
    for entry in fs::read_dir(folder).context("cannot list sim/bugs")? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "patch") {
            patches.push(path);
        }
    }
    patches.sort();
    ensure!(!patches.is_empty(), "there is no patch in sim/bugs");
    Ok(patches)
}

/// Plants one bug, and fails unless a run finds it.
fn find(workspace: &Workspace, copy: &Path, patch: &Path) -> Result<()> {
    copy_tree(workspace, copy)?;
    // Whatever lies above the copy is no repository of it.
    let applied = Command::new("git")
        .args(["apply", "--unsafe-paths", "-p1"])
        .arg(patch)
        .current_dir(copy)
        .env("GIT_CEILING_DIRECTORIES", copy.parent().unwrap_or(copy))
        .status()
        .context("cannot run git")?;
    ensure!(
        applied.success(),
        "{} does not apply any more",
        patch.display()
    );
    let sim = copy.join("sim");
    let built = cargo_in(workspace, &sim, "build").arg("--quiet").status()?;
    ensure!(built.success(), "it does not build with the bug");
    let seeds = BUG_SEEDS.to_string();
    let output = cargo_in(workspace, &sim, "run")
        .args(["--quiet", "--", "--seeds", &seeds])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = text.lines().skip_while(|line| !line.ends_with("FAILED"));
    match found.next() {
        Some(line) => {
            println!("{line}");
            found.take(2).for_each(|line| println!("{line}"));
            Ok(())
        }
        None => bail!("not found in {seeds} seeds"),
    }
}

/// Copies what the simulation is built from; files that are alike keep their times, so that only what
/// a bug touches is built again.
fn copy_tree(workspace: &Workspace, copy: &Path) -> Result<()> {
    fs::create_dir_all(copy)?;
    for name in COPIED {
        copy_if_changed(&workspace.path(name), &copy.join(name))?;
    }
    Ok(())
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        if from.ends_with("target") {
            return Ok(());
        }
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_if_changed(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
