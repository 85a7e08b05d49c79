//! TLS between two nodes over loopback: who is met and who is refused, in which words at both ends, and certificates that are
//! replaced while the node runs.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::handshake::Opinion;
use super::tests::{
    GROUP, Node, full_lane, meet, membership, no_gifts, pair, replica, runtime, until, whole_and_in_order,
};
use super::{Lane, Local, LocalGroup, PeerTls, PeerTlsError, PeerTlsFiles, link, listen, tls};
use crate::doorbell::{Doorbell, Inbox};
use crate::raft_loop::LoopEvent;
use crate::seam::Membership;
use crate::types::{GroupId, RaftId};

/// A CA, and a folder for what it signs.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(super) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer, dir: tempfile::tempdir().unwrap() }
    }

    /// Signs a certificate for a host: the PEM texts of it and of its key.
    fn sign(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes the files of a node whose peers have certificates of any of `trusted`, in a folder of that name.
    fn files(&self, node: &str, host: &str, trusted: &[&Authority]) -> PeerTlsFiles {
        let dir = self.dir.path().join(node);
        std::fs::create_dir_all(&dir).unwrap();
        let (cert, key) = self.sign(host);
        let files = PeerTlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem"), ca: dir.join("ca.pem") };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        std::fs::write(&files.ca, trusted.iter().map(|ca| ca.issuer.pem()).collect::<String>()).unwrap();
        files
    }

    pub(super) fn node(&self, name: &str) -> Arc<PeerTls> {
        Arc::new(PeerTls::load(self.files(name, "127.0.0.1", &[self])).unwrap())
    }
}

fn local(cluster: u128, id: RaftId, membership: Arc<Membership>, tls: Option<Arc<PeerTls>>) -> Local {
    let group = LocalGroup { group: GROUP, raft_id: id, replica: replica(id), membership };
    Local::new(Uuid::from_u128(cluster), "127.0.0.1:1".to_owned(), vec![group]).secured(tls)
}

fn node(id: RaftId, tls: Option<Arc<PeerTls>>) -> Local {
    local(1, id, membership(&[1, 2, 3]), tls)
}

fn inbox() -> Inbox<LoopEvent> {
    Inbox::new(crossbeam_channel::unbounded().0, Doorbell::new().unwrap())
}

type Heard = Result<(Option<CertificateDer<'static>>, Opinion), String>;

/// One node dials another one: what each makes of it.
fn introduce(dialer: &Local, acceptor: &Local) -> (Result<(), String>, Heard) {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepts = async {
            let (stream, from) = listener.accept().await.unwrap();
            let welcomed = listen::welcome(stream, from, acceptor, &inbox(), &no_gifts()).await;
            welcomed
                .map(|it| it.expect("no lane for files"))
                .map(|it| (it.certificate, it.opinion))
                .map_err(|error| error.to_string())
        };
        let (dialled, heard) = tokio::join!(link::open(dialer, &address, Lane::Control), accepts);
        (dialled.map(|_| ()).map_err(|error| error.to_string()), heard)
    })
}

#[track_caller]
fn refused(dialer: &Local, acceptor: &Local, words: [&str; 2]) {
    let (dialled, heard) = introduce(dialer, acceptor);
    let (dialled, heard) = (dialled.unwrap_err(), heard.unwrap_err());
    assert!(dialled.contains(words[0]), "the dialer says {dialled:?}, not {:?}", words[0]);
    assert!(heard.contains(words[1]), "the acceptor says {heard:?}, not {:?}", words[1]);
}

/// Sealing and opening must neither lose nor mix anything, nor hold back what no socket will wake the loop for.
#[test]
fn messages_arrive_whole_and_in_order() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let ca = Authority::new("ca");
    let (mut a, mut b) = pair(Some(ca.node("a")), Some(ca.node("b")));
    whole_and_in_order(&mut a, &mut b);
}

/// What is sealed and waits must be bounded too.
#[test]
fn a_lane_that_is_full_drops_and_the_other_goes_on() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let ca = Authority::new("ca");
    let (mut a, mut b) = pair(Some(ca.node("a")), Some(ca.node("b")));
    full_lane(&mut a, &mut b);
}

/// Would break: a stranger that votes, or reads the log.
#[test]
fn who_is_not_of_the_clusters_ca_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.node("good");
    assert_eq!(introduce(&node(1, Some(ours.node("a"))), &node(2, Some(Arc::clone(&good)))).0, Ok(()));
    // Both trust themselves only: the dialer sees a stranger first.
    let stranger = node(1, Some(theirs.node("a")));
    refused(&stranger, &node(2, Some(Arc::clone(&good))), ["not accepted", "does not accept this node"]);
    // It trusts us, and is not trusted.
    let files = theirs.files("b", "127.0.0.1", &[&ours, &theirs]);
    let stranger = node(1, Some(Arc::new(PeerTls::load(files).unwrap())));
    refused(&stranger, &node(2, Some(good)), ["does not accept this node", "not accepted"]);
}

/// Would break: a client that anybody can write.
#[test]
fn who_shows_no_certificate_is_refused() {
    let ca = Authority::new("ca");
    let (acceptor, dialer) = (node(2, Some(ca.node("a"))), ca.node("b"));
    let mut client = rustls::ClientConfig::clone(&dialer.keys().client);
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let dials = async {
            let stream = TcpStream::connect(&address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
            let mut stream = connector.connect(tls::host_of(&address).unwrap(), stream).await.unwrap();
            tls::explain(stream.read_u8().await.unwrap_err()).to_string()
        };
        let accepts = async {
            let (stream, from) = listener.accept().await.unwrap();
            let welcomed = listen::welcome(stream, from, &acceptor, &inbox(), &no_gifts()).await;
            welcomed.map(|_| ()).unwrap_err().to_string()
        };
        let (dialled, heard) = tokio::join!(dials, accepts);
        assert!(dialled.contains("wants a certificate"), "{dialled}");
        assert!(heard.contains("shows no certificate"), "{heard}");
    });
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A cluster that was switched over by half must not fall back to plain, and must say what is wrong, at both ends.
#[test]
fn plain_and_tls_do_not_meet() {
    let ca = Authority::new("ca");
    let (secured, plain) = (node(1, Some(ca.node("a"))), node(2, None));
    refused(&plain, &secured, ["over TLS only: set peer_tls", "does not speak TLS: set peer_tls"]);
    refused(&secured, &plain, ["does not speak TLS: set peer_tls", "speaks TLS and this node does not: set peer_tls"]);
}

/// A certificate must not be good for the replicas of another node, nor a node for another's address.
#[test]
fn a_certificate_counts_for_the_replicas_at_its_host() {
    let ca = Authority::new("ca");
    let at = |peer: &str| {
        let mut members = Membership::clone(&membership(&[1, 2, 3]));
        members.members.get_mut(&1).unwrap().peer = peer.to_owned();
        Arc::new(members)
    };
    let acceptor = |peer: &str| local(1, 2, at(peer), Some(ca.node("acceptor")));
    let dialer = node(1, Some(ca.node("dialer")));
    assert_eq!(introduce(&dialer, &acceptor("127.0.0.1:9")).0, Ok(()));
    let words = "claims to be replica 1 of group 00000000-0000-0000-0000-000000000005, but its certificate does not name the host of";
    refused(&dialer, &acceptor("10.9.9.9:9"), [words, words]);
    refused(&dialer, &acceptor("other.example:9"), [words, words]);
    // And the dialer is as strict: a node of the cluster at another one's address is not given its messages.
    let files = ca.files("elsewhere", "elsewhere.example", &[&ca]);
    let elsewhere = node(2, Some(Arc::new(PeerTls::load(files).unwrap())));
    refused(&dialer, &elsewhere, ["not valid for name", "does not accept this node"]);
    // Who came in behind the log's end is known by the address that it says.
    let files = ca.files("newcomer", "elsewhere.example", &[&ca]);
    let newcomer = node(3, Some(Arc::new(PeerTls::load(files).unwrap())));
    let knows_two =
        local(1, 2, Arc::new(Membership { highest: 2, ..Membership::clone(&membership(&[1, 2])) }), Some(ca.node("x")));
    let words = "says that it is reached at 127.0.0.1:1, but its certificate does not name";
    refused(&newcomer, &knows_two, [words, words]);
}

/// What the handshake refuses in plain it refuses over TLS, with the same words at both ends.
#[test]
fn another_cluster_group_or_replica_is_refused_over_tls() {
    let ca = Authority::new("ca");
    let acceptor = node(2, Some(ca.node("a")));
    let tls = ca.node("b");
    let dialer = |cluster, id| local(cluster, id, membership(&[1, 2, 3]), Some(Arc::clone(&tls)));
    refused(&dialer(9, 1), &acceptor, ["belongs to cluster", "belongs to cluster"]);
    refused(&dialer(1, 2), &acceptor, ["this node's own", "this node's own"]);
    let wiped = LocalGroup { group: GROUP, raft_id: 1, replica: replica(7), membership: membership(&[1, 2, 3]) };
    let wiped = Local::new(Uuid::from_u128(1), "127.0.0.1:1".to_owned(), vec![wiped]).secured(Some(Arc::clone(&tls)));
    refused(&wiped, &acceptor, ["wiped disk", "wiped disk"]);
    let group = GroupId(Uuid::from_u128(6));
    let stray = LocalGroup { group, raft_id: 1, replica: replica(1), membership: membership(&[1, 2, 3]) };
    let stray = Local::new(Uuid::from_u128(1), "127.0.0.1:1".to_owned(), vec![stray]).secured(Some(tls));
    refused(&stray, &acceptor, ["no group of this node", "no group of this node"]);
}

fn first_of(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn replace(from: &PeerTlsFiles, to: &PeerTlsFiles) {
    for (from, to) in [(&from.cert, &to.cert), (&from.key, &to.key), (&from.ca, &to.ca)] {
        std::fs::copy(from, to).unwrap();
    }
}

/// Certificates are replaced in a cluster that serves: the next connection uses the new ones, also those of a new CA, and what is
/// wrong leaves the old ones in use.
#[test]
fn certificates_are_replaced_while_the_node_runs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = old.files("a", "127.0.0.1", &[&old]);
    let dialling = Arc::new(PeerTls::load(files.clone()).unwrap());
    let dialer = node(1, Some(Arc::clone(&dialling)));
    let acceptor = node(2, Some(Arc::new(PeerTls::load(old.files("b", "127.0.0.1", &[&old, &new])).unwrap())));
    let shown = || introduce(&dialer, &acceptor).1.unwrap().0.unwrap();
    assert_eq!(shown(), first_of(&files.cert));
    assert_eq!(dialling.look(None), None, "nothing is new");

    let before = shown();
    replace(&new.files("a", "127.0.0.1", &[&old, &new]), &files);
    assert_eq!(dialling.look(None), None);
    assert_ne!(shown(), before);
    assert_eq!(shown(), first_of(&files.cert));

    // Half of a replacement, then garbage, then another CA's: told once when it lasts, and without effect.
    let before = shown();
    std::fs::write(&files.key, new.sign("127.0.0.1").1).unwrap();
    let first = dialling.look(None).unwrap();
    assert!(matches!(&first, (PeerTlsError::Pair { .. }, false)), "{first:?}");
    assert!(matches!(dialling.look(Some(first)), Some((PeerTlsError::Pair { .. }, true))));
    std::fs::write(&files.cert, "no certificate").unwrap();
    let words = dialling.look(None).unwrap().0.to_string();
    assert!(words.contains("peer_tls.cert") && words.contains(&files.cert.display().to_string()), "{words}");
    replace(&Authority::new("third").files("a", "127.0.0.1", &[&old, &new]), &files);
    assert!(matches!(dialling.look(None), Some((PeerTlsError::Certificate { .. }, false))));
    std::fs::remove_file(&files.ca).unwrap();
    assert!(matches!(dialling.look(None), Some((PeerTlsError::Read { key: "ca", .. }, false))));
    assert_eq!(shown(), before);
}

/// A connection that stands outlives the replacement, and a lost one is made with the new certificates.
#[test]
fn a_connection_outlives_the_certificates_that_it_began_with() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let ca = Authority::new("ca");
    let files = ca.files("a", "127.0.0.1", &[&ca]);
    let tls = Arc::new(PeerTls::load(files.clone()).unwrap());
    let (mut a, mut b) = pair(Some(Arc::clone(&tls)), Some(ca.node("b")));
    replace(&ca.files("next", "127.0.0.1", &[&ca]), &files);
    assert_eq!(tls.look(None), None);
    assert!(a.send(2, 7, &[]));
    until(&mut [&mut a, &mut b], "it arrives", |nodes| nodes[1].got.iter().any(|it| it.raft.index == 7));
    assert!(a.lost.is_empty(), "a connection ended");
    b.forget_connections();
    until(&mut [&mut a], "the loss is told", |nodes| nodes[0].lost.contains(&2));
    meet(&mut a, &mut b);
}

/// Garbage behind a good handshake must end its connection and nothing else.
#[test]
fn what_cannot_be_opened_ends_its_connection() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let ca = Authority::new("ca");
    let (mut a, mut b) = pair(Some(ca.node("a")), Some(ca.node("b")));
    a.lost.clear();
    // As a node that knows the keys no more, or a middle-box.
    a.links.write_raw(2, GROUP, &[0x17, 3, 3, 0, 20, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
    until(&mut [&mut a, &mut b], "the connection ends", |nodes| nodes[0].lost.contains(&2));
    assert!(a.send(2, 6, &[Bytes::from_static(b"x")]), "the other lane goes on");
    meet(&mut a, &mut b);
}

/// Connections that say nothing must not cost without bound.
#[test]
fn strangers_are_counted() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let node = Node::start(1);
    let strangers: Vec<_> =
        (0..listen::STRANGERS_MAX).map(|_| std::net::TcpStream::connect(&node.address).unwrap()).collect();
    let mut one_more = std::net::TcpStream::connect(&node.address).unwrap();
    assert_eq!(one_more.read(&mut [0]).unwrap(), 0, "it is closed");
    assert_eq!(strangers.len(), listen::STRANGERS_MAX);
}
