use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    change::Leadership,
    connection::CallError,
    convert,
    link::Links,
    me::Me,
    message::{Propose, Proposed, VERSION_MEMBERS, encode_with, kind},
};
use crate::{error::ProposeError, replica::Submitted};

/// Brings commands to the server that leads.
pub(crate) struct Forwarder {
    pub me: Arc<Me>,
    pub links: Arc<Links>,
    pub leadership: Arc<Leadership>,
    /// How long the leader may take to record commands.
    pub answer_wait_max: Duration,
    /// What a caller is told to wait when too much is on its way.
    pub retry_after: Duration,
}

impl Forwarder {
    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<u64> {
        self.me.leader()
    }

    /// Asks the leader something that takes version 2.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        leader: u64,
        kinds: (u8, u8),
        question: &Q,
        wait_max: Duration,
    ) -> Result<A, CallError> {
        let connection = self.links.to(leader).commands.connection().await?;
        connection.needs_version(VERSION_MEMBERS)?;
        connection.ask(kinds, question, wait_max).await
    }

    /// Sends a group to the leader. Groups of one caller keep their order.
    pub async fn submit(
        &self,
        commands: usize,
        bytes: Bytes,
        takes_reserve: bool,
    ) -> Result<Submitted, ProposeError> {
        let leader = self.me.leader().filter(|&id| id != self.me.server.id);
        // without an answer nothing has left this server
        let not_sent = ProposeError::NotLeader { leader };
        let Some(id) = leader else {
            return Err(not_sent);
        };
        let propose = Propose {
            commands: u32::try_from(commands).unwrap_or(u32::MAX),
            takes_reserve,
        };
        let Ok(parts) = encode_with(&propose, [bytes]) else {
            return Err(not_sent);
        };
        let connection = match self.links.to(id).commands.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(leader = id, %error, "commands not forwarded");
                return Err(not_sent);
            }
        };
        let answer = match connection.try_send(kind::PROPOSE, parts).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => return Err(not_sent),
            None => {
                return Err(ProposeError::Overloaded {
                    retry_after: self.retry_after,
                });
            }
        };
        let answer_wait_max = self.answer_wait_max;
        Ok(Box::pin(async move {
            match answer
                .decoded::<Proposed>(kind::PROPOSED, answer_wait_max)
                .await
            {
                Ok(proposed) => convert::propose_result(proposed),
                Err(CallError::NotSent { .. }) => Err(not_sent),
                Err(error) => {
                    tracing::debug!(leader = id, %error, "no answer to forwarded commands");
                    Err(ProposeError::Unknown { leader })
                }
            }
        }))
    }
}
