//! Commands as the requests that they came from, for an agent that hands them on.

use bytes::Bytes;

use crate::codec::Reader;
use crate::command::{Command, Commands, EncodedEvent, Events, read_command};

impl Commands {
    /// Each transaction as one line of JSON without its end, as a publisher hands it in. An Id that was
    /// given stays; one that was made up here is left out, so that whoever takes the line makes one:
    /// it says nothing that a number does not say better, and would be remembered one by one.
    ///
    /// `None` when there is a command that is no plain transaction.
    pub fn transaction_lines(&self) -> Option<Vec<Bytes>> {
        let mut lines = Vec::with_capacity(self.len());
        let bytes = self.clone().into_bytes();
        let mut reader = Reader::new(&bytes);
        while let Some(command) = read_command(&mut reader).ok()? {
            let Command::Publish { of: None, events } = command else {
                return None;
            };
            lines.push(line_of(events, bytes.len() / self.len().max(1)));
        }
        Some(lines)
    }
}

fn line_of(events: Events<'_>, bytes: usize) -> Bytes {
    let mut line = Vec::with_capacity(bytes + 16);
    line.extend_from_slice(b"{\"Events\":[");
    for (number, event) in events.iter().enumerate() {
        line.extend_from_slice(if number > 0 { b",{" } else { b"{" });
        let (before, after) = match event.given_id {
            Some(_) => (event.body, &b""[..]),
            None => without_id(&event),
        };
        line.extend_from_slice(before);
        line.extend_from_slice(after);
    }
    line.extend_from_slice(b"]}");
    line.into()
}

/// The body before and behind its Id.
fn without_id<'a>(event: &EncodedEvent<'a>) -> (&'a [u8], &'a [u8]) {
    const NAME: &[u8] = b",\"Id\":\"";
    let body = event.body;
    let Some(start) = event.after_filter_keys() else {
        return (body, b"");
    };
    let Some(id) = body[start..].strip_prefix(NAME) else {
        return (body, b"");
    };
    // An Id that was made here has no character that would be escaped.
    match memchr::memchr(b'"', id) {
        Some(end) => (&body[..start], &id[end + 1..]),
        None => (body, b""),
    }
}

#[cfg(test)]
mod tests {
    use tidings_event::{Limits, NewEvent};

    use super::*;
    use crate::{CommandGroup, EntryChange, SenderNumber, Stamper};

    fn lines(transactions: &[&[&str]]) -> Vec<String> {
        let mut group = CommandGroup::new();
        let mut stamper = Stamper::new("n1", "s1", 7);
        for transaction in transactions {
            let events: Vec<NewEvent<'_>> = transaction
                .iter()
                .map(|json| NewEvent::parse(json.as_bytes()).unwrap())
                .collect();
            group
                .publish(&events, &mut stamper, &Limits::default())
                .unwrap();
        }
        let lines = group.complete().transaction_lines().unwrap();
        let text = |line: &Bytes| String::from_utf8(line.to_vec()).unwrap();
        lines.iter().map(text).collect()
    }

    #[test]
    fn given_ids_stay_and_made_ones_go() {
        let lines = lines(&[
            &[
                r#"{"Topic":"T","Type":"A","Key":"\"]\\","FilterKeys":["]\"","x\\"],"Payload":{"Id":"y"}}"#,
            ],
            &[
                r#"{"Topic":"T","Type":"A","Id":"a\"b"}"#,
                r#"{"Topic":"T","Type":"B","Id":"c","FilterKeys":[]}"#,
            ],
        ]);
        assert_eq!(lines.len(), 2);
        assert!(!lines[0].contains(r#","Id":""#), "{}", lines[0]);
        assert!(
            lines[0].contains(r#""FilterKeys":["]\"","x\\"],"Time":"#),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains(r#","Id":"a\"b","#), "{}", lines[1]);
        for line in &lines {
            let events = NewEvent::parse_transaction(line.as_bytes(), &Limits::default()).unwrap();
            assert_eq!(events[0].node.as_deref(), Some("n1"));
        }
    }

    #[test]
    fn what_is_read_again_is_the_same_command() {
        let text =
            r#"{"Topic":"T","Type":"A","Id":"i","Key":"k","FilterKeys":["ü"],"Payload":{"n":1.0}}"#;
        let once = lines(&[&[text]]);
        let events = NewEvent::parse_transaction(once[0].as_bytes(), &Limits::default()).unwrap();
        let mut group = CommandGroup::new();
        let mut other = Stamper::new("n2", "s2", 9);
        group
            .publish(&events, &mut other, &Limits::default())
            .unwrap();
        let again = group.complete().transaction_lines().unwrap();
        assert_eq!(again[0], once[0].as_bytes());
    }

    #[test]
    fn other_commands_are_no_transactions() {
        let event = NewEvent::parse(br#"{"Topic":"T","Type":"A"}"#).unwrap();
        let limits = Limits::default();
        let mut stamper = Stamper::new("n1", "s1", 7);
        let mut entry = CommandGroup::new();
        let change = EntryChange {
            cas: None,
            event: &event,
        };
        entry.put_entry(change, &mut stamper, &limits).unwrap();
        let mut numbered = CommandGroup::new();
        let of = SenderNumber {
            sender: 1,
            epoch: 1,
            number: 1,
        };
        let events = std::slice::from_ref(&event);
        numbered
            .publish_numbered(of, events, &mut stamper, &limits)
            .unwrap();
        for group in [entry, numbered] {
            assert_eq!(group.complete().transaction_lines(), None);
        }
    }
}
