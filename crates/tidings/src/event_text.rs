//! Frames as lines for eyes.

use std::fmt::Write as _;

use console::{measure_text_width, truncate_str};
use tidings_event::{Event, Frame};

use crate::output::{Look, Style};
use crate::visible::visible;

/// Widths that the first columns may grow to; what is longer pushes its own line only.
const TOPIC_WIDTH_MAX: usize = 16;
const TYPE_WIDTH_MAX: usize = 28;
const KEY_WIDTH_MAX: usize = 32;

/// Length in bytes from which a payload is cut when there is no width to cut it at.
const GIST_BYTES_MAX: usize = 4096;

/// Writes events one a line, in columns that grow with what has been seen:
///
/// ```text
/// ── 2026-11-22 ──
///      7 07:45:47.123 Job  JobRegistered web {"Job":{"ID":"web"}}
/// ```
///
/// On a terminal the day stands on a line of its own when it changes, and lines are cut at the
/// width; elsewhere each line has the whole time and all of it is there.
#[derive(Debug)]
pub struct EventText {
    look: Look,
    day: String,
    topic_width: usize,
    type_width: usize,
    key_width: usize,
}

impl EventText {
    pub fn new(look: Look) -> Self {
        Self {
            look,
            day: String::new(),
            topic_width: 0,
            type_width: 0,
            key_width: 0,
        }
    }

    /// Appends the lines of a frame.
    pub fn push(&mut self, frame: &Frame, out: &mut String) {
        for event in &frame.events {
            self.push_event(event, out);
        }
    }

    fn push_event(&mut self, event: &Event, out: &mut String) {
        let time = self.time(event, out);
        let topic = visible(&event.topic);
        let r#type = visible(&event.r#type);
        let mut key = visible(&event.key).into_owned();
        if !event.namespace.is_empty() && event.namespace != tidings_event::DEFAULT_NAMESPACE {
            let _ = write!(key, "@{}", visible(&event.namespace));
        }
        let topic_pad = pad(&topic, &mut self.topic_width, TOPIC_WIDTH_MAX);
        let type_pad = pad(&r#type, &mut self.type_width, TYPE_WIDTH_MAX);
        let key_pad = pad(&key, &mut self.key_width, KEY_WIDTH_MAX);
        let look = self.look;
        let line = format!(
            "{} {} {}{topic_pad} {}{type_pad} {}{key_pad} {}",
            look.paint(Style::Dim, &format!("{:>6}", event.index.get())),
            look.paint(Style::Dim, &time),
            look.paint(Style::Cyan, &topic),
            look.paint(Style::Bold, &r#type),
            look.paint(Style::Yellow, &key),
            gist(event.payload.get()),
        );
        match look.width {
            Some(width) => out.push_str(&truncate_str(line.trim_end(), width, "…")),
            None => out.push_str(line.trim_end()),
        }
        out.push('\n');
    }

    /// The time of an event, after a line for a new day where there are such lines.
    fn time(&mut self, event: &Event, out: &mut String) -> String {
        let Some(time) = event.time else {
            return "-".to_owned();
        };
        // 2026-11-22T07:45:47.123456Z
        let text = time.to_string();
        let (Some(day), Some(clock), true) =
            (text.get(..10), text.get(11..23), self.look.width.is_some())
        else {
            return text;
        };
        if day != self.day {
            let line = format!("── {day} ──");
            out.push_str(&self.look.paint(Style::Dim, &line));
            out.push('\n');
            day.clone_into(&mut self.day);
        }
        clock.to_owned()
    }
}

/// The spaces behind a cell, in a column that grows with it up to a width.
fn pad(cell: &str, width: &mut usize, width_max: usize) -> String {
    let cell_width = measure_text_width(cell);
    *width = (*width).max(cell_width).min(width_max);
    " ".repeat(width.saturating_sub(cell_width))
}

/// A payload on one line; nothing for none.
fn gist(payload: &str) -> String {
    if matches!(payload, "null" | "{}") {
        return String::new();
    }
    let end = payload.floor_char_boundary(GIST_BYTES_MAX);
    let mut gist = visible(&payload[..end]).into_owned();
    if end < payload.len() {
        gist.push('…');
    }
    gist
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = r#"{"Index":7,"Events":[
        {"Index":7,"Topic":"Job","Type":"JobRegistered","Key":"web","Namespace":"default","FilterKeys":null,"Id":"a","Time":"2026-11-22T07:45:47.123456Z","Node":"n1","Source":"api","Payload":{"Job":{"ID":"web","Text":"a longer text that does not fit into a narrow window"}}},
        {"Index":7,"Topic":"Node","Type":"Up","Key":"evil\u001b[2J\nkey","Namespace":"ops","FilterKeys":null,"Id":"b","Time":"2026-11-23T00:00:00.000001Z","Node":"n1","Source":"api","Payload":null}
    ]}"#;

    fn text(look: Look) -> String {
        let mut out = String::new();
        EventText::new(look).push(&serde_json::from_str(FRAME).unwrap(), &mut out);
        out
    }

    #[test]
    fn in_a_pipe_everything_is_there() {
        assert_eq!(
            text(Look::PLAIN),
            "     7 2026-11-22T07:45:47.123456Z Job JobRegistered web {\"Job\":{\"ID\":\"web\",\"Text\":\"a longer text that does not fit into a narrow window\"}}\n     7 2026-11-23T00:00:00.000001Z Node Up            evil\\u{1b}[2J\\nkey@ops\n"
        );
    }

    #[test]
    fn on_a_terminal_lines_fit_and_days_stand_alone() {
        let look = Look {
            colors: false,
            width: Some(60),
        };
        let text = text(look);
        assert_eq!(
            text,
            "── 2026-11-22 ──\n     7 07:45:47.123 Job JobRegistered web {\"Job\":{\"ID\":\"web…\n── 2026-11-23 ──\n     7 00:00:00.000 Node Up            evil\\u{1b}[2J\\nkey@o…\n"
        );
        assert!(text.lines().all(|line| measure_text_width(line) <= 60));
    }

    #[test]
    fn colors_are_ended_on_every_line() {
        let look = Look {
            colors: true,
            width: Some(40),
        };
        for line in text(look).lines() {
            assert!(measure_text_width(line) <= 40, "{line:?}");
            assert_eq!(line.matches("\u{1b}[").count() % 2, 0, "{line:?}");
            assert!(!line.contains("\u{1b}[2J"), "{line:?}");
        }
    }

    #[test]
    fn a_large_payload_is_cut_at_a_character() {
        let payload = format!("{{\"t\":\"{}\"}}", "ü".repeat(GIST_BYTES_MAX));
        let gist = gist(&payload);
        assert!(gist.len() < GIST_BYTES_MAX + 8 && gist.ends_with('…'));
    }
}
