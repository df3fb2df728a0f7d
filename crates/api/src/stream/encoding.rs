use bytes::{BufMut, Bytes, BytesMut};
use tidings_event::{FrameError, FrameView, HEARTBEAT, Index, to_cloudevent};

use super::sse;

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// The line as it is: nothing is done.
    Lines,
    /// Each event as one CloudEvent on a line.
    CloudEvents,
    /// Each line as one Server-Sent Event.
    Sse,
    /// Each event as one CloudEvent in a Server-Sent Event.
    SseCloudEvents,
}

impl Encoding {
    /// A part of a snapshot: without ids, so that a browser that is cut off within it begins it
    /// again, and is told of its end.
    pub(crate) fn encode_state(self, lines: Bytes) -> Result<Bytes, FrameError> {
        match self {
            Encoding::Lines | Encoding::CloudEvents => self.encode(lines),
            Encoding::Sse => Ok(sse::encode_state(&lines)),
            Encoding::SseCloudEvents => {
                cloudevents(&lines, |out, _, event| sse::push(out, None, event))
            }
        }
    }

    pub(crate) fn encode(self, lines: Bytes) -> Result<Bytes, FrameError> {
        match self {
            Encoding::Lines => Ok(lines),
            Encoding::Sse => Ok(sse::encode_frames(&lines)),
            Encoding::CloudEvents => cloudevents(&lines, |out, _, event| {
                out.extend_from_slice(event);
                out.put_u8(b'\n');
            }),
            Encoding::SseCloudEvents => cloudevents(&lines, |out, id, event| {
                let digits = id.map(|index| index.to_string());
                sse::push(out, digits.as_ref().map(String::as_bytes), event);
            }),
        }
    }

    /// A line that is no frame of the timeline: the end of a snapshot.
    pub(crate) fn encode_marker(self, line: Bytes) -> Bytes {
        match self {
            Encoding::Lines | Encoding::CloudEvents => line,
            Encoding::Sse | Encoding::SseCloudEvents => sse::encode_frames(&line),
        }
    }

    pub(crate) fn heartbeat(self) -> Bytes {
        match self {
            Encoding::Lines | Encoding::CloudEvents => Bytes::from_static(HEARTBEAT),
            Encoding::Sse | Encoding::SseCloudEvents => Bytes::from_static(sse::HEARTBEAT),
        }
    }

    /// A heartbeat that says up to where everything was looked at.
    pub(crate) fn progress(self, considered: Index) -> Bytes {
        self.encode_marker(Bytes::from(format!(
            "{{\"Index\":{considered},\"Events\":[]}}\n"
        )))
    }
}

/// Writes each event as a CloudEvent. Only the last one of a frame is given the frame's index: who
/// resumes after an index has seen the whole frame.
fn cloudevents(
    lines: &Bytes,
    mut push: impl FnMut(&mut BytesMut, Option<Index>, &[u8]),
) -> Result<Bytes, FrameError> {
    let mut out = BytesMut::with_capacity(lines.len() * 2);
    for line in lines_of(lines) {
        let frame = FrameView::parse(line)?;
        let last = frame.events().len().saturating_sub(1);
        for (at, event) in frame.events().iter().enumerate() {
            let id = (at == last).then(|| frame.index());
            push(&mut out, id, &to_cloudevent(event));
        }
    }
    Ok(out.freeze())
}

/// The lines of a slice, without their newlines.
pub(crate) fn lines_of(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// The digits of a line's index: every line of ours begins with it.
pub(crate) fn index_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"{\"Index\":")?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    (end > 0).then(|| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_their_index_is_found() {
        let lines: Vec<&[u8]> = lines_of(b"{\"Index\":7,\"Events\":[]}\n{}\nx").collect();
        assert_eq!(lines, [&b"{\"Index\":7,\"Events\":[]}"[..], b"{}", b"x"]);
        assert_eq!(index_of(lines[0]), Some(&b"7"[..]));
        assert_eq!(index_of(lines[1]), None);
    }
}
