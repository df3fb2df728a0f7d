use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// The agent's own log on standard error, whose level can be changed while it runs.
#[derive(Clone, Debug)]
pub struct Logging {
    levels: reload::Handle<Targets, Registry>,
}

impl Logging {
    /// Makes it the log of this process.
    ///
    /// # Errors
    ///
    /// When the process has one already.
    pub fn install(config: &LogConfig) -> Result<Logging, TryInitError> {
        let (levels, handle) = reload::Layer::new(targets(config.level));
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match config.format {
            // Colours only for a person: a file full of escapes is hard to search.
            LogFormat::Text => lines
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        // The filter stands below the lines: what it drops costs no formatting.
        tracing_subscriber::registry()
            .with(levels)
            .with(lines)
            .try_init()?;
        Ok(Logging { levels: handle })
    }

    /// Changes the lowest level written.
    pub fn set_level(&self, level: LogLevel) {
        if let Err(error) = self.levels.reload(targets(level)) {
            tracing::warn!(%error, "cannot change the log level");
        }
    }
}

/// Our crates at `level`; what we stand on one step quieter, because its info and debug are about
/// itself.
fn targets(level: LogLevel) -> Targets {
    let (ours, others) = match level {
        LogLevel::Error => (Level::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (Level::WARN, LevelFilter::ERROR),
        LogLevel::Info => (Level::INFO, LevelFilter::WARN),
        LogLevel::Debug => (Level::DEBUG, LevelFilter::INFO),
        LogLevel::Trace => (Level::TRACE, LevelFilter::DEBUG),
    };
    Targets::new()
        .with_default(others)
        .with_target("tidings", ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_crates_are_one_step_louder_than_the_rest() {
        let info = targets(LogLevel::Info);
        assert!(info.would_enable("tidings_raft::replica", &Level::INFO));
        assert!(!info.would_enable("tidings_raft::replica", &Level::DEBUG));
        assert!(info.would_enable("hyper", &Level::WARN));
        assert!(!info.would_enable("openraft", &Level::INFO));
        assert!(targets(LogLevel::Trace).would_enable("tidings", &Level::TRACE));
        assert!(!targets(LogLevel::Error).would_enable("tidings_api", &Level::WARN));
    }
}
