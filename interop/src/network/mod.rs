//! Hosts that are network namespaces, joined by a switch whose links can be cut, slowed and made
//! lossy, each direction for itself.
//!
//! ```text
//!  namespace 0        namespace 1        …        namespace of the test
//!   eth0 (TAP)         eth0 (TAP)                   eth0 (TAP)
//!      └──────────────────┴──── Switch, in this process ┘
//! ```
//!
//! The switch is ours, not `netem` and a packet filter: it does the same on every kernel that has
//! TAP devices, cuts one direction as easily as both, and needs no rules that somebody has to
//! remove. A namespace has no name: only this process holds it, so that it goes with the process,
//! however that ends, and with it all that was set up there.

mod namespace;
mod switch;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use namespace::{Entered, Namespace};
pub use switch::Link;
use switch::{Port, Switch};

/// What the hosts' addresses have in common. Nothing outside of the namespaces sees them.
const NET: &str = "10.99.0";
/// The first host's last number.
const FIRST_HOST: usize = 10;
/// Hosts of one network: what the numbers leave.
const HOSTS_MAX: usize = 100;
/// Large enough that a mebibyte is no thousand system calls.
const MTU_BYTES: u32 = 9_000;

/// Some hosts and the test itself, all connected.
pub struct Network {
    hosts: Vec<Arc<Namespace>>,
    switch: Switch,
}

impl Network {
    /// Makes so many hosts beside the one of the test.
    ///
    /// # Errors
    /// When this process may not: a sentence says what it needs.
    pub fn new(hosts: usize) -> Result<Self> {
        ensure!(hosts < HOSTS_MAX, "{hosts} hosts are too many");
        let mut namespaces = Vec::new();
        let mut ports = Vec::new();
        for number in 0..=hosts {
            let namespace = Namespace::new()?;
            ports.push(namespace.within(|| plug_in(number))??);
            namespaces.push(Arc::new(namespace));
        }
        Ok(Self {
            hosts: namespaces,
            switch: Switch::start(ports)?,
        })
    }

    /// A host's namespace.
    pub fn host(&self, number: usize) -> Arc<Namespace> {
        self.hosts[number].clone()
    }

    /// A host's address.
    pub fn ip(&self, number: usize) -> String {
        ip_of(number)
    }

    /// Moves the calling thread, and whatever threads and programs it starts, to the host of the
    /// test, until the value ends.
    pub fn enter(&self) -> Result<Entered> {
        let test = self.hosts.last().context("a network has hosts")?;
        test.enter()
    }

    /// From now on nothing gets from the one host to the other. The other direction goes on.
    pub fn cut(&self, from: usize, to: usize) {
        self.switch.change(from, to, |link| link.cut = true);
    }

    /// From now on the host exchanges nothing with these others. The test still reaches it.
    pub fn part(&self, host: usize, others: &[usize]) {
        for other in others.iter().filter(|other| **other != host) {
            self.cut(host, *other);
            self.cut(*other, host);
        }
    }

    /// From now on every link between two different hosts is like this, those of the test excepted.
    pub fn shape(&self, link: Link) {
        let hosts = self.hosts.len() - 1;
        for from in 0..hosts {
            for to in (0..hosts).filter(|to| *to != from) {
                self.switch.change(from, to, |it| *it = link);
            }
        }
    }

    /// All links are as at the beginning.
    pub fn heal(&self) {
        self.shape(Link::default());
    }

    /// Frames that were dropped because a link was cut or lossy.
    pub fn dropped(&self) -> u64 {
        self.switch.dropped()
    }
}

fn ip_of(number: usize) -> String {
    format!("{NET}.{}", FIRST_HOST + number)
}

/// Makes the calling thread's namespace a host with one network card.
fn plug_in(number: usize) -> Result<Port> {
    let port = Port::open(number)?;
    let mac = port.mac_text();
    let (address, mtu) = (format!("{}/24", ip_of(number)), MTU_BYTES.to_string());
    ip(&["link", "set", "dev", "lo", "up"])?;
    ip(&[
        "link", "set", "dev", "eth0", "address", &mac, "mtu", &mtu, "up",
    ])?;
    ip(&["address", "add", &address, "dev", "eth0"])?;
    Ok(port)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context(
            "cannot run `ip`, which this test needs to set up its networks: install iproute2",
        )?;
    ensure!(
        output.status.success(),
        "`ip {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Link {
    /// A link that holds every frame back for `delay`, give or take `jitter`, and loses some.
    pub fn poor(delay: Duration, jitter: Duration, lost_per_mille: u32) -> Self {
        Self {
            cut: false,
            delay,
            jitter,
            lost_per_mille,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Instant;

    use super::*;

    const PORT: u16 = 7000;

    /// On one host, answers each connection with what it sends.
    fn echo(network: &Network, host: usize) -> Result<()> {
        let address = (network.ip(host), PORT);
        let listener = network
            .host(host)
            .within(move || TcpListener::bind(address))??;
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut from, mut to) = (socket.try_clone()?, socket);
                    std::io::copy(&mut from, &mut to)
                });
            }
        });
        Ok(())
    }

    /// From one host to the other and back, on a connection of its own.
    fn round_trip(network: &Network, from: usize, to: usize, limit: Duration) -> Result<Duration> {
        let address = format!("{}:{PORT}", network.ip(to)).parse()?;
        network.host(from).within(move || {
            let mut socket = TcpStream::connect_timeout(&address, limit)?;
            socket.set_read_timeout(Some(limit))?;
            let sent = Instant::now();
            socket.write_all(b"ping")?;
            socket.read_exact(&mut [0; 4])?;
            Ok(sent.elapsed())
        })?
    }

    #[test]
    fn hosts_reach_each_other_until_a_link_is_cut() -> Result<()> {
        let network = Network::new(2)?;
        echo(&network, 0)?;
        echo(&network, 1)?;
        let (long, short) = (Duration::from_secs(20), Duration::from_millis(300));
        round_trip(&network, 0, 1, long)?;
        round_trip(&network, 1, 0, long)?;
        // One direction is enough to keep both from talking; the test still reaches them.
        network.cut(0, 1);
        assert!(round_trip(&network, 0, 1, short).is_err());
        assert!(round_trip(&network, 1, 0, short).is_err());
        assert!(network.dropped() > 0);
        let own = || std::fs::read_link("/proc/thread-self/ns/net");
        let home = own()?;
        let entered = network.enter()?;
        let address = format!("{}:{PORT}", network.ip(0)).parse()?;
        TcpStream::connect_timeout(&address, long)?;
        assert_ne!(own()?, home);
        drop(entered);
        assert_eq!(own()?, home);
        network.heal();
        round_trip(&network, 0, 1, long)?;
        Ok(())
    }

    #[test]
    fn a_poor_link_delays_and_loses() -> Result<()> {
        let network = Network::new(2)?;
        echo(&network, 1)?;
        let limit = Duration::from_secs(20);
        let delay = Duration::from_millis(40);
        network.shape(Link::poor(delay, Duration::ZERO, 0));
        let there_and_back = round_trip(&network, 0, 1, limit)?;
        assert!(there_and_back >= 2 * delay, "{there_and_back:?}");
        network.shape(Link::poor(Duration::ZERO, Duration::ZERO, 100));
        let deadline = Instant::now() + limit;
        while network.dropped() == 0 {
            assert!(Instant::now() < deadline, "a tenth of the frames is lost");
            round_trip(&network, 0, 1, limit)?;
        }
        Ok(())
    }
}
