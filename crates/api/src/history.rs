//! `GET /v1/history/digests`: what servers compare to know that they hold one history.
//!
//! ```text
//!  from           from+step       from+2·step          to
//!   ├───── digest ────┼──── digest ─────┼──── digest ───┤    of many frames a digest, of one answer
//!                     └ differs: ask for it again in smaller steps, down to one frame
//! ```
//!
//! An answer has a bounded size, and costs bounded work, however long the history is: what it covers
//! ends at `To`, and who wants more asks from there.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidings_event::{DigestFilter, Index};
use tidings_timeline::{HistoryError, HistoryReader};

use crate::app::{App, name_timeline};
use crate::error::ApiError;
use crate::publish::json_response;
use crate::query_text::QueryText;

/// Digests of one answer: 16 KiB of them.
const DIGESTS_MAX: u64 = 256;
/// Lines that one answer reads; when there are more, it covers less. A second of a slow disk.
const LINE_BYTES_MAX: u64 = 128 << 20;
/// Checksums that one answer reads: a few hundred milliseconds.
const CHECKSUMS_MAX: u64 = 8 << 20;
/// Answers that are made at the same time: each keeps a disk busy.
pub(crate) const DIGESTS_AT_ONCE_MAX: usize = 2;
/// Lines read at once.
const READ_BYTES: usize = 480 << 10;
/// Checksums read at once.
const READ_CHECKSUMS: usize = 64 << 10;
/// Damaged frames that an answer names.
const DAMAGED_MAX: usize = 16;

/// What a digest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The lines themselves: what `sha256sum` says of them.
    Lines,
    /// The CRC-32 of each line, 4 bytes little-endian, as noted when it was written. Does not look at
    /// the lines.
    Checksums,
}

/// Which digests are asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    from: u64,
    /// Inclusive; not beyond the newest.
    to: u64,
    step: u64,
    of: Of,
}

/// What was found.
#[derive(Debug)]
struct Found {
    digests: Vec<String>,
    /// The last frame that they cover.
    to: u64,
    damaged: Vec<(u64, String)>,
}

/// `GET /v1/history/digests`.
pub(crate) async fn digests(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let Ok(_permit) = app.digests.try_acquire() else {
        return Err(ApiError::overloaded(format!(
            "{DIGESTS_AT_ONCE_MAX} comparisons of the history are being made, as many as are allowed: ask again later"
        )));
    };
    let history = app.timeline.broker().history();
    let (oldest, newest) = (history.oldest(), history.newest());
    let wanted = Wanted::parse(&QueryText::parse(query.as_deref()), oldest, newest)?;
    let found = tokio::task::spawn_blocking(move || wanted.find(&*history))
        .await
        .map_err(|_| ApiError::internal("the history could not be compared"))?
        .map_err(|error| refusal(&error, Index(wanted.from)))?;
    let damaged: Vec<Value> = found
        .damaged
        .iter()
        .map(|(index, message)| json!({ "Index": index, "Message": message }))
        .collect();
    let view = app.state();
    let answer = json!({
        "Timeline": view.timeline.map(|timeline| timeline.to_string()),
        "Oldest": oldest.get(),
        "Newest": newest.get(),
        "From": wanted.from,
        "To": found.to,
        "Step": wanted.step,
        "Of": match wanted.of {
            Of::Lines => "lines",
            Of::Checksums => "checksums",
        },
        "Digests": found.digests,
        "Damaged": damaged,
    });
    let mut response = json_response(Bytes::from(format!("{answer}\n")));
    name_timeline(response.headers_mut(), &view);
    Ok(response)
}

fn refusal(error: &HistoryError, wanted: Index) -> ApiError {
    match error {
        HistoryError::Gap { oldest } => ApiError::gone(wanted, *oldest),
        // the index itself: of single lines the answer tells
        error => ApiError::internal(error.to_string()),
    }
}

impl Wanted {
    fn parse(query: &QueryText<'_>, oldest: Index, newest: Index) -> Result<Wanted, ApiError> {
        let number = |name: &str, code| match query.get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(ApiError::bad_request(
                    code,
                    format!(
                        "{name} is not a number from 1 on: give the index of a frame, or for step a number of frames"
                    ),
                )),
            },
        };
        let from = number("from", "index_invalid")?.unwrap_or(oldest.get());
        let to = number("to", "index_invalid")?.unwrap_or(newest.get());
        let step = number("step", "step_invalid")?;
        let of = match query.get("of") {
            None | Some("checksums") => Of::Checksums,
            Some("lines") => Of::Lines,
            Some(_) => {
                return Err(ApiError::bad_request(
                    "of_invalid",
                    "of is neither checksums (of each line, noted when it was written) nor lines (read now, and checked): give one of them",
                ));
            }
        };
        if query.get("to").is_some() && from > to {
            return Err(ApiError::bad_request(
                "range_invalid",
                format!("from={from} is beyond to={to}: give the smaller index as from"),
            ));
        }
        if from < oldest.get() {
            return Err(ApiError::gone(Index(from), oldest));
        }
        let to = to.min(newest.get());
        Ok(Wanted {
            from,
            to,
            step: step.unwrap_or_else(|| (to + 1).saturating_sub(from).max(1)),
            of,
        })
    }

    /// Reads until all is covered, or as much as one answer may.
    fn find(&self, history: &dyn HistoryReader) -> Result<Found, HistoryError> {
        let mut found = Found {
            digests: Vec::new(),
            to: self.from - 1,
            damaged: Vec::new(),
        };
        let mut work = 0;
        while found.to < self.to && (found.digests.len() as u64) < DIGESTS_MAX {
            let first = found.to + 1;
            let last = found.to.saturating_add(self.step).min(self.to);
            let mut hash = Sha256::new();
            let (cost, cost_max) = match self.of {
                Of::Checksums => (
                    hash_checksums(history, first, last, &mut hash)?,
                    CHECKSUMS_MAX,
                ),
                Of::Lines => (
                    hash_lines(history, first, last, &mut hash, &mut found.damaged)?,
                    LINE_BYTES_MAX,
                ),
            };
            found.digests.push(hex(&hash.finalize()));
            found.to = last;
            work += cost;
            if work >= cost_max {
                break;
            }
        }
        Ok(found)
    }
}

/// Adds the checksums of the frames; gives their number.
fn hash_checksums(
    history: &dyn HistoryReader,
    first: u64,
    last: u64,
    hash: &mut Sha256,
) -> Result<u64, HistoryError> {
    let mut next = first;
    while next <= last {
        let left = usize::try_from(last - next + 1).unwrap_or(usize::MAX);
        let checksums = history.checksums(Index(next), left.min(READ_CHECKSUMS))?;
        if checksums.is_empty() {
            // cut off meanwhile: the digest says that something is missing
            break;
        }
        for checksum in &checksums {
            hash.update(checksum.to_le_bytes());
        }
        next += checksums.len() as u64;
    }
    Ok(next - first)
}

/// Adds the lines of the frames; gives their bytes. In the place of one that is not what was written
/// stands a sentence that no line can be.
fn hash_lines(
    history: &dyn HistoryReader,
    first: u64,
    last: u64,
    hash: &mut Sha256,
    damaged: &mut Vec<(u64, String)>,
) -> Result<u64, HistoryError> {
    let mut bytes = 0;
    let mut next = first;
    // up to here one by one: there is a damaged one among them
    let mut singly_to = 0;
    while next <= last {
        let bytes_max = match next <= singly_to {
            true => 1,
            false => READ_BYTES,
        };
        match history.read(Index(next), bytes_max, &DigestFilter::All) {
            Ok(read) if read.bytes.is_empty() => break,
            Ok(read) => {
                let wanted = usize::try_from(last - next + 1).unwrap_or(usize::MAX);
                for line in read
                    .bytes
                    .split_inclusive(|&byte| byte == b'\n')
                    .take(wanted)
                {
                    hash.update(line);
                    bytes += line.len() as u64;
                }
                next = read.next.get();
            }
            Err(HistoryError::Damaged { index, .. }) if index.get() > next => {
                singly_to = index.get();
            }
            Err(error @ HistoryError::Damaged { .. }) => {
                hash.update(format!("frame {next} is damaged"));
                if damaged.len() < DAMAGED_MAX {
                    damaged.push((next, error.to_string()));
                }
                next += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines `a\n`, `b\n` … from 1 on; some of them damaged.
    struct Lines {
        count: u64,
        damaged: Vec<u64>,
    }

    impl HistoryReader for Lines {
        fn oldest(&self) -> Index {
            Index(1)
        }

        fn newest(&self) -> Index {
            Index(self.count)
        }

        fn read(
            &self,
            from: Index,
            bytes_max: usize,
            _want: &DigestFilter,
        ) -> Result<tidings_timeline::HistoryRead, HistoryError> {
            let count = (bytes_max as u64 / 2)
                .clamp(1, 5)
                .min((self.count + 1).saturating_sub(from.get()));
            let range = from.get()..from.get() + count;
            if let Some(&index) = self.damaged.iter().find(|index| range.contains(index)) {
                return Err(HistoryError::Damaged {
                    path: "lines".into(),
                    offset: 0,
                    index: Index(index),
                });
            }
            let bytes: Vec<u8> = range
                .clone()
                .flat_map(|n| [b'a' + (n % 26) as u8, b'\n'])
                .collect();
            Ok(tidings_timeline::HistoryRead {
                bytes: bytes.into(),
                next: Index(range.end),
                other_namespaces: false,
            })
        }
    }

    fn find(history: &Lines, from: u64, to: u64, step: u64, of: Of) -> Found {
        let wanted = Wanted { from, to, step, of };
        wanted.find(history).unwrap()
    }

    #[test]
    fn a_digest_of_lines_is_what_sha256sum_says() {
        let history = Lines {
            count: 3,
            damaged: vec![],
        };
        let found = find(&history, 1, 3, 2, Of::Lines);
        assert_eq!(found.to, 3);
        let wanted = [&b"b\nc\n"[..], b"d\n"].map(|lines| hex(&Sha256::digest(lines)));
        assert_eq!(found.digests, wanted);
        let crcs: Vec<u8> = [&b"b\n"[..], b"c\n", b"d\n"]
            .iter()
            .flat_map(|line| {
                let mut hasher = Vec::new();
                hasher.extend(crc32(line).to_le_bytes());
                hasher
            })
            .collect();
        let found = find(&history, 1, 3, 3, Of::Checksums);
        assert_eq!(found.digests, [hex(&Sha256::digest(crcs))]);
    }

    /// CRC-32 (IEEE) bit by bit.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn only_steps_with_a_difference_differ() {
        let whole = Lines {
            count: 20,
            damaged: vec![],
        };
        let spoilt = Lines {
            count: 20,
            damaged: vec![7, 18],
        };
        let (one, other) = (
            find(&whole, 1, 20, 3, Of::Lines),
            find(&spoilt, 1, 20, 3, Of::Lines),
        );
        let differ: Vec<usize> = (0..7)
            .filter(|&at| one.digests[at] != other.digests[at])
            .collect();
        assert_eq!(differ, [2, 5]);
        let damaged: Vec<u64> = other.damaged.iter().map(|(index, _)| *index).collect();
        assert_eq!(damaged, [7, 18]);
    }

    #[test]
    fn an_answer_is_bounded_and_says_how_far_it_goes() {
        let history = Lines {
            count: 1000,
            damaged: vec![],
        };
        let found = find(&history, 11, 1000, 1, Of::Checksums);
        assert_eq!(
            (found.digests.len() as u64, found.to),
            (DIGESTS_MAX, 10 + DIGESTS_MAX)
        );
    }
}
