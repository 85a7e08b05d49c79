//! What must hold of any bytes that lie in a segment file. Shared with the fuzz target `log_frame`, so it stands on the
//! public interface alone.

use std::path::Path;
use std::sync::Arc;

use ledgermq_dledger::fs::{Fs, OpenMode};
use ledgermq_dledger::log::segment::{LOG_DIR, SegmentSupply, segment_path};
use ledgermq_dledger::log::{
    GroupConstants, Header, Identity, Layout, LogWriter, Meta, MetaFile, Recovered, TailState, make_header, recover,
};
use ledgermq_dledger::sim::disk::SimFs;
use ledgermq_dledger::{FrameKind, FramePos, GroupId, LogPos};
use uuid::Uuid;

/// Bytes of a segment here; two of them make up the log.
const SEGMENT: usize = 16 * 1024;

/// Recovers a log of two segments that begin with `image`, behind a meta file that knows of nothing durable.
///
/// # Panics
/// When recovery panics, changes a byte, finds frames that are not the ones that would be made of their content, or
/// when a log that was mended is not clean and the same at the next start.
pub(crate) fn check(image: &[u8]) {
    decode(image);
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let dir = Path::new("/g");
    let identity = Identity { cluster_id: Uuid::nil(), group: GroupId(Uuid::nil()), replica: Uuid::nil(), raft_id: 1 };
    let meta = Meta::new(identity, GroupConstants { segment_size: SEGMENT as u64, format: 1 }, Vec::new());
    MetaFile::create(&fs, dir, &meta).unwrap();
    fs.create_dir_all(&dir.join(LOG_DIR)).unwrap();
    let mut log = image[..image.len().min(2 * SEGMENT)].to_vec();
    log.resize(2 * SEGMENT, 0);
    for (n, segment) in log.chunks(SEGMENT).enumerate() {
        let path = segment_path(dir, LogPos((n * SEGMENT) as u64));
        fs.open(&path, OpenMode::CreateNew).unwrap().write_at(&[segment], 0).unwrap();
    }

    let (meta_file, meta) = MetaFile::open(&fs, dir).unwrap();
    let Recovered { tail, .. } = match recover(&fs, dir, &meta) {
        Ok(recovered) => recovered,
        Err(error) => panic!("two small segments are never a hole longer than a job: {error}"),
    };
    assert_eq!(bytes(&fs, dir), log, "recovery changed a byte");
    let layout = meta.constants.layout();
    let supply = SegmentSupply::inline(&fs, dir, layout).unwrap();
    let recovered = recover(&fs, dir, &meta).unwrap();
    let writer = LogWriter::open(&fs, dir, meta_file, meta, recovered, supply).unwrap();

    let mended = bytes(&fs, dir);
    let mut prev = FramePos::ORIGIN;
    for frame in writer.view().iter(1) {
        let frame = frame.unwrap();
        let (at, header, _) =
            make_header(&layout, &prev, frame.at.index, frame.at.term, frame.kind, frame.records, &frame.payload);
        assert_eq!(at, frame.at);
        let begin = at.pos.0 as usize;
        assert_eq!(mended[begin..begin + header.len()], header);
        prev = at;
    }
    assert_eq!(prev, tail);
    let recycled = check_behind_the_tail(&layout, &log, &mended, tail.end());
    drop(writer);
    let (_, meta) = MetaFile::open(&fs, dir).unwrap();
    let again = recover(&fs, dir, &meta).unwrap();
    assert_eq!(again.tail, tail);
    // Old bytes whose last whole header went with a torn job look like the rest of one: zeroed then, and no doubt.
    let expected: &[TailState] = if recycled { &[TailState::Clean, TailState::TornTail] } else { &[TailState::Clean] };
    assert!(expected.contains(&again.tail_state), "{:?} at the next start", again.tail_state);
}

/// Behind the tail lie zeros, or what a segment that is used again held before: that stays, but nothing of it, or of a
/// torn job, may ever be taken for a frame of this log. Returns whether there was such a segment.
fn check_behind_the_tail(layout: &Layout, log: &[u8], mended: &[u8], end: LogPos) -> bool {
    let headers = |bytes: &[u8]| -> Vec<(u64, Header)> {
        let places = (end.0..(2 * SEGMENT) as u64).step_by(8);
        places.filter_map(|at| Some((at, Header::decode(&bytes[at as usize..]).ok()?))).collect()
    };
    let segment = SEGMENT as u64;
    let recycled =
        headers(log).iter().any(|(at, header)| header.pos.0 < *at && (at - header.pos.0).is_multiple_of(segment));
    if !recycled {
        assert!(mended[end.0 as usize..].iter().all(|&byte| byte == 0), "something is left behind the tail");
    }
    for (at, header) in headers(mended) {
        let fits = u64::from(header.frame_len) <= (segment - at % segment).min(u64::from(layout.max_frame_len()));
        let at_home = header.kind != FrameKind::Blank && header.pos.0 == at && fits;
        assert!(at == end.0 || !at_home, "the frame at {at} is left behind the tail");
    }
    recycled
}

fn decode(image: &[u8]) {
    if let Ok(header) = Header::decode(image) {
        assert_eq!(header.to_bytes(), image[..48]);
        // Either answer is right; neither may panic.
        let _ = header.check_payload(&image[48..]);
        let _ = header.check_chain(0);
    }
}

fn bytes(fs: &Arc<dyn Fs>, dir: &Path) -> Vec<u8> {
    let mut log = vec![0; 2 * SEGMENT];
    for (n, segment) in log.chunks_mut(SEGMENT).enumerate() {
        let path = segment_path(dir, LogPos((n * SEGMENT) as u64));
        fs.open(&path, OpenMode::Read).unwrap().read_at(segment, 0).unwrap();
    }
    log
}
