//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::peers::Peer;
use crate::report::Output;
use crate::workloads::Workload;

/// Measures tidings side by side with NATS JetStream, Redis Streams and etcd.
///
/// All servers run on this machine, on loopback, with their data on the same
/// disk, in interleaved rounds; the machine's own limits are measured in the
/// same run. Missing servers are installed (apt-get, go install).
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// How the report is written to standard output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Rounds whose medians are shown [default: 3, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=101))]
    pub rounds: Option<u16>,

    /// Only these workloads: publish, fanout, latency, replay, memory, filtered
    #[arg(long, value_delimiter = ',', value_parser = workload, value_name = "WORKLOAD")]
    pub only: Vec<Workload>,

    /// Only these systems: tidings, nats, nats-always, redis-always,
    /// redis-everysec, redis (both), etcd, bare, bare-frame, all
    #[arg(long, value_delimiter = ',', value_parser = peers, value_name = "SYSTEM")]
    pub peers: Vec<PeerSet>,

    /// Short and small, to see that everything works; not for results
    #[arg(long)]
    pub quick: bool,

    /// Where the servers keep their data; a disk, not memory [default: target/bench-data]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// The agent's program [default: beside this program]
    #[arg(long, env = "TIDINGS_BIN", value_name = "PROGRAM")]
    pub tidings: Option<PathBuf>,

    /// Fail when a server is missing, instead of installing it
    #[arg(long)]
    pub no_install: bool,

    /// What this program is as a child of itself.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What this program is as a child of itself.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// The bare broadcaster
    #[command(hide = true)]
    Bare {
        /// cursor or frame
        #[arg(long)]
        mode: String,
        /// Length of a line
        #[arg(long)]
        line_bytes: usize,
        /// Where it writes its address
        #[arg(long)]
        address_file: PathBuf,
    },
}

/// What one name of `--peers` stands for.
#[derive(Clone, Debug)]
pub struct PeerSet(Vec<Peer>);

impl Arguments {
    /// The systems to measure, each once, in the tables' order.
    pub fn chosen_peers(&self) -> Vec<Peer> {
        Peer::ALL
            .into_iter()
            .filter(|peer| {
                self.peers.is_empty() || self.peers.iter().any(|set| set.0.contains(peer))
            })
            .collect()
    }

    /// The workloads to run, each once, in their order.
    pub fn chosen_workloads(&self) -> Vec<Workload> {
        Workload::ALL
            .into_iter()
            .filter(|workload| self.only.is_empty() || self.only.contains(workload))
            .collect()
    }

    /// How many rounds.
    pub fn chosen_rounds(&self) -> usize {
        self.rounds
            .map_or(if self.quick { 1 } else { 3 }, usize::from)
    }
}

fn workload(name: &str) -> Result<Workload, String> {
    Workload::named(name).ok_or_else(|| {
        let names: Vec<_> = Workload::ALL.map(Workload::name).to_vec();
        format!("there is no such workload; there are {}", names.join(", "))
    })
}

fn peers(name: &str) -> Result<PeerSet, String> {
    Peer::named(name).map(PeerSet).ok_or_else(|| {
        let names: Vec<_> = Peer::ALL.map(Peer::name).to_vec();
        format!(
            "there is no such system; there are {}, redis and all",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn names_choose_systems_once() {
        let arguments = Arguments::parse_from([
            "bench",
            "--peers",
            "etcd,redis,redis-always",
            "--only",
            "fanout",
            "--quick",
        ]);
        assert_eq!(
            arguments.chosen_peers(),
            vec![Peer::RedisAlways, Peer::RedisEverysec, Peer::Etcd]
        );
        assert_eq!(arguments.chosen_workloads(), vec![Workload::Fanout]);
        assert_eq!(arguments.chosen_rounds(), 1);
        assert!(Arguments::try_parse_from(["bench", "--peers", "kafka"]).is_err());
    }
}
