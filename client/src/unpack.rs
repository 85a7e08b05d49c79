//! Bodies that their producer compressed: zlib, LZ4 frames, Zstandard. Brokers never look inside, so what comes here may be
//! anything; it is unpacked within bounds of memory.

use std::io::Read;

use flate2::read::ZlibDecoder;
use ledgermq_protocol::message::record::MAX_RECORD_LEN;
use ledgermq_protocol::message::sys_flag::Compression;

/// Largest window of a Zstandard frame: what all levels but the "ultra" ones use, and twice what a body may have.
const ZSTD_WINDOW_MAX: u64 = 32 << 20;

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// A compression that this client does not know.
    #[error("the body is compressed in a way that this client does not know (type {0})")]
    Unknown(i32),
    /// The bytes are not what the message says.
    #[error("the body is no {format} data: {why}")]
    Damaged {
        /// What it should be.
        format: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The body grows past what any message may have.
    #[error("the unpacked body has more than {MAX_RECORD_LEN} bytes")]
    TooLong,
}

/// The plain body.
pub(crate) fn unpack(packed: &[u8], compression: Compression) -> Result<Vec<u8>, UnpackError> {
    match compression {
        Compression::Zlib => read_all("zlib", ZlibDecoder::new(packed)),
        Compression::Lz4 => read_all("LZ4", lz4_flex::frame::FrameDecoder::new(packed)),
        Compression::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW_MAX);
            let decoder = decoder.map_err(|error| UnpackError::Damaged { format: "Zstandard", why: error.to_string() });
            read_all("Zstandard", decoder?)
        }
    }
}

fn read_all(format: &'static str, decoder: impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut plain = Vec::new();
    let read = decoder.take(MAX_RECORD_LEN as u64 + 1).read_to_end(&mut plain);
    read.map_err(|error| UnpackError::Damaged { format, why: error.to_string() })?;
    if plain.len() > MAX_RECORD_LEN { Err(UnpackError::TooLong) } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What the official producer makes of 256 times 'a' in each way; the same bytes are in the protocol's test vectors.
    const OFFICIAL: [(Compression, &str); 3] = [
        (Compression::Lz4, "04224d186070730b0000001f610100e750616161616100000000"),
        (Compression::Zstd, "28b52ffd00584c000010616101007b0a6001010000"),
        (Compression::Zlib, "785e4b4c1cd90000b4506101"),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// A body that cannot be read is a message that is lost to this consumer.
    #[test]
    fn official_bodies_are_read() {
        for (compression, hex) in OFFICIAL {
            assert_eq!(unpack(&bytes(hex), compression).unwrap(), [b'a'; 256], "{compression:?}");
        }
    }

    /// Anything may stand in a body: it must end in an error, never in a panic or in something invented.
    #[test]
    fn damage_is_told() {
        for (compression, hex) in OFFICIAL {
            let good = bytes(hex);
            for len in 0..good.len() / 2 {
                let cut = unpack(&good[..len], compression);
                assert!(!cut.is_ok_and(|plain| plain == [b'a'; 256]), "{compression:?} of {len} bytes");
            }
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut flipped = good.clone();
                    flipped[at] ^= 1 << bit;
                    drop(unpack(&flipped, compression));
                }
            }
            assert!(matches!(unpack(b"garbage", compression), Err(UnpackError::Damaged { .. })), "{compression:?}");
        }
    }

    /// A small body that claims to be huge must not fill the memory.
    #[test]
    fn bombs_end_early() {
        let huge = vec![0; 4 << 20];
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        for _ in 0..8 {
            zlib.write_all(&huge).unwrap();
            lz4.write_all(&huge).unwrap();
        }
        assert_eq!(unpack(&zlib.finish().unwrap(), Compression::Zlib), Err(UnpackError::TooLong));
        assert_eq!(unpack(&lz4.finish().unwrap(), Compression::Lz4), Err(UnpackError::TooLong));
        // Runs of zeros, 128 KiB a block; the last block is marked.
        let mut zstd = bytes("28b52ffd0058");
        for n in 0..256u32 {
            let header = ((128 << 10) << 3) | (1 << 1) | u32::from(n == 255);
            zstd.extend_from_slice(&header.to_le_bytes()[..3]);
            zstd.push(0);
        }
        assert_eq!(unpack(&zstd, Compression::Zstd), Err(UnpackError::TooLong));
    }
}
