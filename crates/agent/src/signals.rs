use std::io;

use futures_util::{Stream, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::layers::{ConfigError, Layers};

/// What the process exits with when a second signal forces it: 128 + SIGINT, as shells have it.
const FORCED_EXIT_CODE: i32 = 130;

/// SIGINT and SIGTERM, which ask for a stop.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Takes the signals from now on.
    ///
    /// # Errors
    ///
    /// When the system does not give them.
    pub fn install() -> io::Result<StopSignals> {
        Ok(StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the first signal. From then on a second one ends the process at once: what was
    /// acknowledged is on disk, so nothing is lost by it.
    pub async fn stop(mut self) {
        let name = self.next().await;
        tracing::info!(signal = name, "stopping; a second signal ends it at once");
        tokio::spawn(async move {
            let name = self.next().await;
            tracing::warn!(signal = name, "ending at once");
            std::process::exit(FORCED_EXIT_CODE);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// SIGHUP, which asks for a reload: the configuration of `layers`, read anew, each time. One that is
/// wrong is told in the log and skipped.
///
/// # Errors
///
/// When the system does not give the signal.
pub fn reloads(layers: Layers) -> io::Result<impl Stream<Item = Config> + Send> {
    let mut hangup = signal(SignalKind::hangup())?;
    let hangups = futures_util::stream::poll_fn(move |cx| hangup.poll_recv(cx));
    Ok(hangups.filter_map(move |()| {
        let config = match layers.load() {
            Ok(loaded) => {
                loaded.log_warnings();
                Some(loaded.config)
            }
            Err(ConfigError::Invalid { problems }) => {
                for problem in problems {
                    tracing::error!(%problem, "the configuration was not reloaded");
                }
                None
            }
            Err(error) => {
                let reason = crate::error_chain(&error);
                tracing::error!(reason, "the configuration was not reloaded");
                None
            }
        };
        std::future::ready(config)
    }))
}
