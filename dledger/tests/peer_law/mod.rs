//! What must hold for any bytes that a peer sends as a message, or that a meta file returns. One function, run by the fuzzer
//! (`fuzz/`) and by the replay beside this folder.

use bytes::Bytes;
use ledgermq_dledger::log::Meta;
use ledgermq_dledger::transport::codec;

/// Checks the laws: no panic; a message that can be read is written so that it is read the same; a meta slot that is taken is the
/// one that would be written.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(message) = codec::decode(Bytes::copy_from_slice(bytes)) {
        let mut pieces = Vec::new();
        codec::encode(&message, &mut pieces);
        let written = pieces.concat();
        let (length, body) = written.split_at(4);
        assert_eq!(u32::from_le_bytes(length.try_into().expect("four bytes")) as usize, body.len());
        assert_eq!(written.len(), message.encoded_len());
        let again = codec::decode(Bytes::copy_from_slice(body)).expect("what we write we can read");
        assert_eq!(again, message);
    }
    if let Some((seq, meta)) = Meta::decode(bytes) {
        let written = meta.encode(seq);
        assert_eq!(Meta::decode(&written), Some((seq, meta)));
    }
}
