use super::*;

const LAYOUT: Layout = Layout { segment_size: 1 << 20 };

/// Frames of 10,000 bytes, ten to a term.
fn filled(count: u64) -> (SparseIndex, Vec<FramePos>) {
    let mut index = SparseIndex::default();
    let mut frames = vec![FramePos::ORIGIN];
    for n in 1..=count {
        let prev = frames[frames.len() - 1];
        let pos = LAYOUT.place(prev.end(), 10_000).at;
        let at = FramePos { index: n, term: n.div_ceil(10), pos, len: 10_000, chain: n as u32 * 7 };
        index.push(&LAYOUT, &prev, at);
        frames.push(at);
    }
    (index, frames)
}

#[test]
fn a_sample_is_never_farther_than_a_stride() {
    let (index, frames) = filled(500);
    assert_eq!(index.segments().count(), 5);
    for at in &frames[1..] {
        let floor = index.floor(at.index).unwrap();
        assert_eq!(floor, frames[floor.index as usize]);
        assert!(floor.index <= at.index && at.pos.0 - floor.pos.0 < STRIDE + 10_000);
        assert_eq!(index.floor_pos(at.pos + 5000), Some(floor));
    }
    assert_eq!(index.floor(0), None);
    assert_eq!(index.last(), Some(frames[500]));
    assert_eq!(index.term_runs(), (0..50).map(|n| (1 + n * 10, 1 + n)).collect::<Vec<_>>());
}

#[test]
fn a_truncated_index_is_the_index_of_the_shorter_log() {
    let (full, frames) = filled(300);
    for keep in [0, 1, 7, 104, 105, 200, 299, 300] {
        let mut cut = full.clone();
        cut.truncate(&frames[keep]);
        assert_eq!(cut, filled(keep as u64).0, "{keep} frames");
    }
}

#[test]
fn a_file_is_read_back_and_anything_else_is_not() {
    let (index, _) = filled(300);
    for segment in index.segments() {
        let bytes = segment.encode(&LAYOUT);
        assert!(bytes.len() as u64 <= idx_len_max(&LAYOUT));
        assert_eq!(SegmentIndex::decode(&bytes, segment.base, &LAYOUT).as_ref(), Some(&**segment));
        assert_eq!(SegmentIndex::decode(&bytes, segment.base + LAYOUT.segment_size, &LAYOUT), None);
        assert_eq!(SegmentIndex::decode(&bytes, segment.base, &Layout { segment_size: 1 << 21 }), None);
        for len in 0..bytes.len() {
            assert_eq!(SegmentIndex::decode(&bytes[..len], segment.base, &LAYOUT), None);
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(SegmentIndex::decode(&bytes, segment.base, &LAYOUT), None);
        }
    }
}

/// A checksum can be right over nonsense; lookups must not be led astray by it.
#[test]
fn contradictions_under_a_right_checksum_are_refused() {
    let (index, _) = filled(100);
    let good = (**index.segment(LogPos(0)).unwrap()).clone();
    let spoilt = |spoil: fn(&mut SegmentIndex)| {
        let mut segment = good.clone();
        spoil(&mut segment);
        SegmentIndex::decode(&segment.encode(&LAYOUT), LogPos(0), &LAYOUT)
    };
    assert!(spoilt(|_| ()).is_some());
    assert_eq!(spoilt(|s| s.samples.clear()), None);
    assert_eq!(spoilt(|s| s.runs.clear()), None);
    assert_eq!(spoilt(|s| s.samples.swap(0, 1)), None);
    assert_eq!(spoilt(|s| s.samples[0].pos = LogPos(8)), None);
    assert_eq!(spoilt(|s| s.last.index = 2), None);
    assert_eq!(spoilt(|s| s.last.pos = LogPos(1 << 20)), None);
    assert_eq!(spoilt(|s| s.runs[1].0 = 0), None);
    assert_eq!(spoilt(|s| s.last.term += 1), None);
    assert_eq!(spoilt(|s| s.prev.index = 5), None);
}
