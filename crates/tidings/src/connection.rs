//! Which agent the verbs talk to.

use std::fmt;

use clap::Args;
use tidings_client::{Client, ClientConfig, Token};

use crate::failure::UsageError;

/// Options of every verb that talks to an agent.
#[derive(Args, Clone)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Address of the agent; several of one cluster, with commas or by repeating it, are asked in turn
    /// until one answers [env: TIDINGS_ADDR] [default: http://127.0.0.1:7480]
    #[arg(long, global = true, value_name = "URL")]
    pub addr: Vec<String>,
    /// Secret to show to the agent; better given in the environment, where other users do not see
    /// it [env: TIDINGS_TOKEN]
    #[arg(long, global = true, value_name = "SECRET")]
    pub token: Option<String>,
    /// Namespace of what is published, followed or read; `*` follows all [env: TIDINGS_NAMESPACE]
    /// [default: default]
    #[arg(long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("addr", &self.addr)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("namespace", &self.namespace)
            .finish()
    }
}

impl Connection {
    /// The client, and what it is made of: the environment, then the options.
    pub fn client(&self) -> anyhow::Result<Client> {
        let usage = |error: tidings_client::ConfigError| UsageError::new(error.to_string());
        let mut config = ClientConfig::from_env().map_err(usage)?;
        if !self.addr.is_empty() {
            let given = self
                .addr
                .iter()
                .map(|text| ClientConfig::parse_addresses(text));
            let given: Result<Vec<_>, _> = given.collect();
            config.addresses = given.map_err(usage)?.concat();
        }
        if let Some(token) = &self.token {
            config.token = Some(Token::new(token.clone()).map_err(usage)?);
        }
        if self.namespace.is_some() {
            config.namespace = self.namespace.clone();
        }
        Ok(Client::new(config)?)
    }

    /// Verbs that talk to nobody do not take the options silently.
    pub fn refuse_for(&self, verb: &str) -> Result<(), UsageError> {
        let given = [
            ("--addr", !self.addr.is_empty()),
            ("--token", self.token.is_some()),
            ("--namespace", self.namespace.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some(("--addr", _)) => Err(UsageError::new(format!(
                "--addr says which agent to talk to, which `tidings {verb}` does not do; where the agent listens is said with --http"
            ))),
            Some((option, _)) => Err(UsageError::new(format!(
                "{option} is for verbs that talk to an agent, which `tidings {verb}` does not do"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_never_shown() {
        let connection = Connection {
            addr: Vec::new(),
            token: Some("hush".to_owned()),
            namespace: None,
        };
        assert!(!format!("{connection:?}").contains("hush"));
        assert!(connection.refuse_for("agent").is_err());
    }

    #[test]
    fn several_addresses_come_with_commas_or_one_by_one() {
        let client = |addr: &[&str]| {
            let connection = Connection {
                addr: addr.iter().map(ToString::to_string).collect(),
                token: None,
                namespace: None,
            };
            connection.client()
        };
        let texts = |client: Client| -> Vec<String> {
            let addresses = client.config().addresses.iter();
            addresses.map(ToString::to_string).collect()
        };
        let three = ["http://a:1/", "http://b:2/", "http://c:3/"];
        assert_eq!(texts(client(&["a:1,b:2", "c:3"]).unwrap()), three);
        assert!(client(&["a:1,,b:2"]).is_err());
    }
}
