//! The agent as a whole: start, stop, reload, on loopback and free ports.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tidings_agent::{Agent, Config, DataDir, LISTENING_FILE, RunError, StartError, TokenError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Far beyond what anything here takes; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(data_dir: &Path) -> Config {
    let mut config = Config::default();
    config.node.name = "n1".to_owned();
    config.node.data_dir = DataDir::At(data_dir.to_owned());
    config.http.address = SocketAddr::from(([127, 0, 0, 1], 0));
    config
}

/// An agent that runs, and what controls it.
struct Running {
    http: SocketAddr,
    data_dir: PathBuf,
    stop: oneshot::Sender<()>,
    reload: mpsc::Sender<Config>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    async fn start(config: Config) -> Running {
        let agent = Agent::start(config).await.expect("starts");
        let (stop, stopped) = oneshot::channel();
        let (reload, mut wanted) = mpsc::channel(1);
        Running {
            http: agent.listening().http,
            data_dir: agent.data_dir().to_owned(),
            stop,
            reload,
            task: tokio::spawn(agent.run(
                async {
                    let _ = stopped.await;
                },
                futures_util::stream::poll_fn(move |cx| wanted.poll_recv(cx)),
            )),
        }
    }

    async fn stop(self) -> Result<(), RunError> {
        self.stop.send(()).expect("still runs");
        patiently(self.task).await.expect("no panic")
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

/// Status and body of one request on a connection of its own.
async fn ask(http: SocketAddr, head: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(http).await.expect("connects");
    let authorization = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {authorization}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    patiently(socket.read_to_string(&mut answer))
        .await
        .expect("reads");
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status in {answer:?}"));
    let body = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body)
        .to_owned();
    (status, body)
}

/// Opens a stream and reads until `text` was seen.
async fn follow(http: SocketAddr, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(http).await.expect("connects");
    socket
        .write_all(b"GET /v1/event/stream?from=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("writes");
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut buffer = [0; 4096];
        let length = patiently(socket.read(&mut buffer)).await.expect("reads");
        assert!(length > 0, "the stream ended after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    socket
}

const EVENT: &str = r#"{"Events":[{"Topic":"T","Type":"Happened","Key":"k"}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_directory_goes_at_a_clean_exit() {
    let mut config = config(Path::new("unused"));
    config.node.data_dir = DataDir::Temporary;
    let running = Running::start(config).await;
    let data_dir = running.data_dir.clone();
    let text = std::fs::read_to_string(data_dir.join(LISTENING_FILE)).unwrap();
    let listening: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(listening["http"], running.http.to_string());
    assert_eq!(listening["pid"], std::process::id());
    assert_eq!(listening["node"], "n1");
    running.stop().await.unwrap();
    assert!(!data_dir.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    // Made when it is absent.
    let data_dir = dir.path().join("deep/data");
    let running = Running::start(config(&data_dir)).await;
    assert_eq!(
        ask(running.http, "POST /v1/events", None, EVENT).await,
        (200, "{\"Index\":1}\n".to_owned())
    );
    running.stop().await.unwrap();
    assert!(data_dir.exists());
    assert!(!data_dir.join(LISTENING_FILE).exists());

    let running = Running::start(config(&data_dir)).await;
    assert_eq!(
        ask(running.http, "POST /v1/events", None, EVENT).await.1,
        "{\"Index\":2}\n"
    );
    drop(follow(running.http, "{\"Index\":1,").await);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_open_streams_within_the_grace() {
    let dir = TempDir::new().unwrap();
    let mut config = config(dir.path());
    // Would be noticed: streams that were not ended would be cut only after this.
    config.http.shutdown_grace = PATIENCE * 2;
    let running = Running::start(config).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(follow(running.http, "{}\n").await);
    }
    running.stop().await.unwrap();
    for mut stream in streams {
        let mut rest = Vec::new();
        patiently(stream.read_to_end(&mut rest)).await.unwrap();
        // The end of a chunked body, not a broken connection.
        assert!(
            rest.ends_with(b"0\r\n\r\n"),
            "{:?}",
            String::from_utf8_lossy(&rest)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_over_a_new_token() {
    let dir = TempDir::new().unwrap();
    let token_file = dir.path().join("token");
    let (old, new) = ("old-0123456789abcdef", "new-0123456789abcdef");
    std::fs::write(&token_file, old).unwrap();
    let mut config = config(&dir.path().join("data"));
    config.http.token_file = Some(token_file.clone());
    let running = Running::start(config.clone()).await;
    let status = async |token| ask(running.http, "GET /v1/status", token, "").await.0;
    assert_eq!(status(None).await, 403);
    assert_eq!(status(Some(new)).await, 403);
    assert_eq!(status(Some(old)).await, 200);

    // Too short to be a token: nothing changes, and the next reload is served.
    std::fs::write(&token_file, "short").unwrap();
    running.reload.send(config.clone()).await.unwrap();
    running.reload.send(config.clone()).await.unwrap();
    assert_eq!(status(Some(old)).await, 200);

    std::fs::write(&token_file, new).unwrap();
    running.reload.send(config).await.unwrap();
    patiently(async {
        while status(Some(old)).await != 403 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(status(Some(new)).await, 200);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_shows_servers_the_new_token_of_an_agent_without_a_timeline() {
    let dir = TempDir::new().unwrap();
    let token_file = dir.path().join("token");
    let (old, new) = ("old-0123456789abcdef", "new-0123456789abcdef");
    std::fs::write(&token_file, old).unwrap();
    let mut of_server = config(&dir.path().join("server"));
    of_server.http.token_file = Some(token_file.clone());
    let server = Running::start(of_server.clone()).await;
    let mut of_relay = config(&dir.path().join("relay"));
    of_relay.http.token_file = Some(token_file.clone());
    of_relay.relay.servers = vec![server.http.to_string()];
    let relay = Running::start(of_relay.clone()).await;
    let publish = async |token| {
        ask(relay.http, "POST /v1/events", Some(token), EVENT)
            .await
            .0
    };
    assert_eq!(publish(old).await, 200);

    std::fs::write(&token_file, new).unwrap();
    server.reload.send(of_server).await.unwrap();
    relay.reload.send(of_relay).await.unwrap();
    // 202 while the one shows what the other does not take any more: nothing is lost by it.
    patiently(async {
        while publish(new).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    relay.stop().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_turns_streams_off_and_publishing_goes_on() {
    let dir = TempDir::new().unwrap();
    let mut config = config(dir.path());
    let running = Running::start(config.clone()).await;
    let mut stream = follow(running.http, "{}\n").await;
    config.stream.enabled = false;
    config.retention.frames = Some(7);
    running.reload.send(config).await.unwrap();
    // The open stream ends cleanly.
    let mut rest = Vec::new();
    patiently(stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"));
    let (status, body) = ask(running.http, "GET /v1/event/stream", None, "").await;
    assert_eq!((status, body.as_str()), (500, "EventBroker not configured"));
    assert_eq!(
        ask(running.http, "POST /v1/events", None, EVENT).await.0,
        200
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_told_or_gives_way() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = config(dir.path());
    config.http.address = address;
    match Agent::start(config.clone()).await.map(|_| ()) {
        Err(StartError::Listen { address: told, .. }) => assert_eq!(told, address),
        other => panic!("{other:?}"),
    }
    config.http.free_port_when_taken = true;
    let agent = Agent::start(config).await.expect("gives way");
    assert_eq!(agent.gave_way(), Some(address));
    assert_ne!(agent.listening().http.port(), address.port());
    assert!(agent.listening().http.ip().is_loopback());
    agent
        .run(async {}, futures_util::stream::empty())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_on_one_directory_are_refused() {
    let dir = TempDir::new().unwrap();
    let running = Running::start(config(dir.path())).await;
    match Agent::start(config(dir.path())).await.map(|_| ()) {
        Err(StartError::Timeline { path, .. }) => assert_eq!(path, dir.path()),
        other => panic!("{other:?}"),
    }
    // The first one is not disturbed.
    assert_eq!(
        ask(running.http, "GET /v1/health/live", None, "").await.0,
        200
    );
    assert!(dir.path().join(LISTENING_FILE).exists());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_would_expose_the_timeline_does_not_start() {
    let dir = TempDir::new().unwrap();
    let data_dir = dir.path().join("data");
    let mut config = config(&data_dir);
    config.http.address = SocketAddr::from(([0, 0, 0, 0], 0));
    match Agent::start(config.clone()).await.map(|_| ()) {
        Err(StartError::Config { sentence }) => {
            assert!(sentence.contains("no token guards it"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "short").unwrap();
    config.http.token_file = Some(token_file.clone());
    assert!(matches!(
        Agent::start(config.clone()).await.map(|_| ()),
        Err(StartError::Token { .. })
    ));
    // A good one, which every user of this machine can read and use from anywhere.
    std::fs::write(&token_file, "0123456789abcdef").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&token_file, mode).unwrap();
    assert!(matches!(
        Agent::start(config).await.map(|_| ()),
        Err(StartError::Token {
            source: TokenError::Exposed { .. }
        })
    ));
    assert!(!data_dir.exists());
}
