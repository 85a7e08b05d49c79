//! Delayed messages: when one is due, and how it waits.
//!
//! ```text
//! handler/send: Delay::asked --> a record of the timer topic, invisible to consumers --> stamp: when it is due --> apply: a row
//! node/delay (the leader): moves::due --> TimerItem --> stamp: taken once --> one entry: records of the real topics, rows gone
//! node/retention: moves::carry --> the same for what lies in front of a new begin of the log, which waits further ahead
//! handler/recall: a row gone without a record
//! ```
//! A level is a time and nothing else here: any millisecond will do. Time is the leader's wall clock, which its group keeps
//! true; a message is due by it when it is stamped, so never before its time, and once, since its wait is a row that one entry
//! takes away.

pub(crate) mod bell;
pub mod moves;

use ledgermq_protocol::message::properties::{self, PropertyError, name};
use thiserror::Error;

/// The one queue of the timer topic.
pub const TIMER_QUEUE: u32 = 0;

/// What the levels 1 to 18 stand for, in ms: RocketMQ's own times. A higher level counts as the last.
pub const LEVELS_MS: [u64; 18] = {
    const S: u64 = 1_000;
    const M: u64 = 60 * S;
    const H: u64 = 60 * M;
    [
        S,
        5 * S,
        10 * S,
        30 * S,
        M,
        2 * M,
        3 * M,
        4 * M,
        5 * M,
        6 * M,
        7 * M,
        8 * M,
        9 * M,
        10 * M,
        20 * M,
        30 * M,
        H,
        2 * H,
    ]
};

/// Digits of a due time in a record: it is written when the message is stamped, so its place is kept free. Enough until 2286.
const DUE_DIGITS: usize = 13;
const DUE_MAX_MS: u64 = 9_999_999_999_999;
const DUE_BLANK: &str = "0000000000000";

/// When a message is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// So many ms after it was stored.
    After(u64),
    /// At this time, ms since 1970.
    At(u64),
}

/// Why a delay is refused. The text goes into the answer's remark.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DelayError {
    /// Not a number.
    #[error("property {property} is not a whole number: {value:?}")]
    NotANumber {
        /// Which property.
        property: &'static str,
        /// Its value, cut to 64 characters.
        value: String,
    },
    /// Too far ahead.
    #[error("property {property} asks for a delay of {ms} ms, the limit (delay_max_ms) is {max_ms}")]
    TooLong {
        /// Which property.
        property: &'static str,
        /// What it comes to.
        ms: u64,
        /// The limit.
        max_ms: u64,
    },
}

impl Delay {
    /// What properties ask for at `now_ms` (ms since 1970); `None` when the message is to be delivered at once: also for a time
    /// that has passed. A level counts before a time.
    ///
    /// # Errors
    /// [`DelayError`] for a value that is no number, or more than `max_ms` ahead.
    pub fn asked(given: &str, now_ms: u64, max_ms: u64) -> Result<Option<Delay>, DelayError> {
        if let Some(level) = number(given, name::DELAY)?
            && level > 0
        {
            return Ok(Some(Self::of_level(level)));
        }
        let within = |property, ms: i128| {
            let ms = u64::try_from(ms).unwrap_or(u64::MAX);
            if ms > max_ms { Err(DelayError::TooLong { property, ms, max_ms }) } else { Ok(ms) }
        };
        for (property, unit_ms) in [(name::TIMER_DELAY_SEC, 1_000), (name::TIMER_DELAY_MS, 1)] {
            if let Some(count) = number(given, property)? {
                let ms = i128::from(count) * unit_ms;
                return if ms <= 0 { Ok(None) } else { Ok(Some(Delay::After(within(property, ms)?))) };
            }
        }
        let Some(at_ms) = number(given, name::TIMER_DELIVER_MS)? else { return Ok(None) };
        let ahead_ms = i128::from(at_ms) - i128::from(now_ms);
        if ahead_ms <= 0 {
            return Ok(None);
        }
        Ok(Some(Delay::At(now_ms + within(name::TIMER_DELIVER_MS, ahead_ms)?)))
    }

    /// The time of a level, 1 and up.
    pub fn of_level(level: i64) -> Delay {
        let n = usize::try_from(level.saturating_sub(1)).unwrap_or(0).min(LEVELS_MS.len() - 1);
        Delay::After(LEVELS_MS[n])
    }

    /// When a message is due that is stored at `store_ms`.
    pub(crate) fn due_ms(self, store_ms: u64) -> u64 {
        let due_ms = match self {
            Delay::After(ms) => store_ms.saturating_add(ms),
            Delay::At(ms) => ms,
        };
        due_ms.min(DUE_MAX_MS)
    }
}

fn number(given: &str, property: &'static str) -> Result<Option<i64>, DelayError> {
    let Some(value) = properties::get(given, property) else { return Ok(None) };
    let not_a_number = || DelayError::NotANumber { property, value: value.chars().take(64).collect() };
    value.parse().map(Some).map_err(|_| not_a_number())
}

/// Adds to a message's properties what it needs while it waits: where it goes, and room for when it is due.
///
/// # Errors
/// [`PropertyError`] when they are too long then.
pub fn make_wait(all: &mut String, topic: &str, queue: u32) -> Result<(), PropertyError> {
    properties::set(all, name::REAL_TOPIC, topic)?;
    properties::set(all, name::REAL_QID, &queue.to_string())?;
    // At the very end of the record: `write_due` knows.
    properties::set(all, name::TIMER_OUT_MS, DUE_BLANK)
}

/// Writes when it is due into the record of a message that [`make_wait`] has prepared.
///
/// # Panics
/// If it was not prepared.
pub(crate) fn write_due(record: &mut [u8], due_ms: u64) {
    let end = record.len() - properties::PROPERTY_SEPARATOR.len_utf8();
    let place = &mut record[end - DUE_DIGITS..end];
    assert_eq!(place, DUE_BLANK.as_bytes(), "the record keeps room for its time");
    place.copy_from_slice(format!("{due_ms:0DUE_DIGITS$}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const MAX: u64 = 3_600_000;

    fn asked(property: &str, value: &str) -> Result<Option<Delay>, DelayError> {
        Delay::asked(&format!("A\u{1}b\u{2}{property}\u{1}{value}\u{2}"), NOW, MAX)
    }

    /// Producers of all ages say it in four ways; a wrong reading is a message at the wrong time.
    #[test]
    fn what_properties_ask_for() {
        assert_eq!(Delay::asked("A\u{1}b\u{2}", NOW, MAX), Ok(None));
        for (level, ms) in [("1", 1_000), ("3", 10_000), ("18", 7_200_000), ("19", 7_200_000), ("1000", 7_200_000)] {
            assert_eq!(
                asked("DELAY", level),
                Ok(Some(Delay::After(ms))),
                "level {level}: never refused for its length"
            );
        }
        assert_eq!((asked("DELAY", "0"), asked("DELAY", "-1")), (Ok(None), Ok(None)));
        assert_eq!(asked("TIMER_DELAY_SEC", "5"), Ok(Some(Delay::After(5_000))));
        assert_eq!(asked("TIMER_DELAY_MS", "5"), Ok(Some(Delay::After(5))));
        assert_eq!(asked("TIMER_DELIVER_MS", &(NOW + 1).to_string()), Ok(Some(Delay::At(NOW + 1))));
        for past in ["0", "-5", &NOW.to_string()] {
            assert_eq!(asked("TIMER_DELIVER_MS", past), Ok(None), "a time that has passed: at once");
        }
        assert_eq!((asked("TIMER_DELAY_SEC", "-1"), asked("TIMER_DELAY_MS", "0")), (Ok(None), Ok(None)));
        let both = "TIMER_DELAY_MS\u{1}5\u{2}DELAY\u{1}2\u{2}";
        assert_eq!(Delay::asked(both, NOW, MAX), Ok(Some(Delay::After(5_000))), "a level counts first");
    }

    /// A refusal names property, value and limit; nothing overflows into an early delivery.
    #[test]
    fn what_is_refused() {
        let too_long = |property, ms| Err(DelayError::TooLong { property, ms, max_ms: MAX });
        assert_eq!(asked("TIMER_DELAY_SEC", "3601"), too_long("TIMER_DELAY_SEC", 3_601_000));
        assert_eq!(asked("TIMER_DELAY_SEC", &i64::MAX.to_string()), too_long("TIMER_DELAY_SEC", u64::MAX));
        assert_eq!(asked("TIMER_DELAY_MS", "3600001"), too_long("TIMER_DELAY_MS", MAX + 1));
        let at = (NOW + MAX + 1).to_string();
        assert_eq!(asked("TIMER_DELIVER_MS", &at), too_long("TIMER_DELIVER_MS", MAX + 1));
        for property in ["DELAY", "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"] {
            for value in ["x", "1.5", " 1", "99999999999999999999"] {
                assert!(
                    matches!(asked(property, value), Err(DelayError::NotANumber { property: of, .. }) if of == property)
                );
            }
        }
    }

    /// The stamp is written into bytes that are encoded already.
    #[test]
    fn the_due_time_has_its_place() {
        let mut all = "TIMER_OUT_MS\u{1}7\u{2}K\u{1}v".to_owned();
        make_wait(&mut all, "orders", 3).unwrap();
        let mut bytes = all.clone().into_bytes();
        write_due(&mut bytes, Delay::After(5).due_ms(NOW));
        let written = String::from_utf8(bytes).unwrap();
        assert_eq!(properties::get(&written, name::TIMER_OUT_MS), Some("1700000000005"));
        assert_eq!(properties::get(&written, name::REAL_TOPIC), Some("orders"));
        assert_eq!(properties::get(&written, name::REAL_QID), Some("3"));
        assert_eq!((properties::get(&written, "K"), written.len()), (Some("v"), all.len()));
        let mut bytes = all.into_bytes();
        write_due(&mut bytes, Delay::At(7).due_ms(NOW));
        assert!(String::from_utf8(bytes).unwrap().ends_with("TIMER_OUT_MS\u{1}0000000000007\u{2}"));
        assert_eq!(Delay::At(u64::MAX).due_ms(0).to_string().len(), DUE_DIGITS);
    }
}
