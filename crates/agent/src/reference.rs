//! The sample configuration and the reference page, both made from the catalogue of keys, so that
//! a test can hold the files in the repository against them.

use std::fmt::Write as _;

use crate::config::{Config, NodeConfig};
use crate::keys::{KEYS, SECTIONS};

/// Width of comment lines in the sample file.
const COMMENT_COLUMNS: usize = 88;

/// The defaults as they are documented: with no particular host's name.
fn documented() -> Config {
    Config {
        node: NodeConfig {
            name: "node-1".to_owned(),
            ..NodeConfig::default()
        },
        ..Config::default()
    }
}

/// A `tidings.toml` with every key at its default, each with what it is for.
pub fn sample() -> String {
    let defaults = documented();
    let mut out = String::from(
        "# Configuration of `tidings agent`: every key with its default.\n\
         #\n\
         #     tidings agent --config /etc/tidings/tidings.toml\n\
         #     tidings config check --config /etc/tidings/tidings.toml\n\
         #\n\
         # What is not set here keeps its default, so a file with three lines is a good file.\n\
         # Durations: \"250ms\" \"30s\" \"5m\" \"12h\" \"7d\". Sizes: \"64KiB\" \"64MiB\" \"2GiB\", or bytes as\n\
         # a number. A key marked (reload) is taken over on SIGHUP; the others need a restart.\n",
    );
    for (section, about) in SECTIONS {
        out.push('\n');
        comment(&mut out, about);
        let _ = writeln!(out, "[{section}]");
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            let reload = if key.reload { " (reload)" } else { "" };
            let range = key.field.describe();
            out.push('\n');
            comment(
                &mut out,
                &format!("{}\n{}{reload}", key.about, capital(&range)),
            );
            // A name of its own for every node: the host's, unless somebody says otherwise.
            let off = if key.name == "node.name" { "# " } else { "" };
            let _ = writeln!(out, "{off}{} = {}", key.leaf(), key.show(&defaults));
        }
    }
    out
}

/// The tables of `docs/configuration.md`, one a section.
pub fn reference() -> String {
    let defaults = documented();
    let mut out = String::new();
    for (section, about) in SECTIONS {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = write!(out, "### `[{section}]`\n\n{about}\n");
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            let default = match key.name {
                "node.name" => "the host's name".to_owned(),
                _ => format!("`{}`", key.show(&defaults)),
            };
            let _ = write!(out, "\n#### `{}`\n\n{}\n\n", key.name, key.about);
            let _ = writeln!(out, "- Default: {default}");
            let _ = writeln!(out, "- Form: {}", key.field.describe());
            let flag = key
                .flag
                .map(|flag| format!(", flag `{flag}`"))
                .unwrap_or_default();
            let _ = writeln!(out, "- Also: `{}`{flag}", key.variable());
            let _ = writeln!(
                out,
                "- Change: {}",
                if key.reload { "reload" } else { "restart" }
            );
        }
    }
    out
}

/// Paragraphs as comment lines of at most [`COMMENT_COLUMNS`].
fn comment(out: &mut String, text: &str) {
    for paragraph in text.lines() {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.len() + 1 + word.len() > COMMENT_COLUMNS {
                out.push_str(&line);
                out.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(&word.replace('`', ""));
        }
        out.push_str(&line);
        out.push('\n');
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
