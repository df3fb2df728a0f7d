use std::io;
use std::net::TcpListener;
use std::time::Duration;

use tidings_api::{ApiConfig, ApiShared};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::roles::Role;

/// Beyond the grace that the server itself gives: then it is not waited for any longer.
const STOP_MARGIN: Duration = Duration::from_secs(2);

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
        role: &Role,
        config: ApiConfig,
        listener: &TcpListener,
    ) -> io::Result<HttpServer> {
        HttpServer::start_sharing(role, config, listener, ApiShared::new())
    }

    /// Starts the server that takes over: it goes on counting where this one is.
    pub(crate) fn start_next(
        &self,
        role: &Role,
        config: ApiConfig,
        listener: &TcpListener,
    ) -> io::Result<HttpServer> {
        HttpServer::start_sharing(role, config, listener, self.shared.clone())
    }

    fn start_sharing(
        role: &Role,
        config: ApiConfig,
        listener: &TcpListener,
        shared: ApiShared,
    ) -> io::Result<HttpServer> {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let grace = config.http.shutdown_grace;
        let (stop, stopped) = oneshot::channel();
        let server = role.api_server(config, &shared);
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
