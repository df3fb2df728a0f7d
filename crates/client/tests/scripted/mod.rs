//! An agent that follows a script: the n-th connection is served by the n-th scene.

#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings_client::{Client, ClientConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for anything; only a broken build comes near.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for it, but not for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("waited too long")
}

pub type Scene = Box<dyn FnOnce(Exchange) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Makes a scene of an async closure.
pub fn scene<F, R>(act: F) -> Scene
where
    F: FnOnce(Exchange) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Box::new(move |exchange| Box::pin(act(exchange)))
}

/// Answers with this text and closes.
pub fn answers(text: impl Into<String>) -> Scene {
    let text = text.into();
    scene(move |mut exchange| async move {
        exchange.body().await;
        exchange.write(text.as_bytes()).await;
    })
}

/// A whole answer with a JSON body.
pub fn json(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub struct ScriptedAgent {
    pub client: Client,
    pub address: String,
    heads: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

/// A client of several servers, with short waits; it asks for no others.
pub fn client_of(addresses: &[&str]) -> Client {
    Client::new(config_of(addresses)).unwrap()
}

/// Its settings.
pub fn config_of(addresses: &[&str]) -> ClientConfig {
    ClientConfig {
        addresses: ClientConfig::parse_addresses(&addresses.join(",")).unwrap(),
        retry_delay: Duration::from_millis(5),
        retry_delay_max: Duration::from_millis(20),
        learn_servers_every: None,
        ..ClientConfig::default()
    }
}

/// An address at which nobody listens.
pub async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

impl ScriptedAgent {
    pub async fn start(scenes: Vec<Scene>) -> Self {
        Self::start_with(ClientConfig::default(), scenes).await
    }

    /// The client has short waits unless `config` says otherwise.
    pub async fn start_with(config: ClientConfig, scenes: Vec<Scene>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let (seen, read) = (heads.clone(), bodies.clone());
        tokio::spawn(async move {
            for scene in scenes {
                let (socket, _) = listener.accept().await.unwrap();
                let exchange = Exchange::begin(socket, read.clone()).await;
                seen.lock().unwrap().push(exchange.head.clone());
                tokio::spawn(scene(exchange));
            }
        });
        let client = Client::new(ClientConfig {
            addresses: vec![ClientConfig::parse_address(&address.to_string()).unwrap()],
            retry_delay: Duration::from_millis(5),
            retry_delay_max: Duration::from_millis(20),
            learn_servers_every: None,
            ..config
        })
        .unwrap();
        Self {
            client,
            address: address.to_string(),
            heads,
            bodies,
        }
    }

    /// The request lines so far, without the HTTP version.
    pub fn requests(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads
            .iter()
            .map(|head| head.split(" HTTP/").next().unwrap().to_owned())
            .collect()
    }

    pub fn head(&self, number: usize) -> String {
        self.heads.lock().unwrap()[number].to_lowercase()
    }

    /// The bodies that scenes have read.
    pub fn bodies(&self) -> Vec<String> {
        self.bodies.lock().unwrap().clone()
    }
}

pub struct Exchange {
    socket: TcpStream,
    pub head: String,
    /// Received and not yet used.
    buffer: Vec<u8>,
    /// Decoded from chunks and not yet used.
    decoded: Vec<u8>,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Exchange {
    async fn begin(mut socket: TcpStream, bodies: Arc<Mutex<Vec<String>>>) -> Self {
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(socket.read_buf(&mut buffer).await.unwrap() > 0, "no head");
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        Self {
            socket,
            head,
            buffer,
            decoded: Vec::new(),
            bodies,
        }
    }

    /// Reads the body of a request that has a length.
    pub async fn body(&mut self) -> String {
        let head = self.head.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |text| text.parse().unwrap());
        while self.buffer.len() < length {
            assert!(self.fill().await, "body is cut");
        }
        let body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        self.bodies.lock().unwrap().push(body.clone());
        body
    }

    /// Reads one line of a chunked request body; `None` at its end.
    pub async fn body_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.decoded, b"\n") {
                let line = String::from_utf8(self.decoded.drain(..=end).collect()).unwrap();
                return Some(line.trim_end().to_owned());
            }
            let size_end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                if !self.fill().await {
                    return None;
                }
            };
            let size = std::str::from_utf8(&self.buffer[..size_end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                return None;
            }
            let chunk = size_end + 2..size_end + 2 + size;
            while self.buffer.len() < chunk.end + 2 {
                if !self.fill().await {
                    return None;
                }
            }
            self.decoded.extend_from_slice(&self.buffer[chunk.clone()]);
            self.buffer.drain(..chunk.end + 2);
        }
    }

    async fn fill(&mut self) -> bool {
        self.socket.read_buf(&mut self.buffer).await.unwrap_or(0) > 0
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        // A client that went away is part of some scripts.
        let _ = self.socket.write_all(bytes).await;
        let _ = self.socket.flush().await;
    }

    /// The head of an answer without a known end.
    pub async fn open(&mut self) {
        self.open_with("").await;
    }

    /// The same with more header lines, each with its end.
    pub async fn open_with(&mut self, headers: &str) {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n");
        self.write(head.as_bytes()).await;
    }

    /// One chunk of the answer.
    pub async fn chunk(&mut self, text: &str) {
        self.write(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
            .await;
    }

    /// The proper end of the answer.
    pub async fn finish(&mut self) {
        self.write(b"0\r\n\r\n").await;
    }

    /// Says nothing more until the client goes away.
    pub async fn hang(&mut self) {
        while self.fill().await {}
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// A frame line with one event.
pub fn frame(index: u64) -> String {
    format!(
        "{{\"Index\":{index},\"Events\":[{{\"Index\":{index},\"Topic\":\"T\",\"Type\":\"t\",\"Payload\":{{}}}}]}}\n"
    )
}

/// A heartbeat that bears an index.
pub fn progress(index: u64) -> String {
    format!("{{\"Index\":{index},\"Events\":[]}}\n")
}
