//! `cargo xtask sim`: runs seeds, and tells of the first that fails how to see it again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidings_sim::{Outcome, Scenario, Trace, run};

/// A run that takes longer than this by a clock on the wall makes no headway.
const RUN_WAIT_MAX: Duration = Duration::from_secs(180);

struct Arguments {
    seeds: u64,
    first: u64,
    prints: bool,
    /// Ends after so many seconds, however many seeds are left.
    seconds: Option<u64>,
    /// Goes on after a failure.
    all: bool,
}

/// The seed that is run now and since when, in milliseconds of the process.
static RUNNING: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run_all(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments {
        seeds: 0,
        first: 1,
        prints: false,
        seconds: None,
        all: false,
    };
    let mut given = std::env::args().skip(1);
    let mut one = false;
    while let Some(flag) = given.next() {
        let mut number = || -> Result<u64> {
            let value = given
                .next()
                .with_context(|| format!("{flag} takes a number"))?;
            value
                .parse()
                .with_context(|| format!("{flag} takes a number, not {value:?}"))
        };
        match flag.as_str() {
            "--seeds" => arguments.seeds = number()?,
            "--seed" => {
                arguments.first = number()?;
                one = true;
            }
            "--seconds" => arguments.seconds = Some(number()?),
            "--trace" => arguments.prints = true,
            "--all" => arguments.all = true,
            other => bail!(
                "unknown argument {other}; there are --seeds N, --seed S, --seconds N, --trace, --all"
            ),
        }
    }
    if arguments.seeds == 0 {
        arguments.seeds = if one { 1 } else { 20 };
    }
    Ok(arguments)
}

fn run_all(arguments: &Arguments) -> Result<bool> {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("SIM_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).init();
    }
    let begun = Instant::now();
    watch(begun);
    let mut simulated = Duration::ZERO;
    let (mut acknowledged, mut handed) = (0, 0);
    let (mut ran, mut failed) = (0_u64, Vec::new());
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        if arguments
            .seconds
            .is_some_and(|s| begun.elapsed().as_secs() >= s)
        {
            break;
        }
        RUNNING[1].store(begun.elapsed().as_millis() as u64, Ordering::SeqCst);
        RUNNING[0].store(seed, Ordering::SeqCst);
        let scenario = Scenario::of(seed);
        let outcome = run(&scenario, &Trace::new(arguments.prints));
        ran += 1;
        simulated += outcome.elapsed;
        acknowledged += outcome.acknowledged;
        handed += outcome.handed;
        tell(&outcome);
        if !outcome.violations.is_empty() {
            failed.push(seed);
            if !arguments.all {
                break;
            }
        }
    }
    println!(
        "{ran} seeds from {}, {:.1} simulated hours in {:.0} s, {acknowledged} transactions acknowledged, {handed} by agents; failed: {failed:?}",
        arguments.first,
        simulated.as_secs_f64() / 3_600.0,
        begun.elapsed().as_secs_f64()
    );
    Ok(failed.is_empty())
}

fn tell(outcome: &Outcome) {
    println!(
        "seed {}: {:.0} s simulated, {} acknowledged, {} by agents, {} frames, {} events, digest {:016x}{}",
        outcome.seed,
        outcome.elapsed.as_secs_f64(),
        outcome.acknowledged,
        outcome.handed,
        outcome.frames,
        outcome.events,
        outcome.digest,
        if outcome.violations.is_empty() {
            ""
        } else {
            " FAILED"
        }
    );
    for violation in outcome.violations.iter().take(5) {
        println!("  {violation}");
    }
    if !outcome.violations.is_empty() {
        println!(
            "  again, with its trace: cargo xtask sim --seed {} --trace",
            outcome.seed
        );
    }
}

/// Ends the process when a run makes no headway.
fn watch(begun: Instant) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let since = RUNNING[1].load(Ordering::SeqCst);
            let now = begun.elapsed().as_millis() as u64;
            if now.saturating_sub(since) > RUN_WAIT_MAX.as_millis() as u64 {
                println!(
                    "seed {} makes no headway: {RUN_WAIT_MAX:?} have passed",
                    RUNNING[0].load(Ordering::SeqCst)
                );
                std::process::exit(3);
            }
        }
    });
}
