use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::future::RouteFuture;
use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{debug, info, warn};

use crate::app::{ApiShared, App};
use crate::config::{ApiConfig, HttpConfig};
use crate::connection::{Connection, Place};
use crate::routes;
use crate::timeline::Timeline;
use crate::watched::{Watch, until_cut};

/// What a connection is told for which there is no place.
const NO_PLACE_ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 116\r\n\r\n\
    {\"Error\":{\"Code\":\"too_many_connections\",\"Message\":\"too many connections are open: try again later, or close some\"}}\n";

/// Connections that may be told so at once; further ones are closed without a word.
const REFUSALS_AT_ONCE: usize = 64;
/// How long such a connection gets to read its answer.
const REFUSAL_LINGER: Duration = Duration::from_millis(500);

/// The first and the longest pause after the system could not give a connection.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a connection that has said nothing yet is kept when the server stops: the client may
/// have connected just before, and would see its request fall on deaf ears.
const UNSPOKEN_GRACE: Duration = Duration::from_millis(200);

/// The least that the HTTP library takes as its buffer's greatest size.
const BUFFER_BYTES_LEAST: usize = 8 << 10;
/// How often a quiet HTTP/2 connection is asked whether it is still there, and how long it may
/// take to answer.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The HTTP server of one timeline.
#[derive(Debug)]
pub struct ApiServer {
    app: Arc<App>,
    router: Router,
}

impl ApiServer {
    /// A server that is ready to [`run`](ApiServer::run).
    pub fn new(timeline: impl Timeline, config: ApiConfig) -> ApiServer {
        ApiServer::new_sharing(timeline, config, &ApiShared::new())
    }

    /// A server that goes on counting where those before it, with the same `shared`, are.
    pub fn new_sharing(
        timeline: impl Timeline,
        config: ApiConfig,
        shared: &ApiShared,
    ) -> ApiServer {
        let app = Arc::new(App::new(Arc::new(timeline), config, shared));
        let router = routes::router(&app);
        ApiServer { app, router }
    }

    /// Serves `listener` until `shutdown` is done: then it takes no more connections, ends every
    /// stream cleanly, lets requests in flight finish for
    /// [`shutdown_grace`](HttpConfig::shutdown_grace), and returns.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let http = &self.app.config.http;
        let places = Arc::new(Semaphore::new(
            http.connections_max.min(Semaphore::MAX_PERMITS),
        ));
        let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
        let kill = CancellationToken::new();
        let protocols = Arc::new(Protocols::new(http));
        let mut shutdown = pin!(shutdown);
        let mut pause = ACCEPT_PAUSE_MIN;
        let mut is_stopping = false;

        loop {
            let accepted = if is_stopping {
                // Whoever has connected already would be cut off without a word.
                match listener.accept().now_or_never() {
                    Some(accepted @ Ok(_)) => accepted,
                    Some(Err(_)) | None => break,
                }
            } else {
                tokio::select! {
                    biased;
                    () = &mut shutdown => {
                        is_stopping = true;
                        continue;
                    }
                    accepted = listener.accept() => accepted,
                }
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => {
                    pause = ACCEPT_PAUSE_MIN;
                    accepted
                }
                // The peer went away before we looked: nothing is wrong here.
                Err(error) if is_peers_fault(&error) => continue,
                Err(error) => {
                    self.app.metrics.accept_errors.one();
                    warn!(error = %error, "cannot accept a connection");
                    tokio::select! {
                        () = &mut shutdown => is_stopping = true,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                    continue;
                }
            };
            // Those of a server that this one has replaced count as well.
            let has_place = self.app.metrics.connections.get() < http.connections_max as u64;
            let permit = has_place
                .then(|| Arc::clone(&places).try_acquire_owned().ok())
                .flatten();
            let Some(permit) = permit else {
                self.app.metrics.connections_refused.one();
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(async move {
                        refuse(socket).await;
                        drop(permit);
                    });
                }
                continue;
            };
            prepare(&socket, http.write_stall);
            let place = Place::take(&self.app.metrics, permit);
            let connection = Connection::new(socket, http.write_stall, place);
            tokio::spawn(serve(
                connection,
                peer,
                Arc::clone(&protocols),
                RouterService {
                    router: self.router.clone(),
                    watch: None,
                },
                Arc::clone(&self.app),
                kill.clone(),
            ));
        }

        drop(listener);
        self.app.closing.begin();
        let all = u32::try_from(http.connections_max.min(Semaphore::MAX_PERMITS));
        let drained = places.acquire_many(all.unwrap_or(u32::MAX));
        match tokio::time::timeout(http.shutdown_grace, drained).await {
            Ok(_) => info!("all connections are closed"),
            Err(_) => {
                let left = self.app.metrics.connections.get();
                warn!(
                    connections = left,
                    "cutting connections that did not end in time"
                );
            }
        }
        kill.cancel();
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Sets what every connection's socket needs. Failing to is no reason not to serve it.
fn prepare(socket: &TcpStream, write_stall: Duration) {
    if let Err(error) = socket.set_nodelay(true) {
        debug!(error = %error, "cannot set TCP_NODELAY");
    }
    // A peer that vanished leaves what was written unacknowledged: heartbeats find that out. One
    // that is there but does not read is left to the connection's own clock, which is faster.
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(write_stall.as_millis().saturating_mul(2)).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(socket, millis) {
            debug!(error = %error, "cannot set TCP_USER_TIMEOUT");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = write_stall;
}

/// Tells a connection that there is no place for it, and closes it so that it can read that.
async fn refuse(mut socket: TcpStream) {
    let tell = async {
        socket.write_all(NO_PLACE_ANSWER).await?;
        socket.shutdown().await?;
        // Closing while the request is unread would reset the connection and with it the answer.
        let mut sink = [0; 1024];
        while socket.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it was heard makes no difference to us.
    let _ = tokio::time::timeout(REFUSAL_LINGER, tell).await;
}

/// The two versions of HTTP, set up.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    fn new(config: &HttpConfig) -> Protocols {
        let buffer = config.buffer_bytes_max.max(BUFFER_BYTES_LEAST);
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_buf_size(buffer)
            .max_header_size(config.header_bytes_max);
        if config.headers_max != HttpConfig::default().headers_max {
            http1.max_headers(config.headers_max);
        }
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.http2_streams_max)
            .max_send_buf_size(buffer)
            .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_TIMEOUT);
        Protocols { http1, http2 }
    }
}

/// Serves one connection until it ends, or until `kill`.
async fn serve(
    mut connection: Connection,
    peer: SocketAddr,
    protocols: Arc<Protocols>,
    mut service: RouterService,
    app: Arc<App>,
    kill: CancellationToken,
) {
    let closing = &app.closing;
    let http = &app.config.http;
    let is_http2 = tokio::select! {
        // What was said is heard, also when the server begins to stop at that moment.
        biased;
        first = tokio::time::timeout(http.header_timeout, connection.is_http2()) => match first {
            Ok(Ok(is_http2)) => is_http2,
            Ok(Err(_)) | Err(_) => return,
        },
        // Nothing was asked yet, and not in the moment that a request takes to arrive either.
        () = async {
            closing.begun().await;
            tokio::time::sleep(UNSPOKEN_GRACE).await;
        } => return,
    };
    let io = TokioIo::new(connection);
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            let ended = tokio::select! {
                // First: a request that is there is taken before the connection is told to end.
                biased;
                ended = connection.as_mut() => Some(ended),
                () = closing.begun() => None,
            };
            match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = kill.cancelled() => Ok(()),
                    }
                }
            }
        }};
    }
    let ended = if is_http2 {
        let cut = CancellationToken::new();
        service.watch = Some(Arc::new(Watch {
            metrics: Arc::clone(&app.metrics),
            write_stall: http.write_stall,
            cut: cut.clone(),
        }));
        let connection = async { drive!(protocols.http2.serve_connection(io, service)) };
        // Boxed, so that the many connections of HTTP/1 do not take the room of these.
        Box::pin(until_cut(cut, connection, Ok(()))).await
    } else {
        drive!(
            protocols
                .http1
                .serve_connection(io, service)
                .with_upgrades()
        )
    };
    if let Err(error) = ended {
        // Clients come and go as they like: this is their business, not a fault of ours.
        debug!(%peer, error = &error as &dyn std::error::Error, "connection ended");
    }
}

/// The router as the HTTP library wants it.
#[derive(Clone, Debug)]
struct RouterService {
    router: Router,
    /// Over HTTP/2, where the connection cannot see that nobody reads a stream.
    watch: Option<Arc<Watch>>,
}

impl Service<Request<Incoming>> for RouterService {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // A router is shared behind an Arc: cloning it is counting.
        Answering {
            route: self.router.clone().call(request.map(Body::new)),
            watch: self.watch.clone(),
        }
    }
}

/// An answer that is being made.
struct Answering {
    route: RouteFuture<Infallible>,
    watch: Option<Arc<Watch>>,
}

impl Future for Answering {
    type Output = Result<axum::response::Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.route).poll(cx))?;
        Poll::Ready(Ok(match &self.watch {
            None => response,
            Some(watch) => response.map(|body| watch.over(body)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_takes_little_memory() {
        let timeline = crate::memory_timeline::MemoryTimeline::new();
        let server = ApiServer::new(timeline, ApiConfig::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let place = Place::take(&server.app.metrics, permit);
        let config = &server.app.config.http;
        let task = serve(
            Connection::new(socket, config.write_stall, place),
            listener.local_addr().unwrap(),
            Arc::new(Protocols::new(config)),
            RouterService {
                router: server.router.clone(),
                watch: None,
            },
            Arc::clone(&server.app),
            CancellationToken::new(),
        );
        // Beside it the HTTP library has two buffers of 8 KiB.
        assert!(size_of_val(&task) < 3 << 10, "{}", size_of_val(&task));
    }

    #[test]
    fn the_answer_to_one_too_many_has_the_length_that_it_says() {
        let text = std::str::from_utf8(NO_PLACE_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
