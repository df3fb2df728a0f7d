//! Servers and agents that show each other certificates, as processes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tempfile::TempDir;
use tidings_interop::cluster::{Cluster, ClusterOptions};
use tidings_interop::{Agent, AgentOptions};

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, pem })
    }

    /// Writes a certificate of this authority and its key.
    fn sign(&self, folder: &Path) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["any.example".to_owned()])?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &self.issuer)?;
        std::fs::write(folder.join("cert.pem"), cert.pem())?;
        std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
        Ok(())
    }
}

fn trust(folder: &Path, authorities: &[&Authority]) -> Result<()> {
    let all: String = authorities.iter().map(|it| it.pem.as_str()).collect();
    std::fs::write(folder.join("ca.pem"), all).context("cannot write the authorities")
}

/// The files of whoever has a certificate of an authority, and trusts that one.
fn files(authority: &Authority) -> Result<(TempDir, String)> {
    let folder = tempfile::tempdir()?;
    authority.sign(folder.path())?;
    trust(folder.path(), &[authority])?;
    let file = |name| folder.path().join(name);
    let config = format!(
        "[peers]\ntls_cert = {:?}\ntls_key = {:?}\ntls_ca = {:?}\n",
        file("cert.pem"),
        file("key.pem"),
        file("ca.pem")
    );
    Ok((folder, config))
}

/// One that wants to join the cluster with this configuration, as a server or as an agent.
fn outsider(cluster: &Cluster, config: &str, is_server: bool) -> Result<Agent> {
    let mut arguments = vec!["--node".to_owned(), "outsider".to_owned()];
    for address in cluster.peer_addresses() {
        arguments.extend(["--join".to_owned(), address]);
    }
    if is_server {
        arguments.push("--server".to_owned());
    }
    Agent::launch(AgentOptions {
        config: format!("[http]\ninsecure = true\n{config}"),
        arguments,
        has_peers: is_server,
        ..AgentOptions::default()
    })
}

#[test]
fn servers_and_agents_of_one_authority_work_together_and_others_are_told_why_not() -> Result<()> {
    let authority = Authority::new()?;
    let (folder, config) = files(&authority)?;
    let cluster = Cluster::start(ClusterOptions {
        agents: 1,
        config,
        ..ClusterOptions::default()
    })?;
    let event = |id: &str| format!(r#"{{"Events":[{{"Topic":"T","Type":"t","Id":"{id}"}}]}}"#);
    let index = cluster.agents[0].publish_text(&event("by the agent"))?;
    for server in 0..3 {
        cluster.await_frame(server, index)?;
    }

    let other = Authority::new()?;
    let (_other_folder, foreign) = files(&other)?;
    let not_taken = "its certificate is not taken";
    let plain = "this server speaks TLS with the others: set tls_cert, tls_key and tls_ca";
    for (config, sentence) in [(&*foreign, not_taken), ("", plain)] {
        let agent = outsider(&cluster, config, false)?;
        agent.await_log(sentence, 1)?;
        // it keeps what it takes, and brings it nowhere
        let headers = [("Content-Type", "application/json")];
        let body = event("by an outsider");
        let answer = agent.request("POST", "/v1/events", &headers, body.as_bytes())?;
        ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
    }
    let server = outsider(&cluster, "", true)?;
    server.await_log(plain, 1)?;
    let foreign_server = outsider(&cluster, &foreign, true)?;
    // the members say what they see
    cluster.servers[0].await_log("no TLS came about", 1)?;
    let servers = cluster.servers[0].get_json("/v1/servers")?;
    ensure!(servers["Servers"].as_array().map(Vec::len) == Some(3));
    drop((server, foreign_server));

    // One authority gives way to another while all run: both are trusted, then certificates of the new
    // one are shown, then the old one is trusted no more.
    let mut reloads = 0;
    let mut reload = |cluster: &Cluster| -> Result<()> {
        reloads += 1;
        for agent in cluster.servers.iter().chain(&cluster.agents) {
            agent.signal(Signal::HUP)?;
            agent.await_log("the configuration was reloaded", reloads)?;
        }
        Ok(())
    };
    trust(folder.path(), &[&authority, &other])?;
    reload(&cluster)?;
    other.sign(folder.path())?;
    reload(&cluster)?;
    trust(folder.path(), &[&other])?;
    reload(&cluster)?;
    let newcomer = outsider(&cluster, &foreign, false);
    let mut newcomer = newcomer?;
    newcomer.await_ready()?;
    let index = newcomer.publish_text(&event("by the new one"))?;
    for server in 0..3 {
        cluster.await_frame(server, index)?;
    }
    let (_old_folder, old) = files(&authority)?;
    let old = outsider(&cluster, &old, false)?;
    old.await_log(not_taken, 1)?;

    // What cannot be read changes nothing.
    std::fs::write(folder.path().join("cert.pem"), "none")?;
    cluster.servers[0].signal(Signal::HUP)?;
    cluster.servers[0].await_log("the configuration was not reloaded", 1)?;
    cluster.servers[0].publish_text(&event("after"))?;
    Ok(())
}
