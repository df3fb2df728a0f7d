use std::collections::BTreeMap;

use tidings_event::Timestamp;

use super::message::{Greeting, Server, VERSION_MEMBERS};

/// Servers that are remembered, so that whoever talks much fills no memory.
const SERVERS_MAX: usize = 64;
/// Bytes of a name or an address that are remembered.
const TEXT_BYTES_MAX: usize = 256;

/// The servers that this one has met or heard of.
#[derive(Default)]
pub(crate) struct Acquaintances {
    known: BTreeMap<u64, Acquaintance>,
}

#[derive(Clone, Debug)]
pub(crate) struct Acquaintance {
    pub server: Server,
    /// Where it answers clients; empty when that is not known.
    pub http: String,
    /// What it said itself, when it last did.
    pub said: Option<Said>,
}

/// What only the server itself can say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    /// What its clock was ahead, in microseconds. `None` from a server of version 1.
    pub clock_ahead: Option<i64>,
    pub disk_free: u64,
    pub disk_reserve: u64,
}

impl Acquaintances {
    pub fn get(&self, id: u64) -> Option<&Acquaintance> {
        self.known.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&u64, &Acquaintance)> {
        self.known.iter()
    }

    /// Remembers how a server introduced itself; `now` is this server's clock.
    pub fn meet(&mut self, greeting: &Greeting, now: Timestamp) {
        let more = &greeting.more;
        let clock_ahead = (greeting.hello.version_max >= VERSION_MEMBERS)
            .then(|| more.time.saturating_sub(now.as_unix_micros()));
        self.insert(Acquaintance {
            server: greeting.hello.server.clone(),
            http: more.http.clone(),
            said: Some(Said {
                clock_ahead,
                disk_free: more.disk_free,
                disk_reserve: more.disk_reserve,
            }),
        });
    }

    /// Remembers what others say of a server, unless it has introduced itself.
    pub fn hear_of(&mut self, server: &Server, http: &str) {
        if !self.known.contains_key(&server.id) {
            self.insert(Acquaintance {
                server: server.clone(),
                http: http.to_owned(),
                said: None,
            });
        }
    }

    /// Forgets an address at which nobody, or somebody else, answered.
    pub fn forget(&mut self, id: u64, address: &str) {
        let has_it = |known: &Acquaintance| known.server.address == address;
        if self.known.get(&id).is_some_and(has_it) {
            self.known.remove(&id);
        }
    }

    fn insert(&mut self, new: Acquaintance) {
        let Server { id, name, address } = &new.server;
        let texts = [name, address, &new.http];
        let sound = !address.is_empty() && texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX);
        if sound && (self.known.len() < SERVERS_MAX || self.known.contains_key(id)) {
            self.known.insert(*id, new);
        }
    }
}
