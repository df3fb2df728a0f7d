//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::deployment::{Deployment, SERVERS};
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
    /// What is measured, and how it is told.
    #[command(flatten)]
    pub options: Options,

    /// Something else than one server of each.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What is measured, and how it is told.
#[derive(Args, Debug)]
pub struct Options {
    /// How the report is written to standard output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Rounds whose medians are shown [default: 3, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=101))]
    pub rounds: Option<u16>,

    /// Only these workloads: publish, fanout, latency, replay, memory, filtered; of a cluster
    /// publish, failover, catch-up, relay
    #[arg(long, value_delimiter = ',', value_parser = workload, value_name = "WORKLOAD")]
    pub only: Vec<Workload>,

    /// Only these systems: tidings, nats, nats-always, redis-always,
    /// redis-everysec, redis (both), etcd, bare, bare-frame, all; of a cluster
    /// tidings, nats, nats-always, etcd
    #[arg(long, value_delimiter = ',', value_parser = peers, value_name = "SYSTEM")]
    pub peers: Vec<PeerSet>,

    /// Short and small, to see that everything works; not for results
    #[arg(long)]
    pub quick: bool,

    /// How long each window of publish is, in seconds: long enough to look on [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: Option<u64>,

    /// Where the servers keep their data; a disk, not memory [default: target/bench-data]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// The agent's program [default: beside this program]
    #[arg(long, env = "TIDINGS_BIN", value_name = "PROGRAM")]
    pub tidings: Option<PathBuf>,

    /// Fail when a server is missing, instead of installing it
    #[arg(long)]
    pub no_install: bool,
}

/// Something else than one server of each.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Clusters of servers: publishing, the death of a leader, a new server that catches up,
    /// an agent that relays
    Cluster {
        /// What is measured, and how it is told.
        #[command(flatten)]
        options: Options,

        /// Frames that the new server of catch-up has to get
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        frames: Option<u64>,

        /// Servers of each cluster; the targets are for 3
        #[arg(long, value_name = "N", default_value_t = SERVERS as u64,
              value_parser = clap::value_parser!(u64).range(1..=9))]
        servers: u64,
    },
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

impl Options {
    /// The systems to measure, each once, in the tables' order.
    ///
    /// # Errors
    ///
    /// None of those that were asked for is run in this way.
    pub fn chosen_peers(&self, deployment: Deployment) -> Result<Vec<Peer>> {
        let chosen = |peer: &&Peer| {
            self.peers.is_empty() || self.peers.iter().any(|set| set.0.contains(peer))
        };
        let peers: Vec<Peer> = deployment.peers().iter().filter(chosen).copied().collect();
        if peers.is_empty() {
            let names: Vec<_> = deployment.peers().iter().map(|peer| peer.name()).collect();
            bail!(
                "none of these systems is measured as {}: there are {}",
                deployment.name(),
                names.join(", ")
            );
        }
        Ok(peers)
    }

    /// The workloads to run, each once, in their order.
    ///
    /// # Errors
    ///
    /// None of those that were asked for says something about this way of running the systems.
    pub fn chosen_workloads(&self, deployment: Deployment) -> Result<Vec<Workload>> {
        let chosen = |workload: &&Workload| self.only.is_empty() || self.only.contains(workload);
        let workloads: Vec<Workload> = deployment
            .workloads()
            .iter()
            .filter(chosen)
            .copied()
            .collect();
        if workloads.is_empty() {
            let all = deployment.workloads().iter();
            let names: Vec<_> = all.map(|workload| workload.name()).collect();
            bail!(
                "none of these workloads is for {}: there are {}",
                deployment.name(),
                names.join(", ")
            );
        }
        Ok(workloads)
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
        let options = Arguments::parse_from([
            "bench",
            "--peers",
            "etcd,redis,redis-always",
            "--only",
            "fanout",
            "--quick",
        ])
        .options;
        assert_eq!(
            options.chosen_peers(Deployment::Single).unwrap(),
            vec![Peer::RedisAlways, Peer::RedisEverysec, Peer::Etcd]
        );
        assert_eq!(
            options.chosen_workloads(Deployment::Single).unwrap(),
            vec![Workload::Fanout]
        );
        assert_eq!(options.chosen_rounds(), 1);
        assert!(Arguments::try_parse_from(["bench", "--peers", "kafka"]).is_err());
    }

    #[test]
    fn a_cluster_has_its_own_systems_and_workloads() {
        let arguments =
            Arguments::parse_from(["bench", "cluster", "--peers", "redis,etcd", "--frames", "7"]);
        let Some(Role::Cluster {
            options,
            frames,
            servers: 3,
        }) = arguments.role
        else {
            panic!("not a cluster");
        };
        let cluster = Deployment::Cluster { servers: SERVERS };
        assert_eq!(frames, Some(7));
        assert_eq!(options.chosen_peers(cluster).unwrap(), vec![Peer::Etcd]);
        assert_eq!(
            options.chosen_workloads(cluster).unwrap(),
            cluster.workloads()
        );
        let only = Arguments::parse_from(["bench", "--only", "failover"]).options;
        let error = only.chosen_workloads(Deployment::Single).unwrap_err();
        assert!(error.to_string().contains("there are publish"), "{error}");
    }
}
