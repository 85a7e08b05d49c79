//! The bytes in docs/formats.md are the bytes that we write.
//!
//! What would break: a change of a format that nobody noticed, or a page that tells something else than the code does.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

use ledgermq_dledger::log::frame::{Layout, blank_header, make_header};
use ledgermq_dledger::log::index::SegmentIndex;
use ledgermq_dledger::log::{Doubts, FirstFrame, GroupConstants, Header, Identity, Member, Meta, SparseIndex};
use ledgermq_dledger::snapshot::{Manifest, ManifestFile};
use ledgermq_dledger::{FrameKind, FramePos, GroupId, LogPos, MemberInfo, Membership};
use uuid::Uuid;

const DOC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats.md");

/// The bytes of the block ```` ```hex <name> ````.
fn documented(name: &str) -> Vec<u8> {
    let doc = std::fs::read_to_string(DOC).unwrap();
    let begin = format!("```hex {name}\n");
    let block = doc.split_once(&begin).unwrap_or_else(|| panic!("{name} is not in {DOC}")).1;
    let block = block.split_once("```").unwrap().0;
    block.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

const LAYOUT: Layout = Layout { segment_size: 16 * 1024 };

fn two_frames() -> [(FramePos, Vec<u8>); 2] {
    let (one, header, _) = make_header(&LAYOUT, &FramePos::ORIGIN, 1, 1, FrameKind::Noop, 0, b"");
    let first = (one, header.to_vec());
    let (two, header, _) = make_header(&LAYOUT, &one, 2, 1, FrameKind::Messages, 1, b"ledger");
    [first, (two, [&header[..], b"ledger\0\0"].concat())]
}

#[test]
fn frames_are_as_documented() {
    let [(_, noop), (at, messages)] = two_frames();
    assert_eq!(noop, documented("noop"));
    assert_eq!(messages, documented("messages"));
    let header = Header::decode(&messages).unwrap();
    assert_eq!(header.at(), at);
    assert_eq!(header.check_payload(&messages[48..]), Ok(()));
}

#[test]
fn a_blank_is_as_documented() {
    let placement = LAYOUT.place(LogPos(16_224), 168);
    assert_eq!(placement.at, LogPos(16_384));
    let blank = placement.blank.unwrap();
    assert_eq!(blank_header(blank).unwrap().to_vec(), documented("blank"));
    assert_eq!(
        Header::decode(&documented("blank")).unwrap(),
        Header {
            header_crc: u32::from_le_bytes(*documented("blank").last_chunk().unwrap()),
            ..Header::blank(LogPos(16_224), 160)
        }
    );
}

#[test]
fn a_meta_slot_is_as_documented() {
    let [_, (durable, _)] = two_frames();
    let uuid = |byte: u8| Uuid::from_bytes([byte; 16]);
    let identity = Identity { cluster_id: uuid(0x11), group: GroupId(uuid(0x22)), replica: uuid(0x33), raft_id: 1 };
    let members = vec![Member { raft_id: 1, replica: uuid(0x33) }, Member { raft_id: 2, replica: uuid(0x44) }];
    let constants = GroupConstants { segment_size: 64 * 1024 * 1024, format: 1 };
    let meta = Meta {
        boot_id: uuid(0x55),
        clean_shutdown: true,
        term: 5,
        vote: 2,
        commit_hint: 2,
        durable,
        first: FirstFrame::ORIGIN,
        stale_until: LogPos(4096),
        doubts: Doubts::from_bits(3),
        run: 12,
        generation: 3,
        installing: false,
        ..Meta::new(identity, constants, members)
    };
    let slot = meta.encode(9);
    let documented = documented("meta");
    assert_eq!(slot[..documented.len()], documented);
    let (run, rest) = slot[documented.len()..].split_at(616 - documented.len());
    assert!(run.starts_with(&[0; 336]) && run[336..] == 12u64.to_le_bytes());
    assert!(rest.iter().all(|&byte| byte == 0));
    assert_eq!(Meta::decode(&slot), Some((9, meta)));
}

#[test]
fn an_index_file_is_as_documented() {
    let [(one, _), (two, _)] = two_frames();
    let mut index = SparseIndex::default();
    index.push(&LAYOUT, &FramePos::ORIGIN, one);
    index.push(&LAYOUT, &one, two);
    let segment = index.segment(LogPos(0)).unwrap();
    assert_eq!(segment.encode(&LAYOUT), documented("idx"));
    assert_eq!(SegmentIndex::decode(&documented("idx"), LogPos(0), &LAYOUT).as_ref(), Some(&**segment));
}

#[test]
fn a_manifest_is_as_documented() {
    let [_, (tail, _)] = two_frames();
    let info = |byte: u8, peer: &str, client: &str| MemberInfo {
        replica: Uuid::from_bytes([byte; 16]),
        peer: peer.to_owned(),
        client: client.to_owned(),
    };
    let manifest = Manifest {
        group: GroupId(Uuid::from_bytes([0x22; 16])),
        constants: GroupConstants { segment_size: LAYOUT.segment_size, format: 1 },
        first: FirstFrame::ORIGIN,
        tail,
        membership: Membership {
            voters: vec![1],
            learners: vec![3],
            members: [(1, info(0x33, "p:1", "c:1")), (3, info(0x44, "", ""))].into(),
            highest: 3,
            ..Membership::default()
        },
        files: vec![ManifestFile { name: "kv/CURRENT".to_owned(), from: 0, size: 16, crc: 0x0102_0304 }],
    };
    assert_eq!(manifest.encode().to_vec(), documented("manifest"));
    assert_eq!(Manifest::decode(&documented("manifest")), Ok(manifest.clone()));
    // A name must not lead out of the folder.
    for name in ["../meta", "/etc/passwd", "kv//x", ".", ""] {
        let mut out = manifest.clone();
        out.files[0].name = name.to_owned();
        assert!(Manifest::decode(&out.encode()).is_err(), "{name}");
    }
    // Nor may any damage be taken for a manifest.
    let bytes = documented("manifest");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
        assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
}
