//! Connections, as tokio has them.

use std::io;

pub use tokio::net::{TcpListener, TcpStream};

/// Connects to `to`. Who asks matters in a simulation alone, where hosts can be cut off.
///
/// # Errors
///
/// Those of `connect`.
pub async fn dial(_from: &str, to: &str) -> io::Result<TcpStream> {
    TcpStream::connect(to).await
}
