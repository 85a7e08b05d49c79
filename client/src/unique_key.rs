//! Unique keys of messages: made once per message and kept through all retries, so that copies can be told.
//!
//! The layout is Java's, which tools read the time from: address, process, a number of this run, ms since the month began, counter.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng;

/// The counter wraps after so many keys; that must take longer than the millisecond before it.
static COUNTER: AtomicU16 = AtomicU16::new(0);

/// The part that is the same for all keys of this run: 10 bytes, 20 digits.
static PREFIX: OnceLock<String> = OnceLock::new();

/// A new key: 32 upper-case hex digits.
pub(crate) fn unique_key() -> String {
    let prefix = PREFIX.get_or_init(|| {
        let ip = local_ip().octets();
        let pid = std::process::id() as u16;
        let run: u32 = rand::rng().random();
        format!("{:08X}{pid:04X}{run:08X}", u32::from_be_bytes(ip))
    });
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut key = String::with_capacity(32);
    key.push_str(prefix);
    write!(key, "{:08X}{counter:04X}", ms_since_month_began(now_ms) as u32).expect("writing to a string cannot fail");
    key
}

/// The address that this machine would speak from; nothing is sent to find out.
pub(crate) fn local_ip() -> Ipv4Addr {
    let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // A documentation address: only the routing table is asked.
        socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9))?;
        socket.local_addr()
    });
    match asked.map(|addr| addr.ip()) {
        Ok(IpAddr::V4(ip)) => ip,
        Ok(IpAddr::V6(_)) | Err(_) => Ipv4Addr::LOCALHOST,
    }
}

/// Milliseconds since the current month began, UTC: less than 2^32. Days are turned into a date by the civil calendar's 400-year
/// cycle of 146,097 days, counted from 1 March 0000.
fn ms_since_month_began(now_ms: u64) -> u64 {
    const DAY_MS: u64 = 86_400_000;
    let day_of_era = (now_ms / DAY_MS + 719_468) % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    day_of_month * DAY_MS + now_ms % DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages with one key would be taken for copies of each other.
    #[test]
    fn keys_are_unique_and_well_formed() {
        let keys: std::collections::HashSet<String> = (0..50_000).map(|_| unique_key()).collect();
        assert_eq!(keys.len(), 50_000);
        assert!(
            keys.iter().all(|key| key.len() == 32 && key.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()))
        );
    }

    /// Tools show the time in a key: the month must be found right, leap years included.
    #[test]
    fn months_begin_where_they_do() {
        const DAY_MS: u64 = 86_400_000;
        let cases = [
            (0, 0),                                        // 1970-01-01
            (1_709_164_800_000, 28 * DAY_MS),              // 2024-02-29
            (1_709_251_200_000, 0),                        // 2024-03-01
            (1_700_000_000_000, 13 * DAY_MS + 80_000_000), // 2023-11-14 22:13:20
            (1_798_761_599_999, 31 * DAY_MS - 1),          // 2026-12-31 23:59:59.999
        ];
        for (now_ms, since_ms) in cases {
            assert_eq!(ms_since_month_began(now_ms), since_ms, "{now_ms}");
        }
    }
}
