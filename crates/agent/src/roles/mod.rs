//! What an agent is, apart from what all agents are.
//!
//! ```text
//!              ┌ Server   holds the timeline: alone, or together with other servers
//!  Role ───────┤
//!              └ Relay    holds none: keeps what it takes until a server has it, and relays
//! ```
//!
//! A role opens what it needs before the HTTP server starts, says what it waits for, and comes down
//! after the HTTP server has.

mod relay;
mod server;

use std::net::SocketAddr;
use std::path::Path;

use tidings_api::{ApiConfig, ApiServer, ApiShared};
use tidings_raft::PeersTls;
use tidings_timeline::Settings;

use crate::config::{Config, PeersConfig};
use crate::error::StartError;
use crate::reserved_port::ReservedPort;
use crate::token::TokenText;
pub(crate) use relay::Relay;
pub(crate) use server::Server;

/// What this agent is. A handle: clones are the same one.
#[derive(Clone)]
pub(crate) enum Role {
    Server(Server),
    Relay(Relay),
}

/// The ports that a role listens on beside that of HTTP: ours, with nobody listening yet.
#[derive(Debug)]
pub(crate) struct RolePorts {
    /// Where HTTP listens, which servers tell each other.
    http: SocketAddr,
    /// Where other servers connect to.
    peer: Option<ReservedPort>,
}

impl RolePorts {
    /// Takes what `config` asks for.
    pub(crate) fn take(config: &Config, http: SocketAddr) -> Result<RolePorts, StartError> {
        Ok(RolePorts {
            http,
            peer: match config.server.enabled {
                true => Some(server::take_peer_port(&config.peers)?),
                false => None,
            },
        })
    }

    /// Where other servers connect to.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer.as_ref().map(ReservedPort::address)
    }
}

impl Role {
    /// Opens what the role needs; a server of a cluster does not wait for the others.
    pub(crate) async fn start(
        config: &Config,
        data_dir: &Path,
        ports: RolePorts,
    ) -> Result<Role, StartError> {
        if relay::is_wanted(config) {
            return Relay::start(config, data_dir).await.map(Role::Relay);
        }
        let server = match ports.peer {
            None => Server::alone(config, data_dir).await,
            Some(peer) => Server::with_peers(config, data_dir, peer, ports.http).await,
        };
        server.map(Role::Server)
    }

    /// The HTTP surface of it.
    pub(crate) fn api_server(&self, config: ApiConfig, shared: &ApiShared) -> ApiServer {
        match self {
            Role::Server(server) => server.api_server(config, shared),
            Role::Relay(relay) => relay.api_server(config, shared),
        }
    }

    /// What it waits for before it can serve, as a sentence; `None` once it can.
    pub(crate) fn waits_for(&self) -> Option<String> {
        match self {
            Role::Server(server) => server.waits_for(),
            Role::Relay(relay) => relay.waits_for(),
        }
    }

    /// Who it works with, as a sentence.
    pub(crate) fn company(&self) -> String {
        match self {
            Role::Server(server) => server.company(),
            Role::Relay(relay) => relay.company(),
        }
    }

    /// Returns when something broke for good, with what it was.
    pub(crate) async fn broken(&self) -> String {
        match self {
            Role::Server(server) => server.broken().await,
            // What fails there is tried again, and told by its status.
            Role::Relay(_) => std::future::pending().await,
        }
    }

    /// Makes the settings those of the timeline; the error is a sentence.
    pub(crate) async fn settle(&self, settings: Settings) -> Result<(), String> {
        match self {
            Role::Server(server) => server.settle(settings).await,
            // Servers have settings.
            Role::Relay(_) => Ok(()),
        }
    }

    /// Shows others this secret from now on; the error is a sentence.
    pub(crate) fn set_token(&self, token: Option<&TokenText>) -> Result<(), String> {
        match self {
            // Servers prove with certificates who they are.
            Role::Server(_) => Ok(()),
            Role::Relay(relay) => relay.set_token(token),
        }
    }

    /// Reads the certificates of `config` anew, for connections between servers from then on; what is
    /// returned does it. The error is a sentence.
    pub(crate) fn read_tls(&self, config: &Config) -> Result<Option<NewTls>, String> {
        let running = match self {
            Role::Server(server) => server.tls(),
            Role::Relay(relay) => relay.tls(),
        };
        let Some(running) = running.cloned() else {
            return Ok(None);
        };
        let read = peers_tls(&config.peers).map_err(|error| crate::error_chain(&error))?;
        Ok(read.map(|read| NewTls { running, read }))
    }

    /// Lets others take over what they can, while requests still come.
    pub(crate) async fn hand_over(&self) {
        match self {
            Role::Server(server) => server.hand_over().await,
            Role::Relay(_) => {}
        }
    }

    /// Comes down.
    pub(crate) async fn shutdown(&self) {
        match self {
            Role::Server(server) => server.shutdown().await,
            Role::Relay(relay) => relay.shutdown().await,
        }
    }
}

/// Certificates that were read and are not in use yet.
pub(crate) struct NewTls {
    running: PeersTls,
    read: PeersTls,
}

impl NewTls {
    pub(crate) fn take_over(&self) {
        self.running.replace(&self.read);
    }
}

/// What proves to servers that this agent belongs to them; `None` when nothing is asked for.
fn peers_tls(peers: &PeersConfig) -> Result<Option<PeersTls>, StartError> {
    let (Some(cert), Some(key), Some(ca)) = (&peers.tls_cert, &peers.tls_key, &peers.tls_ca) else {
        return Ok(None);
    };
    let read = PeersTls::from_files(cert, key, ca);
    read.map(Some).map_err(|source| StartError::Tls {
        source: Box::new(source),
    })
}
