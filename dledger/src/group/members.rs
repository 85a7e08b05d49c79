//! What an entry that changes the membership says of the members, beside raft-rs's own part: who they are and where they are
//! reached. It travels in the entry's context (docs/formats.md, "Entries"), so that configuration and addresses change at once.

use prost::Message;
use uuid::Uuid;

use crate::seam::{MemberInfo, Membership};
use crate::types::RaftId;

/// Version of the layout.
const VERSION: u32 = 1;

/// Longest address, bytes.
pub const ADDRESS_MAX: usize = 255;

/// Members of one group, learners included.
pub const MEMBERS_MAX: usize = crate::log::meta::BIRTH_MEMBERS_MAX;

#[derive(Clone, PartialEq, Message)]
struct ContextRow {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberRow>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberRow {
    #[prost(uint64, tag = "1")]
    raft_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    replica: Vec<u8>,
    #[prost(string, tag = "3")]
    peer: String,
    #[prost(string, tag = "4")]
    client: String,
}

/// The context that tells of these members.
pub(super) fn encode(members: &[(RaftId, MemberInfo)]) -> Vec<u8> {
    let row = |(raft_id, info): &(RaftId, MemberInfo)| MemberRow {
        raft_id: *raft_id,
        replica: info.replica.as_bytes().to_vec(),
        peer: info.peer.clone(),
        client: info.client.clone(),
    };
    ContextRow { version: VERSION, members: members.iter().map(row).collect() }.encode_to_vec()
}

/// The members that a context tells of; none for an empty one, which raft-rs makes.
pub(super) fn decode(context: &[u8]) -> Result<Vec<(RaftId, MemberInfo)>, String> {
    if context.is_empty() {
        return Ok(Vec::new());
    }
    let row = ContextRow::decode(context).map_err(|error| format!("its table of members is damaged: {error}"))?;
    if row.version != VERSION {
        return Err(format!(
            "its table of members has version {}, this release knows {VERSION}: install the version that the group's leader runs",
            row.version
        ));
    }
    let member = |row: MemberRow| {
        let replica = Uuid::from_slice(&row.replica).map_err(|_| "a replica uuid is not 16 bytes".to_owned())?;
        Ok((row.raft_id, MemberInfo { replica, peer: row.peer, client: row.client }))
    };
    row.members.into_iter().map(member).collect()
}

/// Takes the members that an entry tells of into the new `membership`, whose table still is the old one.
pub(super) fn take_in(membership: &mut Membership, told: Vec<(RaftId, MemberInfo)>) -> Result<(), String> {
    for (raft_id, info) in told {
        if let Some(known) = membership.members.get(&raft_id)
            && known.replica != info.replica
        {
            return Err(format!("it gives number {raft_id} of replica {} to replica {}", known.replica, info.replica));
        }
        membership.members.insert(raft_id, info);
    }
    let ids = membership.ids();
    membership.members.retain(|id, _| ids.contains(id));
    if let Some(unknown) = ids.iter().find(|id| !membership.members.contains_key(id)) {
        return Err(format!("it names member {unknown} and does not say who that is"));
    }
    membership.highest = ids.last().copied().unwrap_or(0).max(membership.highest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(replica: u128, peer: &str) -> MemberInfo {
        MemberInfo { replica: Uuid::from_u128(replica), peer: peer.to_owned(), client: "c:1".to_owned() }
    }

    /// docs/formats.md, "Entries". Would break: a cluster whose nodes run two releases.
    #[test]
    fn golden_bytes() {
        let bytes = encode(&[(4, info(7, "p:1"))]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0801121e08041210000000000000000000000000000000071a03703a312203633a31");
        assert_eq!(decode(&bytes), Ok(vec![(4, info(7, "p:1"))]));
        assert_eq!(decode(&[]), Ok(Vec::new()), "raft-rs leaves a joint configuration by itself");
        assert!(
            decode(&ContextRow { version: 2, members: Vec::new() }.encode_to_vec()).unwrap_err().contains("install")
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    /// Would break: a number that two replicas have had, and a member that nobody could dial.
    #[test]
    fn a_number_belongs_to_one_replica() {
        let mut membership = Membership { voters: vec![1, 2], ..Membership::default() };
        take_in(&mut membership, vec![(1, info(1, "a:1")), (2, info(2, "b:1")), (9, info(9, "gone:1"))]).unwrap();
        assert_eq!(membership.members.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(membership.highest, 2);
        assert!(take_in(&mut membership.clone(), vec![(2, info(3, "b:1"))]).unwrap_err().contains("number 2"));
        membership.learners = vec![5];
        assert!(take_in(&mut membership.clone(), Vec::new()).unwrap_err().contains("who that is"));
        take_in(&mut membership, vec![(5, info(5, "e:1"))]).unwrap();
        membership.learners.clear();
        take_in(&mut membership, Vec::new()).unwrap();
        assert_eq!((membership.members.len(), membership.highest), (2, 5));
        assert!(membership.has_removed(5) && membership.has_removed(3) && !membership.has_removed(6));
    }
}
