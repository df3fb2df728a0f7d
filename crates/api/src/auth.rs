use std::fmt;
use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, Method, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::HttpConfig;

/// The header in which Nomad's clients send their token.
const NOMAD_TOKEN: &str = "x-nomad-token";

/// A secret that allows everything.
///
/// Only its hash is kept: comparing hashes takes the same time whatever was presented, of whatever
/// length, and a token can never be printed.
#[derive(Clone)]
pub struct Token {
    digest: [u8; 32],
}

impl Token {
    /// A token of this text; none when the text is empty, which would be no secret.
    pub fn new(secret: &str) -> Option<Token> {
        (!secret.is_empty()).then(|| Token {
            digest: Sha256::digest(secret.as_bytes()).into(),
        })
    }

    fn matches(&self, presented: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.digest.ct_eq(&presented).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a request would do. Every route declares one; what declares none is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask whether the program is alive and ready. Open to everyone, so that a load balancer needs
    /// no secret.
    ReadHealth,
    /// Read what this interface looks like.
    ReadDescription,
    /// Follow events.
    ReadEvents,
    /// Follow events over a WebSocket, which browsers open across sites.
    ReadEventsSocket,
    /// Publish events.
    WriteEvents,
    /// Read entries of the state.
    ReadState,
    /// Put and delete entries of the state.
    WriteState,
    /// Read status and metrics.
    ReadStatus,
    /// Change which servers there are, and what they hold as a whole.
    Operate,
}

/// Who a request comes from, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody has to say who they are, here.
    Anyone,
    /// The holder of the one token.
    TokenHolder,
}

/// Why a request is refused. Clients are told only that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The route says nothing about what it does.
    Undeclared,
    /// A token is needed and none came.
    NoToken,
    /// The token is not the one.
    WrongToken,
    /// A page of another site made a browser ask.
    CrossSite,
    /// It was sent to a name that is not ours, and nothing else protects this server.
    ForeignHost,
}

/// Decides about every request.
#[derive(Clone, Debug)]
pub(crate) struct Authorizer {
    token: Option<Token>,
    host_names: Vec<String>,
}

impl Authorizer {
    pub(crate) fn new(config: &HttpConfig) -> Authorizer {
        Authorizer {
            token: config.token.clone(),
            host_names: config.host_names.clone(),
        }
    }

    /// Whether this request may do `action`. This is the one place where that is decided.
    pub(crate) fn authorize(
        &self,
        action: Option<Action>,
        parts: &Parts,
    ) -> Result<Identity, Denied> {
        let action = action.ok_or(Denied::Undeclared)?;
        if action == Action::ReadHealth {
            return Ok(Identity::Anyone);
        }
        // Reads need no such check: a browser does not let a page see answers without CORS
        // headers, and we send none. It does open WebSockets and send forms across sites.
        let is_write = !matches!(parts.method, Method::GET | Method::HEAD);
        if (is_write || action == Action::ReadEventsSocket) && is_cross_site(parts) {
            return Err(Denied::CrossSite);
        }
        let Some(token) = &self.token else {
            // Nothing but the name tells a page that made its own name mean this machine from a
            // program that was meant to ask here.
            return match host_of(parts) {
                Some(host) if !self.is_own_name(host) => Err(Denied::ForeignHost),
                _ => Ok(Identity::Anyone),
            };
        };
        let presented = presented_token(&parts.headers).ok_or(Denied::NoToken)?;
        if token.matches(presented) {
            Ok(Identity::TokenHolder)
        } else {
            Err(Denied::WrongToken)
        }
    }

    fn is_own_name(&self, host: &str) -> bool {
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok()
            || self
                .host_names
                .iter()
                .any(|name| host.eq_ignore_ascii_case(name))
    }
}

/// The host that a request names, without its port. A browser always names one.
fn host_of(parts: &Parts) -> Option<&str> {
    let authority = match parts.headers.get(header::HOST) {
        // What is no text is no name of ours.
        Some(host) => host.to_str().unwrap_or("?"),
        None => parts.uri.authority()?.as_str(),
    };
    if let Some(rest) = authority.strip_prefix('[') {
        return Some(rest.split(']').next().unwrap_or_default());
    }
    Some(authority.split(':').next().unwrap_or_default())
}

/// `X-Nomad-Token`, else `Authorization: Bearer`.
fn presented_token(headers: &HeaderMap) -> Option<&[u8]> {
    // Empty is what a client sends that has none to give there.
    if let Some(token) = headers.get(NOMAD_TOKEN).filter(|token| !token.is_empty()) {
        return Some(token.as_bytes());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// Whether a browser says that the page which asks came from somewhere else.
fn is_cross_site(parts: &Parts) -> bool {
    let Some(origin) = parts.headers.get(header::ORIGIN) else {
        return false;
    };
    let Some((scheme, origin)) = origin.to_str().ok().and_then(|text| text.split_once("://"))
    else {
        return true;
    };
    let host = match parts.headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => parts.uri.authority().map(http::uri::Authority::as_str),
    };
    let default_port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    let bare = |authority: &str| {
        authority
            .strip_suffix(default_port)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    host.is_none_or(|host| bare(host) != bare(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri("/v1/events");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn authorizer(token: Option<Token>) -> Authorizer {
        Authorizer::new(&HttpConfig {
            token,
            host_names: vec![String::from("a.example")],
            ..HttpConfig::default()
        })
    }

    #[test]
    fn without_a_token_only_names_that_nobody_else_can_give_are_answered() {
        let open = authorizer(None);
        let ask = |authorizer: &Authorizer, host| {
            let headers = [("host", host), ("x-nomad-token", "secret")];
            authorizer.authorize(Some(Action::ReadEvents), &parts(Method::GET, &headers))
        };
        for own in [
            "localhost",
            "LocalHost:7480",
            "127.0.0.1:7480",
            "[::1]:7480",
            "[fe80::1]",
            "10.1.2.3",
            "A.example:80",
        ] {
            assert_eq!(ask(&open, own), Ok(Identity::Anyone), "{own}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example:7480",
            "127.0.0.1.evil",
            "",
        ] {
            assert_eq!(ask(&open, foreign), Err(Denied::ForeignHost), "{foreign}");
        }
        let closed = authorizer(Token::new("secret"));
        assert_eq!(ask(&closed, "evil.example"), Ok(Identity::TokenHolder));
        let unnamed = parts(Method::GET, &[]);
        assert!(open.authorize(Some(Action::ReadEvents), &unnamed).is_ok());
    }

    #[test]
    fn a_route_without_an_action_is_denied_even_with_the_token() {
        for token in [None, Token::new("secret")] {
            let parts = parts(Method::GET, &[("x-nomad-token", "secret")]);
            assert_eq!(
                authorizer(token).authorize(None, &parts),
                Err(Denied::Undeclared)
            );
        }
    }

    #[test]
    fn tokens_are_taken_from_both_headers() {
        let authorizer = authorizer(Token::new("secret"));
        let ask = |headers: &[(&str, &str)]| {
            authorizer.authorize(Some(Action::ReadEvents), &parts(Method::GET, headers))
        };
        assert_eq!(ask(&[]), Err(Denied::NoToken));
        assert_eq!(
            ask(&[("x-nomad-token", "secret")]),
            Ok(Identity::TokenHolder)
        );
        assert_eq!(
            ask(&[("authorization", "Bearer secret")]),
            Ok(Identity::TokenHolder)
        );
        assert_eq!(
            ask(&[("authorization", "bearer  secret")]),
            Ok(Identity::TokenHolder)
        );
        assert_eq!(
            ask(&[("authorization", "Basic secret")]),
            Err(Denied::NoToken)
        );
        assert_eq!(ask(&[("x-nomad-token", "")]), Err(Denied::NoToken));
        assert_eq!(
            ask(&[("x-nomad-token", ""), ("authorization", "Bearer secret")]),
            Ok(Identity::TokenHolder)
        );
        for wrong in ["secre", "secrets", "SECRET"] {
            assert_eq!(ask(&[("x-nomad-token", wrong)]), Err(Denied::WrongToken));
        }
        // Nomad's own header decides, even when the other one would do.
        assert_eq!(
            ask(&[("x-nomad-token", "no"), ("authorization", "Bearer secret")]),
            Err(Denied::WrongToken)
        );
    }

    #[test]
    fn an_empty_secret_is_no_token_and_none_is_ever_printed() {
        assert!(Token::new("").is_none());
        assert!(!format!("{:?}", Token::new("secret").unwrap()).contains("secret"));
    }

    #[test]
    fn browsers_may_write_and_open_sockets_from_the_same_origin_only() {
        let authorizer = authorizer(Token::new(""));
        for (origin, host, same) in [
            ("http://a.example:7480", "a.example:7480", true),
            ("http://A.example", "a.example:80", true),
            ("https://a.example", "a.example:443", true),
            ("http://b.example:7480", "a.example:7480", false),
            ("http://a.example:7481", "a.example:7480", false),
            ("null", "a.example", false),
        ] {
            let headers = [("origin", origin), ("host", host)];
            let socket = authorizer.authorize(
                Some(Action::ReadEventsSocket),
                &parts(Method::GET, &headers),
            );
            assert_eq!(socket.is_ok(), same, "{origin} {host}");
            let write =
                authorizer.authorize(Some(Action::WriteEvents), &parts(Method::POST, &headers));
            assert_eq!(write.is_ok(), same, "{origin} {host}");
        }
        let headers = [("origin", "http://b.example"), ("host", "a.example")];
        let read = authorizer.authorize(Some(Action::ReadEvents), &parts(Method::GET, &headers));
        assert_eq!(read, Ok(Identity::Anyone));
    }
}
