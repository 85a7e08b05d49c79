//! The first exchange on a peer connection: each side says which replicas it is, and both refuse strangers.
//!
//! ```text
//! dialer:   magic 4 | version u8 | 0 0 0 | u32 length | Hello, protobuf | u32 crc32c of all that
//! acceptor: u8 0 = welcome, 1 = refused | u16 length | Welcome, protobuf; or the reason, UTF-8
//! ```
//! Over TLS all that is inside it. A wrong cluster, group, raft id or replica identity is refused in words: two nodes with one id, or a wiped disk
//! under its old id, must never be heard. A replica that was removed from its group is told so, and not heard either; other
//! groups of its node are. Later releases add fields to the two messages; the version changes only when that is not enough.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::{Certificate, Lane, Local, tls};
use crate::log::frame::payload_crc;
use crate::types::{GroupId, RaftId};

const MAGIC: [u8; 4] = *b"LMP\x01";
const VERSION: u8 = 2;
/// Bytes up to the message.
const FIXED_LEN: usize = 4 + 4 + 4;
/// Groups that a node may host: ten are meant (raft-log.md 3.6).
const GROUPS_MAX: usize = 64;
/// Longest message: 64 groups take about 4 KiB.
const HELLO_LEN_MAX: usize = 64 << 10;
const REASON_MAX: usize = 512;
/// First byte of a connection over TLS.
pub(super) const TLS_HANDSHAKE: u8 = 22;
/// How long, and how much, a refused peer is listened to so that it gets the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;
/// A peer that has not said who it is by then is cut off.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Says who dials.
#[derive(Clone, PartialEq, Message)]
struct HelloRow {
    /// 0 control, 1 bulk.
    #[prost(uint32, tag = "1")]
    lane: u32,
    #[prost(bytes = "vec", tag = "2")]
    cluster_id: Vec<u8>,
    /// Drawn at each start.
    #[prost(bytes = "vec", tag = "3")]
    run_id: Vec<u8>,
    /// `host:port` at which the dialer hears peers.
    #[prost(string, tag = "4")]
    address: String,
    #[prost(message, repeated, tag = "5")]
    replicas: Vec<ReplicaRow>,
}

#[derive(Clone, PartialEq, Message)]
struct ReplicaRow {
    #[prost(bytes = "vec", tag = "1")]
    group: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    replica: Vec<u8>,
    #[prost(uint64, tag = "3")]
    raft_id: u64,
}

/// What the acceptor says to a dialer whom it hears.
#[derive(Clone, PartialEq, Message)]
struct WelcomeRow {
    /// Groups from which the dialer's replica was removed: it is not heard there.
    #[prost(message, repeated, tag = "1")]
    removed: Vec<ReplicaRow>,
}

/// What a dialer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(super) lane: u32,
    pub(super) cluster_id: Uuid,
    pub(super) run_id: Uuid,
    pub(super) address: String,
    pub(super) replicas: Vec<(GroupId, Uuid, RaftId)>,
}

/// What an acceptor thinks of a dialer that it hears.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Opinion {
    /// Groups from which the dialer's replica was removed, with the acceptor's number there.
    pub(super) removed: Vec<(GroupId, RaftId)>,
    /// Replicas that the acceptor's log does not know yet: they may have come in behind its end.
    pub(super) unknown: Vec<(GroupId, RaftId)>,
}

impl Hello {
    fn of(local: &Local, lane: Lane) -> Hello {
        let groups = local.groups.lock();
        let replicas = groups.iter().map(|group| (group.group, group.replica, group.raft_id));
        Hello {
            lane: lane as u32,
            cluster_id: local.cluster_id,
            run_id: local.run_id,
            address: local.address.clone(),
            replicas: replicas.collect(),
        }
    }

    fn encode(&self) -> BytesMut {
        let row = |(group, replica, raft_id): &(GroupId, Uuid, RaftId)| ReplicaRow {
            group: group.0.as_bytes().to_vec(),
            replica: replica.as_bytes().to_vec(),
            raft_id: *raft_id,
        };
        let body = HelloRow {
            lane: self.lane,
            cluster_id: self.cluster_id.as_bytes().to_vec(),
            run_id: self.run_id.as_bytes().to_vec(),
            address: self.address.clone(),
            replicas: self.replicas.iter().map(row).collect(),
        }
        .encode_to_vec();
        let mut out = BytesMut::with_capacity(FIXED_LEN + body.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_bytes(0, 3);
        out.put_u32_le(u32::try_from(body.len()).expect("a node has few groups"));
        out.extend_from_slice(&body);
        let crc = payload_crc(&out);
        out.put_u32_le(crc);
        out
    }

    fn decode(body: &[u8]) -> Result<Hello, &'static str> {
        let row = HelloRow::decode(body).map_err(|_| "the handshake cannot be decoded")?;
        if row.replicas.len() > GROUPS_MAX {
            return Err("too many groups");
        }
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).map_err(|_| "a uuid is not 16 bytes");
        let replicas = row
            .replicas
            .iter()
            .map(|it| Ok((GroupId(uuid(&it.group)?), uuid(&it.replica)?, it.raft_id)))
            .collect::<Result<_, &'static str>>()?;
        Ok(Hello {
            lane: row.lane,
            cluster_id: uuid(&row.cluster_id)?,
            run_id: uuid(&row.run_id)?,
            address: row.address,
            replicas,
        })
    }

    /// What the acceptor thinks of this peer, by what it has applied, and by the certificate that it has shown: that has to name
    /// the host at which each of its replicas lives.
    ///
    /// # Errors
    /// Why the peer must not be heard at all, in words.
    pub(super) fn opinion(&self, local: &Local, certificate: Option<&Certificate>) -> Result<Opinion, String> {
        assert_eq!(certificate.is_some(), local.tls.is_some(), "who is met over TLS has shown a certificate");
        if self.cluster_id != local.cluster_id {
            return Err(format!("it belongs to cluster {}, this node to {}", self.cluster_id, local.cluster_id));
        }
        let groups = local.groups.lock();
        let mut opinion = Opinion::default();
        for (group, replica, raft_id) in &self.replicas {
            let Some(ours) = groups.iter().find(|ours| ours.group == *group) else {
                continue;
            };
            if *raft_id == ours.raft_id {
                return Err(format!("it claims raft id {raft_id} of group {group}, which is this node's own"));
            }
            let membership = &ours.membership;
            match membership.members.get(raft_id) {
                Some(member) if member.replica != *replica => {
                    return Err(format!(
                        "replica {raft_id} of group {group} has identity {replica}, the group knows it as {}: a wiped disk \
                         rejoins under a new raft id",
                        member.replica
                    ));
                }
                Some(member) => {
                    // An address that the log does not tell is the one that the peer names.
                    let lives = if member.peer.is_empty() { &self.address } else { &member.peer };
                    let named = certificate.map_or(Ok(()), |certificate| tls::names(certificate, lives));
                    named.map_err(|reason| {
                        format!("it claims to be replica {raft_id} of group {group}, but {reason}")
                    })?;
                }
                None if membership.has_removed(*raft_id) => opinion.removed.push((*group, ours.raft_id)),
                None => {
                    let named = certificate.map_or(Ok(()), |certificate| tls::names(certificate, &self.address));
                    named.map_err(|reason| format!("it says that it is reached at {}, but {reason}", self.address))?;
                    opinion.unknown.push((*group, *raft_id));
                }
            }
        }
        if !self.replicas.iter().any(|(group, _, _)| groups.iter().any(|ours| ours.group == *group)) {
            return Err(
                "it has a replica of no group of this node: groups of one cluster have the same id on all nodes"
                    .to_owned(),
            );
        }
        Ok(opinion)
    }
}

/// Says who we are on a fresh connection and waits for the welcome. Returns the groups from which this node's replica was
/// removed, with the number of who says so.
pub(super) async fn dial(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    local: &Local,
    lane: Lane,
) -> io::Result<Vec<(GroupId, RaftId)>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    stream.write_all(&Hello::of(local, lane).encode()).await?;
    stream.flush().await?;
    let verdict = stream.read_u8().await?;
    let mut body = vec![0; usize::from(stream.read_u16_le().await?)];
    stream.read_exact(&mut body).await?;
    if verdict != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, String::from_utf8_lossy(&body).into_owned()));
    }
    let welcome = WelcomeRow::decode(&body[..]).map_err(|_| bad("the welcome cannot be decoded"))?;
    let told = |row: ReplicaRow| Ok((GroupId(Uuid::from_slice(&row.group).map_err(|_| bad("no uuid"))?), row.raft_id));
    welcome.removed.into_iter().take(GROUPS_MAX).map(told).collect()
}

/// Hears who dials, and welcomes or refuses it.
pub(super) async fn accept(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    local: &Local,
    certificate: Option<&Certificate>,
) -> io::Result<(Hello, Opinion)> {
    let heard = read(stream).await;
    let judged = match &heard {
        Ok(hello) => hello.opinion(local, certificate),
        Err(error) => Err(error.to_string()),
    };
    let body = match &judged {
        Ok(opinion) => {
            let row = |(group, by): &(GroupId, RaftId)| ReplicaRow {
                group: group.0.as_bytes().to_vec(),
                replica: Vec::new(),
                raft_id: *by,
            };
            WelcomeRow { removed: opinion.removed.iter().map(row).collect() }.encode_to_vec()
        }
        Err(reason) => reason.as_bytes()[..reason.len().min(REASON_MAX)].to_vec(),
    };
    answer(stream, judged.is_err(), &body).await?;
    match judged {
        Ok(opinion) => Ok((heard?, opinion)),
        Err(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
    }
}

/// Tells a peer that speaks in plain why a node which speaks TLS does not hear it.
pub(super) async fn refuse_plain(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Error {
    let reason = "this node hears peers over TLS only: set peer_tls on all nodes";
    let told = match read(stream).await {
        Ok(_) => answer(stream, true, reason.as_bytes()).await,
        Err(error) => Err(error),
    };
    told.err().unwrap_or_else(|| {
        io::Error::new(io::ErrorKind::PermissionDenied, "it does not speak TLS: set peer_tls there too")
    })
}

/// An answer, of which a refusal is waited for until the peer has taken it: a socket that is closed with bytes unread in it may take
/// back what it has sent.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), refused: bool, body: &[u8]) -> io::Result<()> {
    let mut answer = BytesMut::with_capacity(3 + body.len());
    answer.put_u8(u8::from(refused));
    answer.put_u16_le(u16::try_from(body.len()).expect("an answer is short"));
    answer.extend_from_slice(body);
    stream.write_all(&answer).await?;
    stream.flush().await?;
    if refused {
        linger(stream).await;
    }
    Ok(())
}

/// Reads what a refused peer still says until it goes, for a bounded time and number of bytes.
pub(super) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut rest = stream.take(LINGER_BYTES);
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed).await?;
    if fixed[0] == TLS_HANDSHAKE {
        return Err(bad("the peer speaks TLS and this node does not: set peer_tls on all nodes or on none"));
    }
    if fixed[..4] != MAGIC {
        return Err(bad("not a LedgerMQ peer"));
    }
    if fixed[4] != VERSION {
        return Err(bad("another version of the peer protocol: run the same release on all nodes"));
    }
    let len = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]) as usize;
    if len > HELLO_LEN_MAX {
        return Err(bad("the handshake is too long"));
    }
    let mut rest = vec![0; len + 4];
    stream.read_exact(&mut rest).await?;
    let mut whole = BytesMut::from(&fixed[..]);
    whole.extend_from_slice(&rest[..len]);
    if payload_crc(&whole).to_le_bytes() != rest[len..] {
        return Err(bad("checksum of the handshake does not match"));
    }
    Hello::decode(&rest[..len]).map_err(bad)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::LocalGroup;
    use super::*;
    use crate::seam::{MemberInfo, Membership};

    const GROUP: GroupId = GroupId(Uuid::from_u128(5));

    /// Members 1, 2 and 4; 3 was removed.
    fn local(cluster: u128) -> Local {
        let member = |raft_id: RaftId| {
            (raft_id, MemberInfo { replica: Uuid::from_u128(u128::from(raft_id) * 11), ..MemberInfo::default() })
        };
        let membership = Membership {
            voters: vec![1, 2, 4],
            members: [1, 2, 4].map(member).into(),
            highest: 4,
            ..Membership::default()
        };
        let groups = vec![LocalGroup {
            group: GROUP,
            raft_id: 1,
            replica: Uuid::from_u128(11),
            membership: Arc::new(membership),
        }];
        Local::new(Uuid::from_u128(cluster), "a:1".to_owned(), groups)
    }

    fn hello(cluster: u128, raft_id: RaftId, replica: u128) -> Hello {
        Hello {
            lane: 0,
            cluster_id: Uuid::from_u128(cluster),
            run_id: Uuid::from_u128(98),
            address: "b:2".to_owned(),
            replicas: vec![(GROUP, Uuid::from_u128(replica), raft_id)],
        }
    }

    /// A node of another cluster, two nodes with one id, or a wiped disk under its old id would vote twice.
    #[test]
    fn strangers_are_refused_in_words() {
        let local = local(1);
        assert_eq!(hello(1, 2, 22).opinion(&local, None), Ok(Opinion::default()));
        assert!(hello(2, 2, 22).opinion(&local, None).unwrap_err().contains("cluster"));
        assert!(hello(1, 1, 11).opinion(&local, None).unwrap_err().contains("own"));
        assert!(hello(1, 2, 23).opinion(&local, None).unwrap_err().contains("wiped"));
    }

    /// Would break: a removed replica that goes on disturbing, and a new member that a late one never hears.
    #[test]
    fn a_removed_replica_is_told_and_a_new_one_is_heard() {
        let local = local(1);
        let removed = hello(1, 3, 33).opinion(&local, None).unwrap();
        assert_eq!((removed.removed, removed.unknown), (vec![(GROUP, 1)], vec![]));
        let new = hello(1, 5, 55).opinion(&local, None).unwrap();
        assert_eq!((new.removed, new.unknown), (vec![], vec![(GROUP, 5)]));
    }

    /// docs/formats.md, "Peer handshake".
    #[test]
    fn golden_bytes() {
        let hello = hello(1, 2, 22);
        let bytes = hello.encode();
        assert_eq!(&bytes[..12], b"LMP\x01\x02\x00\x00\x00\x51\x00\x00\x00");
        assert_eq!(&bytes[12..16], [0x12, 16, 0, 0], "lane 0 is not written, the cluster comes first");
        assert_eq!(bytes.len(), 12 + 0x51 + 4);
        assert_eq!(Hello::decode(&bytes[12..bytes.len() - 4]), Ok(hello));
    }
}
