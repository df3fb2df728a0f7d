//! Several servers that hold one timeline, and agents beside them, as processes.
//!
//! On loopback everywhere, or each on a host of its own ([`Network`]) where this process may make
//! network namespaces. [`Load`] publishes and follows while a test breaks things; [`fn@verify`] then
//! checks that everybody ends up with the same.

mod account;
mod followers;
mod load;
mod publishers;
mod verify;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::agent::{Agent, AgentOptions};
use crate::http::request_within;
use crate::network::{Entered, Network};

pub use account::{Account, Taken};
pub use load::{Finished, Load};
pub use verify::{Timeline, same_segments, verify};

/// How long a cluster may take to do what a test waits for. Only a broken one comes near.
pub const CLUSTER_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that does not say how it is within this time is one that cannot be asked.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at something that has no event to wait for.
const POLL: Duration = Duration::from_millis(20);
/// Every agent's: small segments, so that some are sealed in a short test.
const CONFIG: &str = "[store]\nsegment_bytes = \"1MiB\"\nreserve_bytes = \"16MiB\"\n\
                      [http]\ninsecure = true\n";

/// Rounds of a test when nobody says how many.
const ROUNDS: usize = 1;

/// How often a test does what it does: `TIDINGS_CLUSTER_ROUNDS`, or once.
///
/// # Errors
/// That is no number.
pub fn rounds() -> Result<usize> {
    match std::env::var("TIDINGS_CLUSTER_ROUNDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("TIDINGS_CLUSTER_ROUNDS is {text:?}, not a number")),
        Err(_) => Ok(ROUNDS),
    }
}

/// How to start a cluster.
pub struct ClusterOptions {
    /// How many servers.
    pub servers: usize,
    /// How many agents that hold no timeline.
    pub agents: usize,
    /// More TOML for the configuration of all.
    pub config: String,
    /// The servers' data directories; fresh temporary ones for those that are not named.
    pub data_dirs: Vec<PathBuf>,
    /// Whether each has a host of its own.
    pub on_hosts: bool,
}

/// Running servers and agents. All of them, and their network, end with this value.
pub struct Cluster {
    /// The servers; the network's hosts have the same numbers.
    pub servers: Vec<Agent>,
    /// The agents, on the hosts after those of the servers.
    pub agents: Vec<Agent>,
    config: String,
    /// The test is where it reaches them. Before the network, which it leaves.
    _entered: Option<Entered>,
    network: Option<Network>,
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// `leader`, `follower`, …
    pub role: String,
    /// The term of the consensus.
    pub term: u64,
    /// The newest frame that it has.
    pub newest: u64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            servers: 3,
            agents: 2,
            config: String::new(),
            data_dirs: Vec::new(),
            on_hosts: false,
        }
    }
}

impl Cluster {
    /// Starts all of them, and waits until they are ready.
    ///
    /// # Errors
    /// When one does not start, or there may be no hosts.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        let agents = options.agents;
        let mut cluster = Self::launch(options)?;
        for server in &mut cluster.servers {
            server.await_ready()?;
        }
        for _ in 0..agents {
            cluster.start_agent()?;
        }
        Ok(cluster)
    }

    /// Starts the servers alone, which need not have met yet.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn launch(options: ClusterOptions) -> Result<Self> {
        let hosts = options.servers + options.agents;
        let network = options.on_hosts.then(|| Network::new(hosts)).transpose()?;
        let entered = network.as_ref().map(Network::enter).transpose()?;
        let mut cluster = Self {
            servers: Vec::new(),
            agents: Vec::new(),
            config: format!("{CONFIG}{}", options.config),
            _entered: entered,
            network,
        };
        let mut data_dirs = options.data_dirs.into_iter();
        for _ in 0..options.servers {
            cluster.launch_server(options.servers, data_dirs.next())?;
        }
        Ok(cluster)
    }

    /// Starts one more server, which expects so many to form a cluster and knows those there are.
    /// It need not be ready yet.
    pub fn launch_server(&mut self, expects: usize, data_dir: Option<PathBuf>) -> Result<()> {
        let name = format!("server-{}", self.servers.len());
        self.launch_server_at(&name, expects, data_dir)
    }

    /// As [`Cluster::launch_server`], under a name of its own, with an empty data directory.
    pub fn launch_server_named(&mut self, name: &str, expects: usize) -> Result<()> {
        self.launch_server_at(name, expects, None)
    }

    fn launch_server_at(
        &mut self,
        name: &str,
        expects: usize,
        data_dir: Option<PathBuf>,
    ) -> Result<()> {
        let number = self.servers.len();
        let mut arguments = vec![
            "--server".to_owned(),
            "--bootstrap-expect".to_owned(),
            expects.to_string(),
        ];
        arguments.extend(self.names_and_ways(name));
        self.servers.push(Agent::launch(AgentOptions {
            config: self.config.clone(),
            data_dir,
            arguments,
            has_peers: true,
            host: self.host(number),
            ..AgentOptions::default()
        })?);
        Ok(())
    }

    /// Starts one more agent, which is told of the servers' peer addresses alone: where they serve HTTP
    /// it finds out.
    fn start_agent(&mut self) -> Result<()> {
        let number = self.agents.len();
        self.agents.push(Agent::start_with(AgentOptions {
            config: self.config.clone(),
            arguments: self.names_and_ways(&format!("agent-{number}")),
            host: self.host(self.servers.len() + number),
            ..AgentOptions::default()
        })?);
        Ok(())
    }

    /// A name, and the servers to go to.
    fn names_and_ways(&self, name: &str) -> Vec<String> {
        let ways = self.peer_addresses().into_iter();
        let joins = ways.flat_map(|address| ["--join".to_owned(), address]);
        ["--node".to_owned(), name.to_owned()]
            .into_iter()
            .chain(joins)
            .collect()
    }

    fn host(&self, number: usize) -> Option<(std::sync::Arc<crate::Namespace>, String)> {
        let network = self.network.as_ref()?;
        Some((network.host(number), network.ip(number)))
    }

    /// Where the servers connect to each other.
    pub fn peer_addresses(&self) -> Vec<String> {
        let addresses = self.servers.iter().filter_map(Agent::peer_address);
        addresses.map(|address| address.to_string()).collect()
    }

    /// Where the servers serve HTTP.
    pub fn server_addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Agent::address).collect()
    }

    /// Where the agents do.
    pub fn agent_addresses(&self) -> Vec<SocketAddr> {
        self.agents.iter().map(Agent::address).collect()
    }

    /// What joins the hosts.
    ///
    /// # Errors
    /// When they are all on loopback.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("this cluster has no hosts")
    }

    /// How one server says it is; `None` when it does not answer.
    pub fn status(&self, server: usize) -> Option<Status> {
        let address = self.servers[server].address();
        let status = get(address, "/v1/status").ok()?;
        Some(Status {
            role: status["Role"].as_str()?.to_owned(),
            term: status["Term"].as_u64()?,
            newest: status["Timeline"]["Newest"].as_u64()?,
        })
    }

    /// Who leads: of those that say so, the one of the latest term.
    pub fn leader(&self) -> Result<usize> {
        let all: Vec<usize> = (0..self.servers.len()).collect();
        self.leader_among(&all)
    }

    /// As [`Cluster::leader`], asking only these servers.
    pub fn leader_among(&self, servers: &[usize]) -> Result<usize> {
        await_some("a leader", || {
            let leaders = servers.iter().filter_map(|server| {
                let status = self.status(*server)?;
                (status.role == "leader").then_some((status.term, *server))
            });
            Ok(leaders.max().map(|(_, server)| server))
        })
    }

    /// A server that does not lead.
    pub fn follower(&self) -> Result<usize> {
        let leader = self.leader()?;
        Ok((leader + 1) % self.servers.len())
    }

    /// Waits until this server has every frame up to `index`.
    pub fn await_frame(&self, server: usize, index: u64) -> Result<()> {
        await_some(&format!("frame {index} on server {server}"), || {
            let has = self.status(server).is_some_and(|it| it.newest >= index);
            Ok(has.then_some(()))
        })
    }

    /// `SIGTERM` for all, the agents first, and a clean end of each.
    pub fn stop(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.stop()?;
        }
        for server in &self.servers {
            server.signal_stop()?;
        }
        for (number, server) in self.servers.iter_mut().enumerate() {
            let status = server.await_end()?;
            if !status.success() {
                bail!("server {number} ended with {status}:\n{}", server.log());
            }
        }
        Ok(())
    }
}

/// `GET`, from somebody who may not answer.
pub(crate) fn get(address: SocketAddr, target: &str) -> Result<Value> {
    request_within(STATUS_TIMEOUT, address, "GET", target, &[], b"")?.json()
}

/// Looks again and again until there is something.
///
/// # Errors
/// Those of `look`, and when there is nothing for too long.
pub(crate) fn await_some<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + CLUSTER_TIMEOUT;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {CLUSTER_TIMEOUT:?} for {what}");
        }
        sleep(POLL);
    }
}
