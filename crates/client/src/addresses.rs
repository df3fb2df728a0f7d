//! Which server is asked next.
//!
//! ```text
//!            failed                         rest over
//!  asked ─────────────▶ resting ─────────────────────────▶ may be asked
//!    ▲                    │ everybody rests: the one whose rest ends first is asked
//!    └────────────────────┴─────────────────────────────────────┘
//! ```
//!
//! The addresses that were **given** come first; those **learned** from a server's list are for when
//! none of the given ones answers. Whoever is asked goes on being asked until it fails: a client does
//! not hop between servers that are well.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use crate::backoff;

/// How many addresses one client knows, given and learned together. A cluster has five servers, or
/// seven; more is a list that went wrong.
pub(crate) const ADDRESSES_MAX: usize = 32;

/// How long an address is left alone after its first failure; doubles up to [`REST_MAX`]. A little
/// longer than electing a leader takes.
const REST_FIRST: Duration = Duration::from_secs(1);

/// The longest such rest: a server that comes back is found again within it.
const REST_MAX: Duration = Duration::from_secs(30);

/// Doublings after which a rest is at its longest.
const REST_DOUBLINGS_MAX: u32 = 5;

/// One server.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    /// The address as it is told to people: without a trailing slash.
    pub(crate) text: String,
}

impl Target {
    fn new(url: Url) -> Target {
        Target {
            text: url.as_str().trim_end_matches('/').to_owned(),
            url,
        }
    }

    /// Whether only programs on the same machine reach it.
    pub(crate) fn is_local(&self) -> bool {
        is_local(&self.url)
    }
}

/// Whether an address means "this machine" to whoever reads it.
pub(crate) fn is_local(url: &Url) -> bool {
    match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
        None | Some("localhost") => true,
        Some(host) => host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback() || address.is_unspecified()),
    }
}

/// The servers of one client, shared by its clones.
#[derive(Debug)]
pub(crate) struct Addresses {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The given ones first.
    known: Vec<Known>,
    /// The one that is asked.
    at: usize,
}

#[derive(Debug)]
struct Known {
    target: Arc<Target>,
    given: bool,
    /// Failures since it last worked.
    strikes: u32,
    rests_until: Option<Instant>,
}

impl Known {
    fn new(url: Url, given: bool) -> Known {
        Known {
            target: Arc::new(Target::new(url)),
            given,
            strikes: 0,
            rests_until: None,
        }
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }
}

impl Addresses {
    /// `None` without any address.
    pub(crate) fn new(given: &[Url]) -> Option<Addresses> {
        let mut known: Vec<Known> = Vec::new();
        for url in given.iter().take(ADDRESSES_MAX) {
            if known.iter().all(|other| other.target.url != *url) {
                known.push(Known::new(url.clone(), true));
            }
        }
        (!known.is_empty()).then(|| Addresses {
            state: Mutex::new(State { known, at: 0 }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are; at least one.
    pub(crate) fn len(&self) -> usize {
        self.lock().known.len()
    }

    /// The server to ask now.
    pub(crate) fn choose(&self, now: Instant) -> Arc<Target> {
        let mut state = self.lock();
        let (count, at) = (state.known.len(), state.at);
        let in_turn = || (0..count).map(|step| (at + step) % count);
        let awake = |given: bool| {
            in_turn().find(|place| {
                let known = &state.known[*place];
                known.given == given && !known.rests(now)
            })
        };
        let soonest = || in_turn().min_by_key(|place| state.known[*place].rests_until);
        let chosen = awake(true)
            .or_else(|| awake(false))
            .or_else(soonest)
            .unwrap_or(at);
        state.at = chosen;
        Arc::clone(&state.known[chosen].target)
    }

    /// It did not answer, or not usefully: it rests. Says whether another is awake.
    pub(crate) fn failed(&self, target: &Target, now: Instant) -> bool {
        let mut state = self.lock();
        for known in &mut state.known {
            if known.target.url == target.url {
                let doublings = known.strikes.min(REST_DOUBLINGS_MAX);
                let full = (REST_FIRST * (1 << doublings)).min(REST_MAX);
                known.strikes = known.strikes.saturating_add(1);
                known.rests_until = Some(now + full / 2 + backoff::up_to(full / 2));
            }
        }
        state.known.iter().any(|known| !known.rests(now))
    }

    /// It answered.
    pub(crate) fn worked(&self, target: &Target) {
        let mut state = self.lock();
        for known in &mut state.known {
            if known.target.url == target.url {
                known.strikes = 0;
                known.rests_until = None;
            }
        }
    }

    /// Takes a server's list in the place of the one before. The given addresses stay.
    pub(crate) fn learn(&self, urls: Vec<Url>) {
        let mut state = self.lock();
        let asked = Arc::clone(&state.known[state.at].target);
        let mut known = std::mem::take(&mut state.known);
        known.retain(|known| known.given || urls.contains(&known.target.url));
        for url in urls {
            if known.len() < ADDRESSES_MAX && known.iter().all(|other| other.target.url != url) {
                known.push(Known::new(url, false));
            }
        }
        state.at = known
            .iter()
            .position(|known| known.target.url == asked.url)
            .unwrap_or(0);
        state.known = known;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn addresses(texts: &[&str]) -> Addresses {
        let urls: Vec<Url> = texts.iter().map(|text| url(text)).collect();
        Addresses::new(&urls).unwrap()
    }

    #[test]
    fn goes_on_to_the_next_and_comes_back_when_everybody_rests() {
        let addresses = addresses(&["http://a/", "http://b/"]);
        let now = Instant::now();
        let a = addresses.choose(now);
        assert_eq!(a.text, "http://a");
        assert!(addresses.failed(&a, now));
        let b = addresses.choose(now);
        assert_eq!(b.text, "http://b");
        // It is kept as long as it works, although the first one has rested.
        let later = now + Duration::from_secs(60);
        assert_eq!(addresses.choose(later).text, "http://b");
        assert!(!addresses.failed(&b, now), "both rest");
        addresses.failed(&b, now);
        assert_eq!(addresses.choose(now).text, "http://a", "rests for less");
    }

    #[test]
    fn learned_addresses_are_for_when_no_given_one_answers() {
        let addresses = addresses(&["http://a/"]);
        let now = Instant::now();
        addresses.learn(vec![url("http://b/"), url("http://a/"), url("http://c/")]);
        assert_eq!(addresses.len(), 3);
        let a = addresses.choose(now);
        addresses.failed(&a, now);
        let b = addresses.choose(now);
        assert_eq!(b.text, "http://b");
        addresses.worked(&b);
        addresses.learn(vec![url("http://c/"), url("http://b/")]);
        assert_eq!(addresses.choose(now).text, "http://b", "still the one");
        let rested = now + Duration::from_secs(2);
        assert_eq!(
            addresses.choose(rested).text,
            "http://a",
            "given comes first"
        );
        addresses.learn((0..100).map(|n| url(&format!("http://s{n}/"))).collect());
        assert_eq!(addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn rests_grow_to_their_limit_and_end_with_success() {
        let addresses = addresses(&["http://a/", "http://b/"]);
        let now = Instant::now();
        let a = addresses.choose(now);
        for _ in 0..20 {
            addresses.failed(&a, now);
        }
        assert_eq!(addresses.choose(now + REST_FIRST * 4).text, "http://b");
        let b = addresses.choose(now);
        addresses.failed(&b, now + REST_MAX);
        assert_eq!(addresses.choose(now + REST_MAX).text, "http://a");
        addresses.worked(&b);
        addresses.failed(&a, now);
        assert_eq!(addresses.choose(now).text, "http://b");
    }

    #[test]
    fn addresses_of_this_machine_are_known_as_such() {
        for (text, local) in [
            ("http://127.0.0.1:1/", true),
            ("http://[::1]:1/", true),
            ("http://0.0.0.0:1/", true),
            ("http://localhost:1/", true),
            ("http://10.0.0.1:1/", false),
            ("http://node-1:1/", false),
        ] {
            assert_eq!(is_local(&url(text)), local, "{text}");
        }
    }
}
