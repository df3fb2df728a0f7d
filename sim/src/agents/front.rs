//! What a server does with numbered lines that come to it, in place of its HTTP surface: gathers what
//! has come to a group, gives each group its place, and answers a line each, in order, while more comes.
//!
//! ```text
//! asked     ID EPOCH FIRST ⏎ line ⏎ line ⏎ …
//! answered  taken INDEX ⏎ │ had INDEX ⏎ │ refused CODE SENTENCE ⏎ …
//! ```

use std::time::Duration;

use tidings_event::{Limits, NewEvent};
use tidings_host::net::{TcpListener, TcpStream};
use tidings_raft::{ProposeError, Replica, Submitted};
use tidings_timeline::{CommandGroup, Commands, Outcome, SenderNumber, Stamper};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time;

use crate::workload::stamper;

/// The port that agents are told of.
const PORT: u16 = 7480;
/// Groups that have their place and are not answered, at most.
const GROUPS_IN_FLIGHT: usize = 8;
/// How long a group is kept for which there is no room.
const OVERLOAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// Where agents find a server.
pub(crate) fn address_of(server: &str) -> String {
    format!("{server}:{PORT}")
}

/// A server's front, as long as this lives.
pub(crate) struct Front(JoinHandle<()>);

impl Drop for Front {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Front {
    /// Opens it.
    pub async fn open(server: &str, replica: &Replica) -> std::io::Result<Self> {
        let listener = TcpListener::bind(&address_of(server)).await?;
        let (name, replica) = (server.to_owned(), replica.clone());
        Ok(Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(name.clone(), replica.clone(), stream));
            }
        })))
    }
}

/// Of each group the outcomes that are to come, and the lines that were refused before it.
struct Waiting {
    submitted: Result<Submitted, ProposeError>,
    lines: Vec<Result<(), String>>,
}

async fn serve(name: String, replica: Replica, stream: TcpStream) {
    let (reader, mut writer) = stream.into_split();
    let (places, mut waiting) = mpsc::channel::<Waiting>(GROUPS_IN_FLIGHT);
    let reading = read(&name, &replica, BufReader::new(reader), places);
    let answering = async {
        while let Some(next) = waiting.recv().await {
            let outcomes = match next.submitted {
                Ok(submitted) => submitted.await,
                Err(error) => Err(error),
            };
            writer
                .write_all(answers(outcomes, next.lines).as_bytes())
                .await?;
        }
        writer.shutdown().await
    };
    // Whoever reads no answers is not listened to; whoever sends no more is still answered.
    tokio::pin!(reading, answering);
    tokio::select! {
        _ = &mut answering => {}
        () = &mut reading => {
            let _ = answering.await;
        }
    }
}

async fn read(
    name: &str,
    replica: &Replica,
    mut reader: impl AsyncBufRead + Unpin,
    places: mpsc::Sender<Waiting>,
) {
    let mut head = String::new();
    if !matches!(reader.read_line(&mut head).await, Ok(bytes) if bytes > 0) {
        return;
    }
    let Some(mut of) = sender_of(&head) else {
        return;
    };
    let mut partial = Vec::new();
    loop {
        // What has come by now is one group.
        let Ok(come) = reader.fill_buf().await else {
            return;
        };
        let bytes = come.len();
        if bytes == 0 {
            return;
        }
        partial.extend_from_slice(come);
        reader.consume(bytes);
        let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let rest = partial.split_off(end + 1);
        let (group, lines) = gather(&partial, &mut of, &mut stamper(name));
        partial = rest;
        let submitted = submit(replica, group).await;
        let waiting = Waiting { submitted, lines };
        if places.send(waiting).await.is_err() {
            return;
        }
    }
}

fn sender_of(head: &str) -> Option<SenderNumber> {
    let mut words = head.split_whitespace();
    Some(SenderNumber {
        sender: words.next()?.parse::<ulid::Ulid>().ok()?.0,
        epoch: words.next()?.parse().ok()?,
        number: words.next()?.parse().ok()?,
    })
}

/// Lines as they came, as commands; a line that is refused has its number, too.
fn gather(
    bytes: &[u8],
    of: &mut SenderNumber,
    stamper: &mut Stamper,
) -> (Commands, Vec<Result<(), String>>) {
    let limits = Limits::default();
    let mut group = CommandGroup::new();
    let mut lines = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
        let parsed = NewEvent::parse_line(line, &limits);
        let taken =
            parsed.and_then(|events| group.publish_numbered(*of, &events, stamper, &limits));
        of.number += 1;
        lines.push(taken.map_err(|error| error.to_string()));
    }
    (group.complete(), lines)
}

async fn submit(replica: &Replica, group: Commands) -> Result<Submitted, ProposeError> {
    let since = time::Instant::now();
    loop {
        match replica.submit(group.clone()).await {
            Err(ProposeError::Overloaded { retry_after })
                if since.elapsed() + retry_after <= OVERLOAD_WAIT_MAX =>
            {
                time::sleep(retry_after).await;
            }
            submitted => return submitted,
        }
    }
}

fn answers(outcomes: Result<Vec<Outcome>, ProposeError>, lines: Vec<Result<(), String>>) -> String {
    let failure = outcomes.as_ref().err().map(failure);
    let mut outcomes = outcomes.unwrap_or_default().into_iter();
    let mut text = String::new();
    for line in lines {
        let answer = match (line, &failure) {
            (Err(sentence), _) => format!("refused event_invalid {sentence}"),
            (Ok(()), Some(code)) => format!("refused {code} not now"),
            (Ok(()), None) => match outcomes.next() {
                Some(Outcome::Published { index }) => format!("taken {}", index.get()),
                Some(Outcome::Duplicate { index }) => format!("had {}", index.get()),
                Some(Outcome::Refused(refusal)) => format!("refused {} {refusal}", refusal.code()),
                other => format!("refused internal {other:?}"),
            },
        };
        text.push_str(&answer.replace('\n', " "));
        text.push('\n');
    }
    text
}

/// The codes of `tidings-api`.
fn failure(error: &ProposeError) -> &'static str {
    match error {
        ProposeError::Overloaded { .. } => "overloaded",
        ProposeError::DiskFull { .. } => "disk_full",
        ProposeError::TooLarge { .. } => "transaction_too_large",
        ProposeError::NotLeader { .. } => "no_leader",
        ProposeError::Unknown { .. } => "outcome_unknown",
        ProposeError::Stopped { .. } => "stopping",
    }
}
