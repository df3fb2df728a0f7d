//! What a reload takes over.

use crate::config::Config;
use crate::contradictions::contradictions;
use crate::keys::KEYS;

/// The outcome of holding a new configuration against the one that runs.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// What runs from now on: the old one with every changed key that a reload takes over.
    pub(crate) config: Config,
    /// Those keys.
    pub(crate) taken: Vec<&'static str>,
    /// Changed keys that need a restart.
    pub(crate) postponed: Vec<&'static str>,
}

/// Mixes `running` and `wanted`. The error is a sentence: the mixture contradicts itself, as when a
/// token is taken away while the new, local address waits for a restart.
pub(crate) fn mix(running: &Config, wanted: &Config) -> Result<Reloaded, String> {
    let mut reloaded = Reloaded {
        config: running.clone(),
        taken: Vec::new(),
        postponed: Vec::new(),
    };
    for key in KEYS {
        if key.show(running) == key.show(wanted) {
            continue;
        }
        if key.reload {
            key.field.copy(wanted, &mut reloaded.config);
            reloaded.taken.push(key.name);
        } else {
            reloaded.postponed.push(key.name);
        }
    }
    match contradictions(&reloaded.config).first() {
        Some(contradiction) => Err(contradiction.sentence.clone()),
        None => Ok(reloaded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogLevel, RetentionConfig};
    use std::path::PathBuf;

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let running = Config::default();
        let mut wanted = running.clone();
        wanted.log.level = LogLevel::Debug;
        wanted.stream.enabled = false;
        wanted.retention = RetentionConfig {
            frames: Some(5),
            ..running.retention.clone()
        };
        wanted.node.name = "other".to_owned();
        wanted.broker.ring_bytes *= 2;
        let reloaded = mix(&running, &wanted).unwrap();
        assert_eq!(
            reloaded.taken,
            ["stream.enabled", "retention.frames", "log.level"]
        );
        assert_eq!(reloaded.postponed, ["node.name", "broker.ring_bytes"]);
        assert_eq!(reloaded.config.node.name, running.node.name);
        assert_eq!(reloaded.config.log.level, LogLevel::Debug);
        assert_eq!(reloaded.config.retention.frames, Some(5));
    }

    #[test]
    fn every_key_is_taken_or_named() {
        let running = Config::default();
        for key in KEYS {
            let mut wanted = running.clone();
            let other = [
                "true",
                "false",
                "17",
                "200",
                "1KiB",
                "9KiB",
                "3MiB",
                "1GiB",
                "7s",
                "77d",
                "other",
                "127.0.0.1:1",
                "all",
                "debug",
                "json",
            ]
            .into_iter()
            .map(|word| crate::keys::Raw::Word(word.to_owned()))
            .find(|raw| {
                let mut changed = running.clone();
                key.set(&mut changed, raw).is_ok() && key.show(&changed) != key.show(&running)
            })
            .expect(key.name);
            key.set(&mut wanted, &other).unwrap();
            let Ok(reloaded) = mix(&running, &wanted) else {
                continue; // a contradiction with the defaults: tested with the layers
            };
            let (taken, postponed) = if key.reload {
                (vec![key.name], vec![])
            } else {
                (vec![], vec![key.name])
            };
            assert_eq!((reloaded.taken, reloaded.postponed), (taken, postponed));
            assert_eq!(reloaded.config == wanted, key.reload, "{}", key.name);
        }
    }

    #[test]
    fn a_mixture_that_would_expose_the_timeline_is_refused() {
        let mut running = Config::default();
        running.http.address = "0.0.0.0:1".parse().unwrap();
        running.http.token_file = Some(PathBuf::from("/t"));
        // Good by itself; but the address needs a restart.
        let wanted = Config::default();
        let sentence = mix(&running, &wanted).unwrap_err();
        assert!(sentence.contains("no token guards it"), "{sentence}");
    }
}
