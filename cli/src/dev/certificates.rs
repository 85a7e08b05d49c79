//! Certificates of a local cluster with `--tls`: a CA of its own, which no other cluster trusts, and one certificate per node.
//!
//! ```text
//! DIR/tls/ca.pem  ca-key.pem        the CA; its key stays there, so that certificates can be renewed
//! DIR/node-1/peer.pem  peer-key.pem
//! ```

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use ledgermq_broker::config::PeerTlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::plan::{Plan, node_dir};

/// Makes the CA of the cluster in `dir`.
pub(super) fn create_authority(dir: &Path) -> Result<()> {
    let dir = dir.join("tls");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let key = KeyPair::generate().context("cannot make the CA's key")?;
    write(&dir.join("ca-key.pem"), &key.serialize_pem())?;
    write(&dir.join("ca.pem"), &authority(key)?.pem())
}

/// The CA with this key. Its name never changes, so that certificates signed today stand before one written before.
fn authority(key: KeyPair) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "ledgermq dev");
    CertifiedIssuer::self_signed(params, key).context("cannot make the CA")
}

/// Writes a new certificate for a node, over the one that it has: what its config is to say.
pub(super) fn issue(dir: &Path, plan: &Plan, node: u64) -> Result<PeerTlsConfig> {
    let (ca, ca_key) = (dir.join("tls/ca.pem"), dir.join("tls/ca-key.pem"));
    let text = std::fs::read_to_string(&ca_key).with_context(|| {
        format!("cannot read {}: only a cluster that was born with --tls has a CA", ca_key.display())
    })?;
    let key = KeyPair::from_pem(&text).with_context(|| format!("{} is not a key", ca_key.display()))?;
    let authority = authority(key)?;
    let key = KeyPair::generate().context("cannot make a key")?;
    let signed = CertificateParams::new(vec![plan.raft(node).ip().to_string()])?
        .signed_by(&key, &authority)
        .context("cannot sign")?;
    let folder = node_dir(dir, node);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let files = PeerTlsConfig { cert: folder.join("peer.pem"), key: folder.join("peer-key.pem"), ca };
    write(&files.key, &key.serialize_pem())?;
    write(&files.cert, &signed.pem())?;
    Ok(files)
}

/// `ledgermq dev renew-tls`: new certificates for all nodes; those that run take them up by themselves.
pub(super) fn renew(dir: &Path) -> Result<u64> {
    let dir = std::fs::canonicalize(dir).with_context(|| format!("cannot use {}", dir.display()))?;
    let plan = Plan::read(&dir)?.with_context(|| format!("no local cluster was born in {}", dir.display()))?;
    let mut renewed = 0;
    for node in plan.node_ids() {
        issue(&dir, &plan, node)?;
        renewed += 1;
    }
    Ok(renewed)
}

/// Replaces a file as a whole; nobody else may read it.
fn write(path: &Path, text: &str) -> Result<()> {
    let staged = path.with_extension("next");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&staged, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
