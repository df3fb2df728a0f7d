use std::net::SocketAddr;
use std::path::Path;

use tidings_api::{ApiConfig, ApiServer, ApiShared};
use tidings_raft::{
    OpenError, PeersConfig, PeersLimits, PeersTls, Replica, TcpTransport, stored_node_id,
};
use tidings_timeline::Settings;
use tokio::net::TcpListener;

use crate::config::{Config, PeersConfig as PeersKeys};
use crate::error::StartError;
use crate::reserved_port::ReservedPort;
use crate::roles::peers_tls;
use crate::wiring;

/// The number of a server that is alone. One that joins others has a number made of chance.
const FIRST_NODE_ID: u64 = 1;

/// Holds the timeline: alone, or together with other servers.
#[derive(Clone)]
pub(crate) struct Server {
    replica: Replica,
    tls: Option<PeersTls>,
}

/// Takes the port at which other servers connect.
pub(crate) fn take_peer_port(peers: &PeersKeys) -> Result<ReservedPort, StartError> {
    let address = peers.address;
    ReservedPort::take(address, peers.free_port_when_taken)
        .map_err(|source| StartError::ListenForPeers { address, source })
}

impl Server {
    /// A timeline of its own.
    pub(crate) async fn alone(config: &Config, data_dir: &Path) -> Result<Server, StartError> {
        let failed = |source| match source {
            OpenError::NotAlone { members } => StartError::Company {
                path: data_dir.to_owned(),
                servers: members.len(),
            },
            source => StartError::Timeline {
                path: data_dir.to_owned(),
                source: Box::new(source),
            },
        };
        let node_id = stored_node_id(data_dir)
            .map_err(failed)?
            .unwrap_or(FIRST_NODE_ID);
        let opened = Replica::open(wiring::replica(config, data_dir, node_id)).await;
        Ok(Server {
            replica: opened.map_err(failed)?,
            tls: None,
        })
    }

    /// One of several servers, which it finds by itself from now on.
    pub(crate) async fn with_peers(
        config: &Config,
        data_dir: &Path,
        port: ReservedPort,
        http: SocketAddr,
    ) -> Result<Server, StartError> {
        let failed = |source| StartError::Timeline {
            path: data_dir.to_owned(),
            source: Box::new(source),
        };
        let is_new = stored_node_id(data_dir).map_err(failed)?.is_none();
        if is_new && config.server.bootstrap_expect == 0 && config.peers.join.is_empty() {
            return Err(StartError::Config {
                sentence: "this server has no data yet, and nothing says with whom it holds a \
                           timeline; set peers.join (flag --join) to the peer address of another \
                           server, or server.bootstrap_expect (flag --bootstrap-expect) to 1 to begin \
                           alone, or to 3 on each of three servers"
                    .to_owned(),
            });
        }
        let address = config.peers.address;
        let unbound = |source| StartError::ListenForPeers { address, source };
        let bound = port.address();
        let listener = port.listen().map_err(unbound)?;
        let listener = TcpListener::from_std(listener).map_err(unbound)?;
        let advertise = advertised(config.peers.advertise.as_deref(), bound);
        let tls = peers_tls(&config.peers)?;
        let peers = PeersConfig {
            transport: TcpTransport::shared(listener, &advertise),
            tls: tls.clone(),
            http: advertised_http(config.http.advertise.as_deref(), http, &advertise),
            advertise,
            standby: config.server.standby,
            replaces: None,
            version_max: None,
            limits: PeersLimits {
                buffered_bytes_max: config.peers.buffered_bytes,
                clock_skew_max: config.peers.clock_skew,
                ..PeersLimits::default()
            },
            bootstrap_expect: u32::try_from(config.server.bootstrap_expect).unwrap_or(u32::MAX),
            join: config.peers.join.clone(),
        };
        // It has a number of its own: that of the configuration is not looked at.
        let replica = wiring::replica(config, data_dir, FIRST_NODE_ID);
        let opened = Replica::open_with_peers(replica, peers).await;
        Ok(Server {
            replica: opened.map_err(failed)?,
            tls,
        })
    }

    pub(crate) fn api_server(&self, config: ApiConfig, shared: &ApiShared) -> ApiServer {
        ApiServer::new_sharing(self.replica.clone(), config, shared)
    }

    /// What it and the other servers prove themselves with.
    pub(crate) fn tls(&self) -> Option<&PeersTls> {
        self.tls.as_ref()
    }

    pub(crate) fn waits_for(&self) -> Option<String> {
        self.replica
            .waits_for()
            .map(|waits_for| waits_for.to_string())
    }

    pub(crate) fn company(&self) -> String {
        let status = self.replica.status();
        let servers = match status.members.len() {
            1 => "1 server holds the timeline".to_owned(),
            count => format!("{count} servers hold the timeline"),
        };
        let is_leader = |id| {
            status
                .members
                .iter()
                .find(|member| Some(member.node_id) == id)
        };
        match is_leader(status.leader) {
            Some(leader) => format!("{servers}, {} leads", leader.name),
            None => servers,
        }
    }

    pub(crate) async fn broken(&self) -> String {
        self.replica.fatal().await.to_string()
    }

    /// What the timeline has is asked of the timeline itself: what this agent was configured with
    /// may never have got there.
    pub(crate) async fn settle(&self, settings: Settings) -> Result<(), String> {
        if *self.replica.state().settings == settings {
            return Ok(());
        }
        match self.replica.propose_settings(settings).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "the new settings of the timeline were not taken: {}; reload again",
                crate::error_chain(&error)
            )),
        }
    }

    pub(crate) async fn hand_over(&self) {
        self.replica.hand_over().await;
    }

    pub(crate) async fn shutdown(&self) {
        self.replica.shutdown().await;
    }
}

/// Where clients reach this server, as the others are told; empty when they cannot from elsewhere.
fn advertised_http(configured: Option<&str>, http: SocketAddr, peer: &str) -> String {
    if configured.is_some() {
        return advertised(configured, http);
    }
    let peer_host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    let is_here = |host: &str| {
        let host = host.trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
    };
    match http.ip() {
        ip if ip.is_unspecified() => format!("{peer_host}:{}", http.port()),
        // told to machines where that address means another one
        ip if ip.to_canonical().is_loopback() && !is_here(peer_host) => String::new(),
        _ => http.to_string(),
    }
}

/// What the others are told: what was configured, with the port that is listened on for a 0.
fn advertised(configured: Option<&str>, bound: SocketAddr) -> String {
    match configured {
        None => bound.to_string(),
        Some(address) => match address.strip_suffix(":0") {
            Some(host) => format!("{host}:{}", bound.port()),
            None => address.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_told_an_address_that_they_can_reach() {
        let bound: SocketAddr = "127.0.0.1:7481".parse().unwrap();
        assert_eq!(advertised(None, bound), "127.0.0.1:7481");
        assert_eq!(advertised(Some("a.example:9"), bound), "a.example:9");
        assert_eq!(advertised(Some("a.example:0"), bound), "a.example:7481");
        assert_eq!(advertised(Some("a.example:10"), bound), "a.example:10");
    }

    #[test]
    fn clients_are_sent_where_they_can_reach_it_or_nowhere() {
        for (configured, http, peer, told) in [
            (None, "127.0.0.1:7480", "127.0.0.1:7481", "127.0.0.1:7480"),
            (None, "[::1]:7480", "localhost:7481", "[::1]:7480"),
            (None, "127.0.0.1:7480", "10.0.0.1:7481", ""),
            (None, "127.0.0.1:7480", "a.example:7481", ""),
            (None, "0.0.0.0:7480", "10.0.0.1:7481", "10.0.0.1:7480"),
            (None, "[::]:80", "[2001:db8::1]:7481", "[2001:db8::1]:80"),
            (None, "10.0.0.2:7480", "10.0.0.1:7481", "10.0.0.2:7480"),
            (Some("w.example:0"), "0.0.0.0:7480", "a:1", "w.example:7480"),
        ] {
            let http = http.parse().unwrap();
            assert_eq!(
                advertised_http(configured, http, peer),
                told,
                "{http} {peer}"
            );
        }
    }
}
