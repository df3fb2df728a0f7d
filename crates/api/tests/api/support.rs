//! A server on a free port, and a client that shows every byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tidings_api::{ApiConfig, ApiServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::memory_timeline::MemoryTimeline;

/// Longer than anything here takes; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    pub addr: SocketAddr,
    pub timeline: MemoryTimeline,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Server {
        Server::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut ApiConfig)) -> Server {
        Server::on(MemoryTimeline::new(), configure).await
    }

    pub async fn on(timeline: MemoryTimeline, configure: impl FnOnce(&mut ApiConfig)) -> Server {
        let mut config = ApiConfig {
            node_name: String::from("n1"),
            ..ApiConfig::default()
        };
        config.http.host_names = vec![String::from("tidings.test")];
        configure(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = ApiServer::new(timeline.clone(), config);
        let task = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        Server {
            addr,
            timeline,
            stop: Some(stop),
            task,
        }
    }

    /// Begins the shutdown.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    pub async fn stopped(&mut self) {
        timeout(PATIENCE, &mut self.task)
            .await
            .expect("the server stops")
            .unwrap();
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"").await
    }

    pub async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut wire = Wire::connect(self.addr).await;
        wire.send_head(method, target, headers, Some(body.len()))
            .await;
        wire.send(body).await;
        wire.answer().await
    }

    /// Publishes as JSON.
    pub async fn post(&self, body: &str) -> Answer {
        self.request(
            "POST",
            "/v1/events",
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
        .await
    }

    /// Begins to follow, up to the end of the head.
    pub async fn follow(&self, target: &str, headers: &[(&str, &str)]) -> Wire {
        let mut wire = Wire::connect(self.addr).await;
        wire.send_head("GET", target, headers, None).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200, "{target}");
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        wire
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer's status, headers and body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.text()))
    }

    /// The code of our own errors.
    pub fn code(&self) -> String {
        self.json()["Error"]["Code"]
            .as_str()
            .expect("an error")
            .to_owned()
    }

    pub fn message(&self) -> String {
        self.json()["Error"]["Message"]
            .as_str()
            .expect("an error")
            .to_owned()
    }
}

/// One HTTP/1.1 connection.
pub struct Wire {
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub async fn connect(addr: SocketAddr) -> Wire {
        Wire {
            socket: TcpStream::connect(addr).await.unwrap(),
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The server may have answered and closed already.
        let _ = self.socket.write_all(bytes).await;
    }

    pub async fn send_head(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        length: Option<usize>,
    ) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: tidings.test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length.filter(|length| *length > 0) {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes()).await;
    }

    /// One chunk of a request's body.
    pub async fn send_chunk(&mut self, data: &[u8]) {
        let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\r\n");
        self.send(&chunk).await;
    }

    /// More bytes; false at the end.
    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        let read = timeout(PATIENCE, self.socket.read(&mut piece))
            .await
            .expect("bytes come");
        let read = read.unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..read]);
        read > 0
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(end.len())
                .position(|window| window == end)
            {
                let mut taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                taken.truncate(at);
                return Some(taken);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    pub async fn head(&mut self) -> Answer {
        let head = self.until(b"\r\n\r\n").await.expect("a head");
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Answer {
            status,
            headers,
            body: Vec::new(),
        }
    }

    /// A whole answer.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                answer.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            answer.body = self
                .exactly(length.parse().unwrap())
                .await
                .expect("the body");
        }
        answer
    }

    /// The next chunk; none at the clean end of the body.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until(b"\r\n").await.expect("the body is not cut off");
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap(), 16).unwrap();
        let data = self.exactly(size).await.expect("the body is not cut off");
        assert_eq!(self.exactly(2).await.unwrap(), b"\r\n");
        (size > 0).then_some(data)
    }

    /// Whether the body is cut off rather than ended.
    pub async fn is_cut_off(&mut self) -> bool {
        loop {
            let Some(size) = self.until(b"\r\n").await else {
                return true;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap(), 16).unwrap();
            if size == 0 {
                return false;
            }
            if self.exactly(size + 2).await.is_none() {
                return true;
            }
        }
    }

    /// Whole lines of the next chunks, until there are `count`.
    pub async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let chunk = self.chunk().await.expect("more lines");
            assert_eq!(chunk.last(), Some(&b'\n'), "a chunk ends with a whole line");
            let text = String::from_utf8(chunk).unwrap();
            lines.extend(text.lines().map(String::from));
        }
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// The next `count` lines that are no heartbeats, as JSON.
    pub async fn frames(&mut self, count: usize) -> Vec<Value> {
        let mut frames = Vec::new();
        while frames.len() < count {
            let chunk = self.chunk().await.expect("more frames");
            for line in std::str::from_utf8(&chunk)
                .unwrap()
                .lines()
                .filter(|line| *line != "{}")
            {
                frames.push(serde_json::from_str(line).unwrap());
            }
        }
        assert_eq!(frames.len(), count, "{frames:?}");
        frames
    }

    /// The indexes of the next `count` frames.
    pub async fn indexes(&mut self, count: usize) -> Vec<u64> {
        self.frames(count)
            .await
            .iter()
            .map(|frame| frame["Index"].as_u64().unwrap())
            .collect()
    }

    /// Reads to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// The value of a metric without labels.
pub async fn metric(server: &Server, name: &str) -> u64 {
    let answer = server.get("/v1/metrics").await;
    let line = answer
        .text()
        .lines()
        .find(|line| line.split(' ').next() == Some(name))
        .unwrap_or_else(|| panic!("no {name}"))
        .to_owned();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
