//! Replays messages and a meta slot, with every byte changed in turn, through the fuzzer's law.

mod peer_law;

use bytes::Bytes;
use ledgermq_dledger::log::{GroupConstants, Identity, Member, Meta};
use ledgermq_dledger::transport::codec::{self, PeerMessage};
use ledgermq_dledger::{FrameKind, FramePos, GroupId};
use raft::eraftpb::{Message, MessageType};
use uuid::Uuid;

fn group() -> GroupId {
    GroupId(Uuid::from_u128(7))
}

/// An append with two frames and a heartbeat with a context, as they go over the wire.
fn messages() -> Vec<Vec<u8>> {
    let layout = GroupConstants { segment_size: 1 << 20, format: 1 }.layout();
    let mut frames = Vec::new();
    let mut prev = FramePos::ORIGIN;
    for payload in [&b"first"[..], b""] {
        let (at, header, _) = ledgermq_dledger::log::make_header(
            &layout,
            &prev,
            prev.index + 1,
            3,
            FrameKind::Messages,
            u16::from(!payload.is_empty()),
            payload,
        );
        frames.push(codec::WireFrame { header, payload: Bytes::copy_from_slice(payload) });
        prev = at;
    }
    let mut append = Message { from: 1, to: 2, term: 3, index: 0, commit: 1, ..Message::default() };
    append.set_msg_type(MessageType::MsgAppend);
    let mut beat = Message { from: 1, to: 3, term: 3, context: Bytes::from_static(b"12345678"), ..Message::default() };
    beat.set_msg_type(MessageType::MsgHeartbeat);
    let encoded = |raft, frames| {
        let mut pieces = Vec::new();
        codec::encode(&PeerMessage { group: group(), run: 1, raft, frames, wall_ms: 1_700_000_000_000 }, &mut pieces);
        pieces.concat()[4..].to_vec()
    };
    vec![encoded(append, frames), encoded(beat, Vec::new())]
}

/// A regression here is a panic on a peer's or a disk's bytes.
#[test]
fn messages_and_meta_slots_and_their_mutations_obey_the_law() {
    let identity = Identity { cluster_id: Uuid::nil(), group: group(), replica: Uuid::from_u128(1), raft_id: 1 };
    let members = vec![Member { raft_id: 1, replica: Uuid::from_u128(1) }];
    let meta = Meta::new(identity, GroupConstants { segment_size: 1 << 20, format: 1 }, members);
    let mut samples = messages();
    assert!(samples.iter().all(|sample| codec::decode(Bytes::copy_from_slice(sample)).is_ok()));
    assert!(Meta::decode(&meta.encode(9)).is_some());
    samples.push(meta.encode(9).to_vec());
    for sample in samples {
        peer_law::check(&sample);
        for at in 0..sample.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF, sample[at] ^ 1] {
                let mut mutated = sample.clone();
                mutated[at] = value;
                peer_law::check(&mutated);
            }
            peer_law::check(&sample[..at]);
        }
    }
}
