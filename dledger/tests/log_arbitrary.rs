//! Recovery meets arbitrary bytes: it may refuse, it may find a log, it must not panic, and it must not change a byte
//! when it refuses.
//!
//! What would break: a node that cannot even say what is wrong with its disk.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

mod log_support;

use std::ops::Range;

use ledgermq_dledger::LogPos;
use ledgermq_dledger::fs::OpenMode;
use ledgermq_dledger::inspect;
use ledgermq_dledger::log::segment::{idx_path, segment_path};
use ledgermq_dledger::log::{Header, Meta, MetaFile, recover};
use log_support::{Bed, Entry, SMALL, append};
use proptest::prelude::*;

/// A log of four segments.
fn bed() -> Bed {
    let (_, bed) = Bed::sim(SMALL);
    let mut writer = bed.open().unwrap();
    let log: Vec<Entry> = (0..22).map(|n| Entry::new(1 + u64::from(n) / 5, vec![n; 2500])).collect();
    for part in log.chunks(9) {
        writer.write(&append(&writer, &bed.layout, part)).unwrap();
        writer.sync().unwrap();
    }
    let meta = writer.meta().clone();
    writer.store_meta(&meta, false).unwrap();
    bed
}

/// Bytes to put somewhere: random ones, or the head of a frame with chosen fields and any checksum.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let header = (any::<u32>(), any::<u64>(), any::<u64>(), 0..70_000u64, any::<u32>(), 0..8u8, any::<u32>()).prop_map(
        |(frame_len, index, term, pos, payload_len, kind, crc)| {
            let kind = ledgermq_dledger::FrameKind::try_from(kind).unwrap_or(ledgermq_dledger::FrameKind::Noop);
            let header = Header {
                frame_len,
                index,
                term,
                pos: LogPos(pos),
                payload_len,
                records: 0,
                kind,
                payload_crc: crc,
                header_crc: crc,
            };
            header.to_bytes().to_vec()
        },
    );
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), header]
}

fn spoil(bed: &Bed, path: &std::path::Path, at: u64, bytes: &[u8]) {
    let file = bed.fs.open(path, OpenMode::ReadWrite).unwrap();
    let at = at.min(file.len().unwrap().saturating_sub(bytes.len() as u64));
    file.write_at(&[bytes], at).unwrap();
    file.sync_data().unwrap();
}

const SEGMENTS: Range<u64> = 0..4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_segments_and_index_files_never_panic(
        spots in proptest::collection::vec((SEGMENTS, 0..SMALL, bytes(), any::<bool>()), 1..6),
    ) {
        let bed = bed();
        for (segment, at, bytes, in_idx) in &spots {
            let base = LogPos(segment * SMALL);
            if *in_idx && *segment < 3 {
                spoil(&bed, &idx_path(&bed.dir, base), at % 300, &bytes[..bytes.len().min(100)]);
            } else {
                spoil(&bed, &segment_path(&bed.dir, base), *at, bytes);
            }
        }
        let before = log_support::segment_bytes(&bed);
        let _ = inspect::verify(&bed.fs, &bed.dir);
        let (_, meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
        let recovered = recover(&bed.fs, &bed.dir, &meta).is_ok();
        prop_assert!(log_support::segment_bytes(&bed) == before, "recovery itself never writes");
        if recovered {
            let writer = bed.open().unwrap();
            prop_assert!(writer.tail().index >= meta.durable.index);
            // Payloads below the durable frame are not read at start: here they may turn out to be bad.
            let _ = writer.view().iter(1).take_while(Result::is_ok).count();
        }
    }

    #[test]
    fn any_meta_content_never_panics(
        segment_size in prop_oneof![Just(SMALL), Just(4 * SMALL), any::<u64>()],
        durable in any::<[u64; 4]>(),
        first in any::<[u64; 3]>(),
        near in any::<bool>(),
        stale in any::<u64>(),
    ) {
        let bed = bed();
        let (_, mut meta) = MetaFile::open(&bed.fs, &bed.dir).unwrap();
        meta.constants.segment_size = segment_size;
        // Either near what the log holds, or anywhere up to the largest number.
        let small = |value: u64, below: u64| if near { value % below } else { u64::MAX - value % 3 * (value >> 2) };
        meta.durable.index = small(durable[0], 30);
        meta.durable.term = small(durable[1], 8);
        meta.durable.pos = LogPos(small(durable[2], 5 * SMALL));
        meta.durable.len = small(durable[3], 5000) as u32;
        meta.first.index = small(first[0], 3);
        meta.first.pos = LogPos(small(first[1], 3) * if near { SMALL } else { 1 });
        meta.first.prev_term = small(first[2], 3);
        meta.stale_until = LogPos(stale);
        spoil(&bed, &bed.dir.join("meta"), 0, &[meta.encode(1000), meta.encode(1001)].concat());
        if let Ok((_, meta)) = MetaFile::open(&bed.fs, &bed.dir) {
            let _ = recover(&bed.fs, &bed.dir, &meta);
        }
    }

    #[test]
    fn any_bytes_never_panic_a_decoder(bytes in bytes(), slot in proptest::collection::vec(any::<u8>(), 0..4200)) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(&header.to_bytes()[..], &bytes[..48]);
            let _ = header.check_payload(&bytes[48..]);
            let _ = header.check_chain(7);
        }
        prop_assert!(Meta::decode(&slot).is_none());
    }
}
