//! The bytes of a drill message: they say who it is, and every one of them is predictable, so that a reader notices a
//! single changed byte without asking anybody.

use super::history::Identity;

/// First bytes of every body.
const MAGIC: &[u8; 4] = b"LMQD";

/// Bytes in front of the filler: magic, run, key, seq.
const HEADER_LEN: usize = 4 + 8 + 4 + 8;

/// Smallest body that can carry an identity.
pub(crate) const BODY_LEN_MIN: usize = HEADER_LEN;

/// The body of one message, `len` bytes long (at least [`BODY_LEN_MIN`]).
pub(crate) fn encode(id: Identity, len: usize) -> Vec<u8> {
    assert!(len >= BODY_LEN_MIN, "a drill body of {len} bytes cannot carry its identity");
    let mut body = Vec::with_capacity(len + 8);
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&id.run.to_be_bytes());
    body.extend_from_slice(&id.key.to_be_bytes());
    body.extend_from_slice(&id.seq.to_be_bytes());
    let mut state = filler_seed(id);
    while body.len() < len {
        state = next_filler(state);
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(len);
    body
}

/// Who a body says it is; `None` unless every byte is what [`encode`] makes.
pub(crate) fn decode(body: &[u8]) -> Option<Identity> {
    let header = body.get(..HEADER_LEN)?;
    if &header[..4] != MAGIC {
        return None;
    }
    let id = Identity {
        run: u64::from_be_bytes(header[4..12].try_into().ok()?),
        key: u32::from_be_bytes(header[12..16].try_into().ok()?),
        seq: u64::from_be_bytes(header[16..24].try_into().ok()?),
    };
    let mut state = filler_seed(id);
    for chunk in body[HEADER_LEN..].chunks(8) {
        state = next_filler(state);
        if chunk != &state.to_le_bytes()[..chunk.len()] {
            return None;
        }
    }
    Some(id)
}

fn filler_seed(id: Identity) -> u64 {
    id.run ^ (u64::from(id.key) << 32).wrapping_add(id.seq).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One step of splitmix64: every 8 bytes of filler depend on all that identifies the message.
fn next_filler(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Identity = Identity { run: 0x0123_4567_89ab_cdef, key: 63, seq: 4_000_000_000 };

    /// Would break: telling who a message is.
    #[test]
    fn a_body_names_its_message() {
        for len in [BODY_LEN_MIN, BODY_LEN_MIN + 3, 1024] {
            let body = encode(ID, len);
            assert_eq!(body.len(), len);
            assert_eq!(decode(&body), Some(ID));
        }
    }

    /// Would break: noticing one wrong byte in what a consumer got.
    #[test]
    fn any_changed_byte_is_noticed() {
        let good = encode(ID, 256);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_ne!(decode(&bad), Some(ID), "byte {at}");
        }
        assert_eq!(decode(&good[..10]), None);
        assert_eq!(decode(b""), None);
    }
}
