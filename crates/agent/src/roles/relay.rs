use std::path::Path;
use std::sync::Arc;

use tidings_api::{ApiConfig, ApiServer, ApiShared};
use tidings_client::{ClientConfig, Token};
use tidings_raft::{PeersTls, discover, stored_node_id};
use tidings_relay::{FindServers, RelayConfig};

use crate::config::Config;
use crate::error::StartError;
use crate::roles::peers_tls;
use crate::token::{TokenText, configured_token};

/// The directory of the spool, in the data directory.
const SPOOL_DIR: &str = "spool";

/// Holds no timeline: keeps what it takes until a server has it, and relays.
#[derive(Clone)]
pub(crate) struct Relay {
    relay: tidings_relay::Relay,
    tls: Option<PeersTls>,
}

/// Whether an agent so configured is one of these.
pub(crate) fn is_wanted(config: &Config) -> bool {
    let is_told = !config.peers.join.is_empty() || !config.relay.servers.is_empty();
    !config.server.enabled && is_told
}

impl Relay {
    /// Servers need not be there.
    pub(crate) async fn start(config: &Config, data_dir: &Path) -> Result<Relay, StartError> {
        if !matches!(stored_node_id(data_dir), Ok(None)) {
            return Err(StartError::Config {
                sentence: format!(
                    "{} holds a timeline, and an agent that joins servers without being one has none; \
                     start it with --server to hold it together with them, or name another directory \
                     with --data-dir",
                    data_dir.display()
                ),
            });
        }
        let token = configured_token(&config.http)
            .map_err(|source| StartError::Token { source })?
            .map(|file| file.token);
        let mut relay = relay_config(config, data_dir, token.as_ref());
        let tls = peers_tls(&config.peers)?;
        relay.find = finder(&config.peers.join, tls.clone());
        let relay = tidings_relay::Relay::start(relay);
        let relay = relay.await.map_err(|source| StartError::Relay {
            path: data_dir.join(SPOOL_DIR),
            source: Box::new(source),
        })?;
        Ok(Relay { relay, tls })
    }

    pub(crate) fn api_server(&self, config: ApiConfig, shared: &ApiShared) -> ApiServer {
        ApiServer::new_sharing(self.relay.clone(), config, shared)
    }

    pub(crate) fn waits_for(&self) -> Option<String> {
        self.relay.waits_for()
    }

    pub(crate) fn company(&self) -> String {
        self.relay.company()
    }

    /// What it proves itself with to servers.
    pub(crate) fn tls(&self) -> Option<&PeersTls> {
        self.tls.as_ref()
    }

    /// Shows the servers this secret from now on; the error is a sentence.
    pub(crate) fn set_token(&self, token: Option<&TokenText>) -> Result<(), String> {
        let set = self.relay.set_token(client_token(token));
        set.map_err(|error| crate::error_chain(&error))
    }

    pub(crate) async fn shutdown(&self) {
        self.relay.shutdown().await;
    }
}

/// Servers of one cluster have one token. It was checked when the agent took it for itself.
fn client_token(token: Option<&TokenText>) -> Option<Token> {
    token.and_then(|token| Token::new(token.as_str()).ok())
}

fn relay_config(config: &Config, data_dir: &Path, token: Option<&TokenText>) -> RelayConfig {
    let servers = config.relay.servers.iter();
    RelayConfig {
        spool_bytes_max: config.spool.bytes_max,
        servers: servers
            .filter_map(|address| ClientConfig::parse_address(address).ok())
            .collect(),
        token: client_token(token),
        answer_within: config.relay.answer_within,
        upstreams_max: config.relay.upstreams_max,
        ring_bytes: config.relay.ring_bytes,
        ..RelayConfig::new(data_dir.join(SPOOL_DIR))
    }
}

/// Asks the peer addresses of some servers for the HTTP addresses of all.
fn finder(join: &[String], tls: Option<PeersTls>) -> Option<FindServers> {
    if join.is_empty() {
        return None;
    }
    let join: Arc<[String]> = join.into();
    Some(Arc::new(move || {
        let (join, tls) = (Arc::clone(&join), tls.clone());
        Box::pin(async move {
            let found = discover(&join, tls.as_ref()).await;
            let found = found.map_err(|error| error.to_string())?;
            let http = found.into_iter().map(|server| server.http);
            Ok(http.filter(|http| !http.is_empty()).collect())
        })
    }))
}
