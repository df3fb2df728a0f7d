//! Who does not belong to a cluster and comes to it all the same: refused with a sentence that says
//! what to do, and nothing is changed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidings_interop::cluster::{Cluster, ClusterOptions};
use tidings_interop::{Agent, AgentOptions};

/// Connections of somebody who sends anything.
const HOSTILE_CONNECTIONS: u64 = 150;
/// The most that one of them sends.
const HOSTILE_BYTES_MAX: usize = 64 * 1024;
/// How long a server may take to answer or close a connection.
const HOSTILE_WAIT: Duration = Duration::from_secs(20);
/// What a server may hold more after all of that.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

fn cluster() -> Result<Cluster> {
    Cluster::start(ClusterOptions {
        agents: 0,
        ..ClusterOptions::default()
    })
}

/// A server of one, with an event on its timeline, and its data after it has ended.
fn server_of_its_own(name: &str) -> Result<Agent> {
    let mut server = Agent::start_with(server_options(name, 1, &[], None))?;
    server.publish_text(r#"{"Events":[{"Topic":"T","Type":"Theirs"}]}"#)?;
    server.stop()?;
    Ok(server)
}

fn server_options(
    name: &str,
    expects: usize,
    join: &[String],
    data_dir: Option<&Path>,
) -> AgentOptions {
    let mut arguments = ["--server", "--node", name, "--bootstrap-expect"]
        .map(str::to_owned)
        .to_vec();
    arguments.push(expects.to_string());
    let joins = join.iter().flat_map(|it| ["--join".to_owned(), it.clone()]);
    arguments.extend(joins);
    AgentOptions {
        arguments,
        data_dir: data_dir.map(Path::to_owned),
        has_peers: true,
        ..AgentOptions::default()
    }
}

/// The bytes of the history.
fn history(data_dir: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(data_dir.join("history"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files
        .iter()
        .filter(|it| it.extension().is_some_and(|it| it == "ndjson"))
    {
        bytes.extend(std::fs::read(file)?);
    }
    Ok(bytes)
}

/// The cluster takes an event at each of its servers, and has just one more frame for each.
fn is_unharmed(cluster: &Cluster, frames: u64) -> Result<()> {
    for (number, server) in (1..).zip(&cluster.servers) {
        let index = server.publish_text(r#"{"Events":[{"Topic":"T","Type":"After"}]}"#)?;
        ensure!(
            index == frames + number,
            "frame {index} where {} was due",
            frames + number
        );
    }
    Ok(())
}

#[test]
fn a_server_with_the_data_of_another_timeline_is_told_to_come_without_it() -> Result<()> {
    let cluster = cluster()?;
    let before = cluster.servers[0].publish_text(r#"{"Events":[{"Topic":"T","Type":"Ours"}]}"#)?;
    let theirs = server_of_its_own("stranger")?;
    let data = history(theirs.data_dir())?;

    let join = cluster.peer_addresses();
    let stranger = Agent::launch(server_options(
        "stranger",
        1,
        &join,
        Some(theirs.data_dir()),
    ))?;
    stranger.await_log("start it with an empty data directory", 1)?;
    is_unharmed(&cluster, before)?;
    ensure!(
        history(stranger.data_dir())? == data,
        "the stranger's own timeline was changed"
    );
    Ok(())
}

#[test]
fn a_name_that_is_taken_is_refused_to_an_empty_disk() -> Result<()> {
    let mut cluster = cluster()?;
    let before = cluster.servers[0].publish_text(r#"{"Events":[{"Topic":"T","Type":"Ours"}]}"#)?;
    cluster.servers[2].kill()?;
    let join = cluster.peer_addresses();
    let second = Agent::launch(server_options("server-2", 0, &join[..2], None))?;
    second.await_log("start it under another name", 1)?;
    ensure!(
        second.log().contains("`tidings server remove server-2`"),
        "it is not told what else it could do: {}",
        second.log()
    );
    // The one whose name it is comes back, and is who it was.
    cluster.servers[2].restart_in_place()?;
    cluster.servers[2].await_ready()?;
    is_unharmed(&cluster, before)
}

#[test]
fn a_server_of_another_cluster_changes_neither() -> Result<()> {
    let (ours, mut theirs) = (cluster()?, cluster()?);
    let before = ours.servers[0].publish_text(r#"{"Events":[{"Topic":"T","Type":"Ours"}]}"#)?;
    let theirs_before =
        theirs.servers[0].publish_text(r#"{"Events":[{"Topic":"T","Type":"Theirs"}]}"#)?;

    // One of theirs is told of ours, and of its own.
    theirs.servers[2].stop()?;
    let join = [ours.peer_addresses(), theirs.peer_addresses()].concat();
    let data_dir = theirs.servers[2].data_dir().to_owned();
    let confused = Agent::launch(server_options("server-2", 3, &join, Some(&data_dir)))?;
    confused.await_log("start it with an empty data directory", 1)?;
    is_unharmed(&ours, before)?;

    let index = confused.publish_text(r#"{"Events":[{"Topic":"T","Type":"After"}]}"#)?;
    ensure!(
        index == theirs_before + 1,
        "it is still one of its own: frame {index} where {} was due",
        theirs_before + 1
    );
    Ok(())
}

/// The next of a row of numbers that look random (xorshift64).
fn next(chance: &mut u64) -> u64 {
    *chance ^= *chance << 13;
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    *chance
}

/// Bytes as somebody may send them who means harm: noise, half a frame, a frame of noise, a huge one.
fn hostile(chance: &mut u64) -> Vec<u8> {
    let length = usize::try_from(next(chance)).unwrap_or(0) % HOSTILE_BYTES_MAX;
    let mut bytes: Vec<u8> = (0..length).map(|_| next(chance).to_le_bytes()[0]).collect();
    let head = |kind: u8, length: u32| {
        let mut head = vec![b't', b'd', 1, kind, 0, 0, 0, 0];
        head.extend(length.to_le_bytes());
        head.extend([0; 4]);
        head
    };
    let kind = next(chance).to_le_bytes()[0];
    match next(chance) % 4 {
        0 => bytes,
        1 => head(kind, 1 << 20),
        2 => {
            let mut all = head(kind, u32::try_from(length).unwrap_or(0));
            all.append(&mut bytes);
            all
        }
        _ => [head(kind, u32::MAX), bytes].concat(),
    }
}

/// What the server says to these bytes until it closes the connection.
fn answer_to(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut socket = TcpStream::connect_timeout(&address, HOSTILE_WAIT)?;
    socket.set_read_timeout(Some(HOSTILE_WAIT))?;
    socket.set_write_timeout(Some(HOSTILE_WAIT))?;
    // It may close before it has read all of it, which resets the connection.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(error).context("the server neither answers nor closes the connection")
        }
        _ => Ok(answer),
    }
}

fn resident_bytes(agent: &Agent) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? * 1024)
}

#[test]
fn g9_hostile_bytes_at_the_peers_port_are_refused() -> Result<()> {
    let mut cluster = cluster()?;
    let before = cluster.servers[0].publish_text(r#"{"Events":[{"Topic":"T","Type":"Ours"}]}"#)?;
    let victim = cluster.leader()?;
    let address = cluster.servers[victim]
        .peer_address()
        .context("a server listens for others")?;
    let http = answer_to(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let http = String::from_utf8_lossy(&http).into_owned();
    ensure!(http.contains("not of a tidings server"), "it said {http:?}");

    let resident = resident_bytes(&cluster.servers[victim])?;
    let mut chance = 0x7469_6469_6e67_7321;
    for _ in 0..HOSTILE_CONNECTIONS {
        answer_to(address, &hostile(&mut chance))?;
    }
    ensure!(!cluster.servers[victim].has_ended()?, "the server ended");
    let grown = resident_bytes(&cluster.servers[victim])?.saturating_sub(resident);
    ensure!(grown < GROWTH_BYTES_MAX, "it holds {grown} bytes more");
    ensure!(
        cluster.leader()? == victim,
        "the leader was unseated by bytes"
    );
    is_unharmed(&cluster, before)
}
