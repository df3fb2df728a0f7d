//! One function for each command of the menu.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::simulation;
use crate::steps::Steps;
use crate::tools::{self, InteropTools};
use crate::workspace::Workspace;

/// Rounds of `cargo xtask crash` when no number is given.
pub const CRASH_ROUNDS: u32 = 20;
/// Rounds of the crash test within `cargo xtask test`.
const CRASH_ROUNDS_SHORT: u32 = 20;
/// Rounds of `cargo xtask cluster` when no number is given; `cargo xtask test` does one.
pub const CLUSTER_ROUNDS: u32 = 10;
/// Seconds of seeds within `cargo xtask test`; its build takes longer.
const SIMULATION_SECONDS: u32 = 60;
/// How long a step of `cargo xtask test` may take, its build included: several times what it does.
const TEST_STEP_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Seconds for each target of `cargo xtask fuzz` when no number is given.
const FUZZ_SECONDS: u32 = 60;

/// Read-only gate: formatting, lints, licences, documentation.
pub fn check(workspace: &Workspace) -> ExitCode {
    let mut steps = Steps::default();
    steps.run(
        "formatting",
        &mut workspace.cargo(["fmt", "--all", "--check"]),
    );
    steps.run(
        "formatting of the simulation",
        workspace
            .cargo(["fmt", "--check"])
            .current_dir(workspace.path("sim")),
    );
    steps.run(
        "lints of the simulation",
        simulation::cargo(workspace, "clippy").args([
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    );
    steps.run(
        "lints",
        &mut workspace.cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    );
    steps.run(
        "documentation",
        workspace
            .cargo([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--quiet",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
    if tools::succeeds(&mut workspace.cargo(["deny", "--version"])) {
        steps.run(
            "licences and advisories",
            &mut workspace.cargo(["deny", "check"]),
        );
    } else {
        steps.not_run(
            "licences and advisories",
            "cargo-deny is not installed; `cargo install --locked cargo-deny` gets it",
        );
    }
    steps.finish()
}

/// The mutating twin of [`check`].
pub fn fix(workspace: &Workspace) -> ExitCode {
    let mut steps = Steps::default();
    steps.run(
        "lints",
        &mut workspace.cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
            "--quiet",
        ]),
    );
    steps.run("formatting", &mut workspace.cargo(["fmt", "--all"]));
    steps.finish()
}

/// Everything that CI runs.
pub fn test(workspace: &Workspace) -> ExitCode {
    let mut steps = Steps::bounded(TEST_STEP_LIMIT);
    let tools = steps.attempt("tools of the tests", || InteropTools::install(workspace));
    steps.test(
        "crates",
        &mut workspace.cargo([
            "test",
            "--workspace",
            "--exclude",
            "tidings-interop",
            "--no-fail-fast",
            "--quiet",
        ]),
    );
    steps.test("ring under loom", &mut loom(workspace));
    steps.test(
        "simulation, its own tests",
        simulation::cargo(workspace, "test").args(["--quiet"]),
    );
    steps.run(
        "simulation, short",
        simulation::cargo(workspace, "run")
            .args(["--quiet", "--", "--seeds", "1000000", "--seconds"])
            .arg(SIMULATION_SECONDS.to_string()),
    );
    interop_steps(workspace, &mut steps, tools.as_ref(), None);
    steps.run(
        "bench, smoke",
        &mut workspace.cargo([
            "run",
            "--quiet",
            "--package",
            "tidings-bench",
            "--",
            "--quick",
            "--peers",
            "tidings",
        ]),
    );
    steps.run(
        "bench of clusters, smoke",
        &mut workspace.cargo([
            "run",
            "--quiet",
            "--package",
            "tidings-bench",
            "--",
            "cluster",
            "--quick",
            "--peers",
            "tidings",
            "--only",
            "publish,failover,catch-up,relay",
        ]),
    );
    steps.finish()
}

/// The tests against a running agent and the real clients.
pub fn interop(workspace: &Workspace, filter: Option<&str>) -> ExitCode {
    let mut steps = Steps::default();
    let tools = steps.attempt("tools of the tests", || InteropTools::install(workspace));
    interop_steps(workspace, &mut steps, tools.as_ref(), filter);
    steps.finish()
}

/// `kill -9` under load.
pub fn crash(workspace: &Workspace, rounds: u32) -> ExitCode {
    let mut steps = Steps::default();
    if build_agent(workspace, &mut steps, "release") {
        steps.test(
            "kill -9 under load",
            interop_tests(workspace, "release")
                .args(["--test", "crash", "--", "--nocapture"])
                .env("TIDINGS_CRASH_ROUNDS", rounds.to_string()),
        );
    }
    steps.finish()
}

/// Three servers whose processes, disks and network break under load.
pub fn cluster(workspace: &Workspace, rounds: u32) -> ExitCode {
    let mut steps = Steps::default();
    let tools = steps.attempt("tools of the tests", || InteropTools::install(workspace));
    let Some(tools) = tools else {
        return steps.finish();
    };
    if build_agent(workspace, &mut steps, "release") {
        let mut command = interop_tests(workspace, "release");
        command.args([
            "--test",
            "cluster",
            "--test",
            "partitions",
            "--no-fail-fast",
        ]);
        // One after the other: each has programs enough of its own.
        command.args(["--", "--nocapture", "--test-threads", "1"]);
        tools.hand_to(&mut command);
        steps.test(
            "three servers under load",
            command.env("TIDINGS_CLUSTER_ROUNDS", rounds.to_string()),
        );
    }
    steps.finish()
}

/// Long fuzzing with cargo-fuzz; the short form on stable is part of [`test()`].
pub fn fuzz(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    let all = fuzz_targets(&workspace.path("fuzz/fuzz_targets"))?;
    let (targets, seconds) = match arguments {
        [] => (all, FUZZ_SECONDS),
        [target] => (vec![target.clone()], FUZZ_SECONDS),
        [target, seconds] => (
            vec![target.clone()],
            seconds
                .parse()
                .with_context(|| format!("{seconds:?} is not a number of seconds"))?,
        ),
        _ => bail!("usage: cargo xtask fuzz [TARGET] [SECONDS]"),
    };
    if !tools::has_nightly() {
        bail!("cargo-fuzz needs a nightly compiler: `rustup toolchain install nightly` gets one");
    }
    let cargo_fuzz = tools::cargo_fuzz(workspace)?;
    let mut steps = Steps::default();
    for target in targets {
        steps.run(
            &format!("fuzz {target}"),
            Command::new(&cargo_fuzz)
                .current_dir(workspace.root())
                .args(["fuzz", "run", &target, "--"])
                .args([
                    format!("-max_total_time={seconds}"),
                    "-timeout=10".into(),
                    "-rss_limit_mb=2048".into(),
                ])
                // Set by the cargo that runs us, and stronger than `+nightly` otherwise.
                .env("RUSTUP_TOOLCHAIN", "nightly")
                .env_remove("CARGO"),
        );
    }
    Ok(steps.finish())
}

/// Build release and compare with the alternatives.
pub fn bench(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    build_release(workspace, &["tidings", "tidings-bench"])?;
    let program = workspace.target("release/tidings-bench");
    replace_by(
        Command::new(program)
            .args(arguments)
            .env("TIDINGS_BIN", workspace.tidings("release")),
    )
}

/// Build release and run an agent for trying things.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    build_release(workspace, &["tidings"])?;
    replace_by(
        Command::new(workspace.tidings("release"))
            .args(["agent", "--dev"])
            .args(arguments),
    )
}

/// The memory ring, explored under every order of its atomic operations.
fn loom(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo([
        "test",
        "--package",
        "tidings-timeline",
        "--release",
        "--lib",
        "--",
        "loom",
    ]);
    command
        .env("RUSTFLAGS", "--cfg tidings_loom")
        // Flags change every crate: a folder of its own keeps the ordinary build warm.
        .env("CARGO_TARGET_DIR", workspace.target("loom"))
        .env("LOOM_MAX_PREEMPTIONS", "3");
    command
}

fn interop_steps(
    workspace: &Workspace,
    steps: &mut Steps,
    tools: Option<&InteropTools>,
    filter: Option<&str>,
) {
    const NAME: &str = "interop";
    let Some(tools) = tools else {
        return steps.fail(NAME, "its tools are missing, see above");
    };
    if !build_agent(workspace, steps, "debug") {
        return steps.fail(NAME, "the agent does not build");
    }
    let mut command = interop_tests(workspace, "debug");
    command.arg("--no-fail-fast").args(filter);
    tools.hand_to(&mut command);
    steps.test(
        NAME,
        command.env("TIDINGS_CRASH_ROUNDS", CRASH_ROUNDS_SHORT.to_string()),
    );
}

fn interop_tests(workspace: &Workspace, profile: &str) -> Command {
    let mut command = workspace.cargo(["test", "--package", "tidings-interop"]);
    command.env("TIDINGS_BIN", workspace.tidings(profile));
    command
}

fn build_agent(workspace: &Workspace, steps: &mut Steps, profile: &str) -> bool {
    let mut command = workspace.cargo(["build", "--quiet", "--package", "tidings"]);
    if profile == "release" {
        command.arg("--release");
    }
    steps.run("build the agent", &mut command)
}

fn build_release(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let mut command = workspace.cargo(["build", "--release"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the release build failed");
    }
    Ok(())
}

/// Run a program in our place: its output, its signals and its exit code are ours.
fn replace_by(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))
}

fn fuzz_targets(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = file?.path();
        if let (Some(name), Some("rs")) =
            (path.file_stem(), path.extension().and_then(|e| e.to_str()))
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
