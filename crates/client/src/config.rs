//! Where the client finds the agent, and how patient it is.

use std::env;
use std::fmt;
use std::time::Duration;

use reqwest::Url;

use crate::error::ConfigError;
use crate::lines::LINE_BYTES_MAX;

/// Where an agent listens unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7480";

/// A secret that is sent as `Authorization: Bearer …`. Its `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a secret.
    ///
    /// # Errors
    /// [`ConfigError::Token`] when it is empty or holds anything but visible ASCII, which could
    /// not be sent in a header.
    pub fn new(secret: impl Into<String>) -> Result<Self, ConfigError> {
        let secret = secret.into();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::Token);
        }
        Ok(Self(secret))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Agents to talk to, all of one cluster, the first of them as long as it answers. At most 32 are
    /// used.
    pub addresses: Vec<Url>,
    /// Sent with every request when set.
    pub token: Option<Token>,
    /// Used where a request names no namespace of its own. `None` leaves it to the agent, which
    /// takes `default`.
    pub namespace: Option<String>,
    /// How often a client that stays asks for the other servers of the cluster, so that it can go on
    /// with them when none of `addresses` answers. `None`: never.
    pub learn_servers_every: Option<Duration>,
    /// Longest wait for a TCP connection.
    pub connect_timeout: Duration,
    /// Longest wait for the whole answer of a request, and for the first bytes of a stream.
    pub request_timeout: Duration,
    /// Longest time that publishing is tried again, counted from the first try.
    pub retry_time: Duration,
    /// First wait before a retry; doubles up to `retry_delay_max`.
    pub retry_delay: Duration,
    /// Longest wait between two tries. A server's `Retry-After` may ask for more, up to
    /// `retry_time`.
    pub retry_delay_max: Duration,
    /// How often the agent is asked to send a heartbeat on a stream; at least a second, and at most its
    /// own `stream.heartbeat`. A stream that is silent for two and a half of these is taken for dead.
    pub heartbeat: Duration,
    /// Longest line of a stream, in bytes; a longer one ends the stream.
    pub line_bytes_max: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            addresses: vec![Url::parse(DEFAULT_ADDRESS).expect("a constant that parses")],
            token: None,
            namespace: None,
            // Servers are replaced by people: a minute is soon.
            learn_servers_every: Some(Duration::from_secs(60)),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry_time: Duration::from_secs(30),
            retry_delay: Duration::from_millis(100),
            retry_delay_max: Duration::from_secs(10),
            // Nomad's interval, which the agent keeps as its default.
            heartbeat: Duration::from_secs(30),
            line_bytes_max: LINE_BYTES_MAX,
        }
    }
}

impl ClientConfig {
    /// The defaults, with `TIDINGS_ADDR` (addresses with commas between them), `TIDINGS_TOKEN` and
    /// `TIDINGS_NAMESPACE` applied where they are set and not empty.
    ///
    /// # Errors
    /// When one of them is not usable.
    pub fn from_env() -> Result<Self, ConfigError> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let mut config = Self::default();
        if let Some(address) = variable("TIDINGS_ADDR") {
            config.addresses = Self::parse_addresses(&address)?;
        }
        if let Some(token) = variable("TIDINGS_TOKEN") {
            config.token = Some(Token::new(token)?);
        }
        config.namespace = variable("TIDINGS_NAMESPACE");
        Ok(config)
    }

    /// Reads an address as people write it: `http://host:port`, or `host:port` alone.
    ///
    /// # Errors
    /// [`ConfigError::Address`] when it is neither, and an error of its own for what people try
    /// and is not spoken: `https://`, and a name or password in the address.
    pub fn parse_address(text: &str) -> Result<Url, ConfigError> {
        let refused = || ConfigError::Address {
            address: without_secret(text),
        };
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&with_scheme).map_err(|_| refused())?;
        if url.scheme() == "https" {
            return Err(ConfigError::Encrypted);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::Credentials);
        }
        let plain = url.scheme() == "http"
            && url.host_str().is_some()
            && url.query().is_none()
            && url.fragment().is_none();
        if plain { Ok(url) } else { Err(refused()) }
    }

    /// Reads several addresses with commas between them.
    ///
    /// # Errors
    /// As [`parse_address`](Self::parse_address); also for an empty place in the list.
    pub fn parse_addresses(text: &str) -> Result<Vec<Url>, ConfigError> {
        text.split(',')
            .map(|address| Self::parse_address(address.trim()))
            .collect()
    }

    /// Silence on a stream after which its connection is given up: 2.5 heartbeats.
    pub(crate) fn silence_max(&self) -> Duration {
        self.heartbeat * 5 / 2
    }
}

/// The address as it may be shown: what stands before an `@`, and in a query, may be a secret.
fn without_secret(text: &str) -> String {
    let (start, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{start}…@{rest}{query}"),
        None => format!("{start}{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, url) in [
            ("http://127.0.0.1:7480", "http://127.0.0.1:7480/"),
            ("127.0.0.1:7480", "http://127.0.0.1:7480/"),
            ("[::1]:7480", "http://[::1]:7480/"),
            ("node-1:7480", "http://node-1:7480/"),
            ("http://gate/tidings/", "http://gate/tidings/"),
        ] {
            assert_eq!(ClientConfig::parse_address(text).unwrap().as_str(), url);
        }
        for text in [
            "",
            "https://h:1",
            "http://",
            "ftp://h",
            "http://u:p@h",
            "http://h/?a=b",
        ] {
            assert!(ClientConfig::parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn several_addresses_have_commas_between_them() {
        let urls = ClientConfig::parse_addresses("a:1, http://b:2,c:3").unwrap();
        let texts: Vec<&str> = urls.iter().map(Url::as_str).collect();
        assert_eq!(texts, ["http://a:1/", "http://b:2/", "http://c:3/"]);
        for text in ["", "a:1,", ",a:1", "a:1,https://b"] {
            assert!(ClientConfig::parse_addresses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refused_address_shows_no_secret() {
        for text in [
            "http://u:hush@h:1",
            "u:hush@h:1",
            "ftp://u:hush@h",
            "http://u:hush@h:99999",
            "http://h/?token=hush",
            "https://u:hush@h",
            "http://u:hu@sh hush@h",
        ] {
            let error = ClientConfig::parse_address(text).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(!told.contains("hush"), "{told}");
        }
        let error = ClientConfig::parse_address("https://h:1").unwrap_err();
        assert!(error.to_string().contains("TLS"), "{error}");
    }

    #[test]
    fn a_token_is_never_shown() {
        let config = ClientConfig {
            token: Some(Token::new("hush").unwrap()),
            ..ClientConfig::default()
        };
        assert!(!format!("{config:?}").contains("hush"));
        assert!(Token::new("two\nlines").is_err());
        assert!(Token::new("").is_err());
    }
}
