//! The sample configuration and the reference page against the catalogue of keys.
//!
//! With `TIDINGS_WRITE_REFERENCE=1` in the environment the files are written anew instead.

use std::fs;
use std::path::{Path, PathBuf};

use tidings_agent::{Config, Layers, reference, sample};

const BEGIN: &str = "<!-- keys: made from crates/agent/src/keys.rs -->\n";
const END: &str = "<!-- end of keys -->\n";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// Holds `wanted` against what the file has between `begin` and `end`.
fn hold(path: &str, wanted: &str, cut: impl Fn(&str) -> (String, String, String)) {
    let file = repository(path);
    let text = fs::read_to_string(&file).unwrap_or_default();
    let (before, found, after) = cut(&text);
    if std::env::var_os("TIDINGS_WRITE_REFERENCE").is_some() {
        fs::write(&file, format!("{before}{wanted}{after}")).expect("the file can be written");
        return;
    }
    assert!(
        found == wanted,
        "{path} is not what the keys say; write it anew with \
         TIDINGS_WRITE_REFERENCE=1 cargo test -p tidings-agent --test reference"
    );
}

#[test]
fn the_sample_shows_every_key() {
    hold("deploy/tidings.toml", &sample(), |text| {
        (String::new(), text.to_owned(), String::new())
    });
}

#[test]
fn the_reference_page_shows_every_key() {
    hold("docs/configuration.md", &reference(), |text| {
        let (before, rest) = text.split_once(BEGIN).expect("the page has the mark");
        let (keys, after) = rest.split_once(END).expect("the page has the end mark");
        (
            format!("{before}{BEGIN}"),
            keys.to_owned(),
            format!("{END}{after}"),
        )
    });
}

#[test]
fn the_sample_is_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    fs::write(&file, sample()).unwrap();
    let loaded = Layers::new().path(&file).load().unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, Vec::<String>::new());
}
