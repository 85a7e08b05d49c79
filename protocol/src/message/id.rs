//! The two ids of a message, both upper-case hex.
//!
//! * The *offset id* is made by the broker: `ip (4|16) port (i32) physical offset (i64)`, 32 or 56 digits. It leads to the record.
//! * The *unique key* is made by the producer: `ip (4|16) pid (2) hash (4) ms since the month began (4) counter (2)`, 32 or 56
//!   digits. Nothing but its uniqueness matters to a broker.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// Digits of an id made from an IPv4 address.
pub const ID_LEN_V4: usize = 32;
/// Digits of an id made from an IPv6 address.
pub const ID_LEN_V6: usize = 56;

/// A text that is no offset id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// Neither [`ID_LEN_V4`] nor [`ID_LEN_V6`] digits.
    #[error("message id of {0} characters, must have {ID_LEN_V4} or {ID_LEN_V6}")]
    Length(usize),
    /// Something else than hex digits.
    #[error("message id is not hexadecimal")]
    NotHex,
    /// The port passes 16 bits or the offset is negative: a unique key, most likely.
    #[error("message id holds no broker address and offset")]
    OutOfRange,
}

/// The offset id of the record at `physical_offset` (bytes, not negative) that the broker at `store_host` stored.
pub fn offset_id(store_host: SocketAddr, physical_offset: i64) -> String {
    let mut id = String::with_capacity(ID_LEN_V6);
    push_ip(store_host.ip(), &mut id);
    write!(id, "{:08X}{physical_offset:016X}", store_host.port()).expect("writing to a string cannot fail");
    id
}

/// The address and the physical offset in an offset id.
///
/// # Errors
/// [`IdError`] when the text is none.
pub fn parse_offset_id(id: &str) -> Result<(SocketAddr, i64), IdError> {
    let (ip, rest): (IpAddr, &str) = match id.len() {
        ID_LEN_V4 => (IpAddr::from((hex(id, 8)? as u32).to_be_bytes()), &id[8..]),
        ID_LEN_V6 => {
            let high = hex(id, 16)?;
            let low = hex(&id[16..], 16)?;
            (IpAddr::from((u128::from(high) << 64 | u128::from(low)).to_be_bytes()), &id[32..])
        }
        len => return Err(IdError::Length(len)),
    };
    let port = u16::try_from(hex(rest, 8)?).map_err(|_| IdError::OutOfRange)?;
    let offset = i64::try_from(hex(&rest[8..], 16)?).map_err(|_| IdError::OutOfRange)?;
    Ok((SocketAddr::new(ip, port), offset))
}

/// The number of the first `digits` hex digits.
fn hex(text: &str, digits: usize) -> Result<u64, IdError> {
    // A sign would pass `from_str_radix`, and a character of several bytes would make slicing panic.
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(IdError::NotHex);
    }
    u64::from_str_radix(&text[..digits], 16).map_err(|_| IdError::NotHex)
}

fn push_ip(ip: IpAddr, id: &mut String) {
    let written = match ip.to_canonical() {
        IpAddr::V4(ip) => write!(id, "{:08X}", u32::from(ip)),
        IpAddr::V6(ip) => write!(id, "{:032X}", u128::from(ip)),
    };
    written.expect("writing to a string cannot fail");
}

/// Makes the unique keys of one process. Keys differ as long as no more than 65,536 are made in one millisecond.
#[derive(Debug, Clone)]
pub struct UniqKeyMaker {
    prefix: String,
    counter: u16,
}

impl UniqKeyMaker {
    /// For the process `pid` on the host `ip`; `salt` tells apart processes with equal pids (containers), so draw it at random.
    pub fn new(ip: IpAddr, pid: u32, salt: u32) -> Self {
        let mut prefix = String::with_capacity(ID_LEN_V6);
        push_ip(ip, &mut prefix);
        write!(prefix, "{:04X}{salt:08X}", pid as u16).expect("writing to a string cannot fail");
        Self { prefix, counter: 0 }
    }

    /// The next key; `now_ms` is the wall clock, ms since 1970.
    pub fn next_key(&mut self, now_ms: i64) -> String {
        let mut key = String::with_capacity(ID_LEN_V6);
        key.push_str(&self.prefix);
        let since_month_ms = (now_ms - month_start_ms(now_ms)) as u32;
        write!(key, "{since_month_ms:08X}{:04X}", self.counter).expect("writing to a string cannot fail");
        self.counter = self.counter.wrapping_add(1);
        key
    }
}

/// When a unique key was made, ms since 1970, given a time at most about a month later. `None` when the text is no such key.
pub fn uniq_key_time_ms(key: &str, now_ms: i64) -> Option<i64> {
    if key.len() != ID_LEN_V4 && key.len() != ID_LEN_V6 {
        return None;
    }
    let since_month_ms = hex(key.get(key.len() - 12..)?, 8).ok()? as i64;
    let start = month_start_ms(now_ms);
    let this_month = start + since_month_ms;
    if this_month <= now_ms { Some(this_month) } else { Some(month_start_ms(start - 1) + since_month_ms) }
}

/// The first moment of the UTC month that `now_ms` lies in.
fn month_start_ms(now_ms: i64) -> i64 {
    const DAY_MS: i64 = 86_400_000;
    let days = now_ms.div_euclid(DAY_MS);
    // Day of the month by the civil-calendar arithmetic that counts years from March.
    let shifted = days + 719_468;
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    (days - day_of_month) * DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mqadmin and transaction producers take the offset out of the id that we return.
    #[test]
    fn offset_ids_equal_those_of_java() {
        let v4: SocketAddr = "192.168.1.2:10911".parse().unwrap();
        assert_eq!(offset_id(v4, 1024), "C0A8010200002A9F0000000000000400");
        assert_eq!(parse_offset_id("C0A8010200002A9F0000000000000400"), Ok((v4, 1024)));
        let v6: SocketAddr = "[2001:db8::2]:10911".parse().unwrap();
        let id = "20010DB800000000000000000000000200002A9F0000000000000400";
        assert_eq!(offset_id(v6, 1024), id);
        assert_eq!(parse_offset_id(id), Ok((v6, 1024)));
    }

    /// Ids come from operators' command lines and from clients.
    #[test]
    fn other_texts_are_refused() {
        assert_eq!(parse_offset_id(""), Err(IdError::Length(0)));
        assert_eq!(parse_offset_id(&"é".repeat(16)), Err(IdError::NotHex));
        assert_eq!(parse_offset_id("+0A8010200002A9F0000000000000400"), Err(IdError::NotHex));
        assert_eq!(parse_offset_id("C0A80102FFFF2A9F0000000000000400"), Err(IdError::OutOfRange));
        assert_eq!(parse_offset_id("C0A8010200002A9FF000000000000400"), Err(IdError::OutOfRange));
    }

    /// Two equal unique keys would make one message look like the other's copy.
    #[test]
    fn unique_keys_differ_and_tell_their_time() {
        // 2024-02-29T12:00:00Z and the start of that month.
        let now = 1_709_208_000_000;
        assert_eq!(month_start_ms(now), 1_706_745_600_000);
        assert_eq!(month_start_ms(0), 0);
        let mut maker = UniqKeyMaker::new("127.0.0.1".parse().unwrap(), 0x1_2345, 0xABCD);
        let (one, two) = (maker.next_key(now), maker.next_key(now));
        assert_eq!(one, format!("7F00000123450000ABCD{:08X}0000", now - 1_706_745_600_000_i64));
        assert_ne!(one, two);
        assert_eq!(uniq_key_time_ms(&one, now + 5), Some(now));
        // Asked in the next month, about a key of this one.
        assert_eq!(uniq_key_time_ms(&one, now + 86_400_000), Some(now));
        assert_eq!(uniq_key_time_ms("x", now), None);
    }
}
