use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
        SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer, ServerName, UnixTime,
            pem::{self, PemObject},
        },
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
};

use super::transport::PeerStream;

/// Encryption between servers, with proof on both sides: each shows a certificate that the
/// cluster's certificate authority has signed.
///
/// The authority is the cluster's door: whoever has a certificate of it may speak as a server, under
/// whatever name the certificate bears. So it should sign for servers, and for agents that look for
/// servers, and for nobody else; certificates need the uses *server* and *client authentication*.
/// Names are not compared: servers are known by the numbers in their data directories, and may move.
///
/// A handle: clones are the same, and [`PeersTls::replace`] changes all of them.
#[derive(Clone)]
pub struct PeersTls {
    ends: Arc<ArcSwap<Ends>>,
}

/// What both ends of a connection use.
struct Ends {
    accept: TlsAcceptor,
    connect: TlsConnector,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read the {what} from {}", path.display())]
    Read {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("no {what} in PEM form was found ({reason})")]
    Pem {
        /// What should be in it.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Key and certificate do not belong together, or are of a kind that is not known here.
    #[error("the certificate and its key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// The certificate of the authority is none.
    #[error("the certificates of the authority cannot be used ({reason})")]
    Authority {
        /// What is wrong with them.
        reason: String,
    },
}

impl PeersTls {
    /// Reads three PEM files: this server's certificate with those between it and the authority's,
    /// its private key, and the certificates of the authority.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read or used.
    pub fn from_files(cert: &Path, key: &Path, ca: &Path) -> Result<PeersTls, TlsError> {
        let read = |what, path: &Path| {
            fs::read(path).map_err(|source| TlsError::Read {
                what,
                path: path.to_owned(),
                source,
            })
        };
        PeersTls::from_pem(
            &read(CERTIFICATE, cert)?,
            &read(KEY, key)?,
            &read(AUTHORITY, ca)?,
        )
    }

    /// As [`PeersTls::from_files`], from what is in them.
    ///
    /// # Errors
    ///
    /// When one of them cannot be used.
    pub fn from_pem(cert: &[u8], key: &[u8], ca: &[u8]) -> Result<PeersTls, TlsError> {
        let cert = certificates(CERTIFICATE, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unreadable(KEY, &error))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(AUTHORITY, ca)? {
            roots.add(root).map_err(|error| TlsError::Authority {
                reason: error.to_string(),
            })?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let versions = &[&rustls::version::TLS13];

        let authority = |error: VerifierBuilderError| TlsError::Authority {
            reason: error.to_string(),
        };
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(authority)?;
        let accept = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(TlsError::Pair)?
            .with_client_cert_verifier(of_clients)
            .with_single_cert(cert.clone(), key.clone_key())
            .map_err(TlsError::Pair)?;

        let of_servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(authority)?;
        let connect = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Pair)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(of_servers)))
            .with_client_auth_cert(cert, key)
            .map_err(TlsError::Pair)?;
        let ends = Ends {
            accept: TlsAcceptor::from(Arc::new(accept)),
            connect: TlsConnector::from(Arc::new(connect)),
        };
        Ok(PeersTls {
            ends: Arc::new(ArcSwap::from_pointee(ends)),
        })
    }

    /// Uses what `other` has for every connection from now on. Those that there are go on.
    pub fn replace(&self, other: &PeersTls) {
        self.ends.store(other.ends.load_full());
    }

    /// Begins as the side that has dialled.
    pub(crate) async fn connect(&self, stream: PeerStream) -> io::Result<PeerStream> {
        let stream = tokio::io::join(stream.reader, stream.writer);
        let connect = self.ends.load().connect.clone();
        let stream = connect.connect(unnamed(), stream).await?;
        Ok(PeerStream::whole(stream))
    }

    /// Begins as the side that was dialled.
    pub(crate) async fn accept(&self, stream: PeerStream) -> io::Result<PeerStream> {
        let stream = tokio::io::join(stream.reader, stream.writer);
        let accept = self.ends.load().accept.clone();
        Ok(PeerStream::whole(accept.accept(stream).await?))
    }
}

impl fmt::Debug for PeersTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // no keys
        f.write_str("PeersTls")
    }
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
const AUTHORITY: &str = "certificate of the authority";

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| unreadable(what, &error))?;
    match found.is_empty() {
        true => Err(unreadable(what, &pem::Error::NoItemsFound)),
        false => Ok(found),
    }
}

fn unreadable(what: &'static str, error: &pem::Error) -> TlsError {
    TlsError::Pem {
        what,
        reason: error.to_string(),
    }
}

/// The name that is asked for: it is not compared.
fn unnamed() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// What went wrong, in words that say what to look at. Others' errors of a connection as they are.
pub(crate) fn reason(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS, and this server does: \
             set tls_cert, tls_key and tls_ca of peers on all servers, or on none"
            .to_owned(),
        Some(rustls::Error::InvalidCertificate(problem)) => format!(
            "its certificate is not taken ({problem}): it must be signed by the authority in tls_ca"
        ),
        Some(rustls::Error::NoCertificatesPresented) => {
            "it shows no certificate: it needs one that is signed by the authority in tls_ca"
                .to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => format!(
            "it does not take this server's certificate ({alert:?}): all servers need certificates \
             of one authority, which is in tls_ca of each"
        ),
        _ => error.to_string(),
    }
}

/// Whether an error of a connection is one of TLS, which says what is wrong.
pub(crate) fn explains(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

/// Checks all of a certificate but the name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // the name comes after everything else
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
