use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// Connections that wait in the kernel while we accept; it may cut this down by `somaxconn`.
const ACCEPT_BACKLOG: u32 = 4_096;

/// A port that is ours, with nobody listening yet: clients are refused, rather than kept waiting,
/// while the data is read.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    socket: TcpSocket,
    address: SocketAddr,
    /// The port that was asked for and is taken, when another one was taken in its place.
    pub(crate) gave_way: Option<SocketAddr>,
}

impl ReservedPort {
    /// Takes `address`; with `give_way`, a free port of the same host when that one is taken.
    pub(crate) fn take(address: SocketAddr, give_way: bool) -> io::Result<ReservedPort> {
        let (socket, gave_way) = match bind(address) {
            Err(error) if give_way && error.kind() == io::ErrorKind::AddrInUse => {
                (bind(SocketAddr::new(address.ip(), 0))?, Some(address))
            }
            bound => (bound?, None),
        };
        Ok(ReservedPort {
            address: socket.local_addr()?,
            socket,
            gave_way,
        })
    }

    /// What was bound, with its port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to listen.
    pub(crate) fn listen(self) -> io::Result<TcpListener> {
        self.socket.listen(ACCEPT_BACKLOG)?.into_std()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
