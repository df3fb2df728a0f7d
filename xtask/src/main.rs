//! `cargo xtask`: the menu of everything that is done with this repository.
//!
//! Nothing but cargo has to be there to start it; what a recipe needs beyond
//! that it installs under `target/`, or says in one sentence how to get it.
//! CI calls the same recipes and nothing else.
//!
//! - [`recipes`]: one function for each command of the menu
//! - [`simulation`]: runs `sim/`, and plants bugs in it
//! - [`steps`]: runs the commands of a recipe, times them, prints the summary
//! - [`tools`]: finds or installs Python, Go, cargo-fuzz
//! - [`workspace`]: where the repository and its target directory are

mod recipes;
mod simulation;
mod steps;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

const MENU: &str = "\
usage: cargo xtask COMMAND

  check                     formatting, lints, licences, documentation; changes nothing
  fix                       mend what check complains about and a tool can mend
  test                      every test; what CI runs
  interop [FILTER]          the tests against a running agent and the real clients
  bench [ARGS]              build release and compare with the alternatives
  fuzz [TARGET] [SECONDS]   long fuzzing with cargo-fuzz on nightly (default: each target, 60)
  sim [--seeds N] [--seed S] [--trace]
                            clusters under seeded faults; a failure names its seed (default: 20)
  sim --bugs [NAME]         plant each bug of sim/bugs in a copy, and see that it is found
  crash [--rounds N]        kill -9 under load, N times (default: 20)
  cluster [--rounds N]      break three servers and their network under load, N times (default: 10)
  run [ARGS]                build release and run `tidings agent --dev`
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number_of(rounds: &str) -> Result<u32> {
    match rounds.parse() {
        Ok(rounds) if rounds > 0 => Ok(rounds),
        _ => bail!("--rounds takes a number from 1 up, not {rounds:?}"),
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{MENU}");
        return Ok(ExitCode::SUCCESS);
    };
    let workspace = Workspace::find()?;
    match (command.as_str(), rest) {
        ("help" | "--help" | "-h", _) => {
            print!("{MENU}");
            Ok(ExitCode::SUCCESS)
        }
        ("check", []) => Ok(recipes::check(&workspace)),
        ("fix", []) => Ok(recipes::fix(&workspace)),
        ("test", []) => Ok(recipes::test(&workspace)),
        ("interop", []) => Ok(recipes::interop(&workspace, None)),
        ("interop", [filter]) => Ok(recipes::interop(&workspace, Some(filter))),
        ("bench", arguments) => recipes::bench(&workspace, arguments),
        ("fuzz", arguments) => recipes::fuzz(&workspace, arguments),
        ("sim", [flag]) if flag == "--bugs" => simulation::bugs(&workspace, None),
        ("sim", [flag, name]) if flag == "--bugs" => simulation::bugs(&workspace, Some(name)),
        ("sim", arguments) => simulation::run(&workspace, arguments),
        ("crash", []) => Ok(recipes::crash(&workspace, recipes::CRASH_ROUNDS)),
        ("crash", [flag, rounds]) if flag == "--rounds" => {
            Ok(recipes::crash(&workspace, number_of(rounds)?))
        }
        ("cluster", []) => Ok(recipes::cluster(&workspace, recipes::CLUSTER_ROUNDS)),
        ("cluster", [flag, rounds]) if flag == "--rounds" => {
            Ok(recipes::cluster(&workspace, number_of(rounds)?))
        }
        ("run", arguments) => recipes::run(&workspace, arguments),
        _ => bail!("unknown command: {}\n\n{MENU}", arguments.join(" ")),
    }
}
