use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Agent, eventually};

/// Servers that hold one timeline, each a process.
pub struct Cluster {
    dir: TempDir,
    pub servers: Vec<Agent>,
}

impl Cluster {
    /// Three servers that have met; two of them were told of the first.
    pub fn of_three() -> Cluster {
        Cluster::of_three_with("")
    }

    /// The same, with this configuration.
    pub fn of_three_with(toml: &str) -> Cluster {
        let mut cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            servers: Vec::new(),
        };
        std::fs::write(cluster.config(), toml).unwrap();
        for name in ["s1", "s2", "s3"] {
            cluster.add(name, &["--bootstrap-expect", "3"]);
        }
        cluster.wait_until_ready();
        cluster
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("tidings.toml")
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server that was told of all those that run.
    pub fn add(&mut self, name: &str, flags: &[&str]) {
        let known: Vec<String> = self.servers.iter().filter_map(|s| s.peer.clone()).collect();
        let mut all = server_flags(name);
        all.extend(["--config".to_owned(), self.config().display().to_string()]);
        all.extend(flags.iter().map(ToString::to_string));
        for peer in known {
            all.extend(["--join".to_owned(), peer]);
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.servers
            .push(Agent::spawn(&self.data_dir(name), &all).unwrap());
    }

    /// Starts a server that was stopped again, at its addresses.
    pub fn start_again(&mut self, name: &str, http: &str, peer: &str) {
        let config = self.config().display().to_string();
        let mut flags = vec!["--server", "--node", name, "--config", &config];
        flags.extend(["--http", http, "--peer", peer]);
        let known: Vec<String> = self.servers.iter().filter_map(|s| s.peer.clone()).collect();
        for peer in &known {
            flags.extend(["--join", peer]);
        }
        // another process may have one of the ports for a moment
        let server = eventually("the addresses to be free", || {
            match Agent::spawn(&self.data_dir(name), &flags) {
                Ok(server) => Some(server),
                Err(said) if said.contains("cannot listen on") => None,
                Err(said) => panic!("the server ended: {said}"),
            }
        });
        self.servers.push(server);
    }

    /// The server of this name.
    pub fn server(&self, name: &str) -> &Agent {
        let data_dir = self.data_dir(name);
        let mut servers = self.servers.iter();
        servers
            .find(|server| server.data_dir() == data_dir)
            .unwrap()
    }

    /// Takes the server of this name out of those that run, still running.
    pub fn take(&mut self, name: &str) -> Agent {
        let data_dir = self.data_dir(name);
        let mut servers = self.servers.iter();
        let at = servers.position(|server| server.data_dir() == data_dir);
        self.servers.remove(at.unwrap())
    }

    pub fn wait_until_ready(&self) {
        for server in &self.servers {
            server.wait_until_ready();
        }
    }

    /// The place of the server that leads, in the eyes of all.
    pub fn leader(&self) -> usize {
        eventually("all to know the leader", || {
            let all: Vec<_> = self.servers.iter().map(Agent::status).collect();
            let leaders: Vec<_> = all.iter().map(|status| status["Leader"].as_str()).collect();
            let leads = all.iter().position(|status| status["Role"] == "leader")?;
            let name = all[leads]["Node"].as_str();
            leaders
                .iter()
                .all(|leader| *leader == name)
                .then_some(leads)
        })
    }

    /// Waits until all have as much as any of them, and checks that all have the same bytes.
    pub fn check_one_history(&self) {
        let newest = |server: &Agent| server.status()["Timeline"]["Newest"].as_u64().unwrap();
        let most = self.servers.iter().map(newest).max().unwrap();
        for server in &self.servers {
            eventually("all to have everything", || {
                (newest(server) >= most).then_some(())
            });
        }
        let first = history(self.servers[0].data_dir());
        assert!(!first.is_empty());
        for server in &self.servers[1..] {
            assert!(
                history(server.data_dir()) == first,
                "{} differs",
                server.data_dir().display()
            );
        }
    }
}

/// The flags of a server on free ports.
pub fn server_flags(name: &str) -> Vec<String> {
    let flags = [
        "--server",
        "--http",
        "127.0.0.1:0",
        "--peer",
        "127.0.0.1:0",
        "--node",
        name,
    ];
    flags.map(str::to_owned).to_vec()
}

/// All files of a history, and their bytes.
pub fn history(data_dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(data_dir.join("history"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}
