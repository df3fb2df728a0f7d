use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, DataDir};
use crate::contradictions::{contradictions, is_exposed, is_loopback};
use crate::document;
use crate::keys::{KEYS, Key, Raw, SECTIONS, key};
use crate::origin::{Origin, Problem};

/// What the verbs that talk to an agent read; often set where an agent runs, too.
const CLIENT_VARIABLES: [&str; 3] = ["TIDINGS_ADDR", "TIDINGS_TOKEN", "TIDINGS_NAMESPACE"];

/// Where a configuration comes from: defaults, then files, then the environment, then flags. What
/// comes later wins, key by key.
///
/// Loading reads the files anew, so that the same layers serve for a reload.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    paths: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(&'static str, &'static str, String)>,
    dev: bool,
}

/// A configuration that was put together and checked.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is odd but no reason to refuse: one sentence each.
    pub warnings: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory that was named cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was read is wrong. All problems, in the order in which they were read.
    #[error("{}", lines(.problems))]
    Invalid {
        /// At least one.
        problems: Vec<Problem>,
    },
}

impl Layers {
    /// Defaults alone.
    pub fn new() -> Layers {
        Layers::default()
    }

    /// Adds a file, or a directory of which every `*.toml` is taken in the order of names.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Layers {
        self.paths.push(path.into());
        self
    }

    /// Takes the `TIDINGS_…` variables that name a key, and warns of those that name nothing.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Layers {
        self.environment.extend(
            variables
                .into_iter()
                .filter(|(name, _)| name.starts_with("TIDINGS_")),
        );
        self
    }

    /// A key that a flag sets. `flag` is named with its dashes in complaints.
    pub fn flag(mut self, flag: &'static str, key: &'static str, value: String) -> Layers {
        self.flags.push((flag, key, value));
        self
    }

    /// Changes the defaults to those of a trial: data in a fresh temporary directory, and a free
    /// port when the default one is taken. What anybody set explicitly still wins.
    pub fn dev(mut self, dev: bool) -> Layers {
        self.dev = dev;
        self
    }

    /// Reads every layer and checks the whole.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] at the first file that cannot be read; otherwise
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loading = Loading::default();
        for path in &self.paths {
            for file in files_of(path, &mut loading.warnings)? {
                let text = std::fs::read_to_string(&file).map_err(|source| ConfigError::Read {
                    path: file.clone(),
                    source,
                })?;
                let document = document::read(&file, &text);
                let before = loading.problems.len();
                loading.problems.extend(document.problems);
                for setting in document.settings {
                    if let Some(key) = key(setting.name) {
                        loading.set(key, &setting.raw, setting.origin);
                    }
                }
                // A TOML table is ordered by name; a person reads from the top.
                loading.problems[before..].sort_by_key(|problem| problem.origin.line());
            }
        }
        self.load_environment(&mut loading);
        for (flag, name, value) in &self.flags {
            let origin = Origin::Flag((*flag).to_owned());
            match key(name) {
                Some(key) => loading.set(key, &Raw::Word(value.clone()), origin),
                None => loading
                    .problems
                    .push(origin.problem(format!("sets no key: \"{name}\" is unknown"))),
            }
        }
        if self.dev {
            if !loading.origins.contains_key("node.data_dir") {
                loading.config.node.data_dir = DataDir::Temporary;
            }
            loading.config.http.free_port_when_taken =
                !loading.origins.contains_key("http.address");
            loading.config.peers.free_port_when_taken =
                !loading.origins.contains_key("peers.address");
        }
        loading.finish()
    }

    fn load_environment(&self, loading: &mut Loading) {
        for (name, value) in &self.environment {
            if let Some(key) = KEYS.iter().find(|key| key.variable() == *name) {
                loading.set(
                    key,
                    &Raw::Word(value.clone()),
                    Origin::Environment(name.clone()),
                );
            } else if !CLIENT_VARIABLES.contains(&name.as_str()) {
                // Not an error: schedulers put variables of their own beside ours, such as
                // TIDINGS_HTTP_PORT for a service that is named tidings-http.
                let near = document::nearest_key(
                    &name["TIDINGS_".len()..]
                        .to_ascii_lowercase()
                        .replacen('_', ".", 1),
                )
                .and_then(key)
                .map(|key| format!("; did you mean {}?", key.variable()))
                .unwrap_or_default();
                loading
                    .warnings
                    .push(format!("environment variable {name} sets no key{near}"));
            }
        }
    }
}

/// The configuration while its layers are laid.
#[derive(Default)]
struct Loading {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Loading {
    fn set(&mut self, key: &'static Key, raw: &Raw, origin: Origin) {
        match key.set(&mut self.config, raw) {
            Ok(()) => {
                self.origins.insert(key.name, origin);
            }
            Err(sentence) => self.problems.push(origin.problem(sentence)),
        }
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        // Relations between values that are wrong by themselves would be noise.
        if self.problems.is_empty() {
            self.check_whole();
        }
        if self.problems.is_empty() {
            Ok(Loaded {
                config: self.config,
                warnings: self.warnings,
                origins: self.origins,
            })
        } else {
            Err(ConfigError::Invalid {
                problems: self.problems,
            })
        }
    }

    fn check_whole(&mut self) {
        for contradiction in contradictions(&self.config) {
            // Blame what somebody set.
            let blamed = contradiction
                .keys
                .iter()
                .find_map(|key| self.origins.get(key))
                .cloned()
                .unwrap_or(Origin::Default);
            self.problems.push(blamed.problem(contradiction.sentence));
        }
        let http = &self.config.http;
        if is_exposed(http) && http.token_file.is_none() && http.insecure {
            self.warnings.push(format!(
                "http.insecure: everybody who reaches {} may read and publish",
                http.address
            ));
        }
        let Config { server, peers, .. } = &self.config;
        if server.enabled && !is_loopback(peers.address) && peers.tls_cert.is_none() {
            self.warnings.push(format!(
                "peers.address {} without TLS: everybody who reaches it may join the cluster, read \
                 everything and write anything; set peers.tls_cert, peers.tls_key and peers.tls_ca, or \
                 let a firewall admit the other servers alone",
                peers.address
            ));
        }
    }
}

impl Loaded {
    /// The whole configuration as TOML, each value with where it came from as a comment. What it
    /// prints can be read as a configuration file. It holds no secrets: the token stays in its file.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        for (section, _) in SECTIONS {
            if !out.is_empty() {
                out.push('\n');
            }
            let _ = writeln!(out, "[{section}]");
            for key in KEYS.iter().filter(|key| key.section() == *section) {
                let origin = self.origins.get(key.name).unwrap_or(&Origin::Default);
                if key.name == "node.data_dir" && self.config.node.data_dir == DataDir::Temporary {
                    let _ = writeln!(out, "# data_dir: {}", self.config.node.data_dir);
                    continue;
                }
                let line = format!("{} = {}", key.leaf(), key.show(&self.config));
                let _ = writeln!(out, "{line:<40} # {origin}");
            }
        }
        out
    }

    /// Puts the warnings into the log.
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Where the value of `key` (`section.key`) came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A file is itself; a directory is its `*.toml` in the order of names.
fn files_of(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        warnings.push(format!("{} holds no *.toml", path.display()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn invalid(layers: &Layers) -> String {
        match layers.load() {
            Err(error @ ConfigError::Invalid { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("first.toml");
        fs::write(
            &first,
            "[stream]\nbacklog_frames = 1\nheartbeat = \"1s\"\n[node]\nname = \"file\"\n[log]\nlevel = \"warn\"\n",
        )
        .unwrap();
        let drop_ins = dir.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        // In the order of names, whatever the order of writing.
        fs::write(drop_ins.join("20.toml"), "[stream]\nbacklog_frames = 20\n").unwrap();
        fs::write(
            drop_ins.join("10.toml"),
            "[stream]\nbacklog_frames = 10\nheartbeat = \"10s\"\n",
        )
        .unwrap();
        fs::write(drop_ins.join("30.toml.bak"), "not TOML at all").unwrap();

        let loaded = Layers::new()
            .path(&first)
            .path(&drop_ins)
            .environment(env(&[
                ("TIDINGS_NODE_NAME", "environment"),
                ("TIDINGS_LOG_LEVEL", "error"),
                ("TIDINGS_ADDR", "http://127.0.0.1:1"),
                ("HOME", "/root"),
            ]))
            .flag("--node", "node.name", "flag".to_owned())
            .load()
            .unwrap();
        let config = &loaded.config;
        assert_eq!(config.stream.backlog_frames, 20);
        assert_eq!(config.stream.heartbeat.as_secs(), 10);
        assert_eq!(config.node.name, "flag");
        assert_eq!(config.log.level, crate::config::LogLevel::Error);
        assert_eq!(config.stream.enabled, Config::default().stream.enabled);
        assert_eq!(loaded.warnings, Vec::<String>::new());

        assert_eq!(*loaded.origin("stream.enabled"), Origin::Default);
        assert_eq!(
            *loaded.origin("node.name"),
            Origin::Flag("--node".to_owned())
        );
        assert_eq!(
            *loaded.origin("log.level"),
            Origin::Environment("TIDINGS_LOG_LEVEL".to_owned())
        );
        assert_eq!(
            *loaded.origin("stream.heartbeat"),
            Origin::File {
                path: drop_ins.join("10.toml"),
                line: 3,
                column: 1
            }
        );
    }

    #[test]
    fn an_address_beyond_loopback_needs_a_token_or_an_explicit_word() {
        let at = |address: &str| Layers::new().flag("--http", "http.address", address.to_owned());
        for address in [
            "0.0.0.0:7480",
            "[::]:7480",
            "192.0.2.7:1",
            "[::ffff:192.0.2.7]:1",
        ] {
            let sentence = invalid(&at(address));
            assert!(
                sentence.starts_with("flag --http: http.address "),
                "{sentence}"
            );
            assert!(sentence.contains("set http.token_file"), "{sentence}");
            assert!(sentence.contains("http.insecure = true"), "{sentence}");

            let open = at(address).environment(env(&[("TIDINGS_HTTP_INSECURE", "true")]));
            assert_eq!(open.load().unwrap().warnings.len(), 1);
            let guarded = at(address).environment(env(&[("TIDINGS_HTTP_TOKEN_FILE", "/t")]));
            assert_eq!(guarded.load().unwrap().warnings.len(), 0);
        }
        for address in [
            "127.0.0.1:0",
            "127.8.8.8:0",
            "[::1]:0",
            "[::ffff:127.0.0.1]:0",
        ] {
            at(address).load().unwrap();
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_refused_where_they_were_set() {
        let set = |name: &str, value: &str| Layers::new().environment(env(&[(name, value)]));
        assert_eq!(
            invalid(&set("TIDINGS_LIMITS_EVENT_BYTES", "5MiB")),
            "environment TIDINGS_LIMITS_EVENT_BYTES: limits.event_bytes is \"5MiB\" and \
             limits.transaction_bytes is \"4MiB\"; limits.transaction_bytes must be at least as \
             large, because a transaction must be able to hold one event"
        );
        assert!(
            invalid(&set("TIDINGS_BROKER_RING_BYTES", "1MiB"))
                .starts_with("environment TIDINGS_BROKER_RING_BYTES: limits.transaction_bytes is")
        );
        assert!(invalid(&set("TIDINGS_RETENTION_BYTES", "1MiB")).contains("only whole segments"));
        set("TIDINGS_RETENTION_BYTES", "off").load().unwrap();
        set("TIDINGS_LIMITS_EVENT_BYTES", "4MiB").load().unwrap();
    }

    #[test]
    fn environment_variables_that_nearly_name_a_key_are_told() {
        let loaded = Layers::new()
            .environment(env(&[
                ("TIDINGS_HTTP_ADRESS", "x"),
                ("TIDINGS_TOKEN", "x"),
                ("TIDINGS_RETENTON_AGE", "x"),
                ("TIDINGS_QQQQ", "x"),
            ]))
            .load()
            .unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "environment variable TIDINGS_HTTP_ADRESS sets no key; did you mean TIDINGS_HTTP_ADDRESS?",
                "environment variable TIDINGS_RETENTON_AGE sets no key; did you mean TIDINGS_RETENTION_AGE?",
                "environment variable TIDINGS_QQQQ sets no key",
            ]
        );
        assert_eq!(
            invalid(&Layers::new().environment(env(&[("TIDINGS_STREAM_ENABLED", "yes")]))),
            "environment TIDINGS_STREAM_ENABLED: stream.enabled is \"yes\"; it must be true or false"
        );
    }

    #[test]
    fn dev_changes_defaults_and_nothing_that_was_set() {
        let dev = Layers::new().dev(true).load().unwrap().config;
        assert_eq!(dev.node.data_dir, DataDir::Temporary);
        assert!(dev.http.free_port_when_taken);
        let set = Layers::new()
            .dev(true)
            .flag("--data-dir", "node.data_dir", "/d".to_owned())
            .flag("--http", "http.address", "127.0.0.1:9".to_owned())
            .load()
            .unwrap()
            .config;
        assert_eq!(set.node.data_dir, DataDir::At(PathBuf::from("/d")));
        assert!(!set.http.free_port_when_taken);
        assert!(
            !Layers::new()
                .load()
                .unwrap()
                .config
                .http
                .free_port_when_taken
        );
    }

    #[test]
    fn every_problem_of_a_file_is_told_from_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        fs::write(
            &file,
            "[stream]\nheartbeat = 30\n[http]\nadress = 1\n[broker]\nring_bytes = true\n",
        )
        .unwrap();
        let told = invalid(&Layers::new().path(&file));
        let places: Vec<&str> = told
            .lines()
            .map(|line| {
                let line = line.strip_prefix(&format!("{}:", file.display())).unwrap();
                line.split(": ").next().unwrap()
            })
            .collect();
        assert_eq!(places, ["2:1", "4:1", "6:1"]);
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent.toml");
        let error = Layers::new().path(&absent).load().unwrap_err();
        assert!(error.to_string().contains("absent.toml"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        let empty = Layers::new().path(dir.path()).load().unwrap();
        assert_eq!(empty.warnings.len(), 1);
    }

    #[test]
    fn the_explanation_is_a_configuration_with_the_same_meaning() {
        let layers = Layers::new().environment(env(&[
            ("TIDINGS_RETENTION_AGE", "7d"),
            ("TIDINGS_NODE_NAME", "n1"),
        ]));
        let loaded = layers.load().unwrap();
        let explained = loaded.explain();
        assert!(
            explained.contains("age = \"7d\"")
                && explained.contains("# environment TIDINGS_RETENTION_AGE"),
            "{explained}"
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        fs::write(&file, &explained).unwrap();
        assert_eq!(
            Layers::new().path(&file).load().unwrap().config,
            loaded.config
        );
        // A temporary directory has no spelling in a file.
        fs::write(&file, Layers::new().dev(true).load().unwrap().explain()).unwrap();
        Layers::new().path(&file).load().unwrap();
    }
}
