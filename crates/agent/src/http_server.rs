use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tidings_api::{ApiConfig, ApiServer, ApiShared};
use tidings_raft::Replica;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Connections that wait in the kernel while we accept; it may cut this down by `somaxconn`.
const ACCEPT_BACKLOG: u32 = 4_096;

/// Beyond the grace that the server itself gives: then it is not waited for any longer.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// A port that is ours, with nobody listening yet: clients are refused, rather than kept waiting,
/// while the data is read.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    socket: TcpSocket,
    /// The port that was asked for and is taken, when another one was taken in its place.
    pub(crate) gave_way: Option<SocketAddr>,
}

impl ReservedPort {
    /// Takes `address`; with `give_way`, a free port of the same host when that one is taken.
    pub(crate) fn take(address: SocketAddr, give_way: bool) -> io::Result<ReservedPort> {
        match bind(address) {
            Ok(socket) => Ok(ReservedPort {
                socket,
                gave_way: None,
            }),
            Err(error) if give_way && error.kind() == io::ErrorKind::AddrInUse => {
                Ok(ReservedPort {
                    socket: bind(SocketAddr::new(address.ip(), 0))?,
                    gave_way: Some(address),
                })
            }
            Err(error) => Err(error),
        }
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

/// An HTTP server that runs on a clone of the listening socket.
///
/// A change of its configuration is a new server on another clone: the socket stays open all the
/// time, streams of the old server end at the end of a line and their clients come back and resume.
/// That is what a changed token should do anyway: nobody goes on reading by the old one.
#[derive(Debug)]
pub(crate) struct HttpServer {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    grace: Duration,
    /// What the next server goes on with.
    shared: ApiShared,
}

impl HttpServer {
    pub(crate) fn start(
        replica: &Replica,
        config: ApiConfig,
        listener: &TcpListener,
    ) -> io::Result<HttpServer> {
        HttpServer::start_sharing(replica, config, listener, ApiShared::new())
    }

    /// Starts the server that takes over: it goes on counting where this one is.
    pub(crate) fn start_next(
        &self,
        replica: &Replica,
        config: ApiConfig,
        listener: &TcpListener,
    ) -> io::Result<HttpServer> {
        HttpServer::start_sharing(replica, config, listener, self.shared.clone())
    }

    fn start_sharing(
        replica: &Replica,
        config: ApiConfig,
        listener: &TcpListener,
        shared: ApiShared,
    ) -> io::Result<HttpServer> {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let grace = config.http.shutdown_grace;
        let (stop, stopped) = oneshot::channel();
        let server = ApiServer::new_sharing(replica.clone(), config, &shared);
        let task = tokio::spawn(server.run(listener, async {
            // Dropping the sender stops it as well.
            let _ = stopped.await;
        }));
        Ok(HttpServer {
            stop: Some(stop),
            task,
            grace,
            shared,
        })
    }

    /// Waits until it ends, which it does by itself only when it panics.
    pub(crate) async fn ended(&mut self) -> String {
        match (&mut self.task).await {
            Ok(()) => "the HTTP server ended by itself".to_owned(),
            Err(error) => format!("the HTTP server failed: {error}"),
        }
    }

    /// Lets requests finish within the grace, then cuts them. `false` when they had to be cut.
    pub(crate) async fn stop(mut self) -> bool {
        drop(self.stop.take());
        let wait = self.grace.saturating_add(STOP_MARGIN);
        let ended = tokio::time::timeout(wait, &mut self.task).await.is_ok();
        if !ended {
            self.task.abort();
        }
        ended
    }
}
