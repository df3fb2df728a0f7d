//! Telling the service manager how far we are: systemd's notification protocol, one datagram of
//! `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where notifications go; nowhere when we were not started by a service manager.
#[derive(Clone, Debug)]
pub(crate) struct ServiceManager {
    address: Option<SocketAddr>,
}

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names.
    pub(crate) fn from_environment() -> ServiceManager {
        ServiceManager::named(std::env::var_os("NOTIFY_SOCKET").as_deref())
    }

    fn named(socket: Option<&OsStr>) -> ServiceManager {
        let address = socket.filter(|name| !name.is_empty()).and_then(|name| {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(name),
            };
            address
                .inspect_err(|error| tracing::warn!(?name, %error, "NOTIFY_SOCKET is no socket"))
                .ok()
        });
        ServiceManager { address }
    }

    /// Requests are answered now; `status` is what `systemctl status` shows.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// We are going down on purpose.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// A notification that does not arrive changes nothing for us: it is told and forgotten.
    fn tell(&self, state: &str) {
        if let Err(error) = self.send(state) {
            tracing::warn!(%error, "cannot tell the service manager");
        }
    }

    fn send(&self, state: &str) -> io::Result<()> {
        let Some(address) = &self.address else {
            return Ok(());
        };
        let socket = UnixDatagram::unbound()?;
        // The manager's queue being full must not hold us up.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), address)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn states_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::named(Some(path.as_os_str()));
        manager.ready("listening");
        assert_eq!(received(&at_path), "READY=1\nSTATUS=listening");
        manager.stopping();
        assert!(received(&at_path).starts_with("STOPPING=1\n"));

        let name = format!("@tidings-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let abstractly = UnixDatagram::bind_addr(&address).unwrap();
        ServiceManager::named(Some(OsStr::new(&name))).ready("x");
        assert_eq!(received(&abstractly), "READY=1\nSTATUS=x");
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        for name in [None, Some(OsStr::new(""))] {
            assert!(ServiceManager::named(name).address.is_none());
            ServiceManager::named(name).ready("x");
        }
    }
}
