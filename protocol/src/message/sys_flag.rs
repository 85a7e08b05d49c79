//! The bits of a message's system flag: set by producers (compression, transaction) and by the broker (address families).

/// The body is compressed. The broker never touches the body either way.
pub const COMPRESSED: i32 = 0x1;
/// The message has several tags (legacy).
pub const MULTI_TAGS: i32 = 0x2;
/// Mask of the transaction state.
pub const TRANSACTION_MASK: i32 = 0xC;
/// Half message, waiting for its transaction's end.
pub const TRANSACTION_PREPARED: i32 = 0x4;
/// Message of a committed transaction.
pub const TRANSACTION_COMMIT: i32 = 0x8;
/// Message of a rolled-back transaction.
pub const TRANSACTION_ROLLBACK: i32 = 0xC;
/// The born host is an IPv6 address: 20 bytes in the record instead of 8.
pub const BORN_HOST_V6: i32 = 0x10;
/// The store host is an IPv6 address.
pub const STORE_HOST_V6: i32 = 0x20;
/// The record holds a batch that the client unwraps.
pub const NEED_UNWRAP: i32 = 0x40;
/// The record holds an inner batch.
pub const INNER_BATCH: i32 = 0x80;
/// Mask of the compression type.
pub const COMPRESSION_TYPE_MASK: i32 = 0x700;

/// How a compressed body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1950. Type bits 0 (old clients) or 3.
    Zlib,
    /// LZ4 frame format.
    Lz4,
    /// A standard Zstandard frame.
    Zstd,
}

/// The compression that `sys_flag` announces: `Ok(None)` for a plain body, `Err` with the type bits when they are unknown.
pub fn compression(sys_flag: i32) -> Result<Option<Compression>, i32> {
    if sys_flag & COMPRESSED == 0 {
        return Ok(None);
    }
    match (sys_flag & COMPRESSION_TYPE_MASK) >> 8 {
        0 | 3 => Ok(Some(Compression::Zlib)),
        1 => Ok(Some(Compression::Lz4)),
        2 => Ok(Some(Compression::Zstd)),
        unknown => Err(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Old clients send 0x1, new ones 0x301, and both mean zlib.
    #[test]
    fn both_zlib_spellings() {
        assert_eq!(compression(0x1), Ok(Some(Compression::Zlib)));
        assert_eq!(compression(0x301), Ok(Some(Compression::Zlib)));
        assert_eq!(compression(0x101), Ok(Some(Compression::Lz4)));
        assert_eq!(compression(0x201), Ok(Some(Compression::Zstd)));
        assert_eq!(compression(0x300), Ok(None));
        assert_eq!(compression(0x701), Err(7));
    }
}
