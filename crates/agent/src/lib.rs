//! The composition root: configuration, who is wired to whom, start and shutdown.
//!
//! ```text
//!   defaults < files < environment < flags ──▶ Config
//!                                                │ Agent::start
//!                                                ▼
//!           data directory ◀── Role ◀── ApiServer ◀── listener
//!                               └─▶ peers: what a server of a cluster has besides
//!                                                │ Agent::run(shutdown, reload)
//!                                                ▼
//!   stop asked for: another server leads ▶ requests end ▶ the role shuts down ▶ temporary data goes
//! ```
//!
//! What an agent is (a timeline of its own, or one of several servers that hold one) is its role, in
//! `roles`; everything else is the same for all of them.
//!
//! [`Layers`] puts a [`Config`] together and says in one sentence each what is wrong with it. Every
//! key stands once, in one catalogue, from which reading, `config check`, the sample file and the
//! reference page are made. [`Agent`] is the running whole.

mod agent;
mod config;
mod contradictions;
mod data_dir;
mod document;
mod error;
mod http_server;
mod keys;
mod layers;
mod listening;
mod logging;
mod open_files;
mod origin;
mod reference;
mod reload;
mod reserved_port;
mod roles;
mod service_manager;
mod signals;
mod token;
mod value;
mod wiring;

pub use agent::Agent;
pub use config::{
    BrokerConfig, Config, DATA_DIR_DEFAULT, DataDir, HTTP_ADDRESS_DEFAULT, HttpConfig,
    LimitsConfig, LogConfig, LogFormat, LogLevel, NodeConfig, PEERS_ADDRESS_DEFAULT, PeersConfig,
    RetentionConfig, ServerConfig, StoreConfig, StreamConfig, TimelineConfig, VerifyDepth,
};
pub use error::{RunError, StartError};
pub use layers::{ConfigError, Layers, Loaded};
pub use listening::{LISTENING_FILE, Listening};
pub use logging::Logging;
pub use open_files::raise_open_files;
pub use origin::{Origin, Problem};
pub use reference::{reference, sample};
pub use signals::{StopSignals, reloads};
pub use token::{TOKEN_CHARS_MIN, TokenError, TokenFile, TokenText, configured_token, read_token};

/// The whole chain of an error in one line, for a log.
fn error_chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
