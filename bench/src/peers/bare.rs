//! The bare broadcaster: this program again, as a child process.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::process::Server;

/// Subscribers are cursors into one encoded log; chunks hold many events.
pub const MODE_CURSOR: &str = "cursor";
/// The same log, but one hyper frame an event.
pub const MODE_FRAME: &str = "frame";
/// Where it tells its address, in its working folder.
pub const ADDRESS_FILE: &str = "address";

/// Starts it.
pub fn start(
    program: &Path,
    folder: &Path,
    mode: &str,
    line_bytes: usize,
) -> Result<(Server, SocketAddr)> {
    let arguments: Vec<OsString> = vec![
        "bare".into(),
        "--mode".into(),
        mode.into(),
        "--line-bytes".into(),
        line_bytes.to_string().into(),
        "--address-file".into(),
        folder.join(ADDRESS_FILE).into(),
    ];
    let mut server = Server::start("the bare broadcaster", program, &arguments, folder)?;
    let address = server.await_ready(|| {
        fs::read_to_string(folder.join(ADDRESS_FILE))
            .ok()?
            .parse()
            .ok()
    })?;
    Ok((server, address))
}
