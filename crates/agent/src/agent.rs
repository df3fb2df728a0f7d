use std::future::Future;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::contradictions::contradictions;
use crate::data_dir::DataHome;
use crate::error::{RunError, StartError};
use crate::http_server::HttpServer;
use crate::listening::{LISTENING_FILE, Listening, ListeningFile};
use crate::logging::Logging;
use crate::open_files::raise_open_files;
use crate::reload::{self, Reloaded};
use crate::reserved_port::ReservedPort;
use crate::roles::{NewTls, Role, RolePorts};
use crate::service_manager::ServiceManager;
use crate::token::{TokenError, TokenText, configured_token};
use crate::wiring;

/// How long the timeline may take to come down: a snapshot may be under way.
const TIMELINE_STOP_MAX: Duration = Duration::from_secs(30);

/// How long a reload waits for the timeline to take its settings: nothing else is reloaded meanwhile.
const SETTINGS_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it is looked what the agent waits for.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Descriptors beside those of connections: files of the history and the log, and what the process
/// itself has open.
const OTHER_OPEN_FILES: u64 = 512;

/// A running agent: the timeline is open and the HTTP port is bound.
///
/// Dropping it without [`run`](Agent::run) leaves the data as a crash would, which the next start
/// recovers from.
pub struct Agent {
    config: Config,
    token: Option<TokenText>,
    role: Role,
    listener: TcpListener,
    gave_way: Option<std::net::SocketAddr>,
    listening: Listening,
    listening_file: ListeningFile,
    logging: Option<Logging>,
    // Last: a temporary directory goes after everything that is in it.
    data: DataHome,
}

impl Agent {
    /// Opens the timeline and takes the port. On the way the limit of open files is raised.
    ///
    /// # Errors
    ///
    /// One variant for each thing that can fail; nothing is left behind but the data directory.
    pub async fn start(config: Config) -> Result<Agent, StartError> {
        if let Some(contradiction) = contradictions(&config).into_iter().next() {
            return Err(StartError::Config {
                sentence: contradiction.sentence,
            });
        }
        let token = load_token(&config).map_err(|source| StartError::Token { source })?;
        let data = DataHome::make(&config.node.data_dir).map_err(|source| StartError::DataDir {
            path: config.node.data_dir.to_string(),
            source,
        })?;
        check_open_files(&config);

        // The ports first: a wrong address is told at once, not after a long recovery.
        let address = config.http.address;
        let unbound = |source| StartError::Listen { address, source };
        let port =
            ReservedPort::take(address, config.http.free_port_when_taken).map_err(unbound)?;
        let gave_way = port.gave_way;
        let role_ports = RolePorts::take(&config, port.address())?;

        let path = data.path().to_owned();
        let listening = Listening {
            http: port.address(),
            peer: role_ports.peer(),
            pid: std::process::id(),
            node: config.node.name.clone(),
        };
        let role = Role::start(&config, &path, role_ports).await?;
        let listener = port.listen().map_err(unbound)?;
        let listening_file = ListeningFile::write(&path, &listening).map_err(|source| {
            StartError::ListeningFile {
                path: path.join(LISTENING_FILE),
                source,
            }
        })?;
        info!(
            http = %listening.http,
            peer = listening.peer.map(tracing::field::display),
            node = listening.node,
            data_dir = %path.display(),
            guarded = token.is_some(),
            "the agent is up"
        );
        Ok(Agent {
            config,
            token,
            role,
            listener,
            gave_way,
            listening,
            listening_file,
            logging: None,
            data,
        })
    }

    /// Lets a reload change the level of this log.
    pub fn with_logging(mut self, logging: Logging) -> Agent {
        self.logging = Some(logging);
        self
    }

    /// What was bound; also in `listening.json`.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// The address that was asked for, when it was taken and had to give way to a free port.
    pub fn gave_way(&self) -> Option<std::net::SocketAddr> {
        self.gave_way
    }

    /// Where the data is.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// Whether the data directory goes at a clean exit.
    pub fn is_temporary(&self) -> bool {
        matches!(self.data, DataHome::Temporary(_))
    }

    /// What the agent waits for before it can serve, each time that it is something else, and at last
    /// who it serves together with. Ends then; empty when there was nothing to wait for.
    pub fn progress(&self) -> impl Stream<Item = String> + Send + use<> {
        let said = self.role.waits_for();
        let first = futures_util::stream::iter(said.clone());
        first.chain(futures_util::stream::unfold(
            (self.role.clone(), said),
            |(role, said)| async move {
                let before = said?;
                loop {
                    match role.waits_for() {
                        None => return Some((format!("ready: {}", role.company()), (role, None))),
                        Some(now) if now != before => {
                            return Some((now.clone(), (role, Some(now))));
                        }
                        Some(_) => tokio::time::sleep(PROGRESS_INTERVAL).await,
                    }
                }
            },
        ))
    }

    /// Serves until `shutdown` is done or something breaks, taking over each configuration that
    /// `reload` yields. Then the lead is handed over, if this server has it and there is another,
    /// requests under way are finished within `http.shutdown_grace`, the timeline comes down,
    /// `listening.json` goes, and a temporary data directory goes.
    ///
    /// # Errors
    ///
    /// What broke. Everything was brought down as far as possible; a temporary data directory
    /// stays, for somebody to look at.
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        reload: impl Stream<Item = Config>,
    ) -> Result<(), RunError> {
        let manager = ServiceManager::from_environment();
        let mut server = HttpServer::start(
            &self.role,
            wiring::api(&self.config, self.token.as_ref()),
            &self.listener,
        )
        .map_err(|error| RunError::Http {
            reason: format!("cannot start the HTTP server: {error}"),
        })?;
        manager.ready(&format!("listening on {}", self.listening.http));

        let role = self.role.clone();
        let mut broken = pin!(role.broken());
        let mut shutdown = pin!(shutdown);
        // A stream that has ended is never ready again.
        let mut reload = pin!(reload.chain(futures_util::stream::pending()));
        // The half of a reload that waits for the timeline goes on beside everything else: a stop
        // and a fault are not kept waiting by a disk that hangs.
        let mut preparing: Option<Preparing> = None;
        let fault = loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break None,
                reason = &mut broken => break Some(Fault::Timeline(reason)),
                reason = server.ended() => break Some(Fault::Http(reason)),
                prepared = ready(&mut preparing) => {
                    preparing = None;
                    if let Some(prepared) = prepared {
                        server = self.take_over(prepared, server);
                    }
                }
                Some(wanted) = reload.next(), if preparing.is_none() => {
                    preparing = self.prepare(&wanted);
                }
            }
        };
        drop(preparing);

        manager.stopping();
        // First, while requests still come: they go on to the next leader.
        if fault.is_none() {
            self.role.hand_over().await;
        }
        // The server has a clone; nobody else keeps the port open from now on.
        drop(self.listener);
        if !server.stop().await {
            warn!("requests did not end within http.shutdown_grace and were cut");
        }
        // Before the directory is let go: the next agent on it writes a file of its own.
        drop(self.listening_file);
        if tokio::time::timeout(TIMELINE_STOP_MAX, self.role.shutdown())
            .await
            .is_err()
        {
            // Nothing acknowledged depends on it: the log is on disk.
            warn!("the timeline did not come down in time");
        }
        match fault {
            None => {
                info!("stopped");
                Ok(())
            }
            Some(Fault::Timeline(reason)) => Err(RunError::Timeline {
                reason,
                data_dir: self.data.keep(),
            }),
            Some(Fault::Http(reason)) => {
                self.data.keep();
                Err(RunError::Http { reason })
            }
        }
    }

    /// Begins a reload: everything that can fail is done before anything is taken over, so that a
    /// configuration is taken wholly or not at all, and the same one can be tried again.
    fn prepare(&self, wanted: &Config) -> Option<Preparing> {
        let reloaded = match reload::mix(&self.config, wanted) {
            Ok(reloaded) => reloaded,
            Err(sentence) => {
                not_reloaded(&sentence);
                return None;
            }
        };
        // Read anew even when no key changed: the file's content may have.
        let token = match load_token(&reloaded.config) {
            Ok(token) => token,
            Err(error) => {
                not_reloaded(&crate::error_chain(&error));
                return None;
            }
        };
        let tls = match self.role.read_tls(&reloaded.config) {
            Ok(tls) => tls,
            Err(reason) => {
                not_reloaded(&reason);
                return None;
            }
        };
        let role = self.role.clone();
        Some(Box::pin(async move {
            let settings = wiring::settings(&reloaded.config);
            let settled = tokio::time::timeout(SETTINGS_WAIT_MAX, role.settle(settings));
            match settled.await {
                Ok(Ok(())) => Some(Prepared {
                    reloaded,
                    token,
                    tls,
                }),
                Ok(Err(reason)) => {
                    not_reloaded(&reason);
                    None
                }
                Err(_) => {
                    not_reloaded("the timeline did not take its settings in time; reload again");
                    None
                }
            }
        }))
    }

    /// Ends a reload.
    fn take_over(&mut self, prepared: Prepared, server: HttpServer) -> HttpServer {
        let Prepared {
            reloaded,
            token,
            tls,
        } = prepared;
        let surface = |config: &Config| {
            (
                config.http.clone(),
                config.stream.clone(),
                config.limits.clone(),
            )
        };
        if token != self.token
            && let Err(reason) = self.role.set_token(token.as_ref())
        {
            not_reloaded(&reason);
            return server;
        }
        let changed = token != self.token || surface(&self.config) != surface(&reloaded.config);
        let server = if changed {
            let api = wiring::api(&reloaded.config, token.as_ref());
            match server.start_next(&self.role, api, &self.listener) {
                Ok(new) => {
                    // The old one ends in the background.
                    tokio::spawn(server.stop());
                    new
                }
                Err(error) => {
                    not_reloaded(&format!("cannot start a new HTTP server: {error}"));
                    return server;
                }
            }
        } else {
            server
        };
        if let Some(tls) = tls {
            tls.take_over();
        }
        if let Some(logging) = &self.logging {
            logging.set_level(reloaded.config.log.level);
        }
        self.config = reloaded.config;
        self.token = token;
        info!(taken = ?reloaded.taken, http_server_replaced = changed, "the configuration was reloaded");
        if !reloaded.postponed.is_empty() {
            warn!(keys = ?reloaded.postponed, "these keys changed and need a restart");
        }
        server
    }
}

/// A reload that waits for the timeline; `None` when it came to nothing, which was told.
type Preparing = Pin<Box<dyn Future<Output = Option<Prepared>> + Send>>;

/// A reload in which nothing can be refused any more.
struct Prepared {
    reloaded: Reloaded,
    token: Option<TokenText>,
    tls: Option<NewTls>,
}

/// Waits for a reload that is under way; for ever when there is none.
async fn ready(preparing: &mut Option<Preparing>) -> Option<Prepared> {
    match preparing {
        Some(preparing) => preparing.await,
        None => std::future::pending().await,
    }
}

fn not_reloaded(reason: &str) {
    error!(reason, "the configuration was not reloaded");
}

enum Fault {
    Timeline(String),
    Http(String),
}

fn load_token(config: &Config) -> Result<Option<TokenText>, TokenError> {
    let Some(file) = configured_token(&config.http)? else {
        return Ok(None);
    };
    if let Some(warning) = file.warning {
        warn!("{warning}");
    }
    Ok(Some(file.token))
}

fn check_open_files(config: &Config) {
    let Some(limit) = raise_open_files() else {
        return;
    };
    let wanted = config.http.connections_max as u64 + OTHER_OPEN_FILES;
    if limit < wanted {
        warn!(
            limit,
            wanted, "the limit of open files is lower than http.connections_max needs"
        );
    }
}
