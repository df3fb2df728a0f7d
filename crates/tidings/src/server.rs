//! `tidings server`: which servers hold the timeline, and changes of that.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tidings_client::{Client, Server, ServersChanged};

use crate::output::{self, Format, Look, Style, grouped};
use crate::table::table;
use crate::visible::visible;

/// What to do with servers.
#[derive(Debug, Subcommand)]
pub enum ServerVerb {
    /// List the servers that hold the timeline
    #[command(
        after_help = "Example:\n  tidings server list\n  tidings server list --output json | jq -r '.Servers[].Name'"
    )]
    List(ListArgs),
    /// Take a server out for good, such as one that is dead; it can come back with an empty data
    /// directory only
    #[command(after_help = "Example:\n  tidings server remove s3")]
    Remove(NamedArgs),
    /// Let another server lead
    #[command(
        name = "transfer-leader",
        after_help = "Example:\n  tidings server transfer-leader\n  tidings server transfer-leader --to s2"
    )]
    TransferLeader(TransferArgs),
    /// Give a vote to a server that has none: a standby
    #[command(after_help = "Example:\n  tidings server promote s4")]
    Promote(NamedArgs),
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// A table, or the agent's whole answer
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct NamedArgs {
    /// Name or Id of the server, as `tidings server list` shows them
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct TransferArgs {
    /// Name or Id of the server that shall lead [default: the one that has most of the log]
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// Text for eyes, or JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

pub async fn run(verb: ServerVerb, client: Client) -> anyhow::Result<ExitCode> {
    match verb {
        ServerVerb::List(args) => list(&args, &client).await?,
        ServerVerb::Remove(NamedArgs { name, output }) => {
            let changed = client.remove_server(&name).await;
            let changed = changed.with_context(|| format!("cannot remove {name}"))?;
            tell(&format!("{} is removed", visible(&name)), &changed, output)?;
        }
        ServerVerb::Promote(NamedArgs { name, output }) => {
            let changed = client.promote_server(&name).await;
            let changed = changed.with_context(|| format!("cannot promote {name}"))?;
            tell(&format!("{} may vote", visible(&name)), &changed, output)?;
        }
        ServerVerb::TransferLeader(TransferArgs { to, output }) => {
            let changed = client.transfer_leader(to.as_deref()).await;
            let changed = changed.context("cannot let another server lead")?;
            let said = match &changed.leader {
                Some(leader) => format!("{} leads", visible(leader)),
                None => "the leader has handed over".to_owned(),
            };
            tell(&said, &changed, output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs, client: &Client) -> anyhow::Result<()> {
    let servers = client.servers().await.context("cannot list the servers")?;
    let text = match args.output {
        Format::Json => format!("{}\n", serde_json::to_string(&servers)?),
        Format::Text => render(&servers.servers, Look::of_stdout()),
    };
    output::print(&text).context("cannot print the servers")
}

fn tell(said: &str, changed: &ServersChanged, output: Format) -> anyhow::Result<()> {
    let text = match output {
        Format::Json => format!("{}\n", serde_json::to_string(changed)?),
        Format::Text => format!("{said}\n"),
    };
    output::print(&text).context("cannot print the answer")
}

/// A table of servers, by name.
pub fn render(servers: &[Server], look: Look) -> String {
    let or_dash = |text: &str| match text {
        "" => "-".to_owned(),
        text => visible(text).into_owned(),
    };
    let mut servers: Vec<&Server> = servers.iter().collect();
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<Vec<String>> = servers
        .iter()
        .map(|server| {
            let role = visible(&server.role);
            let role = match server.leader {
                true => look.paint(Style::Green, &format!("{role}, leads")),
                false => role.into_owned(),
            };
            let heard = server.last_contact_ms.map(millis_text);
            vec![
                visible(&server.name).into_owned(),
                role,
                or_dash(&server.http),
                or_dash(&server.peer),
                heard.unwrap_or_else(|| "-".to_owned()),
                server.matched.map_or_else(|| "-".to_owned(), grouped),
                or_dash(&server.id),
            ]
        })
        .collect();
    table(
        &["NAME", "ROLE", "HTTP", "PEER", "HEARD OF", "LOG", "ID"],
        &rows,
    )
}

/// A span that is short when all is well.
fn millis_text(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{millis} ms"),
        _ => format!("{} s", grouped(millis / 1000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_table_by_name() {
        let server = |name: &str, leader| Server {
            id: "12".to_owned(),
            name: name.to_owned(),
            peer: "10.0.0.1:7481".to_owned(),
            http: String::new(),
            role: "voter".to_owned(),
            leader,
            last_contact_ms: (!leader).then_some(70_000),
            matched: Some(4711),
        };
        assert_eq!(
            render(
                &[server("s2\u{1b}", false), server("s1", true)],
                Look::PLAIN
            ),
            "NAME      ROLE          HTTP  PEER           HEARD OF  LOG    ID\n\
             s1        voter, leads  -     10.0.0.1:7481  -         4,711  12\n\
             s2\\u{1b}  voter         -     10.0.0.1:7481  70 s      4,711  12\n"
        );
    }
}
