//! One TOML file: which keys it sets, and where.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::keys::{KEYS, Raw, SECTIONS, key};
use crate::origin::{Origin, Problem};

/// A key that a file sets.
pub(crate) struct Setting {
    /// A name of the catalogue.
    pub(crate) name: &'static str,
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
}

/// What [`read`] found: the settings, and every problem rather than the first alone.
#[derive(Default)]
pub(crate) struct Document {
    pub(crate) settings: Vec<Setting>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads `text`, the content of the file `path`.
pub(crate) fn read(path: &Path, text: &str) -> Document {
    let mut document = Document::default();
    let lines = Lines { path, text };
    let root = match DeTable::parse(text) {
        Ok(root) => root.into_inner(),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            // The parser's sentences may have several lines; one is enough beside a position.
            let sentence = error.message().lines().collect::<Vec<_>>().join(", ");
            document
                .problems
                .push(lines.at(at).problem(format!("not valid TOML: {sentence}")));
            return document;
        }
    };
    for (section, value) in &root {
        let name: &str = section.get_ref();
        let origin = lines.at(section.span().start);
        let known = SECTIONS.iter().any(|(known, _)| *known == name);
        match value.get_ref() {
            DeValue::Table(table) if known => section_keys(&lines, name, table, &mut document),
            DeValue::Table(_) => document.problems.push(origin.problem(with_nearest(
                format!("unknown section [{name}]"),
                nearest_section(name).map(|near| format!("[{near}]")),
            ))),
            _ if known => document.problems.push(origin.problem(format!(
                "\"{name}\" is a section: write [{name}] on a line of its own and its keys below"
            ))),
            _ => document.problems.push(origin.problem(with_nearest(
                format!("unknown key \"{name}\""),
                nearest_key(name).map(|near| format!("\"{near}\"")),
            ))),
        }
    }
    document
}

fn section_keys(lines: &Lines<'_>, section: &str, table: &DeTable<'_>, document: &mut Document) {
    for (leaf, value) in table {
        let name = format!("{section}.{}", leaf.get_ref());
        let origin = lines.at(leaf.span().start);
        match key(&name) {
            Some(key) => document.settings.push(Setting {
                name: key.name,
                raw: raw(value.get_ref()),
                origin,
            }),
            None => document.problems.push(origin.problem(with_nearest(
                format!("unknown key \"{name}\""),
                nearest_key(&name).map(|near| format!("\"{near}\"")),
            ))),
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Number(number.to_string()),
            Err(_) => Raw::Number(number.to_string()),
        },
        DeValue::Boolean(switch) => Raw::Boolean(*switch),
        DeValue::Float(number) => Raw::Number(number.as_str().to_owned()),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(values) => {
            let texts = values.iter().map(|value| match value.get_ref() {
                DeValue::String(text) => Some(text.clone().into_owned()),
                _ => None,
            });
            match texts.collect() {
                Some(texts) => Raw::Texts(texts),
                None => Raw::Other("an array"),
            }
        }
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

// === the nearest known name ===

/// Below this likeness (0 to 1, Damerau-Levenshtein) a suggestion would only mislead.
const LIKENESS_MIN: f64 = 0.5;

/// The known key that is most like `name`, which may lack its section.
pub(crate) fn nearest_key(name: &str) -> Option<&'static str> {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    nearest(KEYS.iter().map(|key| {
        let whole = strsim::normalized_damerau_levenshtein(name, key.name);
        // The right key in the wrong section, or in none.
        let part = 0.9 * strsim::normalized_damerau_levenshtein(leaf, key.leaf());
        (key.name, whole.max(part))
    }))
}

fn nearest_section(name: &str) -> Option<&'static str> {
    nearest(
        SECTIONS
            .iter()
            .map(|(known, _)| (*known, strsim::normalized_damerau_levenshtein(name, known))),
    )
}

fn nearest(candidates: impl Iterator<Item = (&'static str, f64)>) -> Option<&'static str> {
    candidates
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        // Not `max_by`: of equals the first named wins.
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(name, _)| name)
}

fn with_nearest(complaint: String, nearest: Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("{complaint}; did you mean {nearest}?"),
        None => format!("{complaint}; docs/configuration.md lists every key"),
    }
}

// === positions ===

struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Lines<'_> {
    /// Line and column, both from 1, the column in characters, of a byte offset.
    fn at(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of a file, as they are printed.
    fn problems(text: &str) -> Vec<String> {
        read(Path::new("t.toml"), text)
            .problems
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_unknown_key_names_the_nearest_with_its_position() {
        for (text, sentence) in [
            (
                "[http]\nadress = \"x\"\n",
                "t.toml:2:1: unknown key \"http.adress\"; did you mean \"http.address\"?",
            ),
            (
                "# a comment\n\n[stream]\n  backlog_frame = 3",
                "t.toml:4:3: unknown key \"stream.backlog_frame\"; did you mean \"stream.backlog_frames\"?",
            ),
            (
                "[stream]\nheartbeat_ms = 3",
                "t.toml:2:1: unknown key \"stream.heartbeat_ms\"; did you mean \"stream.heartbeat\"?",
            ),
            (
                "[node]\naddress = \"x\"",
                "t.toml:2:1: unknown key \"node.address\"; did you mean \"peers.address\"?",
            ),
            (
                "data_dir = \"/tmp\"",
                "t.toml:1:1: unknown key \"data_dir\"; did you mean \"node.data_dir\"?",
            ),
            (
                "[htpp]\naddress = \"x\"",
                "t.toml:1:2: unknown section [htpp]; did you mean [http]?",
            ),
            (
                "http.adress = 1",
                "t.toml:1:6: unknown key \"http.adress\"; did you mean \"http.address\"?",
            ),
            (
                "[http.address_of]\nport = 1",
                "t.toml:1:7: unknown key \"http.address_of\"; did you mean \"http.address\"?",
            ),
            (
                "[zzzzqqqq]\nx = 1",
                "t.toml:1:2: unknown section [zzzzqqqq]; docs/configuration.md lists every key",
            ),
            (
                "http = 3",
                "t.toml:1:1: \"http\" is a section: write [http] on a line of its own and its keys below",
            ),
        ] {
            assert_eq!(problems(text), [sentence], "{text}");
        }
    }

    #[test]
    fn broken_toml_is_told_with_its_position() {
        for text in [
            "[http]\naddress = ",
            "[http]\naddress = \"x",
            "[http]\nx = 1\nx = 2",
        ] {
            let all = problems(text);
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains(": not valid TOML: "), "{all:?}");
            assert!(all[0].starts_with("t.toml:"), "{all:?}");
            assert!(!all[0].contains('\n'), "{all:?}");
        }
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(
            problems("x = \"ä\"\n\"ö\".y = 1")[1],
            "t.toml:2:1: unknown section [ö]; docs/configuration.md lists every key"
        );
    }

    #[test]
    fn values_keep_their_type() {
        let document = read(
            Path::new("t.toml"),
            "[http]\nconnections_max = 1_000\ninsecure = true\naddress = \"x\"\nwrite_stall = 0x10\n",
        );
        let raws: Vec<&Raw> = document.settings.iter().map(|s| &s.raw).collect();
        assert!(raws.contains(&&Raw::Number("1000".to_owned())));
        assert!(raws.contains(&&Raw::Boolean(true)));
        assert!(raws.contains(&&Raw::Text("x".to_owned())));
        assert!(raws.contains(&&Raw::Number("16".to_owned())));
        for (array, raw) in [
            (
                "[\"a\", \"b\"]",
                Raw::Texts(vec!["a".to_owned(), "b".to_owned()]),
            ),
            ("[\"a\", 1]", Raw::Other("an array")),
        ] {
            let document = read(Path::new("t.toml"), &format!("peers.join = {array}"));
            assert_eq!(document.settings[0].raw, raw);
        }
    }
}
