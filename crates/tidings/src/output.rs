//! What standard output is, and how the verbs use it.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;

/// For eyes or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For eyes
    #[default]
    Text,
    /// For programs
    Json,
}

/// How text may look on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub colors: bool,
    /// Columns that a line may have; `None` when it is not a terminal.
    pub width: Option<usize>,
}

impl Look {
    /// A file or a pipe: everything, plainly.
    #[cfg(test)]
    pub const PLAIN: Look = Look {
        colors: false,
        width: None,
    };

    /// What standard output is now.
    pub fn of_stdout() -> Look {
        let is_terminal = io::stdout().is_terminal();
        let columns = console::Term::stdout().size_checked();
        Look {
            colors: is_terminal && colors_wanted(|name| std::env::var(name).ok()),
            width: columns
                .filter(|_| is_terminal)
                .map(|(_, columns)| usize::from(columns)),
        }
    }

    /// The text in a style, when colours are wanted.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self.colors && !text.is_empty() {
            format!("\u{1b}[{}m{text}\u{1b}[0m", style as u8)
        } else {
            text.to_owned()
        }
    }
}

/// Styles by their number in the terminal's escape sequences (ECMA-48, SGR).
#[derive(Clone, Copy, Debug)]
pub enum Style {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// <https://no-color.org>: any value but an empty one turns colours off.
fn colors_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = variable("TERM").is_some_and(|value| value == "dumb");
    !refused && !dumb
}

/// Writes to standard output, all at once.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A number with its thousands set apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `one line`, `2 lines`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{} {many}", grouped(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_refused_as_agreed() {
        let with = |no_color: Option<&str>, term: &str| {
            colors_wanted(|name| match name {
                "NO_COLOR" => no_color.map(str::to_owned),
                _ => Some(term.to_owned()),
            })
        };
        assert!(with(None, "xterm"));
        assert!(with(Some(""), "xterm"));
        assert!(!with(Some("1"), "xterm"));
        assert!(!with(None, "dumb"));
    }

    #[test]
    fn numbers_for_eyes() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "line", "lines"), "1 line");
        assert_eq!(counted(2000, "line", "lines"), "2,000 lines");
    }
}
