use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use openraft::{
    Raft,
    raft::{AppendEntriesResponse, TransferLeaderRequest},
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    sync::{OwnedSemaphorePermit, oneshot},
    time,
};

use super::{
    change::Leadership,
    connection::{HANDSHAKE_WAIT_MAX, needs_version},
    convert,
    formation::Formation,
    frame::{
        Frame, FrameError, FrameWriter, READ_BUFFER_BYTES, read_frame, read_small_frame,
        write_frame,
    },
    me::Me,
    message::{
        Find, Form, FormMore, Formed, Greeting, Propose, Refused, RefusedReason, VERSION_SNAPSHOTS,
        bytes_max, decode, decode_with, encode, kind,
    },
    reception::Entered,
    room::{Held, Purse},
    transfer::{Chunk, Receiver, Writing},
    transport::PeerStream,
    wire::Secured,
};
use crate::{
    binding::Binding,
    error::{ProposeError, chain},
    machine::Machine,
    queue::{Queue, Waiting},
};

/// Requests of one connection that are worked at. The next is read when one of them is done.
const REQUESTS_MAX: usize = 256;
/// Their bytes; a larger request is worked at alone.
const REQUEST_BYTES_MAX: usize = 64 << 20;
/// A connection on which nothing comes for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A peer that takes none of its answers for so long is cut.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a server that is to lead waits for the last entries of the one before. Less than it takes
/// until the others elect.
const LOG_WAIT_MAX: Duration = Duration::from_millis(400);
/// Answers the other servers.
pub(crate) struct Service {
    pub me: Arc<Me>,
    pub raft: Raft<Binding, Machine>,
    pub queue: Arc<Queue>,
    pub formation: Arc<Formation>,
    pub receiver: Arc<Receiver>,
    pub leadership: Arc<Leadership>,
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("no valid message came")]
    Frame(#[from] FrameError),
    #[error("{}", .0.sentence)]
    Refused(Refused),
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("no TLS came about")]
    Secure(#[source] io::Error),
    #[error(
        "this server speaks TLS with the others: set tls_cert, tls_key and tls_ca of peers there as \
         well"
    )]
    Plain,
    #[error("it did not introduce itself within {} s", HANDSHAKE_WAIT_MAX.as_secs())]
    NoHello,
    #[error("it did not take its answers")]
    Stalled,
}

/// A request that was taken on.
enum Begun {
    Commands(Result<Result<Outcomes, ProposeError>, Refused>),
    Chunk(Result<Writing, Refused>),
    Other(Bytes),
}

/// The answer to one request.
struct Reply {
    kind: u8,
    request: u32,
    body: Bytes,
    /// What the request weighed.
    bytes: usize,
    /// The memory that it has until it is answered.
    _held: Held,
}

impl Service {
    /// Serves a connection for as long as it lasts.
    pub async fn serve(&self, stream: PeerStream, mut entered: Entered) -> Result<(), ServeError> {
        let reception = &self.me.reception;
        let secured = tokio::select! {
            secured = time::timeout(HANDSHAKE_WAIT_MAX, self.me.wire.secure(stream)) => secured,
            () = entered.pushed_out() => return Err(ServeError::Refused(reception.pushed_out())),
        };
        let mut stream = match secured.map_err(|_| ServeError::NoHello)? {
            Ok(Secured::Ready(stream)) => stream,
            Ok(Secured::Plain(stream)) => {
                refuse(&mut FrameWriter::new(stream.writer), &ServeError::Plain).await;
                return Err(ServeError::Plain);
            }
            // somebody who only looks whether the port is open
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(ServeError::Secure(error)),
        };
        let welcomed = tokio::select! {
            welcomed = time::timeout(HANDSHAKE_WAIT_MAX, self.welcome(&mut stream)) => welcomed,
            () = entered.pushed_out() => Ok(Err(ServeError::Refused(reception.pushed_out()))),
        };
        drop(entered);
        let (greeting, _place) = match welcomed {
            Ok(Ok(Some(welcomed))) => welcomed,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => {
                refuse(&mut FrameWriter::new(stream.writer), &error).await;
                return match error {
                    // that is how a server finds out which of the addresses is its own
                    ServeError::Refused(refused) if refused.reason == RefusedReason::Itself => {
                        Ok(())
                    }
                    error => Err(error),
                };
            }
            Err(_) => return Err(ServeError::NoHello),
        };
        self.me.meet(&greeting);
        let PeerStream { reader, writer } = stream;
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        let mut writer = FrameWriter::new(writer);
        let mut replies: FuturesUnordered<BoxFuture<'_, Reply>> = FuturesUnordered::new();
        let mut bytes = 0;
        // A frame is read over many turns of the loop: what has come of it is kept.
        let purse = self.me.room.purse();
        let mut next = Box::pin(next_frame(&mut reader, &purse));
        loop {
            let has_room = replies.len() < REQUESTS_MAX && bytes < REQUEST_BYTES_MAX;
            tokio::select! {
                Some(reply) = replies.next() => {
                    let reply: Reply = reply;
                    bytes -= reply.bytes;
                    let written = async {
                        let mut reply = Some(reply);
                        while let Some(Reply { kind, request, body, .. }) = reply {
                            writer.push(kind, request, &[body]).await?;
                            reply = replies.next().now_or_never().flatten();
                            bytes -= reply.as_ref().map_or(0, |reply| reply.bytes);
                        }
                        writer.flush().await
                    };
                    time::timeout(WRITE_WAIT_MAX, written)
                        .await
                        .map_err(|_| ServeError::Stalled)??;
                }
                came = &mut next, if has_room => {
                    let (came, reader) = came;
                    let frame = match came {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Ok(()),
                        Err(error) => {
                            let error = ServeError::Frame(error);
                            drop(replies);
                            refuse(&mut writer, &error).await;
                            return Err(error);
                        }
                    };
                    bytes += frame.body.len();
                    let reply = self.begin(&greeting, frame).await;
                    replies.push(reply);
                    next.set(next_frame(reader, &purse));
                }
                () = time::sleep(IDLE_MAX), if replies.is_empty() => return Ok(()),
            }
        }
    }

    /// Both sides introduce themselves; `None` when the other has gone again.
    async fn welcome(
        &self,
        stream: &mut PeerStream,
    ) -> Result<Option<(Greeting, OwnedSemaphorePermit)>, ServeError> {
        let PeerStream { reader, writer } = stream;
        let Some(frame) = read_small_frame(reader).await? else {
            return Ok(None);
        };
        let malformed = |what: &str| {
            ServeError::Refused(Refused {
                reason: RefusedReason::Malformed,
                sentence: format!("{what}: this port is for other tidings servers"),
            })
        };
        if frame.kind == kind::FIND {
            let find: Find = decode(&frame.body)
                .map_err(|_| malformed("the question for servers cannot be read"))?;
            self.me
                .admit_versions("this program", find.version_min, find.version_max)
                .map_err(ServeError::Refused)?;
            let found = encode(&self.me.found()).map_err(io::Error::other)?;
            write_frame(writer, kind::FOUND, frame.request, &[found]).await?;
            return Ok(None);
        }
        if frame.kind != kind::HELLO {
            return Err(malformed("the first message is not a greeting"));
        }
        let greeting =
            Greeting::decode(&frame.body).map_err(|_| malformed("the greeting cannot be read"))?;
        self.me.admit(&greeting).map_err(ServeError::Refused)?;
        let is_member = self.me.members().contains_key(&greeting.hello.server.id);
        let place = self.me.reception.admit(is_member);
        let place = place.map_err(ServeError::Refused)?;
        let welcome = self.me.greeting().encode().map_err(io::Error::other)?;
        write_frame(writer, kind::WELCOME, frame.request, &[welcome]).await?;
        Ok(Some((greeting, place)))
    }

    /// Takes a request on, in the order in which requests came. What it returns works at it.
    async fn begin<'s>(&'s self, greeting: &'s Greeting, frame: Frame) -> BoxFuture<'s, Reply> {
        let Frame {
            kind,
            request,
            body,
            held,
        } = frame;
        let bytes = body.len();
        if let kind::OFFER | kind::CHUNK | kind::INSTALL = kind {
            let common = self.me.version_max.min(greeting.hello.version_max);
            if let Err(sentence) = needs_version(common, VERSION_SNAPSHOTS) {
                let refused = Refused {
                    reason: RefusedReason::Versions,
                    sentence,
                };
                return Box::pin(std::future::ready(Reply {
                    kind: kind::REFUSED,
                    request,
                    body: encode(&refused).unwrap_or_default(),
                    bytes,
                    _held: held,
                }));
            }
        }
        // What must keep its order has its place in it before the next request is looked at.
        let begun = match kind {
            kind::PROPOSE => Begun::Commands(self.enqueue(&body).await),
            kind::CHUNK => Begun::Chunk(self.enqueue_chunk(&body).await),
            _ => Begun::Other(body),
        };
        let answer = async move {
            match begun {
                Begun::Commands(queued) => answer_commands(queued?).await,
                Begun::Chunk(writing) => reply(kind::TAKEN, &self.receiver.taken(writing?).await?),
                Begun::Other(body) => self.answer(greeting, kind, body).await,
            }
        };
        let reply = async move {
            let (kind, body) = match answer.await {
                Ok(answer) => answer,
                Err(refused) => (kind::REFUSED, encode(&refused).unwrap_or_default()),
            };
            Reply {
                kind,
                request,
                body,
                bytes,
                _held: held,
            }
        };
        Box::pin(reply)
    }

    async fn answer(
        &self,
        greeting: &Greeting,
        kind: u8,
        body: Bytes,
    ) -> Result<(u8, Bytes), Refused> {
        match kind {
            kind::APPEND => {
                let request = convert::append_of(&body).map_err(|error| malformed(&error))?;
                let leader = request.vote.leader_id.node_id;
                let appended = self.raft.append_entries(request).await;
                let appended = appended.map_err(|error| stopped(&error))?;
                if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
                    self.me.heard(leader);
                }
                reply(kind::APPENDED, &convert::appended(&appended))
            }
            kind::VOTE | kind::PRE_VOTE => {
                let vote = decode(&body).map_err(|error| malformed(&error))?;
                let vote = convert::vote_of(vote).map_err(|error| malformed(&error))?;
                let voted = match kind {
                    kind::VOTE => self.raft.vote(vote).await,
                    _ => self.raft.pre_vote(vote).await,
                };
                let voted = voted.map_err(|error| stopped(&error))?;
                reply(kind::VOTED, &convert::voted(&voted))
            }
            kind::TRANSFER => {
                let transfer = decode(&body).map_err(|error| malformed(&error))?;
                let transfer = convert::transfer_of(transfer).map_err(|error| malformed(&error))?;
                self.wait_for_log(&transfer).await;
                let transferred = self.raft.handle_transfer_leader(transfer).await;
                let transferred = transferred.map_err(|error| stopped(&error))?;
                reply(kind::TRANSFERRED, &convert::transferred(&transferred))
            }
            kind::JOIN => {
                let joined = self.formation.take_in(&self.leadership, greeting).await?;
                reply(kind::JOINED, &joined)
            }
            kind::FORM => {
                let (form, rest) = decode_with::<Form>(&body).map_err(|error| malformed(&error))?;
                let more = match rest.is_empty() {
                    true => FormMore::default(),
                    false => decode(&rest).map_err(|error| malformed(&error))?,
                };
                let from = greeting.hello.server.id;
                let agreed = self.formation.agree(from, &form, &more).await;
                reply(kind::FORMED, &Formed { agreed })
            }
            kind::OFFER => {
                let offer = decode(&body).map_err(|error| malformed(&error))?;
                reply(kind::WANTED, &self.receiver.offer(offer).await?)
            }
            kind::INSTALL => {
                let install = decode(&body).map_err(|error| malformed(&error))?;
                let installed = self.receiver.clone().install(install).await?;
                reply(kind::INSTALLED, &installed)
            }
            kind::CHANGE => {
                let change = decode(&body).map_err(|error| malformed(&error))?;
                reply(kind::CHANGED, &self.leadership.change(&change).await)
            }
            kind::READ => reply(kind::READ_AT, &self.leadership.read_at().await),
            kind::LIST => reply(kind::LISTED, &self.leadership.list()),
            kind::STANDING => {
                let stands = self.leadership.standing(greeting.hello.server.id).await;
                reply(kind::STANDS, &stands)
            }
            other => Err(Refused {
                reason: RefusedReason::Unexpected,
                sentence: format!("a message of kind {other} is no request that is known here"),
            }),
        }
    }

    /// Gives a piece of a snapshot its place in the order.
    async fn enqueue_chunk(&self, body: &Bytes) -> Result<Writing, Refused> {
        let (chunk, bytes) = decode_with::<Chunk>(body).map_err(|error| malformed(&error))?;
        self.receiver.enqueue(chunk, bytes).await
    }

    /// Waits a little for the entries that a new leader must have: they come over another connection
    /// than the request to lead, which the engine would ignore without them.
    async fn wait_for_log(&self, transfer: &TransferLeaderRequest<Binding>) {
        if *transfer.to_node_id() != self.me.server.id {
            return;
        }
        let needed = transfer.last_log_id().map(|id| id.index);
        let wait = self.raft.wait(Some(LOG_WAIT_MAX));
        let has = wait.metrics(|metrics| metrics.last_log_index >= needed, "has the log");
        // without them the engine ignores it, and the servers elect
        let _ = has.await;
    }

    /// Gives commands their place in the order, if this server leads.
    async fn enqueue(&self, body: &Bytes) -> Result<Result<Outcomes, ProposeError>, Refused> {
        let (propose, commands) =
            decode_with::<Propose>(body).map_err(|error| malformed(&error))?;
        convert::check_commands(propose.commands, &commands).map_err(|error| malformed(&error))?;
        if !self.raft.is_leader() {
            return Ok(Err(ProposeError::NotLeader {
                leader: self.me.leader().filter(|&id| id != self.me.server.id),
            }));
        }
        let (answer, answered) = oneshot::channel();
        let group = Waiting {
            commands: propose.commands as usize,
            takes_reserve: propose.takes_reserve,
            bytes: commands,
            answer,
        };
        Ok(self.queue.push(group).await.map(|()| answered))
    }
}

type Outcomes = oneshot::Receiver<Result<Vec<tidings_timeline::Outcome>, ProposeError>>;

async fn answer_commands(queued: Result<Outcomes, ProposeError>) -> Result<(u8, Bytes), Refused> {
    let result = match queued {
        Ok(answered) => answered
            .await
            .unwrap_or(Err(ProposeError::Unknown { leader: None })),
        Err(error) => Err(error),
    };
    reply(kind::PROPOSED, &convert::proposed(result))
}

/// The next frame, and the reader for the one after it.
async fn next_frame<'r, R: AsyncRead + Unpin>(
    reader: &'r mut R,
    purse: &Purse,
) -> (Result<Option<Frame>, FrameError>, &'r mut R) {
    (read_frame(reader, bytes_max, Some(purse)).await, reader)
}

/// The last words on a connection. Whoever does not listen is not told.
async fn refuse<W: AsyncWrite + Unpin>(writer: &mut FrameWriter<W>, error: &ServeError) {
    let refused = match error {
        ServeError::Refused(refused) => refused.clone(),
        ServeError::Frame(error @ FrameError::NoRoom { .. }) => Refused {
            reason: RefusedReason::TooManyConnections,
            sentence: error.to_string(),
        },
        error => malformed(error),
    };
    let told = async {
        let body = encode(&refused).map_err(io::Error::other)?;
        writer.push(kind::REFUSED, 0, &[body]).await?;
        writer.flush().await
    };
    let _ = time::timeout(WRITE_WAIT_MAX, told).await;
}

fn reply<T: Serialize>(kind: u8, message: &T) -> Result<(u8, Bytes), Refused> {
    let body = encode(message).map_err(|error| stopped(&error))?;
    Ok((kind, body))
}

fn malformed(error: &dyn std::error::Error) -> Refused {
    Refused {
        reason: RefusedReason::Malformed,
        sentence: chain(error),
    }
}

fn stopped(error: &dyn std::error::Error) -> Refused {
    Refused {
        reason: RefusedReason::Stopped,
        sentence: format!("this server has stopped: {}", chain(error)),
    }
}
