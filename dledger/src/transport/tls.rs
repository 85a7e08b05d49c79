//! TLS of peer connections: which certificates count, and whose name a peer may use.
//!
//! Both sides show a certificate that a CA of the cluster has signed; TLS 1.3, nothing older. The name that counts is the host
//! of a node's peer address, which the group's log tells: the dialer asks for the host that it dials, and the acceptor takes a
//! replica's word only from a certificate that names the host at which that replica lives (`handshake.rs`). A node that was
//! broken into can then speak for its own replicas and for no others.
//!
//! The files are read again while the node runs ([`PeerTls::follow`]); connections that stand keep the keys that they began with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::{Resumption, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, InvalidMessage, RootCertStore, ServerConfig};

/// How often the files are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Longest file: a bundle of some hundred certificates.
const FILE_MAX: u64 = 1 << 20;

/// Where a node's certificates lie, all of them PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTlsFiles {
    /// This node's certificate, and those between it and the CA, in this order. It names the host of the node's peer address and may
    /// be used by servers and by clients.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC 1.
    pub key: PathBuf,
    /// The cluster's CA; while it is being replaced, the old and the new one.
    pub ca: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerTlsError {
    /// A file cannot be read.
    #[error("cannot read peer_tls.{key} {path}: {reason}; name a readable PEM file", path = .path.display())]
    Read {
        /// The config's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not belong together, or the key is of an unknown kind.
    #[error("peer_tls.cert {cert} and peer_tls.key {key} cannot be used together: {reason}", cert = .cert.display(), key = .key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The peers would refuse this certificate.
    #[error("peer_tls.cert {cert} does not stand before peer_tls.ca {ca}: {reason}; peers would refuse it, have the CA sign a new one", cert = .cert.display(), ca = .ca.display())]
    Certificate {
        /// The certificate's file.
        cert: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Contents of the three files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// What new connections use.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

/// A node's certificates, as last read.
pub(crate) struct PeerTls {
    files: PeerTlsFiles,
    keys: Mutex<Keys>,
    /// What they were made of.
    used: Mutex<Contents>,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`PeerTlsError`], which names the file and how to mend it.
    pub(crate) fn load(files: PeerTlsFiles) -> Result<PeerTls, PeerTlsError> {
        let contents = read(&files)?;
        let keys = make(&files, &contents)?;
        Ok(PeerTls { files, keys: Mutex::new(keys), used: Mutex::new(contents) })
    }

    /// What a new connection uses.
    pub(super) fn keys(&self) -> Keys {
        self.keys.lock().clone()
    }

    /// Looks at the files for as long as the runtime lives, and has new connections use what is new.
    pub(crate) async fn follow(self: Arc<PeerTls>) {
        let mut seen = None;
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || this.look(seen)).await;
            seen = looked.unwrap_or_default();
        }
    }

    /// One look. What is wrong is told when it is found for the second time in a row, since three files are not replaced in one
    /// step; `seen` is what the last look found wrong, and whether it was told.
    pub(super) fn look(&self, seen: Option<(PeerTlsError, bool)>) -> Option<(PeerTlsError, bool)> {
        let error = match read(&self.files) {
            Ok(contents) if contents == *self.used.lock() => return None,
            Ok(contents) => match make(&self.files, &contents) {
                Ok(keys) => {
                    *self.keys.lock() = keys;
                    *self.used.lock() = contents;
                    tracing::info!(cert = %self.files.cert.display(), "new connections of peers use the new certificates");
                    return None;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        match seen {
            Some((before, told)) if before == error => {
                if !told {
                    tracing::warn!(%error, "the new certificates cannot be used, peers are met with the old ones");
                }
                Some((error, true))
            }
            _ => Some((error, false)),
        }
    }
}

fn read(files: &PeerTlsFiles) -> Result<Contents, PeerTlsError> {
    let read = |key: &'static str, path: &Path| {
        let error = |reason: String| PeerTlsError::Read { key, path: path.to_owned(), reason };
        let size = std::fs::metadata(path).map_err(|found| error(found.to_string()))?.len();
        if size > FILE_MAX {
            return Err(error(format!("it has {size} bytes, more than {FILE_MAX}")));
        }
        std::fs::read(path).map_err(|found| error(found.to_string()))
    };
    Ok(Contents { cert: read("cert", &files.cert)?, key: read("key", &files.key)?, ca: read("ca", &files.ca)? })
}

fn certificates(key: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerTlsError> {
    let error = |reason: String| PeerTlsError::Read { key, path: path.to_owned(), reason };
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|found| error(found.to_string()))?;
    if all.is_empty() { Err(error("there is no certificate in it".to_owned())) } else { Ok(all) }
}

fn make(files: &PeerTlsFiles, contents: &Contents) -> Result<Keys, PeerTlsError> {
    let chain = certificates("cert", &files.cert, &contents.cert)?;
    let bad_ca = |reason: String| PeerTlsError::Read { key: "ca", path: files.ca.clone(), reason };
    let mut roots = RootCertStore::empty();
    for root in certificates("ca", &files.ca, &contents.ca)? {
        roots.add(root).map_err(|error| bad_ca(error.to_string()))?;
    }
    let roots = Arc::new(roots);
    let key = || {
        PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| PeerTlsError::Read {
            key: "key",
            path: files.key.clone(),
            reason: error.to_string(),
        })
    };
    let pair = |error: rustls::Error| PeerTlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    };
    let refused = |reason: String| PeerTlsError::Certificate { cert: files.cert.clone(), ca: files.ca.clone(), reason };

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| bad_ca(error.to_string()))?;
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map_err(|error| refused(error.to_string()))?;

    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key()?)
        .map_err(pair)?;
    // Each connection shows its certificate anew: a resumed one would rest on a check of the past.
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key()?)
        .map_err(pair)?;
    client.resumption = Resumption::disabled();
    Ok(Keys { client: Arc::new(client), server: Arc::new(server) })
}

/// The host of `host:port`, as a name that a certificate may have.
pub(super) fn host_of(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|_| format!("{address:?} has no host that a certificate could name"))
}

/// Whether a certificate names the host of `address`.
///
/// # Errors
/// In words.
pub(super) fn names(certificate: &CertificateDer<'_>, address: &str) -> Result<(), String> {
    let host = host_of(address)?;
    let checked = ParsedCertificate::try_from(certificate).and_then(|parsed| verify_server_name(&parsed, &host));
    checked.map_err(|_| format!("its certificate does not name the host of {address}"))
}

/// Says in words what a failed exchange over TLS means; other errors go through as they are.
pub(super) fn explain(error: io::Error) -> io::Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else { return error };
    let words = match tls {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the peer does not speak TLS: set peer_tls on all nodes or on none".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the peer wants a certificate and got none".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!(
            "the peer does not accept this node over TLS ({alert:?}): peer_tls.cert here must be signed by the CA that is \
             peer_tls.ca there, be valid now, and allow use by clients and servers"
        ),
        rustls::Error::InvalidCertificate(reason) => format!(
            "the peer's certificate is not accepted: {reason}; it must be signed by the CA that is peer_tls.ca here, be valid \
             now, and name the host of the peer's address"
        ),
        rustls::Error::NoCertificatesPresented => "the peer shows no certificate".to_owned(),
        other => format!("TLS with the peer failed: {other}"),
    };
    io::Error::new(io::ErrorKind::PermissionDenied, words)
}
