//! Servers whose disks are damaged, as processes: they say so, stop, and get everything from the others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use real_agent::cluster::{Cluster, history};
use real_agent::{Agent, event_lines, eventually, output, tidings, told};
use serde_json::Value;

/// Small segments, and the least log before a snapshot.
const SMALL: &str = "[store]\nsegment_bytes = \"1MiB\"\nsnapshot_log_bytes = \"1MiB\"\n";
/// Events that fill some segments.
const LINES: u64 = 20_000;

fn flip(file: &Path, at: u64) {
    let open = OpenOptions::new().read(true).write(true).open(file);
    let open = open.unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).unwrap();
    open.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The files in a folder of a data directory whose names end so, in order.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

fn servers(agent: &Agent) -> Vec<Value> {
    let text = agent.ok(&["server", "list", "--output", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    list["Servers"].as_array().unwrap().clone()
}

fn id_of(agent: &Agent, name: &str) -> Option<String> {
    let servers = servers(agent);
    let server = servers.iter().find(|server| server["Name"] == name)?;
    Some(server["Id"].as_str().unwrap().to_owned())
}

/// A cluster with events and an entry, and one of its servers, that follows, stopped.
struct Sick {
    cluster: Cluster,
    name: &'static str,
    http: String,
    peer: String,
    data_dir: PathBuf,
    id: String,
}

impl Sick {
    fn begin() -> Sick {
        let mut cluster = Cluster::of_three_with(SMALL);
        let lines = event_lines(1..=LINES);
        let said = cluster.servers[0].run_with_input(&["publish", "--ndjson", "-"], &lines);
        assert!(said.status.success(), "{}", told(&said));
        cluster.servers[0].ok(&["state", "put", "Config", "limits", r#"{"max":7}"#]);
        cluster.check_one_history();
        let leader = cluster.servers[cluster.leader()].status();
        let follows = |name: &&str| leader["Node"] != **name;
        let name = ["s1", "s2", "s3"].into_iter().find(follows).unwrap();
        let id = id_of(&cluster.servers[0], name).unwrap();
        let stopped = cluster.take(name);
        let (http, peer) = (stopped.address.clone(), stopped.peer.clone().unwrap());
        let data_dir = stopped.data_dir().to_owned();
        stopped.stop();
        assert!(history(&data_dir).len() > 2, "some segments are sealed");
        Sick {
            cluster,
            name,
            http,
            peer,
            data_dir,
            id,
        }
    }

    /// Starts it, and gives what it said when it had to end by itself, at its start or later.
    fn fails(&mut self) -> String {
        let known: Vec<String> = self
            .cluster
            .servers
            .iter()
            .filter_map(|s| s.peer.clone())
            .collect();
        let mut flags = vec!["--server", "--node", self.name];
        flags.extend(["--http", &self.http, "--peer", &self.peer]);
        for peer in &known {
            flags.extend(["--join", peer]);
        }
        loop {
            match Agent::spawn(&self.data_dir, &flags) {
                Ok(server) => return server.wait_for_failure(),
                Err(said) if said.contains("cannot listen on") => {}
                Err(said) => return said,
            }
        }
    }

    /// Rebuilds it, starts it again, and checks that it has everything that the others have.
    fn heals(mut self) {
        let healthy = &self.cluster.servers[0];
        healthy.ok(&["publish", "Deploy", "Done", "--key", "meanwhile"]);
        let verified = output(tidings().args(["verify", "--data-dir"]).arg(&self.data_dir));
        assert_eq!(verified.status.code(), Some(1), "{}", told(&verified));
        let rebuilt = output(
            tidings()
                .args(["rebuild", "--data-dir"])
                .arg(&self.data_dir),
        );
        assert!(rebuilt.status.success(), "{}", told(&rebuilt));
        let said = told(&rebuilt);
        assert!(
            said.contains(&format!("the place of server {}", self.id)),
            "{said}"
        );
        assert!(said.contains("next: start the agent as before"), "{said}");
        let aside = files(&self.data_dir, "");
        let aside = aside.iter().find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("damaged-")
        });
        assert!(aside.unwrap().join("history").exists());

        self.cluster.start_again(self.name, &self.http, &self.peer);
        self.cluster.server(self.name).wait_until_ready();
        for server in &self.cluster.servers {
            eventually("it to have a vote, in place of the old", || {
                let servers = servers(server);
                let it = servers.iter().find(|server| server["Name"] == self.name)?;
                (servers.len() == 3 && it["Role"] == "voter" && it["Id"] != self.id).then_some(())
            });
        }
        let back = self.cluster.server(self.name);
        back.ok(&["publish", "Deploy", "Done", "--key", "back"]);
        let got = back.ok(&["state", "get", "Config", "limits"]);
        assert!(got.contains('7'), "{got}");
        self.cluster.check_one_history();
        let newest = LINES + 3;
        let verified = self.cluster.server(self.name).ok(&["verify", "--cluster"]);
        let alike = format!(
            "ok: 3 servers have the same frames 1 to 20,{:03}",
            newest - 20_000
        );
        assert!(verified.contains(&alike), "{verified}");
        let stopped = self.cluster.take(self.name);
        stopped.stop();
        let verified = output(tidings().args(["verify", "--data-dir"]).arg(&self.data_dir));
        assert!(verified.status.success(), "{}", told(&verified));
    }
}

/// G1, G2: a byte that has changed in a sealed segment is found by whoever reads it.
#[test]
fn g1_a_server_with_a_flipped_byte_in_a_segment_is_rebuilt_from_the_others() {
    let mut sick = Sick::begin();
    let (name, bytes) = history(&sick.data_dir).remove(0);
    flip(
        &sick.data_dir.join("history").join(name),
        bytes.len() as u64 / 2,
    );
    // its start looks at the newest segment alone
    sick.cluster.start_again(sick.name, &sick.http, &sick.peer);
    sick.cluster.server(sick.name).wait_until_ready();
    let found = sick.cluster.servers[0].run(&["verify", "--cluster"]);
    assert_eq!(found.status.code(), Some(1), "{}", told(&found));
    let said = sick.cluster.take(sick.name).wait_for_failure();
    assert!(said.contains("tidings rebuild --data-dir"), "{said}");
    assert!(sick.data_dir.join("damaged").exists());
    // and does not serve again as if nothing had been
    let said = sick.fails();
    assert!(said.contains("tidings rebuild --data-dir"), "{said}");
    sick.heals();
}

/// G2: neither does one start whose log is damaged where it is not torn.
#[test]
fn g2_a_server_with_a_flipped_byte_in_its_log_is_rebuilt_from_the_others() {
    let mut sick = Sick::begin();
    let log = files(&sick.data_dir.join("raft"), ".log").remove(0);
    let bytes = std::fs::read(&log).unwrap();
    // in the middle of what is written: what follows is no torn end
    let written = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64;
    flip(&log, written / 2);
    let said = sick.fails();
    assert!(said.contains("tidings rebuild"), "{said}");
    assert!(
        said.contains(log.file_name().unwrap().to_str().unwrap()),
        "{said}"
    );
    sick.heals();
}

/// G2: nor one whose snapshots are both damaged, when the log before them is gone.
#[test]
fn g2_a_server_with_damaged_snapshots_is_rebuilt_from_the_others() {
    let mut sick = Sick::begin();
    let snapshots = files(&sick.data_dir.join("snapshots"), ".snap");
    assert!(!snapshots.is_empty(), "there is a snapshot");
    for snapshot in &snapshots {
        let bytes = std::fs::metadata(snapshot).unwrap().len();
        flip(snapshot, bytes / 2);
    }
    let said = sick.fails();
    assert!(said.contains("tidings rebuild"), "{said}");
    sick.heals();
}
