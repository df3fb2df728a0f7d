use std::fmt;

use http::request::Parts;
use http::{HeaderMap, Method, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

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
}

/// Decides about every request.
#[derive(Clone, Debug)]
pub(crate) struct Authorizer {
    token: Option<Token>,
}

impl Authorizer {
    pub(crate) fn new(token: Option<Token>) -> Authorizer {
        Authorizer { token }
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
            return Ok(Identity::Anyone);
        };
        let presented = presented_token(&parts.headers).ok_or(Denied::NoToken)?;
        if token.matches(presented) {
            Ok(Identity::TokenHolder)
        } else {
            Err(Denied::WrongToken)
        }
    }
}

/// `X-Nomad-Token`, else `Authorization: Bearer`.
fn presented_token(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(token) = headers.get(NOMAD_TOKEN) {
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

    #[test]
    fn a_route_without_an_action_is_denied_even_with_the_token() {
        for token in [None, Token::new("secret")] {
            let parts = parts(Method::GET, &[("x-nomad-token", "secret")]);
            assert_eq!(
                Authorizer::new(token).authorize(None, &parts),
                Err(Denied::Undeclared)
            );
        }
    }

    #[test]
    fn tokens_are_taken_from_both_headers() {
        let authorizer = Authorizer::new(Token::new("secret"));
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
        for wrong in ["", "secre", "secrets", "SECRET"] {
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
        let authorizer = Authorizer::new(None);
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
