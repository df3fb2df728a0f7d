//! Servers that show each other certificates.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tidings_raft::{PeersTls, Replica, discover};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::cluster::{Cluster, Server, in_time, publish_one};

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// What a server uses that has a certificate of this authority, under any name.
    fn server(&self, name: &str) -> PeersTls {
        self.server_trusting(name, self)
    }

    fn server_trusting(&self, name: &str, trusted: &Authority) -> PeersTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, key) = (cert.pem(), key.serialize_pem());
        PeersTls::from_pem(cert.as_bytes(), key.as_bytes(), trusted.pem.as_bytes()).unwrap()
    }
}

/// Three servers of one authority.
async fn three(authority: &Authority) -> Cluster {
    let mut cluster = Cluster {
        servers: Vec::new(),
        replicas: Vec::new(),
        addresses: Vec::new(),
    };
    for name in ["a", "b", "c"] {
        let server = Server::new(name);
        let first: Vec<String> = cluster.addresses.iter().take(1).cloned().collect();
        let tls = authority.server(&format!("{name}.elsewhere.example"));
        let started = server
            .try_start(3, &first, |peers| peers.tls = Some(tls))
            .await;
        let (replica, address) = started.unwrap();
        cluster.servers.push(server);
        cluster.replicas.push(replica);
        cluster.addresses.push(address);
    }
    for replica in &cluster.replicas {
        in_time("the cluster has formed", replica.ready()).await;
    }
    cluster
}

/// Why nobody is found with these certificates.
async fn not_found(cluster: &Cluster, tls: Option<&PeersTls>) -> String {
    let asked = discover(&cluster.addresses[..1], tls);
    in_time("an answer", asked).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_one_authority_hold_a_timeline_and_nobody_else_is_let_in() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let cluster = three(&ours).await;
    for n in 0..9 {
        publish_one(&cluster.replicas[n % 3], &format!("x{n}")).await;
    }
    cluster.check_one_history().await;
    let found = discover(&cluster.addresses[..1], Some(&ours.server("agent"))).await;
    assert_eq!(found.unwrap().len(), 3);

    // a certificate of another authority, with ours trusted: the servers see through it
    let stranger = theirs.server_trusting("a.elsewhere.example", &ours);
    let refused = not_found(&cluster, Some(&stranger)).await;
    assert!(
        refused.contains("does not take this server's certificate"),
        "{refused}"
    );
    // our certificate, with the other authority trusted: the caller does
    let doubtful = ours.server_trusting("agent", &theirs);
    let refused = not_found(&cluster, Some(&doubtful)).await;
    assert!(
        refused.contains("its certificate is not taken"),
        "{refused}"
    );
    assert!(refused.contains("tls_ca"), "{refused}");
    // none at all
    let refused = not_found(&cluster, None).await;
    assert!(refused.contains("speaks TLS"), "{refused}");
    assert!(refused.contains("tls_cert"), "{refused}");

    // a server without certificates, and one of the other authority, stay outside
    let plain = Server::new("plain");
    let (plain, _) = plain.start(3, &cluster.addresses).await;
    let foreign = Server::new("foreign");
    let started = foreign.try_start(3, &cluster.addresses, |peers| {
        peers.tls = Some(theirs.server("foreign"));
    });
    let (foreign, _) = started.await.unwrap();
    for n in 9..18 {
        publish_one(&cluster.replicas[n % 3], &format!("x{n}")).await;
    }
    let outside = |replica: &Replica| replica.members().is_empty();
    assert!(outside(&plain) && outside(&foreign));
    assert_eq!(cluster.replicas[0].members().len(), 3);
    cluster.check_one_history().await;
    in_time("shutdown", plain.shutdown()).await;
    in_time("shutdown", foreign.shutdown()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_says_so_to_one_that_has_it() {
    let cluster = Cluster::of_three().await;
    let tls = Authority::new().server("agent");
    let refused = not_found(&cluster, Some(&tls)).await;
    assert!(refused.contains("it does not speak TLS"), "{refused}");
    // what it says itself to the first bytes of TLS, for its own log and whoever can read it
    let mut stream = TcpStream::connect(&cluster.addresses[0]).await.unwrap();
    stream.write_all(&[0x16; 64]).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // what was not read of ours may reset the connection behind the answer
    let _ = in_time("an answer", read).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("the other side speaks TLS"), "{answer}");
    cluster.shutdown().await;
}

#[test]
fn files_that_are_none_are_told_apart() {
    let authority = Authority::new();
    let reason = |cert: &[u8], key: &[u8], ca: &[u8]| {
        PeersTls::from_pem(cert, key, ca).unwrap_err().to_string()
    };
    let pem = authority.pem.as_bytes();
    assert!(reason(b"", b"", pem).contains("no certificate in PEM form"));
    assert!(reason(pem, b"", pem).contains("no private key in PEM form"));
    let key = KeyPair::generate().unwrap().serialize_pem();
    let key = key.as_bytes();
    assert!(reason(pem, key, b"").contains("no certificate of the authority"));
    let pair = reason(pem, key, pem);
    assert!(pair.contains("cannot be used together"), "{pair}");
}
