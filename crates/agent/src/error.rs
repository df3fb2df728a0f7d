use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tidings_raft::{OpenError, TlsError};
use tidings_relay::RelayError;

use crate::token::TokenError;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("{sentence}")]
    Config {
        /// What is wrong and what would be right.
        sentence: String,
    },
    /// There is no token where one was configured.
    #[error("cannot use the token of http.token_file")]
    Token {
        /// Why.
        #[source]
        source: TokenError,
    },
    /// The data directory cannot be made.
    #[error(
        "cannot make the data directory {path}; name one that this user may write with --data-dir, or try --dev"
    )]
    DataDir {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The HTTP address cannot be listened on.
    #[error(
        "cannot listen on {address}; choose another one with --http, or stop the program that has it"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address for other servers cannot be listened on.
    #[error(
        "cannot listen on {address} for other servers; choose another one with --peer, or stop the program that has it"
    )]
    ListenForPeers {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificates for speaking with other servers cannot be used.
    #[error("cannot use the certificates of peers.tls_cert, peers.tls_key and peers.tls_ca")]
    Tls {
        /// Why.
        #[source]
        source: Box<TlsError>,
    },
    /// The timeline is held together with other servers, and they are not asked.
    #[error(
        "the timeline in {} is held by {servers} servers together, and this agent was started alone; start it with --server, as one of them",
        path.display()
    )]
    Company {
        /// The data directory.
        path: PathBuf,
        /// How many servers hold it.
        servers: usize,
    },
    /// The timeline cannot be opened.
    #[error("cannot open the timeline in {}", path.display())]
    Timeline {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<OpenError>,
    },
    /// An agent that holds no timeline cannot keep what it takes.
    #[error("cannot use the spool in {}", path.display())]
    Relay {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<RelayError>,
    },
    /// `listening.json` cannot be written.
    #[error("cannot write {}", path.display())]
    ListeningFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why an agent ended though nobody asked for it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The timeline cannot go on: what it acknowledged is on disk, and it acknowledges nothing more.
    #[error("the timeline cannot go on: {reason}; the data is in {}", data_dir.display())]
    Timeline {
        /// What broke.
        reason: String,
        /// Where to look; kept even when it is a temporary directory.
        data_dir: PathBuf,
    },
    /// The HTTP server is gone.
    #[error("{reason}")]
    Http {
        /// What happened.
        reason: String,
    },
}
