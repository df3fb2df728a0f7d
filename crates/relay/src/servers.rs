//! The servers, as far as they are known and reached.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidings_client::{Client, ClientConfig, ConfigError, Token, Url};
use tidings_spool::Reach;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{FindServers, RelayConfig};

/// How often servers are looked for while none is known.
const FIND_PAUSE: Duration = Duration::from_secs(1);

/// How often they are looked for anew while none of the known ones is reached: all may have been
/// replaced.
const FIND_AGAIN_PAUSE: Duration = Duration::from_secs(15);

/// How long a server may take to answer before another one is asked. What is sent again has its number,
/// so asking too early costs little; a change of leaders is over within it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting to one may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait between two tries to reach a server: that it is back is noticed within it.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// Servers that are asked. A handle.
#[derive(Clone)]
pub(crate) struct Servers {
    client: Arc<watch::Sender<Option<Client>>>,
    reach: Reach,
    /// Of every client, but for its addresses.
    template: Arc<Mutex<ClientConfig>>,
}

impl Servers {
    pub(crate) fn new(config: &RelayConfig) -> Result<Servers, ConfigError> {
        let servers = Servers {
            client: Arc::new(watch::Sender::new(None)),
            reach: Reach::default(),
            template: Arc::new(Mutex::new(ClientConfig {
                addresses: Vec::new(),
                token: config.token.clone(),
                namespace: None,
                connect_timeout: CONNECT_TIMEOUT,
                request_timeout: ANSWER_TIMEOUT,
                retry_delay_max: RETRY_DELAY_MAX,
                heartbeat: config.heartbeat,
                ..ClientConfig::default()
            })),
        };
        if !config.servers.is_empty() {
            servers.know(config.servers.clone())?;
        }
        Ok(servers)
    }

    /// Asks these from now on.
    fn know(&self, addresses: Vec<Url>) -> Result<(), ConfigError> {
        let template = self.template.lock().clone();
        let client = Client::new(ClientConfig {
            addresses,
            ..template
        })?;
        self.client.send_replace(Some(client));
        Ok(())
    }

    /// Shows this secret from now on; requests and streams under way end or begin anew with it.
    pub(crate) fn set_token(&self, token: Option<Token>) -> Result<(), ConfigError> {
        let before = std::mem::replace(&mut self.template.lock().token, token);
        let Some(client) = self.client() else {
            return Ok(());
        };
        let known = self.know(client.config().addresses.clone());
        if known.is_err() {
            self.template.lock().token = before;
        }
        known
    }

    /// Looks for servers until it is stopped, whenever none is reached.
    pub(crate) async fn look(self, find: FindServers, stop: CancellationToken) {
        loop {
            let is_known = self.client.borrow().is_some();
            if !is_known || self.reach.is_lost() {
                match find().await {
                    Ok(texts) => self.found(&texts),
                    Err(reason) if !is_known => self.reach.lost(reason),
                    Err(_) => {}
                }
            }
            let pause = match self.client.borrow().is_some() {
                true => FIND_AGAIN_PAUSE,
                false => FIND_PAUSE,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn found(&self, texts: &[String]) {
        let addresses: Vec<Url> = texts
            .iter()
            .filter_map(|text| ClientConfig::parse_address(text).ok())
            .collect();
        if addresses.is_empty() {
            self.reach.lost(String::from(
                "the servers that were found tell no HTTP address: set http.advertise on them",
            ));
            return;
        }
        let is_same = self
            .client
            .borrow()
            .as_ref()
            .is_some_and(|client| client.config().addresses == addresses);
        if !is_same && let Err(error) = self.know(addresses) {
            self.reach.lost(error.to_string());
        }
    }

    /// The client, when servers are known.
    pub(crate) fn client(&self) -> Option<Client> {
        self.client.borrow().clone()
    }

    /// The client, as soon as servers are known.
    pub(crate) async fn known(&self) -> Client {
        let mut client = self.client.subscribe();
        loop {
            if let Some(client) = client.borrow_and_update().clone() {
                return client;
            }
            if client.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Told when other servers are asked.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Client>> {
        let mut changes = self.client.subscribe();
        changes.mark_unchanged();
        changes
    }

    /// Whether they take what is sent.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
