//! The ROCKETMQ binary header: fixed fields, the remark, the fields. Big-endian.
//!
//! ```text
//! i16 code | u8 language | i16 version | i32 opaque | i32 flag | i32 n, n bytes remark | i32 m, m bytes fields
//! a field: i16 n, n bytes name | i32 m, m bytes value
//! ```
//!
//! The format cannot tell an empty text from an absent one, so empty remarks and values are read as absent and not written.

use bytes::{BufMut, BytesMut};

use super::command::{Language, RemotingCommand};
use super::ext_fields::ExtFields;
use super::frame::{EncodeError, HeaderError, Rejected};
use super::request_code::RequestCode;

/// Request codes beyond 16 bits, which arrive cut to their low 16. None of the cut values is a code of its own, so requests
/// are mapped back.
const CUT_CODES: [i32; 8] = [
    RequestCode::POP_MESSAGE,
    RequestCode::ACK_MESSAGE,
    RequestCode::PEEK_MESSAGE,
    RequestCode::CHANGE_MESSAGE_INVISIBLETIME,
    RequestCode::NOTIFICATION,
    RequestCode::POLLING_INFO,
    RequestCode::POP_ROLLBACK,
    RequestCode::BATCH_ACK_MESSAGE,
];

/// Fields of a send. More cost a reallocation.
const TYPICAL_FIELDS: usize = 16;

pub(super) fn decode(header: &[u8], command: &mut RemotingCommand) -> Result<(), Rejected> {
    let mut rest = header;
    if header.len() < 13 {
        let error = HeaderError::Length { what: "fixed part", len: 13 };
        return Err(Rejected { error, opaque_known: false });
    }
    let mut fixed = |n: usize| {
        let (taken, left) = rest.split_at(n);
        rest = left;
        taken.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte))
    };
    let code = i32::from(fixed(2) as u16 as i16);
    command.language = Language::from_byte(fixed(1) as u8);
    command.version = i32::from(fixed(2) as u16 as i16);
    command.opaque = fixed(4) as i32;
    command.flag = fixed(4) as i32;
    command.code = if command.is_response() { code } else { widen(code) };
    decode_texts(rest, command).map_err(|error| Rejected { error, opaque_known: true })
}

fn decode_texts(mut rest: &[u8], command: &mut RemotingCommand) -> Result<(), HeaderError> {
    let remark = take_i32_sized(&mut rest, "remark")?;
    if !remark.is_empty() {
        command.remark = Some(as_utf8(remark, "remark")?.to_owned());
    }
    // A header may end after the remark: the fields' length is then absent, as in some old peers.
    if rest.is_empty() {
        return Ok(());
    }
    let mut fields = take_i32_sized(&mut rest, "extFields")?;
    if !rest.is_empty() {
        return Err(HeaderError::Length { what: "rest after the extFields", len: rest.len() as i64 });
    }
    command.ext = ExtFields::with_capacity(TYPICAL_FIELDS, fields.len());
    while !fields.is_empty() {
        let name = take_i16_sized(&mut fields, "a field name")?;
        let value = take_i32_sized(&mut fields, "a field value")?;
        if name.is_empty() || value.is_empty() {
            continue;
        }
        command.ext.try_insert(as_utf8(name, "a field name")?, as_utf8(value, "a field value")?)?;
    }
    Ok(())
}

fn take_i32_sized<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], HeaderError> {
    let Some((len, after)) = rest.split_first_chunk::<4>() else {
        return Err(HeaderError::Length { what, len: 4 });
    };
    take(rest, after, i64::from(i32::from_be_bytes(*len)), what)
}

fn take_i16_sized<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], HeaderError> {
    let Some((len, after)) = rest.split_first_chunk::<2>() else {
        return Err(HeaderError::Length { what, len: 2 });
    };
    take(rest, after, i64::from(i16::from_be_bytes(*len)), what)
}

fn take<'a>(rest: &mut &'a [u8], after: &'a [u8], len: i64, what: &'static str) -> Result<&'a [u8], HeaderError> {
    let text = usize::try_from(len).ok().and_then(|n| after.split_at_checked(n));
    let Some((text, left)) = text else { return Err(HeaderError::Length { what, len }) };
    *rest = left;
    Ok(text)
}

fn as_utf8<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, HeaderError> {
    std::str::from_utf8(bytes).map_err(|_| HeaderError::NotUtf8 { what })
}

pub(super) fn encode(command: &RemotingCommand, dst: &mut BytesMut) -> Result<(), EncodeError> {
    let code = command.code as i16;
    let read_back = if command.is_response() { i32::from(code) } else { widen(i32::from(code)) };
    if read_back != command.code {
        return Err(EncodeError::CodeNotBinary(command.code));
    }
    dst.put_i16(code);
    dst.put_u8(command.language.byte());
    dst.put_i16(command.version.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16);
    dst.put_i32(command.opaque);
    dst.put_i32(command.flag);
    put_i32_sized(command.remark.as_deref().unwrap_or(""), dst);

    let fields_len_at = dst.len();
    dst.put_i32(0);
    for (name, value) in command.ext.iter().filter(|(name, value)| !name.is_empty() && !value.is_empty()) {
        let Ok(len) = i16::try_from(name.len()) else { return Err(EncodeError::NameTooLong { len: name.len() }) };
        dst.put_i16(len);
        dst.put_slice(name.as_bytes());
        put_i32_sized(value, dst);
    }
    // Lengths past 31 bits cannot occur: `ExtFields` is bounded far below, and the caller refuses a header over its limit.
    let fields_len = (dst.len() - fields_len_at - 4) as i32;
    dst[fields_len_at..fields_len_at + 4].copy_from_slice(&fields_len.to_be_bytes());
    Ok(())
}

fn put_i32_sized(text: &str, dst: &mut BytesMut) {
    dst.put_i32(text.len() as i32);
    dst.put_slice(text.as_bytes());
}

/// The code that a 16-bit request code stands for.
fn widen(code: i32) -> i32 {
    CUT_CODES.into_iter().find(|full| i32::from(*full as i16) == code).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Java client with binary headers cuts 200050 to 3442; without the way back POP would look like an unknown request.
    #[test]
    fn cut_codes_come_back() {
        assert_eq!(widen(3442), 200_050);
        assert_eq!(widen(3543), 200_151);
        assert_eq!(widen(310), 310);
        for full in CUT_CODES {
            assert_eq!(RequestCode::name(i32::from(full as i16)), None, "{full} cut is a code of its own");
        }
    }
}
