//! The first exchange on a peer connection: each side says which replicas it is, and both refuse strangers.
//!
//! ```text
//! dialer:   magic 4 | version u8 | lane u8 | group count u16 | cluster uuid 16 | run uuid 16
//!           | per group: group uuid 16, replica uuid 16, raft id u64 | crc32c u32
//! acceptor: u8 0 = welcome, 1 = refused | u16 length | reason, UTF-8
//! ```
//! A wrong cluster, group, raft id or replica identity is refused in words: two nodes with one id, or a wiped disk
//! under its old id, must never be heard.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::{Lane, Local};
use crate::log::frame::payload_crc;
use crate::log::meta::Member;
use crate::types::{GroupId, RaftId};

const MAGIC: [u8; 4] = *b"LMP\x01";
const VERSION: u8 = 1;
const FIXED_LEN: usize = 4 + 1 + 1 + 2 + 16 + 16;
const GROUP_LEN: usize = 16 + 16 + 8;
/// Groups that a node may host: ten are meant (raft-log.md 3.6).
const GROUPS_MAX: usize = 64;
const REASON_MAX: usize = 512;
/// A peer that has not said who it is by then is cut off.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// A group that lives on this node.
#[derive(Debug, Clone)]
pub(crate) struct LocalGroup {
    pub(crate) group: GroupId,
    pub(crate) raft_id: RaftId,
    pub(crate) replica: Uuid,
    /// Members whose identity is known from the group's birth.
    pub(crate) members: Vec<Member>,
}

/// What a dialer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) lane: u8,
    pub(super) cluster_id: Uuid,
    pub(super) run_id: Uuid,
    pub(super) replicas: Vec<(GroupId, Uuid, RaftId)>,
}

impl Hello {
    fn of(local: &Local, lane: Lane) -> Hello {
        let replicas = local.groups.iter().map(|group| (group.group, group.replica, group.raft_id));
        Hello { lane: lane as u8, cluster_id: local.cluster_id, run_id: local.run_id, replicas: replicas.collect() }
    }

    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(FIXED_LEN + self.replicas.len() * GROUP_LEN + 4);
        out.extend_from_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.lane);
        out.put_u16_le(u16::try_from(self.replicas.len()).expect("checked against GROUPS_MAX at start"));
        out.extend_from_slice(self.cluster_id.as_bytes());
        out.extend_from_slice(self.run_id.as_bytes());
        for (group, replica, raft_id) in &self.replicas {
            out.extend_from_slice(group.0.as_bytes());
            out.extend_from_slice(replica.as_bytes());
            out.put_u64_le(*raft_id);
        }
        let crc = payload_crc(&out);
        out.put_u32_le(crc);
        out
    }

    /// What is wrong with this peer; `None` when it may be heard.
    fn objection(&self, local: &Local) -> Option<String> {
        if self.cluster_id != local.cluster_id {
            return Some(format!("it belongs to cluster {}, this node to {}", self.cluster_id, local.cluster_id));
        }
        for (group, replica, raft_id) in &self.replicas {
            let Some(ours) = local.groups.iter().find(|ours| ours.group == *group) else {
                continue;
            };
            if *raft_id == ours.raft_id {
                return Some(format!("it claims raft id {raft_id} of group {group}, which is this node's own"));
            }
            let born = ours.members.iter().find(|member| member.raft_id == *raft_id);
            if born.is_some_and(|member| member.replica != *replica) {
                return Some(format!(
                    "replica {raft_id} of group {group} has identity {replica}, not the one that the group was born \
                     with: a wiped disk rejoins under a new raft id"
                ));
            }
        }
        None
    }
}

/// Says who we are on a fresh connection and waits for the welcome.
pub(super) async fn dial(stream: &mut TcpStream, local: &Local, lane: Lane) -> io::Result<()> {
    stream.write_all(&Hello::of(local, lane).encode()).await?;
    let verdict = stream.read_u8().await?;
    let len = usize::from(stream.read_u16_le().await?).min(REASON_MAX);
    let mut reason = vec![0; len];
    stream.read_exact(&mut reason).await?;
    if verdict == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, String::from_utf8_lossy(&reason).into_owned()))
}

/// Hears who dials, and welcomes or refuses it.
pub(super) async fn accept(stream: &mut TcpStream, local: &Local) -> io::Result<Hello> {
    let hello = read(stream).await;
    let objection = match &hello {
        Ok(hello) => hello.objection(local),
        Err(error) => Some(error.to_string()),
    };
    let mut reason = objection.clone().unwrap_or_default();
    reason.truncate(REASON_MAX);
    let mut answer = BytesMut::with_capacity(3 + reason.len());
    answer.put_u8(u8::from(objection.is_some()));
    answer.put_u16_le(reason.len() as u16);
    answer.extend_from_slice(reason.as_bytes());
    stream.write_all(&answer).await?;
    match objection {
        None => hello,
        Some(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Hello> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed).await?;
    if fixed[..4] != MAGIC {
        return Err(bad("not a LedgerMQ peer"));
    }
    if fixed[4] != VERSION {
        return Err(bad("another version of the peer protocol: run the same release on all nodes"));
    }
    let count = usize::from(u16::from_le_bytes([fixed[6], fixed[7]]));
    if count > GROUPS_MAX {
        return Err(bad("too many groups"));
    }
    let mut rest = vec![0; count * GROUP_LEN + 4];
    stream.read_exact(&mut rest).await?;
    let mut whole = BytesMut::from(&fixed[..]);
    whole.extend_from_slice(&rest);
    let crc_at = whole.len() - 4;
    if payload_crc(&whole[..crc_at]).to_le_bytes() != whole[crc_at..] {
        return Err(bad("checksum of the handshake does not match"));
    }
    let mut take = &rest[..];
    let uuid = |take: &mut &[u8]| {
        let mut bytes = [0; 16];
        take.copy_to_slice(&mut bytes);
        Uuid::from_bytes(bytes)
    };
    let replicas = (0..count).map(|_| (GroupId(uuid(&mut take)), uuid(&mut take), take.get_u64_le())).collect();
    let mut head = &fixed[8..];
    Ok(Hello { lane: fixed[5], cluster_id: uuid(&mut head), run_id: uuid(&mut head), replicas })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(cluster: u128, replica: u128) -> Local {
        let member = |raft_id, replica| Member { raft_id, replica: Uuid::from_u128(replica) };
        Local {
            cluster_id: Uuid::from_u128(cluster),
            run_id: Uuid::from_u128(99),
            groups: vec![LocalGroup {
                group: GroupId(Uuid::from_u128(5)),
                raft_id: 1,
                replica: Uuid::from_u128(replica),
                members: vec![member(1, 11), member(2, 22)],
            }],
        }
    }

    fn hello(cluster: u128, raft_id: RaftId, replica: u128) -> Hello {
        Hello {
            lane: 0,
            cluster_id: Uuid::from_u128(cluster),
            run_id: Uuid::from_u128(98),
            replicas: vec![(GroupId(Uuid::from_u128(5)), Uuid::from_u128(replica), raft_id)],
        }
    }

    /// A node of another cluster, two nodes with one id, or a wiped disk under its old id would vote twice.
    #[test]
    fn strangers_are_refused_in_words() {
        let local = local(1, 11);
        assert_eq!(hello(1, 2, 22).objection(&local), None);
        assert!(hello(2, 2, 22).objection(&local).unwrap().contains("cluster"));
        assert!(hello(1, 1, 11).objection(&local).unwrap().contains("own"));
        assert!(hello(1, 2, 23).objection(&local).unwrap().contains("wiped"));
    }

    /// docs/formats.md, "Peer handshake".
    #[test]
    fn golden_bytes() {
        let bytes = hello(1, 2, 22).encode();
        assert_eq!(&bytes[..8], b"LMP\x01\x01\x00\x01\x00");
        assert_eq!(bytes.len(), FIXED_LEN + GROUP_LEN + 4);
        assert_eq!(bytes[23], 1);
        assert_eq!(bytes[FIXED_LEN + 32], 2);
    }
}
