//! `tidings agent`: runs the agent until it is told to stop.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tidings_agent::{Agent, HTTP_ADDRESS_DEFAULT, Layers, Loaded, Logging, StopSignals, reloads};

/// Run the agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// Configuration file, or a directory of which every *.toml is read in the order of names;
    /// may be given several times, later ones win
    #[arg(long, value_name = "FILE or DIR")]
    pub config: Vec<PathBuf>,

    /// Try it out: data in a temporary directory that is removed at a clean exit, and a free port
    /// when the default one is taken
    #[arg(long)]
    pub dev: bool,

    /// Address of the HTTP API; port 0 takes a free one [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,

    /// Where the data is kept [default: /var/lib/tidings]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Hold the timeline together with other servers
    #[arg(long)]
    pub server: bool,

    /// How many servers without data form a cluster once they have met: the same on all of them;
    /// 1 begins alone, and others may join
    #[arg(long, value_name = "N", requires = "server")]
    pub bootstrap_expect: Option<String>,

    /// Peer addresses of some of the servers, which know the rest; may be given several times.
    /// Without --server this agent holds no timeline and relays to them
    #[arg(long, value_name = "HOST:PORT", num_args = 1..)]
    pub join: Vec<String>,

    /// Where a server listens for the others; port 0 takes a free one [default: 127.0.0.1:7481]
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,

    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

impl AgentArgs {
    /// Files, then the environment, then the flags.
    pub fn layers(&self) -> Layers {
        let mut layers = Layers::new().dev(self.dev);
        for path in &self.config {
            layers = layers.path(path);
        }
        layers = layers.environment(std::env::vars_os().filter_map(|(name, value)| {
            // What is not text cannot be ours.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
        for (flag, key, value) in [
            ("--http", "http.address", self.http.clone()),
            ("--data-dir", "node.data_dir", self.data_dir.clone()),
            ("--node", "node.name", self.node.clone()),
            (
                "--server",
                "server.enabled",
                self.server.then(|| "true".to_owned()),
            ),
            (
                "--bootstrap-expect",
                "server.bootstrap_expect",
                self.bootstrap_expect.clone(),
            ),
            ("--peer", "peers.address", self.peer.clone()),
            (
                "--join",
                "peers.join",
                (!self.join.is_empty()).then(|| self.join.join(" ")),
            ),
        ] {
            if let Some(value) = value {
                layers = layers.flag(flag, key, value);
            }
        }
        layers
    }
}

/// Runs the agent; done when it was told to stop.
///
/// # Errors
///
/// When the configuration is wrong, the agent cannot start, or something broke for good.
pub fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let layers = args.layers();
    let loaded = layers.load()?;
    let logging = Logging::install(&loaded.config.log).context("cannot set up the log")?;
    loaded.log_warnings();

    // Requests and streams are short steps that wait for sockets. One core is left to what waits for
    // disks (the log's flusher, reading old history) and has threads of its own, and to the kernel's
    // work for sockets. With two cores that leaves one worker: an event then goes from its
    // connection through the engine to its readers without a change of threads, each of which costs
    // a third of a sync. The scheduler's own intervals stay as they are: a task looks for I/O every
    // 61 steps, and what takes longer in one step yields by itself.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = cores.saturating_sub(1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("tidings")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(args.dev, layers, loaded, logging));
    // The agent has brought everything down that matters; a thread that still reads old history for
    // somebody who is gone is not waited for.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(dev: bool, layers: Layers, loaded: Loaded, logging: Logging) -> anyhow::Result<()> {
    // Before anything is opened: a signal during a long recovery must not leave half a start.
    let stop = StopSignals::install().context("cannot take signals")?;
    let reload = reloads(layers).context("cannot take signals")?;
    let mut shutdown = std::pin::pin!(stop.stop());
    let agent = tokio::select! {
        agent = Agent::start(loaded.config) => agent?.with_logging(logging),
        () = &mut shutdown => return Ok(()),
    };
    greet(&agent, dev);
    let mut progress = std::pin::pin!(agent.progress().fuse());
    let mut running = std::pin::pin!(agent.run(shutdown, reload));
    loop {
        tokio::select! {
            ended = &mut running => return Ok(ended?),
            Some(sentence) = progress.next() => say(&format!("{sentence}\n")),
        }
    }
}

/// A closed standard output is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says what was bound, and under `--dev` what to try.
fn greet(agent: &Agent, dev: bool) {
    let listening = agent.listening();
    let url = format!("http://{}", listening.http);
    let data_dir = agent.data_dir().display();
    let mut text = String::new();
    if dev {
        if let Some(wanted) = agent.gave_way() {
            text.push_str(&format!(
                "{wanted} is taken; using a free port instead.\n\n"
            ));
        }
        // Clients try the default address by themselves.
        let client = if listening.http == HTTP_ADDRESS_DEFAULT {
            "tidings".to_owned()
        } else {
            format!("TIDINGS_ADDR={url} tidings")
        };
        let version = env!("CARGO_PKG_VERSION");
        let node = &listening.node;
        let peers = match listening.peer {
            Some(peer) => format!("  peers {peer}\n"),
            None => String::new(),
        };
        let gone = if agent.is_temporary() {
            " (removed when it stops)"
        } else {
            ""
        };
        text.push_str(&format!(
            "tidings {version}: a server to try things out\n\
             \n\
             \x20 HTTP  {url}\n\
             {peers}\
             \x20 node  {node}\n\
             \x20 data  {data_dir}{gone}\n\
             \n\
             In another terminal, try:\n\
             \n\
             \x20 {client} stream\n\
             \x20 {client} publish Deploy Started --key web --payload '{{\"version\":7}}'\n\
             \x20 {client} status\n\
             \n\
             Ctrl-C stops it.\n"
        ));
    } else {
        let peers = match listening.peer {
            Some(peer) => format!(", for other servers on {peer}"),
            None => String::new(),
        };
        text.push_str(&format!("listening on {url}{peers}, data in {data_dir}\n"));
    }
    say(&text);
}
